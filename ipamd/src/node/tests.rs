mod chained;
mod fake;
mod losses;
mod ports;
mod slow_disk;
mod under_change;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use ipamd_api::{
    ApiError, AttachmentKey, ErrorKind, MacAddr,
    wire::{Commit, EndpointState, NetnsId, Pod, Reservation, Reserve, ValidAttachment},
};

use self::fake::FakeKernel;
use super::*;
use ipamd_addresses::{
    ipam::Pool,
    leaks::{self, Grace},
};
use ipamd_model::{concerned::Concerned, objects};
use ipamd_policy::enforce::{Enforcer, memory::Memory};
use ipamd_services::{self as services, Balancer};
use ipamd_sources::manifest;
use ipamd_store::{Store, endpoint_files::EndpointFiles};

struct Bench {
    node: Option<Node>,
    chained: bool,
    kernel: FakeKernel,
    /// The policy tables.
    tables: Memory,
    dir: tempfile::TempDir,
    /// Where the socket would be.
    run: tempfile::TempDir,
    /// The store's disk takes nothing.
    unwritable: bool,
}

impl Bench {
    /// A node with room for two containers.
    fn new() -> Self {
        Self::start(false)
    }

    /// A node whose containers' interfaces are another plugin's.
    fn chained() -> Self {
        Self::start(true)
    }

    fn start(chained: bool) -> Self {
        let [dir, run] = [(), ()].map(|()| tempfile::tempdir().unwrap());
        let (kernel, tables) = (FakeKernel::default(), Memory::default());
        let mut bench = Self { node: None, chained, kernel, tables, dir, run, unwritable: false };
        bench.restart();
        bench
    }

    fn restart(&mut self) {
        drop(self.node.take());
        let pools = [("four", "10.0.0.0/30"), ("six", "fd00::/126")];
        let mut pools = pools.map(|(name, cidr)| Pool::new(name, cidr.parse().unwrap()).unwrap()).to_vec();
        pools.push(Pool::new("more", "10.0.1.0/30".parse().unwrap()).unwrap());
        let mode = if self.chained { AttachmentMode::Chained } else { AttachmentMode::Own(pools) };
        let opened = if self.unwritable {
            Store::open_read_only(self.dir.path()).unwrap()
        } else {
            Store::open(self.dir.path()).unwrap()
        };
        self.tables = Memory::default();
        let policy = Enforcer::new(Box::new(self.tables.clone()));
        let services =
            Balancer::new(Box::new(services::memory::Memory::default()), services::Site::default());
        let kernel = Box::new(self.kernel.clone());
        let files = EndpointFiles::beside(&self.run.path().join("sock")).unwrap();
        let node =
            Node::new("n".into(), mode, opened, files, kernel, Arc::new(policy), Arc::new(services)).unwrap();
        let slots =
            node.policy.start(node.local_endpoints(), BTreeSet::new(), objects::Batch::default()).unwrap();
        node.set_slots(slots);
        self.node = Some(node);
    }

    fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    /// The plugin's part of ADD.
    async fn add(&self, id: &str) -> Reservation {
        let reservation = self.node().reserve(&request(id)).unwrap();
        let ifindex = self.link(id);
        self.node()
            .commit(&Commit { key: key(id), host_ifindex: ifindex, netns_cookie: None })
            .await
            .unwrap();
        reservation
    }

    fn link(&self, id: &str) -> u32 {
        let mut fake = self.kernel.lock();
        let ifindex = fake.links.values().max().unwrap_or(&9) + 1;
        fake.links.insert(key(id).host_ifname(), ifindex);
        fake.netns.insert(request(id).netns, request(id).netns_id);
        ifindex
    }
}

fn key(id: &str) -> AttachmentKey {
    AttachmentKey { network: "net".into(), container_id: id.into(), ifname: "eth0".into() }
}

fn request(id: &str) -> Reserve {
    Reserve {
        key: key(id),
        netns: format!("/run/netns/{id}").into(),
        netns_id: NetnsId { dev: 4, ino: id.len() as u64 + 100 },
        addresses: Vec::new(),
        mac: None,
        mtu: None,
        pod: None,
        labels: BTreeMap::new(),
        port_mappings: Vec::new(),
        chained: None,
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T, ApiError>) -> ErrorKind {
    result.unwrap_err().kind
}

#[tokio::test]
async fn an_attachment_is_forwarded_from_its_commit_to_its_release() {
    let bench = Bench::new();
    let reservation = bench.node().reserve(&request("a")).unwrap();
    assert_eq!(
        reservation.addresses.iter().map(|a| a.address.to_string()).collect::<Vec<_>>(),
        ["10.0.0.2", "fd00::2"]
    );
    assert_eq!((reservation.mtu, reservation.committed), (1500, false));
    assert!(bench.kernel.lock().endpoints.is_empty());
    assert_eq!(bench.node().endpoints()[0].state, EndpointState::Reserved);

    let host_ifindex = bench.link("a");
    bench.node().commit(&Commit { key: key("a"), host_ifindex, netns_cookie: None }).await.unwrap();
    assert_eq!(bench.kernel.lock().endpoints.len(), 2);
    assert_eq!(bench.node().endpoints()[0].state, EndpointState::Ready);
    assert_eq!(bench.node().check(&key("a")).faults, Vec::<String>::new());

    let own = bench.kernel.lock().endpoints.keys().copied().collect::<Concerned>();
    // The flows of its addresses alone.
    assert_eq!(std::mem::take(&mut bench.kernel.lock().concerned), own);
    bench.node().release(&key("a")).await.unwrap();
    let fake = bench.kernel.lock();
    assert!(fake.endpoints.is_empty() && fake.links.is_empty() && fake.concerned == own);
    assert_eq!(fake.unpinned, [key("a").host_ifname()]);
    drop(fake);
    assert!(bench.node().endpoints().is_empty());
    assert!(bench.node().pools().iter().all(|pool| pool.used == 0));
}

#[tokio::test]
async fn nothing_is_committed_whose_host_end_runs_other_programs_than_this_daemons() {
    let mut bench = Bench::new();
    let commit = |host_ifindex| Commit { key: key("a"), host_ifindex, netns_cookie: None };
    bench.node().reserve(&request("a")).unwrap();
    // The plugin attaches what the former daemon has pinned.
    let host_ifindex = bench.link("a");
    bench.kernel.lock().unattached.insert(key("a").host_ifname());
    bench.restart();
    bench.node().reserve(&request("a")).unwrap();
    bench.kernel.lock().takes_no_programs = true;
    assert_eq!(kind(bench.node().commit(&commit(host_ifindex)).await), ErrorKind::Internal);
    assert!(bench.kernel.lock().endpoints.is_empty());
    bench.kernel.lock().takes_no_programs = false;
    bench.node().commit(&commit(host_ifindex)).await.unwrap();
    assert_eq!(bench.node().check(&key("a")).faults, Vec::<String>::new());
    assert_eq!(bench.node().status().limited, Vec::<String>::new());
}

#[tokio::test]
async fn asked_again_it_gives_the_same_answer_and_says_whether_it_stands() {
    let bench = Bench::new();
    let first = bench.add("a").await;
    let again = bench.node().reserve(&request("a")).unwrap();
    assert_eq!(again, Reservation { committed: true, ..first.clone() });
    bench.kernel.lock().links.clear();
    assert_eq!(bench.node().reserve(&request("a")).unwrap(), first);
}

#[tokio::test]
async fn what_stands_is_neither_changed_nor_moved_by_another_add() {
    let bench = Bench::new();
    let first = bench.add("a").await;
    let forwarded = bench.kernel.lock().endpoints.clone();
    let others = [
        Reserve { addresses: vec!["10.0.1.2".parse().unwrap()], ..request("a") },
        Reserve { mac: Some(MacAddr([2, 0, 0, 0, 0, 9])), ..request("a") },
        Reserve { mtu: Some(1400), ..request("a") },
        Reserve { netns_id: NetnsId { dev: 4, ino: 999 }, netns: "/run/netns/other".into(), ..request("a") },
    ];
    for other in others {
        let refused = bench.node().reserve(&other).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Exists, "{refused}");
        assert!(refused.message.starts_with("net/a/eth0 stands already"), "{refused}");
    }
    assert_eq!(bench.kernel.lock().endpoints, forwarded);
    assert_eq!(bench.node().reserve(&request("a")).unwrap(), Reservation { committed: true, ..first });
}

#[tokio::test]
async fn an_add_that_was_broken_off_binds_nobody() {
    let bench = Bench::new();
    let first = bench.node().reserve(&request("a")).unwrap();
    assert_eq!(bench.node().reserve(&request("a")).unwrap(), first, "the same pod gets the same");
    let pod = Pod { namespace: "shop".into(), name: "web".into(), uid: "1".into() };
    let other = Reserve { mac: Some(MacAddr([2, 0, 0, 0, 0, 9])), pod: Some(pod.clone()), ..request("a") };
    let second = bench.node().reserve(&other).unwrap();
    assert_eq!(second.container_mac, MacAddr([2, 0, 0, 0, 0, 9]));
    assert_eq!(bench.node().endpoints()[0].pod, Some(pod), "whose policy it gets");
    assert_eq!(bench.node().pools()[0].used, 1);
}

#[tokio::test]
async fn what_is_given_up_before_its_commit_is_released_and_nothing_else_is() {
    let bench = Bench::new();
    bench.add("a").await;
    bench.node().reserve(&request("b")).unwrap();
    for id in ["a", "b", "never asked for"] {
        bench.node().give_up(&key(id)).await.unwrap();
    }
    let left = bench.node().endpoints();
    assert_eq!(left.iter().map(|it| &it.key).collect::<Vec<_>>(), [&key("a")]);
    assert_eq!(bench.node().pools()[0].used, 1);
}

#[tokio::test]
async fn an_exhausted_pool_takes_the_addresses_of_containers_that_are_gone_at_once() {
    let bench = Bench::new();
    let gone = bench.add("a").await;
    bench.add("bb").await;
    assert_eq!(bench.node().status().cannot_add.len(), 2, "{:?}", bench.node().status().cannot_add);
    // The machine's runtime is killed, say: no DEL comes.
    bench.kernel.lock().links.remove(&key("a").host_ifname());
    bench.kernel.lock().netns.remove(&request("a").netns);
    assert_eq!(bench.add("ccc").await.addresses, gone.addresses);
    let full = bench.node().reserve(&request("dddd")).unwrap_err();
    assert_eq!(full.kind, ErrorKind::PoolExhausted, "who stands keeps what it has");
}

#[tokio::test]
async fn status_says_who_lacks_programs_and_what_keeps_add_from_being_served() {
    let bench = Bench::new();
    bench.add("a").await;
    let status = bench.node().status();
    assert_eq!((status.ready, status.cannot_add, status.limited), (true, vec![], vec![]));
    bench.kernel.lock().unattached.insert(key("a").host_ifname());
    let limited = bench.node().status().limited;
    assert_eq!(limited.len(), 1, "{limited:?}");
    assert!(limited[0].starts_with("net/a/eth0: "), "{limited:?}");
    bench.kernel.lock().links.clear();
    assert_eq!(
        bench.node().status().limited,
        Vec::<String>::new(),
        "one without an interface has no programs"
    );
    bench.kernel.lock().unpinned_programs = true;
    let cannot_add = bench.node().status().cannot_add;
    assert_eq!(cannot_add, ["the program /b/programs/from_endpoint is not pinned"]);
}

#[tokio::test]
async fn one_that_lost_its_interface_alone_is_told_of() {
    let bench = Bench::new();
    bench.add("a").await;
    assert_eq!(bench.node().broken(), Vec::<String>::new());
    bench.kernel.lock().links.clear();
    let broken = bench.node().broken();
    assert!(broken.len() == 1 && broken[0].contains("net/a/eth0"), "{broken:?}");
    bench.kernel.lock().netns.clear();
    assert_eq!(bench.node().broken(), Vec::<String>::new(), "it is gone altogether, and its DEL comes");
}

#[tokio::test]
async fn a_container_made_anew_under_the_same_id_replaces_the_old_one() {
    let bench = Bench::new();
    bench.add("a").await;
    let renewed = Reserve { netns_id: NetnsId { dev: 4, ino: 999 }, ..request("a") };
    // With a namespace go the interfaces in it.
    bench.kernel.lock().links.clear();
    assert!(!bench.node().reserve(&renewed).unwrap().committed);
    let fake = bench.kernel.lock();
    assert!(fake.endpoints.is_empty() && fake.links.is_empty());
}

#[tokio::test]
async fn exhaustion_names_the_pools_and_release_mends_it() {
    let bench = Bench::new();
    bench.add("a").await;
    bench.add("bb").await;
    let full = bench.node().reserve(&request("ccc")).unwrap_err();
    assert_eq!(full.kind, ErrorKind::PoolExhausted);
    assert!(full.message.contains("four") && full.message.contains("1 of 1"), "{full}");
    assert!(bench.node().status().problems.iter().any(|problem| problem.contains("exhausted")));
    bench.node().release(&key("a")).await.unwrap();
    bench.add("ccc").await;
}

#[tokio::test]
async fn a_commit_without_its_interface_or_its_map_lets_nothing_through() {
    let bench = Bench::new();
    assert_eq!(
        kind(bench.node().commit(&Commit { key: key("a"), host_ifindex: 1, netns_cookie: None }).await),
        ErrorKind::NotFound
    );
    let reservation = bench.node().reserve(&request("a")).unwrap();
    assert_eq!(
        kind(bench.node().commit(&Commit { key: key("a"), host_ifindex: 1, netns_cookie: None }).await),
        ErrorKind::InvalidRequest
    );
    let host_ifindex = bench.link("a");
    bench.kernel.lock().refuses = Some(reservation.addresses[1].address);
    let commit = Commit { key: key("a"), host_ifindex, netns_cookie: None };
    assert_eq!(kind(bench.node().commit(&commit).await), ErrorKind::Internal);
    assert!(bench.kernel.lock().endpoints.is_empty());
    bench.kernel.lock().refuses = None;
    bench.node().commit(&commit).await.unwrap();
}

/// Who may reach a guarded pod.
const GUARD: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
    metadata: {namespace: default, name: guard}, spec: {podSelector: {matchLabels: {app: guarded}}, \
    ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]}}";

#[tokio::test]
async fn an_add_that_fails_at_its_commit_leaves_nothing_in_the_policy_tables() {
    let labelled =
        |id: &str, app: &str| Reserve { labels: [("app".into(), app.into())].into(), ..request(id) };
    for fails_at_the_map in [false, true] {
        let bench = Bench::new();
        let policy = bench.node().policy();
        let read = manifest::read(Path::new("guard.yaml"), GUARD);
        let changes = read.objects.into_iter().map(|it| objects::Change::Put(it.object)).collect();
        assert!(read.refusals.is_empty(), "{:?}", read.refusals);
        policy.apply(objects::Batch { changes, refusals: None });
        let before = policy.counts();

        let reservation = bench.node().reserve(&labelled("a", "friend")).unwrap();
        let mut commit = Commit { key: key("a"), host_ifindex: 1, netns_cookie: None };
        if fails_at_the_map {
            commit.host_ifindex = bench.link("a");
            bench.kernel.lock().refuses = Some(reservation.addresses[1].address);
        }
        bench.node().commit(&commit).await.unwrap_err();
        bench.kernel.lock().refuses = None;
        bench.node().release(&key("a")).await.unwrap();
        for address in &reservation.addresses {
            assert_eq!(policy.party(address.address, 0).pod, None);
        }
        assert_eq!(policy.counts().peers, before.peers);

        // Whoever has the address next is himself, and nobody else beside.
        let next = bench.node().reserve(&labelled("bb", "stranger")).unwrap();
        assert_eq!(next.addresses[0].address, reservation.addresses[0].address, "one address, given again");
        let host_ifindex = bench.link("bb");
        bench.node().commit(&Commit { key: key("bb"), host_ifindex, netns_cookie: None }).await.unwrap();
        assert_eq!(policy.counts().peers, before.peers, "no policy speaks of a stranger");
        assert_eq!(policy.party(next.addresses[0].address, 0).pod.as_deref(), Some("default/bb"));
    }
}

#[tokio::test]
async fn what_is_not_known_is_released_too() {
    let bench = Bench::new();
    bench.node().release(&key("a")).await.unwrap();
    bench.link("a");
    bench.node().release(&key("a")).await.unwrap();
    assert!(bench.kernel.lock().links.is_empty());
}

#[tokio::test]
async fn a_new_add_keeps_its_pins_while_the_old_interface_lingers() {
    let bench = Bench::new();
    bench.add("a").await;
    bench.kernel.lock().lingering = true;
    bench.node().release(&key("a")).await.unwrap();
    assert_eq!(bench.kernel.lock().unpinned, Vec::<String>::new());
    bench.node().reserve(&request("a")).unwrap();
    bench.kernel.lock().links.clear();
    assert!(!bench.node().unpin_unrecorded(&key("a").host_ifname()));
}

#[tokio::test]
async fn garbage_collection_spares_the_valid_and_other_networks() {
    let bench = Bench::new();
    bench.add("a").await;
    bench.add("bb").await;
    let valid = [ValidAttachment { container_id: Some("bb".into()), ifname: Some("eth0".into()) }];
    assert_eq!(bench.node().collect("other", &[]).await, Ok(0));
    assert_eq!(bench.node().collect("net", &valid).await, Ok(1));
    assert_eq!(bench.node().endpoints().iter().map(|e| e.key.clone()).collect::<Vec<_>>(), [key("bb")]);
}

#[tokio::test]
async fn garbage_collection_spares_what_an_entry_that_is_read_in_part_may_mean() {
    let entry = |container_id: Option<&str>, ifname: Option<&str>| ValidAttachment {
        container_id: container_id.map(Into::into),
        ifname: ifname.map(Into::into),
    };
    for (valid, left) in [
        (entry(Some("a"), None), vec!["a"]),
        (entry(None, Some("eth0")), vec!["a", "bb"]),
        (entry(None, Some("eth1")), vec![]),
        (entry(None, None), vec!["a", "bb"]),
    ] {
        let bench = Bench::new();
        bench.add("a").await;
        bench.add("bb").await;
        bench.node().collect("net", std::slice::from_ref(&valid)).await.unwrap();
        let endpoints = bench.node().endpoints();
        assert_eq!(
            endpoints.iter().map(|it| it.key.container_id.as_str()).collect::<Vec<_>>(),
            left,
            "{valid:?}"
        );
    }
}

#[tokio::test]
async fn an_address_in_use_is_released_by_force_only() {
    let bench = Bench::new();
    let address = bench.add("a").await.addresses[0].address;
    assert_eq!(kind(bench.node().release_address(address, false).await), ErrorKind::InUse);
    bench.node().release_address(address, true).await.unwrap();
    assert_eq!(kind(bench.node().release_address(address, true).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_restart_goes_on_where_the_last_daemon_stopped() {
    let mut bench = Bench::new();
    bench.add("a").await;
    let before = bench.node().endpoints();
    bench.restart();
    assert_eq!(bench.node().endpoints(), before);
    assert!(bench.node().reserve(&request("a")).unwrap().committed);
}

#[tokio::test]
async fn a_release_that_the_kernel_refuses_loses_nothing_and_can_be_repeated() {
    let mut bench = Bench::new();
    let reservation = bench.add("a").await;
    bench.kernel.lock().refuses = Some(reservation.addresses[1].address);
    assert_eq!(kind(bench.node().release(&key("a")).await), ErrorKind::Internal);
    bench.kernel.lock().refuses = None;
    assert!(bench.node().check(&key("a")).reservation.is_some());
    bench.restart();
    let known = bench.node().check(&key("a")).reservation;
    assert_eq!(known.map(|it| it.addresses), Some(reservation.addresses), "the disk has it, too");
    bench.node().release(&key("a")).await.unwrap();
    assert!(bench.node().check(&key("a")).reservation.is_none());
    assert!(bench.kernel.lock().endpoints.is_empty());
}

#[tokio::test]
async fn leaks_are_freed_once_they_are_old_enough() {
    let bench = Bench::new();
    bench.add("a").await;
    bench.node().reserve(&request("bb")).unwrap();
    bench.kernel.lock().links.clear();
    bench.kernel.lock().netns.clear();
    assert_eq!(bench.node().repair_leaks(Grace::Kept), []);
    for record in bench.node().state().records.values_mut() {
        record.touched = record.touched.before(leaks::GRACE);
    }
    let freed = bench.node().repair_leaks(Grace::Kept);
    assert_eq!(freed.iter().map(|leak| leak.key.clone()).collect::<Vec<_>>(), [key("a"), key("bb")]);
    assert!(bench.kernel.lock().endpoints.is_empty());
    assert!(bench.node().pools().iter().all(|pool| pool.used == 0));
}

#[test]
fn keys_that_could_lead_astray_are_refused() {
    for (network, id, ifname) in
        [("", "a", "eth0"), ("n", "../x", "eth0"), ("n", "a", "sixteen-letters-"), ("n\n", "a", "e")]
    {
        let key = AttachmentKey { network: network.into(), container_id: id.into(), ifname: ifname.into() };
        assert_eq!(kind(reserve::check_key(&key)), ErrorKind::InvalidRequest);
    }
}

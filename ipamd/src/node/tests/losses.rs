//! What a node knows of its endpoints once the store, the programs' maps or the endpoints' files are lost.

use ipamd_api::wire;
use ipamd_model::endpoint::EndpointEntry;

use super::*;

/// What is lost.
#[derive(Clone, Copy, Debug)]
struct Lost {
    store: bool,
    maps: bool,
    files: bool,
}

impl Bench {
    fn lose(&mut self, lost: Lost) {
        drop(self.node.take());
        if lost.store {
            self.dir = tempfile::tempdir().unwrap();
        }
        if lost.maps {
            self.kernel.lock().endpoints.clear();
        }
        if lost.files {
            self.run = tempfile::tempdir().unwrap();
        }
        self.restart();
    }

    /// A pod with everything that can be lost of one.
    async fn add_pod(&self, id: &str) -> wire::Endpoint {
        let pod = Some(Pod { namespace: "shop".into(), name: id.into(), uid: "1".into() });
        let labels = [("app".to_owned(), "web".to_owned())].into();
        self.node().reserve(&Reserve { pod, labels, ..request(id) }).unwrap();
        let host_ifindex = self.link(id);
        let netns_cookie = Some(request(id).netns_id.ino + 1);
        self.node().commit(&Commit { key: key(id), host_ifindex, netns_cookie }).await.unwrap();
        self.node().endpoints().into_iter().find(|it| it.key == key(id)).unwrap()
    }
}

#[tokio::test]
async fn who_an_endpoint_is_survives_the_loss_of_all_but_one() {
    for (store, maps, files) in [
        (false, false, true),
        (false, true, false),
        (false, true, true),
        (true, false, false),
        (true, true, false),
    ] {
        let lost = Lost { store, maps, files };
        let mut bench = Bench::new();
        let before = bench.add_pod("a").await;
        for _ in 0..2 {
            bench.lose(lost);
            assert_eq!(bench.node().endpoints(), std::slice::from_ref(&before), "{lost:?}");
            let records = bench.node().records();
            assert_eq!(records.uncommitted, [], "{lost:?}");
            let at = records.committed[0].at;
            assert_eq!(Some(at.ifindex), bench.kernel.link_index(&key("a").host_ifname()), "{lost:?}");
            assert_ne!(at.slot, resume::NO_SLOT, "{lost:?}: policy has given it a place");
            // What the reconciliation does.
            let entry = records.committed[0].entry(false);
            let restored = bench.node().restore_endpoint(&records.committed[0], &entry).unwrap();
            assert_eq!(restored, lost.maps, "{lost:?}: only what is not there is put there");
            bench.node().keep_files();
        }
        let other = bench.node().reserve(&request("bb")).unwrap().addresses;
        let taken = before.addresses.iter().find(|it| other.contains(it));
        assert_eq!(taken, None, "{lost:?}: given to another one");
        bench.node().release(&key("a")).await.unwrap();
        bench.restart();
        assert!(bench.node().endpoints().iter().all(|it| it.key != key("a")), "{lost:?}: deleted is deleted");
    }
}

#[tokio::test]
async fn nothing_passes_of_an_endpoint_of_which_only_the_maps_know() {
    let mut bench = Bench::new();
    let before = bench.add_pod("a").await;
    bench.lose(Lost { store: true, maps: false, files: true });
    let entries = bench.kernel.lock().endpoints.clone();
    assert_eq!(entries.len(), 2);
    bench.kernel.lock().concerned = Concerned::nothing();
    assert_eq!(bench.node().adopt(&key("a"), &entries), Ok(true));
    assert_eq!(bench.node().adopt(&key("a"), &entries), Ok(false));
    let concerned: Concerned = entries.keys().copied().collect();
    assert!(bench.kernel.lock().endpoints.is_empty() && bench.kernel.lock().concerned == concerned);
    bench.restart();
    let adopted = &bench.node().endpoints()[0];
    assert_eq!((&adopted.addresses, adopted.state), (&before.addresses, EndpointState::Reserved));
    let uncommitted = &bench.node().records().uncommitted[0];
    assert!(uncommitted.unknown && uncommitted.key == key("a"));
    bench.node().release(&key("a")).await.unwrap();
    assert!(bench.node().endpoints().is_empty());
}

#[tokio::test]
async fn where_no_policy_speaks_of_anybody_the_unknown_go_on() {
    let mut bench = Bench::new();
    let before = bench.add("a").await.addresses;
    bench.lose(Lost { store: true, maps: false, files: true });
    bench.node = bench.node.take().map(|node| node.let_unknown_pass(true));
    let entries = bench.kernel.lock().endpoints.clone();
    assert_eq!(bench.node().adopt(&key("a"), &entries), Ok(true));
    let adopted = &bench.node().endpoints()[0];
    assert_eq!((&adopted.addresses, adopted.state), (&before, EndpointState::Ready));
    assert_eq!(bench.kernel.lock().endpoints, entries);
}

#[tokio::test]
async fn a_file_says_nothing_of_what_is_gone_or_was_made_anew() {
    let mut bench = Bench::new();
    bench.add_pod("a").await;
    bench.kernel.lock().links.clear();
    bench.lose(Lost { store: true, maps: true, files: false });
    assert!(bench.node().endpoints().is_empty(), "its interface is gone");

    let mut bench = Bench::new();
    bench.add_pod("a").await;
    let mut saved = bench.node().files.load().remove(0);
    saved.attachment.created -= 1;
    bench.node().files.put(&saved.attachment, saved.host_ifindex);
    let of_store = bench.node().endpoints();
    bench.restart();
    assert_eq!(bench.node().endpoints(), of_store, "the record is another's");
}

#[tokio::test]
async fn a_store_that_cannot_be_written_adds_nothing_and_keeps_what_is_found() {
    let mut bench = Bench::new();
    let before = bench.add_pod("a").await;
    drop(bench.node.take());
    bench.unwritable = true;
    // Only the kernel knows the other one.
    let of_a = bench.kernel.lock().endpoints.values().next().copied().unwrap();
    bench.restart();
    assert_eq!(bench.node().endpoints(), [before]);
    let why = bench.node().unready().unwrap();
    assert!(why.starts_with("cannot write to the store in "), "{why}");
    let refused = bench.node().reserve(&request("b")).unwrap_err();
    assert_eq!((refused.kind, refused.message), (ErrorKind::TryAgainLater, why));
    let ip: IpAddr = "10.0.1.2".parse().unwrap();
    let entries = [(ip, EndpointEntry { ifindex: bench.link("c"), ..of_a })].into();
    assert!(bench.node().adopt(&key("c"), &entries).unwrap());
    assert_eq!(bench.node().endpoint_of(ip).unwrap().key, key("c"), "its address is reserved");
    assert!(!bench.kernel.lock().endpoints.contains_key(&ip), "nothing of it passes");
    bench.unwritable = false;
    bench.restart();
    assert_eq!(bench.node().unready(), None);
    bench.node().reserve(&request("b")).unwrap();
}

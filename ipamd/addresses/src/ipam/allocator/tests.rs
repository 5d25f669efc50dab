use std::{path::PathBuf, time::Instant};

use ipamd_api::{MacAddr, wire::NetnsId};
use proptest::prelude::*;

use super::*;
use crate::ipam::Reserved;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(id: impl std::fmt::Display) -> AttachmentKey {
    AttachmentKey { network: "net".into(), container_id: format!("{id}"), ifname: "eth0".into() }
}

fn pools(cidrs: &[&str]) -> Vec<Pool> {
    cidrs
        .iter()
        .enumerate()
        .map(|(at, cidr)| Pool::new(format!("p{at}"), cidr.parse().unwrap()).unwrap())
        .collect()
}

fn fresh(cidrs: &[&str]) -> Allocator {
    Allocator::new(pools(cidrs), [], &BTreeMap::new())
}

fn attachment(id: &str, addresses: &[&str]) -> Attachment {
    let addresses = addresses.iter().map(|text| Assigned { address: ip(text), gateway: ip(text) }).collect();
    Attachment {
        key: key(id),
        addresses,
        container_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        host_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        mtu: 1500,
        netns: PathBuf::from("/run/netns/x"),
        netns_id: NetnsId { dev: 4, ino: 1 },
        netns_cookie: None,
        pod: None,
        labels: BTreeMap::new(),
        port_mappings: Vec::new(),
        chained: false,
        created: 0,
    }
}

impl Allocator {
    fn give(&mut self, id: impl std::fmt::Display) -> Vec<String> {
        self.reserve(&key(id), &[]).unwrap().iter().map(|assigned| assigned.address.to_string()).collect()
    }

    fn saved_cursors(&self) -> BTreeMap<String, IpAddr> {
        self.cursors().map(|(name, cursor)| (name.to_owned(), cursor)).collect()
    }
}

#[test]
fn an_attachment_gets_one_address_of_each_family_and_its_gateway() {
    let mut allocator = fresh(&["fd00:88::/64", "10.88.0.0/24"]);
    let given = allocator.reserve(&key("a"), &[]).unwrap();
    assert_eq!(
        given,
        [
            Assigned { address: ip("10.88.0.2"), gateway: ip("10.88.0.1") },
            Assigned { address: ip("fd00:88::2"), gateway: ip("fd00:88::1") },
        ]
    );
    assert_eq!(allocator.holder(ip("fd00:88::2")), Some(&key("a")));
    assert_eq!(
        allocator.pools().iter().map(|pool| (pool.capacity, pool.used)).collect::<Vec<_>>(),
        [(u64::MAX - 1, 1), (253, 1)]
    );
}

#[test]
fn a_freed_address_rests_until_its_turn_comes_round() {
    let mut allocator = fresh(&["10.0.0.0/29"]);
    assert_eq!(allocator.give("a"), ["10.0.0.2"]);
    assert!(allocator.release(ip("10.0.0.2")));
    for expected in ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"] {
        assert_eq!(allocator.give(expected), [expected]);
    }
}

#[test]
fn a_freed_address_rests_for_its_time_and_the_longest_rested_one_is_taken_when_all_do() {
    const REST: Duration = Duration::from_mins(1);
    // Five addresses.
    let mut allocator = fresh(&["10.0.0.0/29"]);
    allocator.set_rest(REST);
    let began = Instant::now();
    let at = |seconds| began + Duration::from_secs(seconds);
    let give = |allocator: &mut Allocator, now, id: u32| {
        allocator.reserve_at(now, &key(id), &[]).unwrap().remove(0).address.to_string()
    };
    let free = |allocator: &mut Allocator, now, last: u32| {
        assert!(allocator.release_at(now, ip(&format!("10.0.0.{last}"))));
    };
    for last in 2..=5 {
        assert_eq!(give(&mut allocator, began, last), format!("10.0.0.{last}"));
    }
    free(&mut allocator, at(1), 4);
    free(&mut allocator, at(2), 2);
    assert_eq!(give(&mut allocator, at(3), 6), "10.0.0.6");
    assert_eq!(allocator.pools()[0].used, 3, "what rests is not used");
    assert!(allocator.refusals().is_empty(), "there are still some");
    // By turn it would be 2, which rests; all others are used or rest, too.
    assert_eq!(give(&mut allocator, at(3), 7), "10.0.0.4");
    free(&mut allocator, at(4), 4);
    // 2 has rested, 4 has not.
    assert_eq!(give(&mut allocator, at(62), 8), "10.0.0.2");
    free(&mut allocator, at(62), 3);
    // Since its second end, not its first.
    assert_eq!(give(&mut allocator, at(63), 9), "10.0.0.4");
    // Who asks for an address gets it.
    let asked = allocator.reserve_at(at(63), &key(10), &[ip("10.0.0.3")]).unwrap();
    assert_eq!(asked[0].address, ip("10.0.0.3"));
    assert_eq!(allocator.refusals().len(), 1, "all are used");
}

#[test]
fn an_address_of_the_next_pool_is_taken_before_one_that_rests() {
    let mut allocator = fresh(&["10.0.0.0/30", "10.0.1.0/30"]);
    allocator.set_rest(Duration::from_mins(1));
    assert_eq!(allocator.give("a"), ["10.0.0.2"]);
    allocator.release(ip("10.0.0.2"));
    assert_eq!(allocator.give("b"), ["10.0.1.2"]);
    assert_eq!(allocator.give("c"), ["10.0.0.2"]);
}

#[test]
fn the_turn_survives_a_restart_but_not_a_change_of_the_prefix() {
    let mut allocator = fresh(&["10.0.0.0/29"]);
    allocator.give("a");
    allocator.release(ip("10.0.0.2"));
    let saved = allocator.saved_cursors();
    let mut again = Allocator::new(pools(&["10.0.0.0/29"]), [], &saved);
    assert_eq!(again.give("b"), ["10.0.0.3"]);
    let mut changed = Allocator::new(pools(&["10.0.1.0/29"]), [], &saved);
    assert_eq!(changed.give("b"), ["10.0.1.2"]);
    // The cursor of an older, larger prefix may lie on what is the broadcast address now.
    let mut shrunk = Allocator::new(pools(&["10.0.0.0/30"]), [], &[("p0".into(), ip("10.0.0.3"))].into());
    assert_eq!(shrunk.give("b"), ["10.0.0.2"]);
}

#[test]
fn the_next_pool_serves_when_one_is_full() {
    let mut allocator = fresh(&["10.0.0.0/30", "10.0.1.0/30"]);
    assert_eq!(allocator.give("a"), ["10.0.0.2"]);
    assert_eq!(allocator.give("b"), ["10.0.1.2"]);
    let error = allocator.reserve(&key("c"), &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no IPv4 address is left: pool p0 (10.0.0.0/30) has 1 of 1 addresses in use, \
         pool p1 (10.0.1.0/30) has 1 of 1 addresses in use"
    );
    assert_eq!(error.kind(), ipamd_api::ErrorKind::PoolExhausted);
    allocator.release(ip("10.0.0.2"));
    assert_eq!(allocator.give("c"), ["10.0.0.2"]);
}

#[test]
fn dual_stack_is_all_or_nothing() {
    let mut allocator = fresh(&["10.0.0.0/24", "fd00::/126"]);
    allocator.give("a");
    allocator.give("b");
    let before = (allocator.pools(), allocator.saved_cursors());
    assert!(matches!(
        allocator.reserve(&key("c"), &[]),
        Err(AllocationError::Exhausted { family: Family::V6, .. })
    ));
    assert_eq!(before, (allocator.pools(), allocator.saved_cursors()));
    assert_eq!(allocator.holder(ip("10.0.0.4")), None);
}

#[test]
fn a_requested_address_is_given_and_moves_no_cursor() {
    let mut allocator = fresh(&["10.0.0.0/24", "fd00::/64"]);
    let given = allocator.reserve(&key("a"), &[ip("fd00::99")]).unwrap();
    assert_eq!(
        given.iter().map(|assigned| assigned.address).collect::<Vec<_>>(),
        [ip("10.0.0.2"), ip("fd00::99")]
    );
    assert_eq!(allocator.give("b"), ["10.0.0.3", "fd00::2"]);
}

#[test]
fn a_request_that_cannot_be_met_says_why() {
    let mut allocator = fresh(&["10.0.0.0/24", "fd00::/64"]);
    allocator.reserve(&key("a"), &[ip("10.0.0.9")]).unwrap();
    let mut refused = |requested: &[&str]| {
        let requested: Vec<_> = requested.iter().map(|text| ip(text)).collect();
        let error = allocator.reserve(&key("b"), &requested).unwrap_err();
        (error.kind(), error.to_string())
    };
    assert_eq!(
        refused(&["10.0.0.9"]),
        (
            ipamd_api::ErrorKind::InUse,
            "the requested address 10.0.0.9 is in use by net/a/eth0 (network/container/interface)".into()
        )
    );
    assert_eq!(
        refused(&["10.0.0.1"]),
        (
            ipamd_api::ErrorKind::AddressUnavailable,
            "the requested address 10.0.0.1 is the gateway address of pool p0 (10.0.0.0/24)".into()
        )
    );
    assert_eq!(
        refused(&["192.0.2.1"]),
        (
            ipamd_api::ErrorKind::AddressUnavailable,
            "the requested address 192.0.2.1 lies in no pool of this node (p0 (10.0.0.0/24), p1 (fd00::/64))"
                .into()
        )
    );
    assert_eq!(
        refused(&["10.0.0.3", "10.0.0.4"]),
        (
            ipamd_api::ErrorKind::InvalidRequest,
            "the requested addresses 10.0.0.3 and 10.0.0.4 are both IPv4; an interface gets one of each family".into()
        )
    );
}

#[test]
fn without_pools_nothing_is_given() {
    assert_eq!(fresh(&[]).reserve(&key("a"), &[]), Err(AllocationError::NoPools));
}

#[test]
fn attachments_outside_of_all_pools_stay_known_until_they_are_released() {
    let old = [attachment("a", &["192.0.2.7", "10.0.0.2"]), attachment("b", &["10.0.0.1"])];
    let mut allocator = Allocator::new(pools(&["10.0.0.0/30", "10.0.1.0/24"]), &old, &BTreeMap::new());
    assert_eq!(allocator.holder(ip("192.0.2.7")), Some(&key("a")));
    assert_eq!(allocator.pools()[0].used, 1, "the gateway that b has kept is not counted");
    assert_eq!(allocator.give("c"), ["10.0.1.2"]);
    assert!(allocator.release(ip("192.0.2.7")));
    assert!(allocator.release(ip("10.0.0.1")));
    assert!(!allocator.release(ip("10.0.0.1")));
    assert_eq!(allocator.holder(ip("192.0.2.7")), None);
}

#[test]
fn a_nearly_full_pool_is_no_slower() {
    let mut allocator = fresh(&["10.88.0.0/16"]);
    for id in 0..65_533 {
        allocator.give(id);
    }
    let started = Instant::now();
    for round in 0..10_000u32 {
        let freed = IpAddr::from((0x0a58_0002 + round * 7919 % 65_533).to_be_bytes());
        assert!(allocator.release(freed));
        assert_eq!(allocator.give("again"), [freed.to_string()]);
    }
    assert!(started.elapsed().as_millis() < 2_000, "{:?}", started.elapsed());
}

/// What the allocator must do, as one would write it without a thought of speed.
struct Model {
    pools: Vec<Pool>,
    turns: Vec<Option<IpAddr>>,
    held: BTreeMap<IpAddr, AttachmentKey>,
}

impl Model {
    fn hosts(pool: &Pool) -> Vec<IpAddr> {
        pool.cidr().iter().filter(|address| pool.reserved(*address).is_none()).collect()
    }

    /// Whose turn it is, and in which pool.
    fn turn(&self, family: Family) -> Option<(usize, IpAddr)> {
        let mut of_family = self.pools.iter().enumerate().filter(|(_, pool)| pool.family() == family);
        of_family.find_map(|(at, pool)| {
            let mut hosts = Self::hosts(pool);
            if let Some(passed) = self.turns[at].and_then(|turn| hosts.iter().position(|host| *host == turn))
            {
                hosts.rotate_left(passed + 1);
            }
            hosts.into_iter().find(|host| !self.held.contains_key(host)).map(|host| (at, host))
        })
    }

    fn reserve(&mut self, key: &AttachmentKey, requested: &[IpAddr]) -> Result<Vec<IpAddr>, ()> {
        let mut given = Vec::new();
        let mut turned = Vec::new();
        for family in Family::ALL {
            let of_family: Vec<_> =
                requested.iter().filter(|address| Family::of(**address) == family).collect();
            match of_family[..] {
                [] if self.pools.iter().all(|pool| pool.family() != family) => {}
                [] => {
                    let (at, host) = self.turn(family).ok_or(())?;
                    given.push(host);
                    turned.push((at, host));
                }
                [address] => {
                    let ours = self.pools.iter().any(|pool| Self::hosts(pool).contains(address));
                    if !ours || self.held.contains_key(address) {
                        return Err(());
                    }
                    given.push(*address);
                }
                _ => return Err(()),
            }
        }
        self.held.extend(given.iter().map(|address| (*address, key.clone())));
        for (at, host) in turned {
            self.turns[at] = Some(host);
        }
        Ok(given)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Reserve(Vec<IpAddr>),
    Release(IpAddr),
    Restart,
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..3, 0u8..10).prop_map(|(net, host)| IpAddr::from([10, 0, net, host])),
        (0u16..3, 0u16..10).prop_map(|(net, host)| IpAddr::from([0xfd00, 0, 0, net, 0, 0, 0, host])),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Reserve(Vec::new())),
        2 => prop::collection::vec(any_address(), 1..3).prop_map(Step::Reserve),
        4 => any_address().prop_map(Step::Release),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn the_allocator_does_what_the_model_does(
        choice in prop::sample::subsequence(
            vec!["10.0.0.0/29", "10.0.1.0/30", "10.0.2.0/29", "fd00::/125", "fd00:0:0:1::/126"], 1..=5),
        steps in prop::collection::vec(any_step(), 0..120),
    ) {
        let mut allocator = fresh(&choice);
        let mut model = Model { pools: pools(&choice), turns: vec![None; choice.len()], held: BTreeMap::new() };
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Reserve(requested) => {
                    let got = allocator.reserve(&key(number), &requested);
                    let bare = got.as_ref().map(|given| given.iter().map(|a| a.address).collect::<Vec<_>>()).map_err(|_| ());
                    prop_assert_eq!(bare, model.reserve(&key(number), &requested), "{:?}", got);
                }
                Step::Release(address) => {
                    prop_assert_eq!(allocator.release(address), model.held.remove(&address).is_some());
                }
                Step::Restart => {
                    let standing: Vec<_> = model.held.iter()
                        .map(|(address, holder)| attachment(&holder.container_id, &[&address.to_string()]))
                        .collect();
                    allocator = Allocator::new(pools(&choice), &standing, &allocator.saved_cursors());
                }
            }
            let held: BTreeMap<_, _> = allocator.holders.iter().map(|(a, k)| (*a, AttachmentKey::clone(k))).collect();
            prop_assert_eq!(&held, &model.held);
            for (shown, pool) in allocator.pools().iter().zip(&model.pools) {
                let hosts = Model::hosts(pool);
                prop_assert_eq!(shown.capacity, hosts.len() as u64);
                prop_assert_eq!(shown.used, hosts.iter().filter(|host| model.held.contains_key(host)).count() as u64);
            }
        }
    }

    #[test]
    fn a_large_prefix_is_handed_out_in_order(freed in prop::collection::vec(0usize..50, 0..50)) {
        let mut allocator = fresh(&["fd00:88::/64"]);
        for turn in 0..100u128 {
            if let Some(earlier) = freed.get(usize::try_from(turn).unwrap()) {
                allocator.release(IpAddr::V6((0xfd00_0088_u128 << 96 | (2 + *earlier as u128)).into()));
            }
            let expected = IpAddr::V6((0xfd00_0088_u128 << 96 | (2 + turn)).into());
            prop_assert_eq!(allocator.give(turn), [expected.to_string()]);
        }
    }
}

#[test]
fn reserved_addresses_never_come_by_turn() {
    let mut allocator = fresh(&["10.0.0.0/29"]);
    let given: Vec<_> = (0..5).flat_map(|id| allocator.give(id)).collect();
    assert_eq!(given, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
    let refused = allocator.reserve(&key("x"), &[ip("10.0.0.7")]).unwrap_err();
    assert!(matches!(refused, AllocationError::Reserved { reserved: Reserved::Broadcast, .. }));
}

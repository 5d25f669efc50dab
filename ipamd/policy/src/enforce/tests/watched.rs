//! What the programs could see between two writes, and writes that fail.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use ipnetwork::IpNetwork;

use super::*;
use crate::tables::{
    ClassId, EntryKey, EntryOf, EntryValue, Outcome, Peer, PolicyMap, Posture, RuleId, Switch, TableError,
};
use ipamd_model::{
    concerned::Concerned,
    domain::{DomainId, DomainPattern},
    policy::Direction,
};

pub(super) type Look = Box<dyn Fn(&Memory) + Send>;

/// Tables that are looked at after each write, and of which a write can be made to fail.
pub(super) struct Watched {
    pub inner: Memory,
    pub look: Arc<Mutex<Option<Look>>>,
    /// So many writes from now on, the next fails; then all go well again.
    pub fails_after: Arc<AtomicUsize>,
    /// What fails was written all the same, as far as that can be.
    pub half_done: bool,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

pub(super) const NEVER: usize = usize::MAX;

impl Watched {
    pub fn new(inner: &Memory) -> Self {
        Self {
            inner: inner.clone(),
            look: Arc::default(),
            fails_after: Arc::new(AtomicUsize::new(NEVER)),
            half_done: false,
        }
    }

    /// Whether it is the turn of a write to fail.
    fn fails(&self) -> bool {
        match self.fails_after.load(Ordering::Relaxed) {
            NEVER => false,
            0 => {
                self.fails_after.store(NEVER, Ordering::Relaxed);
                true
            }
            left => {
                self.fails_after.store(left - 1, Ordering::Relaxed);
                false
            }
        }
    }

    fn error() -> TableError {
        TableError("no memory".into())
    }

    fn seen(&self) {
        if let Some(look) = &*self.look.lock().unwrap() {
            look(&self.inner);
        }
    }

    fn write<T>(
        &mut self,
        write: impl FnOnce(&mut Memory) -> Result<T, TableError>,
    ) -> Result<T, TableError> {
        let fails = self.fails();
        if fails && !self.half_done {
            return Err(Self::error());
        }
        let written = write(&mut self.inner)?;
        self.seen();
        if fails { Err(Self::error()) } else { Ok(written) }
    }
}

impl Tables for Watched {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }
    fn begin(&mut self) -> Result<(), TableError> {
        self.write(Tables::begin)
    }
    fn switch(&mut self) -> Switch {
        let fails = self.fails();
        if fails && !self.half_done {
            return Switch::Not(Self::error());
        }
        let switched = self.inner.switch();
        self.seen();
        if fails { Switch::Unfinished(Self::error()) } else { switched }
    }
    fn abandon(&mut self) {
        self.inner.abandon();
    }
    fn put_peer(&mut self, net: IpNetwork, peer: Peer) -> Result<(), TableError> {
        self.write(|inner| inner.put_peer(net, peer))
    }
    fn remove_peer(&mut self, net: IpNetwork) -> Result<(), TableError> {
        self.write(|inner| inner.remove_peer(net))
    }
    fn put_posture(&mut self, slot: Slot, posture: Posture) -> Result<(), TableError> {
        self.write(|inner| inner.put_posture(slot, posture))
    }
    fn clear_posture(&mut self, slot: Slot) -> Result<(), TableError> {
        self.write(|inner| inner.clear_posture(slot))
    }
    fn add_map(&mut self, entries: &[(EntryKey, EntryValue)]) -> Result<PolicyMap, TableError> {
        // One that fails leaves none, at whatever entry that is.
        if self.fails() {
            return Err(Self::error());
        }
        let map = self.inner.add_map(entries);
        self.seen();
        map
    }
    fn extend_map(&mut self, map: PolicyMap, entries: &[(EntryKey, EntryValue)]) -> Result<(), TableError> {
        // The programs may look between any two entries.
        entries.iter().try_for_each(|entry| self.write(|inner| inner.extend_map(map, &[*entry])))
    }
    fn retire_map(&mut self, map: PolicyMap) {
        self.inner.retire_map(map);
    }
    fn put_domains(&mut self, domains: &[(DomainPattern, DomainId)]) -> Result<(), TableError> {
        self.write(|inner| inner.put_domains(domains))
    }
    fn domains(&self) -> Result<Vec<(DomainPattern, DomainId)>, TableError> {
        self.inner.domains()
    }
    fn raise_epoch(&mut self, concerned: &Concerned) -> Result<(), TableError> {
        self.write(|inner| inner.raise_epoch(concerned))
    }
    fn hits(&self, rule: RuleId) -> Result<u64, TableError> {
        self.inner.hits(rule)
    }
    fn clear_hits(&mut self, rule: RuleId) -> Result<(), TableError> {
        self.inner.clear_hits(rule)
    }
    fn memory(&self) -> u64 {
        self.inner.memory()
    }
    fn peer(&self, address: IpAddr) -> Result<Option<Peer>, TableError> {
        self.inner.peer(address)
    }
    fn posture(&self, slot: Slot) -> Result<Option<Posture>, TableError> {
        self.inner.posture(slot)
    }
    fn find(&self, map: PolicyMap, key: EntryKey) -> Result<Option<EntryValue>, TableError> {
        self.inner.find(map, key)
    }
}

/// Whether a TCP flow from an address reaches the endpoint of a slot, as the programs look it up.
fn reaches(tables: &Memory, from: IpAddr, slot: Slot, port: u16) -> bool {
    let Some(posture) = tables.posture(slot).unwrap() else { return false };
    let (true, Some(map)) = (posture.ingress, posture.map) else { return !posture.ingress };
    let class = tables.peer(from).unwrap().map_or(ClassId::WORLD, |peer| peer.class);
    let find = |class| {
        let of = EntryOf::Class(Direction::Ingress, class);
        tables.find(map, EntryKey { of, protocol: Some(protocol::TCP), port, port_bits: 16 }).unwrap()
    };
    find(class).or_else(|| find(ClassId::ANY)).is_some_and(|entry| entry.outcome == Outcome::Allow)
}

/// All flows of interest: remote pods 1 to 4 and two addresses of the world, to ports 79 to 82.
fn flows() -> impl Iterator<Item = (IpAddr, u16)> {
    let from =
        [[10, 0, 1, 1], [10, 0, 1, 2], [10, 0, 1, 3], [10, 0, 1, 4], [192, 0, 2, 1], [198, 51, 100, 1]];
    from.into_iter().flat_map(|from| (79..=82).map(move |port| (IpAddr::from(from), port)))
}

fn table(tables: &Memory, slot: Slot) -> Vec<bool> {
    flows().map(|(from, port)| reaches(tables, from, slot, port)).collect()
}

const BLOCK: &str = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { namespace: n, name: block }\n\
    spec:\n  podSelector: { matchLabels: { app: guarded } }\n  ingress:\n  \
    - from: [ { ipBlock: { cidr: 192.0.0.0/8, except: [ 192.0.2.0/24 ] } }, { ipBlock: { cidr: 10.0.1.0/30 } } ]\n";

#[test]
fn between_two_writes_a_flow_is_judged_as_before_or_as_after() {
    let steps = [
        guard("g", "80") + BLOCK,
        guard("g", "81"),
        remote(2, "friend"),
        remote(1, "stranger"),
        BLOCK.replace("192.0.0.0/8, except: [ 192.0.2.0/24 ]", "192.0.2.0/25, except: [ 192.0.2.0/30 ]"),
        guard("h", "80").replace("app: friend", "app: stranger"),
        BLOCK.replace("10.0.1.0/30", "10.0.0.0/8"),
        guard("g", "80"),
        remote(2, "guarded") + &remote(3, "friend") + &remote(4, "stranger"),
    ];
    let tables = Memory::new(ROOM);
    let watched = Watched::new(&tables);
    let look = Arc::clone(&watched.look);
    let enforcer = Enforcer::new(Box::new(watched));
    let pods = [(local(1, "guarded"), None), (local(2, "guarded"), None), (local(3, "free"), None)];
    let slots = enforcer.start(pods, BTreeSet::new(), batch(&remote(1, "friend"))).unwrap();
    // What it comes to is found on tables that nobody watches.
    let plain = Memory::new(ROOM);
    let reference = Enforcer::new(Box::new(plain.clone()));
    let pods = [(local(1, "guarded"), None), (local(2, "guarded"), None), (local(3, "free"), None)];
    assert_eq!(reference.start(pods, BTreeSet::new(), batch(&remote(1, "friend"))).unwrap(), slots);
    for (at, step) in steps.iter().enumerate() {
        let before = slots.iter().map(|(_, slot)| table(&tables, *slot)).collect::<Vec<_>>();
        reference.apply(batch(step));
        let after = slots.iter().map(|(_, slot)| table(&plain, *slot)).collect::<Vec<_>>();
        let (slots_seen, expected) = (slots.clone(), after.clone());
        *look.lock().unwrap() = Some(Box::new(move |tables| {
            for (n, (_, slot)) in slots_seen.iter().enumerate() {
                let now = table(tables, *slot);
                for ((flow, now), (before, after)) in flows().zip(now).zip(before[n].iter().zip(&expected[n]))
                {
                    assert!(now == *before || now == *after, "step {at}: {flow:?} to slot {slot:?}: {now}");
                }
            }
        }));
        enforcer.apply(batch(step));
        *look.lock().unwrap() = None;
        let now = slots.iter().map(|(_, slot)| table(&tables, *slot)).collect::<Vec<_>>();
        assert_eq!(now, after, "step {at}");
    }
}

#[test]
fn nobody_sees_a_start_before_it_is_whole() {
    let tables = Memory::new(ROOM);
    let cluster = guard("g", "80") + &remote(1, "friend");
    let pods = || [(local(1, "guarded"), Some(Slot(7)))];
    let first = Enforcer::new(Box::new(tables.clone()));
    first.start(pods(), BTreeSet::new(), batch(&cluster)).unwrap();
    let before = table(&tables, Slot(7));
    drop(first);
    let watched = Watched::new(&tables);
    *watched.look.lock().unwrap() = Some(Box::new(move |tables| assert_eq!(table(tables, Slot(7)), before)));
    let second = Enforcer::new(Box::new(watched));
    let slots = second.start(pods(), BTreeSet::new(), batch(&cluster)).unwrap();
    assert_eq!(slots, [(local(1, "guarded").key, Slot(7))]);
}

#[test]
fn a_write_that_fails_is_made_good_whichever_it_is() {
    let cluster = guard("g", "80") + &remote(1, "friend");
    let change = BLOCK.to_owned() + &guard("g", "81") + &remote(2, "friend");
    let wanted = {
        let bench = Bench::started(
            ROOM,
            &[local(1, "guarded")],
            &(cluster.clone() + &change.replace("name: g ", "name: x ")),
        );
        bench.apply(&change);
        bench.remove(Kind::NetworkPolicy, "x");
        let slot = *bench.tables.postures().keys().next().unwrap();
        table(&bench.tables, slot)
    };
    let mut failed = 0;
    for (after, half_done) in (0..40).flat_map(|after| [(after, false), (after, true)]) {
        let tables = Memory::new(ROOM);
        let watched = Watched { half_done, ..Watched::new(&tables) };
        let fails_after = Arc::clone(&watched.fails_after);
        let enforcer = Enforcer::new(Box::new(watched));
        let slots = enforcer.start([(local(1, "guarded"), None)], BTreeSet::new(), batch(&cluster)).unwrap();
        fails_after.store(after, Ordering::Relaxed);
        enforcer.apply(batch(&change));
        fails_after.store(NEVER, Ordering::Relaxed);
        failed += usize::from(!enforcer.problems().is_empty());
        enforcer.retry();
        assert!(enforcer.problems().is_empty(), "{:?}", enforcer.problems());
        assert_eq!(table(&tables, slots[0].1), wanted, "after {after} writes");
        assert_eq!(tables.maps().len(), 1, "after {after} writes");
    }
    assert!(failed > 10, "{failed}");
}

#[test]
fn a_rebuild_that_fails_at_any_write_leaves_what_is_in_force_in_force() {
    let cluster = guard("g", "80") + BLOCK + &remote(1, "friend");
    let mut failed = 0;
    for (after, half_done) in (0..40).flat_map(|after| [(after, false), (after, true)]) {
        let tables = Memory::new(ROOM);
        let watched = Watched { half_done, ..Watched::new(&tables) };
        let (fails_after, look) = (Arc::clone(&watched.fails_after), Arc::clone(&watched.look));
        let enforcer = Enforcer::new(Box::new(watched));
        let pods = [(local(1, "guarded"), None), (local(2, "guarded"), None)];
        let slots = enforcer.start(pods, BTreeSet::new(), batch(&cluster)).unwrap();
        let before = slots.iter().map(|(_, slot)| table(&tables, *slot)).collect::<Vec<_>>();
        let as_before = move |tables: &Memory| {
            let now = slots.iter().map(|(_, slot)| table(tables, *slot)).collect::<Vec<_>>();
            assert_eq!(now, before, "after {after} writes, half done: {half_done}");
        };
        let seen = as_before.clone();
        *look.lock().unwrap() = Some(Box::new(seen));
        fails_after.store(after, Ordering::Relaxed);
        let rebuilt = enforcer.lock().rebuild();
        failed += usize::from(rebuilt.is_err() || !enforcer.problems().is_empty());
        as_before(&tables);
        fails_after.store(NEVER, Ordering::Relaxed);
        enforcer.retry();
        assert!(enforcer.problems().is_empty(), "{:?}", enforcer.problems());
        as_before(&tables);
        // One that none in force names was given up, and no other.
        assert_eq!(tables.maps().len(), 1, "after {after} writes, half done: {half_done}");
    }
    assert!(failed > 5, "{failed}");
}

#[test]
fn a_place_of_which_the_tables_may_still_say_something_is_given_to_nobody() {
    let tables = Memory::new(Limits { slots: 1, ..ROOM });
    let watched = Watched::new(&tables);
    let fails_after = Arc::clone(&watched.fails_after);
    let enforcer = Enforcer::new(Box::new(watched));
    enforcer.start([(local(1, "free"), None)], BTreeSet::new(), batch("")).unwrap();
    fails_after.store(0, Ordering::Relaxed);
    enforcer.apply(batch(&guard("g", "80")));
    assert!(!enforcer.problems().is_empty());
    // What would make it good fails, too, so that the endpoint's posture stays where it was.
    fails_after.store(0, Ordering::Relaxed);
    enforcer.dismiss(&local(1, "free").key);
    assert!(tables.postures().contains_key(&Slot(1)));
    assert!(enforcer.queue(local(2, "guarded")).is_err(), "all of it would pass");
    enforcer.retry();
    assert_eq!(enforcer.queue(local(2, "guarded")).unwrap().go_on().unwrap(), Slot(1));
    assert!(tables.postures().is_empty());
    enforcer.take();
    assert!(tables.postures()[&Slot(1)].ingress);
}

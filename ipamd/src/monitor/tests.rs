use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bpf::layout::{
    DROP_REASONS, EVENT_DROP, EVENT_EGRESS, EVENT_END, EVENT_FLOW, EVENT_LOG, Event as Record, Ip6, Plain,
};
use ipamd_api::{
    policy::{DecidingRule, EventKind, MonitorFilter, Party, Verdict},
    wire::Connection,
};

use super::{ring_event::RingEvent, *};
use ipamd_datapath::DatapathError;
use ipamd_model::policy::protocol;
use ipamd_policy::tables::RuleId;
use ipamd_runtime::queued_lock::locked;

/// The number of a reason for a drop.
pub(super) fn reason(name: &str) -> u8 {
    u8::try_from(DROP_REASONS.iter().position(|known| *known == name).unwrap()).unwrap()
}

/// A record as the programs write it: from 10.0.0.1 port 40000 to 10.0.0.2 port 80.
pub(super) fn record(kind: u8, why: &str) -> Record {
    let word = |address: [u8; 4]| Ip6 { word: [u32::from_ne_bytes(address), 0, 0, 0] };
    Record {
        time: 7,
        rule: 3,
        log: 4,
        kind,
        reason: reason(why),
        family: 4,
        protocol: protocol::TCP,
        source_port: 40_000u16.to_be(),
        destination_port: 80u16.to_be(),
        direction: EVENT_EGRESS,
        source: word([10, 0, 0, 1]),
        destination: word([10, 0, 0, 2]),
        ..Record::default()
    }
}

/// The same, read.
pub(super) fn ring_event(kind: u8, why: &str) -> RingEvent {
    RingEvent::read(record(kind, why).as_bytes()).unwrap()
}

/// Programs that take note of what they are asked.
#[derive(Debug, Default)]
struct Asked {
    last: Mutex<Option<(bool, bool, u32)>>,
    missed: AtomicU64,
    broken: AtomicBool,
}

impl Programs for Asked {
    fn set_events(&self, flows: bool, drops: bool, sample: u32) -> Result<(), DatapathError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(DatapathError::Layout { map: "node".into() });
        }
        *locked(&self.last) = Some((flows, drops, sample));
        Ok(())
    }

    fn dns_names_of(&self, _: IpAddr, _: IpAddr) -> Result<Vec<String>, DatapathError> {
        Ok(vec!["www.example.com".to_owned()])
    }

    fn events_missed(&self) -> Result<(u64, u64), DatapathError> {
        Ok((self.missed.load(Ordering::Relaxed), 1))
    }
}

/// Knows one pod, and counts how often it is asked.
#[derive(Debug, Default)]
struct Counted(AtomicUsize);

impl Names for Counted {
    fn party(&self, address: IpAddr, port: u16) -> Party {
        self.0.fetch_add(1, Ordering::Relaxed);
        let pod = (address == "10.0.0.1".parse::<IpAddr>().unwrap()).then(|| "shop/friend".to_owned());
        Party { address, port, pod, others: Vec::new() }
    }

    fn rule(&self, rule: RuleId) -> Option<DecidingRule> {
        let text = format!("rule {}", rule.0);
        Some(DecidingRule { text, direction: "egress".into(), policies: Vec::new(), index: None })
    }
}

struct Bench {
    monitor: Arc<Monitor>,
    programs: Arc<Asked>,
    names: Arc<Counted>,
}

impl Bench {
    fn new() -> Self {
        let (programs, names) = (Arc::new(Asked::default()), Arc::new(Counted::default()));
        let monitor = Arc::new(Monitor::new(Arc::clone(&programs) as _, Arc::clone(&names) as _));
        Self { monitor, programs, names }
    }

    fn tell(&self, kind: u8, why: &str) {
        self.monitor.read(record(kind, why).as_bytes());
    }

    fn asked(&self) -> Option<(bool, bool, u32)> {
        *locked(&self.programs.last)
    }

    fn names_looked_up(&self) -> usize {
        self.names.0.load(Ordering::Relaxed)
    }
}

fn kinds(subscription: &mut Subscription) -> Vec<EventKind> {
    std::iter::from_fn(|| subscription.events.try_recv().ok()).map(|event| event.kind).collect()
}

#[test]
fn without_subscribers_only_refused_flows_are_kept_and_no_name_is_looked_up() {
    let bench = Bench::new();
    for (kind, why) in
        [(EVENT_FLOW, "none"), (EVENT_END, "none"), (EVENT_DROP, "malformed"), (EVENT_DROP, "policy_egress")]
    {
        bench.tell(kind, why);
    }
    bench.monitor.read(b"of another layout");
    assert_eq!(bench.monitor.recent().len(), 1);
    assert_eq!((bench.names_looked_up(), bench.asked()), (0, None));
}

#[test]
fn subscribers_get_what_they_ask_for_until_they_leave() {
    let bench = Bench::new();
    let denied = MonitorFilter { verdict: Some(Verdict::Deny), ..MonitorFilter::default() };
    let mut denied = bench.monitor.subscribe(denied).unwrap();
    assert_eq!(bench.asked(), Some((false, true, 1)));
    let friend = MonitorFilter { pod: Some("friend".into()), sample: 3, ..MonitorFilter::default() };
    let mut friend = bench.monitor.subscribe(friend).unwrap();
    let stranger = MonitorFilter { pod: Some("stranger".into()), sample: 5, ..MonitorFilter::default() };
    let mut stranger = bench.monitor.subscribe(stranger).unwrap();
    assert_eq!(bench.asked(), Some((true, true, 3)));
    for (kind, why) in
        [(EVENT_FLOW, "none"), (EVENT_END, "none"), (EVENT_DROP, "malformed"), (EVENT_LOG, "none")]
    {
        bench.tell(kind, why);
    }
    assert_eq!(kinds(&mut denied), [EventKind::Drop]);
    assert_eq!(kinds(&mut friend), [EventKind::Flow, EventKind::End, EventKind::Drop, EventKind::Log]);
    assert_eq!(kinds(&mut stranger), []);
    drop((friend, stranger));
    assert_eq!(bench.asked(), Some((false, true, 1)));
    drop(denied);
    assert_eq!(bench.asked(), Some((false, false, 1)));
    assert!(!bench.monitor.is_heard());
}

#[test]
fn an_event_is_named_once_for_all() {
    let bench = Bench::new();
    let _subscriptions = [(); 3].map(|()| bench.monitor.subscribe(MonitorFilter::default()).unwrap());
    bench.tell(EVENT_FLOW, "none");
    assert_eq!(bench.names_looked_up(), 2, "a look-up for each side");
}

#[test]
fn what_the_programs_lost_since_then_is_told() {
    let bench = Bench::new();
    bench.programs.missed.store(1_000, Ordering::Relaxed);
    let mut subscription = bench.monitor.subscribe(MonitorFilter::default()).unwrap();
    bench.monitor.report_losses();
    assert_eq!(kinds(&mut subscription), []);
    bench.programs.missed.store(1_007, Ordering::Relaxed);
    bench.monitor.report_losses();
    assert_eq!(subscription.events.try_recv().unwrap().lost, 7);
}

#[test]
fn programs_that_cannot_be_asked_have_no_subscribers() {
    let bench = Bench::new();
    bench.programs.broken.store(true, Ordering::Relaxed);
    let refused = bench.monitor.subscribe(MonitorFilter::default());
    assert!(matches!(refused, Err(SubscribeError::Programs(_))));
    assert!(!bench.monitor.is_heard());
}

#[test]
fn silent_ends_are_told_while_somebody_wants_flows() {
    let bench = Bench::new();
    let connection = |protocol, state: &str| Connection {
        protocol,
        source: "10.0.0.1".parse().unwrap(),
        source_port: 40_000,
        destination: "10.0.0.2".parse().unwrap(),
        destination_port: 53,
        masquerade: None,
        backend: None,
        state: state.to_owned(),
        expires_in: 0,
    };
    let expired = [connection(17, "established"), connection(6, "closed")];
    let drops = MonitorFilter { drops_only: true, ..MonitorFilter::default() };
    let mut drops = bench.monitor.subscribe(drops).unwrap();
    assert!(bench.monitor.ends().is_none());
    let mut all = bench.monitor.subscribe(MonitorFilter::default()).unwrap();
    let mut ends = bench.monitor.ends().unwrap();
    for connection in &expired {
        ends.note(connection);
    }
    bench.monitor.expire(&ends);
    assert_eq!((kinds(&mut drops), kinds(&mut all)), (vec![], vec![EventKind::End]));
}

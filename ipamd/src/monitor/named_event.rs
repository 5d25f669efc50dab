//! Events as people read them: with names of pods and rules, and of bounded size.

use std::{
    fmt::Debug,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipamd_api::policy::{DecidingRule, Event, EventKind, Party, Verdict};
use nix::time::{ClockId, clock_gettime};

use super::ring_event::RingEvent;
use ipamd_policy::{
    enforce::{Enforcer, Numbers, Otherwise},
    tables::RuleId,
};

/// How many names an event has of one sort: a tier's default may hold because of a thousand policies.
const NAMES: usize = 8;
/// How long a text may be, in bytes.
const TEXT: usize = 512;

/// Looks names up. This may wait for a change of policies under way.
pub trait Names: Debug + Send + Sync {
    /// Who has an address.
    fn party(&self, address: IpAddr, port: u16) -> Party;
    /// The rule of a number.
    fn rule(&self, rule: RuleId) -> Option<DecidingRule>;
}

impl Names for Enforcer {
    fn party(&self, address: IpAddr, port: u16) -> Party {
        Self::party(self, address, port)
    }

    fn rule(&self, rule: RuleId) -> Option<DecidingRule> {
        Self::rule(self, rule)
    }
}

/// The event with its names.
pub fn named(raw: &RingEvent, names: &dyn Names) -> Event {
    let flow = &raw.flow;
    let Numbers { source, destination, icmp } = flow.numbers();
    let party = |address: IpAddr, port| {
        let mut party = if address.is_unspecified() { nobody() } else { names.party(address, port) };
        party.others.truncate(NAMES);
        party
    };
    let rule = (raw.rule != RuleId(0)).then(|| names.rule(raw.rule)).flatten().map(|mut rule| {
        shorten(&mut rule);
        rule
    });
    Event {
        time: wall(raw.time),
        kind: raw.kind,
        verdict: raw.verdict(),
        protocol: raw.protocol(),
        source: party(flow.source, source),
        destination: party(flow.destination, destination),
        icmp,
        reason: raw.reason(),
        rejected: raw.rejected,
        rule,
        staged: Vec::new(),
        lost: 0,
    }
}

/// What the staged policies would do with a flow that was seen at that time.
pub fn staged(otherwise: &Otherwise, time: u64) -> Event {
    let change = otherwise.change.clone();
    let shortened = |mut party: Party| {
        party.others.truncate(NAMES);
        party
    };
    let rule = change.after_rule.map(|mut rule| {
        shorten(&mut rule);
        rule
    });
    Event {
        time: wall(time),
        kind: EventKind::Staged,
        verdict: change.after,
        protocol: change.protocol,
        source: shortened(change.source),
        destination: shortened(change.destination),
        icmp: change.icmp,
        reason: None,
        rejected: false,
        rule,
        staged: otherwise.policies.iter().take(NAMES).map(Into::into).collect(),
        lost: 0,
    }
}

/// Says that so many events were lost.
pub fn lost(lost: u64) -> Event {
    Event {
        time: wall(now()),
        kind: EventKind::Lost,
        verdict: Verdict::Allow,
        protocol: String::new(),
        source: nobody(),
        destination: nobody(),
        icmp: None,
        reason: None,
        rejected: false,
        rule: None,
        staged: Vec::new(),
        lost,
    }
}

fn nobody() -> Party {
    Party { address: Ipv4Addr::UNSPECIFIED.into(), port: 0, pod: None, others: Vec::new() }
}

fn shorten(rule: &mut DecidingRule) {
    rule.policies.truncate(NAMES);
    if rule.text.len() > TEXT {
        rule.text.truncate(rule.text.floor_char_boundary(TEXT));
        rule.text.push_str(" ...");
    }
}

/// Nanoseconds of the monotonic clock, as the programs read it.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The wall clock's microseconds at a time of the monotonic clock.
fn wall(time: u64) -> u64 {
    let ago = Duration::from_nanos(now().saturating_sub(time));
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(ago);
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use bpf::layout::{EVENT_DROP, EVENT_FLOW, EVENT_LOG};
    use ipamd_api::policy::ObjectName;

    use super::{super::tests::ring_event, *};

    #[derive(Debug)]
    struct Crowded;

    impl Names for Crowded {
        fn party(&self, address: IpAddr, port: u16) -> Party {
            Party { address, port, pod: Some(format!("ns/{address}")), others: vec!["set".into(); 100] }
        }

        fn rule(&self, rule: RuleId) -> Option<DecidingRule> {
            let policy = ObjectName { kind: "NetworkPolicy".into(), namespace: None, name: "p".into() };
            (rule != RuleId(9)).then(|| DecidingRule {
                text: format!("{}ö", rule.0).repeat(1_000),
                direction: "ingress".into(),
                policies: vec![policy; 1_000],
                index: None,
            })
        }
    }

    #[test]
    fn names_are_added_and_their_number_is_bounded() {
        let event = named(&ring_event(EVENT_DROP, "policy_ingress"), &Crowded);
        assert_eq!(event.source.pod.as_deref(), Some("ns/10.0.0.1"));
        assert_eq!((event.destination.port, event.protocol.as_str()), (80, "tcp"));
        let rule = event.rule.unwrap();
        assert!(rule.text.starts_with('3') && rule.text.len() < 600);
        assert_eq!((rule.policies.len(), event.source.others.len()), (NAMES, NAMES));
    }

    #[test]
    fn a_log_has_the_rule_that_logs_and_what_is_not_known_stays_out() {
        assert!(named(&ring_event(EVENT_LOG, "none"), &Crowded).rule.unwrap().text.starts_with('4'));
        let mut flow = ring_event(EVENT_FLOW, "none");
        for rule in [RuleId(0), RuleId(9)] {
            flow.rule = rule;
            assert_eq!(named(&flow, &Crowded).rule, None);
        }
        flow.flow.source = Ipv4Addr::UNSPECIFIED.into();
        assert_eq!(named(&flow, &Crowded).source, nobody());
    }

    #[test]
    fn times_are_those_of_the_wall_clock() {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
        let second = Duration::from_secs(1);
        let at = wall(now() - u64::try_from(second.as_nanos()).unwrap());
        let ago = before.abs_diff(u128::from(at));
        assert!(ago.abs_diff(second.as_micros()) < 500_000, "{ago}");
    }
}

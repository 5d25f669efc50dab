//! An event of the programs' ring buffer, decoded. It has addresses and numbers, but no names yet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bpf::layout::{DROP_REASONS, EVENT_DROP, EVENT_END, EVENT_FLOW, EVENT_LOG, Event, Ip4, Plain};
use ipamd_api::policy::{EventKind, Verdict};

use ipamd_model::policy::protocol;
use ipamd_policy::{enforce::SeenFlow, tables::RuleId};

/// What the programs tell, without names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingEvent {
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// What about.
    pub kind: EventKind,
    /// Why the packet was dropped, or, for a log, why it is about to be; an index of [`DROP_REASONS`].
    reason: u8,
    /// The flow. One that is not known is of protocol 0 between unspecified addresses.
    pub flow: SeenFlow,
    /// The rule that decided, or that logs; 0: none.
    pub rule: RuleId,
    /// The packet was denied, and its sender is told.
    pub rejected: bool,
}

impl RingEvent {
    /// Reads a record; `None` if it is of another layout, as of an earlier version's programs.
    pub fn read(record: &[u8]) -> Option<Self> {
        let event = Event::from_bytes(record)?;
        let (kind, rule) = match event.kind {
            EVENT_FLOW => (EventKind::Flow, event.rule),
            EVENT_END => (EventKind::End, event.rule),
            EVENT_DROP => (EventKind::Drop, event.rule),
            EVENT_LOG => (EventKind::Log, event.log),
            _ => return None,
        };
        let address = |address: bpf::layout::Ip6| match event.family {
            6 => IpAddr::V6(Ipv6Addr::from(address)),
            _ => IpAddr::V4(Ipv4Addr::from(Ip4 { word: [address.word[0]] })),
        };
        Some(Self {
            time: event.time,
            kind,
            reason: event.reason,
            flow: SeenFlow {
                protocol: event.protocol,
                source: address(event.source),
                source_port: u16::from_be(event.source_port),
                destination: address(event.destination),
                destination_port: u16::from_be(event.destination_port),
            },
            rule: RuleId(rule),
            rejected: event.rejected != 0,
        })
    }

    /// The end of a flow without a last packet.
    pub fn expired(time: u64, flow: SeenFlow) -> Self {
        Self { time, kind: EventKind::End, reason: 0, flow, rule: RuleId(0), rejected: false }
    }

    /// Whether the flow was allowed.
    pub fn verdict(&self) -> Verdict {
        if self.kind == EventKind::Drop || self.reason != 0 { Verdict::Deny } else { Verdict::Allow }
    }

    /// Why it was dropped, as in the drop counters.
    pub fn reason(&self) -> Option<String> {
        if self.verdict() == Verdict::Allow {
            return None;
        }
        let known = DROP_REASONS.get(usize::from(self.reason));
        Some(known.map_or_else(|| self.reason.to_string(), |reason| (*reason).to_owned()))
    }

    /// Whether a policy refused the flow.
    pub fn is_refused(&self) -> bool {
        let reason = DROP_REASONS.get(usize::from(self.reason));
        self.kind == EventKind::Drop && matches!(reason, Some(&("policy_egress" | "policy_ingress")))
    }

    /// The protocol's name, or its number.
    pub fn protocol(&self) -> String {
        protocol::name(self.flow.protocol)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::tests::{reason, record, ring_event},
        *,
    };

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let drop = ring_event(EVENT_DROP, "policy_egress");
        let flow = SeenFlow {
            protocol: 6,
            source: "10.0.0.1".parse().unwrap(),
            source_port: 40_000,
            destination: "10.0.0.2".parse().unwrap(),
            destination_port: 80,
        };
        assert_eq!((drop.time, drop.kind, drop.flow, drop.rule), (7, EventKind::Drop, flow, RuleId(3)));
        assert_eq!((drop.verdict(), drop.reason().as_deref()), (Verdict::Deny, Some("policy_egress")));
        assert!(drop.is_refused() && drop.protocol() == "tcp");
        let v6 = "fd00::1".parse::<Ipv6Addr>().unwrap();
        let flow = Event { family: 6, source: v6.into(), ..record(EVENT_FLOW, "none") };
        assert_eq!(RingEvent::read(flow.as_bytes()).unwrap().flow.source, v6);
    }

    #[test]
    fn a_log_names_the_rule_that_logs_and_says_what_follows() {
        let passes = ring_event(EVENT_LOG, "none");
        assert_eq!((passes.rule, passes.verdict(), passes.reason()), (RuleId(4), Verdict::Allow, None));
        let dropped = ring_event(EVENT_LOG, "policy_ingress");
        assert_eq!((dropped.verdict(), dropped.is_refused()), (Verdict::Deny, false));
        assert_eq!(dropped.reason().as_deref(), Some("policy_ingress"));
    }

    #[test]
    fn only_what_a_policy_refuses_is_refused() {
        assert!(ring_event(EVENT_DROP, "policy_ingress").is_refused());
        for why in ["policy_unknown", "malformed", "none"] {
            assert!(!ring_event(EVENT_DROP, why).is_refused(), "{why}");
            assert_eq!(ring_event(EVENT_DROP, why).verdict(), Verdict::Deny, "{why}");
        }
    }

    #[test]
    fn a_packet_that_could_not_be_parsed_has_no_sides() {
        let drop = Event { time: 1, kind: EVENT_DROP, reason: reason("malformed"), ..Event::default() };
        let drop = RingEvent::read(drop.as_bytes()).unwrap();
        assert!(drop.flow.source.is_unspecified() && drop.flow.destination.is_unspecified());
        assert_eq!(drop.protocol(), "0");
    }

    #[test]
    fn unknown_reasons_are_numbers() {
        let newer = Event { reason: 200, ..record(EVENT_DROP, "none") };
        assert_eq!(RingEvent::read(newer.as_bytes()).unwrap().reason().as_deref(), Some("200"));
    }

    proptest! {
        #[test]
        fn anything_may_be_in_the_ring(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(raw) = RingEvent::read(&bytes) {
                let _ = (raw.verdict(), raw.reason(), raw.is_refused(), raw.protocol());
            }
        }

        #[test]
        fn any_record_of_the_right_size_is_read_or_passed_over(bytes in any::<[u8; size_of::<Event>()]>()) {
            let raw = RingEvent::read(&bytes);
            prop_assert_eq!(raw.is_some(), matches!(Event::from_bytes(&bytes).unwrap().kind, 1..=4));
        }
    }
}

//! Filters of subscribers, and the mask of events that satisfies all of them together.

use std::hash::{DefaultHasher, Hash, Hasher};

use ipamd_api::policy::{Event, EventKind, MonitorFilter, Party, Verdict};

use super::ring_event::RingEvent;
use ipamd_model::policy::protocol;
use ipamd_policy::enforce::SeenFlow;

/// The events that the programs report in addition to denials and logs of policies, which are always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventMask {
    /// New flows, and their ends.
    pub flows: bool,
    /// Drops for any reason.
    pub drops: bool,
    /// One in this many flows is reported.
    pub sample: u32,
}

impl EventMask {
    /// The same, with every new flow: staged policies judge them.
    #[must_use]
    pub fn with_every_flow(self) -> Self {
        Self { flows: true, sample: 1, ..self }
    }

    /// No subscribers.
    pub const NONE: Self = Self { flows: false, drops: false, sample: 1 };

    /// The mask that satisfies all filters. Flows are sampled as finely as the most demanding filter asks.
    pub fn of<'a>(filters: impl IntoIterator<Item = &'a MonitorFilter>) -> Self {
        filters.into_iter().fold(Self::NONE, |mask, filter| {
            let sample = filter.sample.max(1);
            match (wants_flows(filter), mask.flows) {
                (true, true) => Self { sample: mask.sample.min(sample), ..mask },
                (true, false) => Self { flows: true, sample, ..mask },
                (false, _) => mask,
            }
            .with_drops(filter.verdict != Some(Verdict::Allow) && !filter.staged_only)
        })
    }

    fn with_drops(self, drops: bool) -> Self {
        Self { drops: self.drops || drops, ..self }
    }
}

/// Whether the filter matches flows that are allowed.
pub fn wants_flows(filter: &MonitorFilter) -> bool {
    !filter.drops_only && !filter.staged_only && filter.verdict != Some(Verdict::Deny)
}

/// Whether the filter may match what staged policies would do, before names are looked at.
pub fn admits_staged(filter: &MonitorFilter, flow: &SeenFlow, would: Verdict) -> bool {
    let of_verdict = filter.verdict.is_none_or(|verdict| filter.staged_only && verdict == would);
    of_verdict && !filter.drops_only && is_between(filter, flow)
}

fn is_between(filter: &MonitorFilter, flow: &SeenFlow) -> bool {
    filter.address.is_none_or(|address| flow.source == address || flow.destination == address)
}

/// Whether the filter may match an event, before names are looked up. Of the reported flows one in `thin` is wanted.
pub fn admits_unnamed(filter: &MonitorFilter, raw: &RingEvent, thin: u32) -> bool {
    let is_flow = matches!(raw.kind, EventKind::Flow | EventKind::End);
    !filter.staged_only
        && is_between(filter, &raw.flow)
        && filter.verdict.is_none_or(|verdict| raw.verdict() == verdict)
        && !(is_flow && (filter.drops_only || !is_sampled(raw, thin)))
}

/// Whether the filter matches an event for which [`admits_unnamed`] is true.
pub fn admits_named(filter: &MonitorFilter, event: &Event) -> bool {
    let is = |party: &Party, wanted: &str| {
        party.pod.as_deref().is_some_and(|pod| {
            let name = pod.rsplit_once('/').map_or(pod, |(_, name)| name);
            pod == wanted || name == wanted
        })
    };
    filter.pod.as_deref().is_none_or(|pod| is(&event.source, pod) || is(&event.destination, pod))
}

/// Whether a flow is in the sample; the same for all events of the flow.
fn is_sampled(raw: &RingEvent, one_in: u32) -> bool {
    if one_in <= 1 {
        return true;
    }
    let flow = &raw.flow;
    let mut hasher = DefaultHasher::new();
    (flow.protocol, flow.source, flow.source_port, flow.destination).hash(&mut hasher);
    if !matches!(flow.protocol, protocol::ICMP | protocol::ICMPV6) {
        flow.destination_port.hash(&mut hasher);
    }
    hasher.finish().is_multiple_of(u64::from(one_in))
}

#[cfg(test)]
mod tests {
    use bpf::layout::{EVENT_DROP, EVENT_END, EVENT_FLOW, EVENT_LOG};

    use super::{super::tests::ring_event, *};

    fn filter(change: impl FnOnce(&mut MonitorFilter)) -> MonitorFilter {
        let mut filter = MonitorFilter::default();
        change(&mut filter);
        filter
    }

    #[test]
    fn the_programs_tell_what_anybody_wants() {
        let all = |sample| filter(|it| it.sample = sample);
        let denied = filter(|it| it.verdict = Some(Verdict::Deny));
        let allowed = filter(|it| (it.verdict, it.sample) = (Some(Verdict::Allow), 9));
        let drops = filter(|it| (it.drops_only, it.sample) = (true, 1));
        let mask = |flows, drops, sample| EventMask { flows, drops, sample };
        assert_eq!(EventMask::of([]), EventMask::NONE);
        assert_eq!(EventMask::of([&all(0)]), mask(true, true, 1));
        assert_eq!(EventMask::of([&all(10), &all(4), &all(100)]), mask(true, true, 4));
        assert_eq!(EventMask::of([&denied, &drops]), mask(false, true, 1));
        assert_eq!(EventMask::of([&allowed]), mask(true, false, 9));
        assert_eq!(
            EventMask::of([&drops, &allowed]),
            mask(true, true, 9),
            "who wants no flows asks for no share"
        );
    }

    #[test]
    fn addresses_and_verdicts_need_no_names() {
        let drop = ring_event(EVENT_DROP, "policy_egress");
        let flow = ring_event(EVENT_FLOW, "none");
        let log = ring_event(EVENT_LOG, "none");
        for (filter, expected) in [
            (filter(|_| ()), [true, true, true]),
            (filter(|it| it.verdict = Some(Verdict::Deny)), [true, false, false]),
            (filter(|it| it.verdict = Some(Verdict::Allow)), [false, true, true]),
            (filter(|it| it.drops_only = true), [true, false, true]),
            (filter(|it| it.address = "10.0.0.1".parse().ok()), [true, true, true]),
            (filter(|it| it.address = "10.0.0.2".parse().ok()), [true, true, true]),
            (filter(|it| it.address = "10.0.0.3".parse().ok()), [false, false, false]),
        ] {
            assert_eq!(
                [&drop, &flow, &log].map(|raw| admits_unnamed(&filter, raw, 1)),
                expected,
                "{filter:?}"
            );
        }
    }

    #[test]
    fn what_staged_policies_would_do_is_apart_from_what_packets_do() {
        let flow = ring_event(EVENT_FLOW, "none").flow;
        let staged = |it: &mut MonitorFilter| it.staged_only = true;
        let denied = |it: &mut MonitorFilter| it.verdict = Some(Verdict::Deny);
        for (filter, expected) in [
            (filter(|_| ()), [true, true]),
            (filter(denied), [false, false]),
            (filter(staged), [true, true]),
            (filter(|it| (it.staged_only, it.verdict) = (true, Some(Verdict::Deny))), [true, false]),
            (filter(|it| it.drops_only = true), [false, false]),
            (filter(|it| it.address = "10.0.0.3".parse().ok()), [false, false]),
        ] {
            let admits = [Verdict::Deny, Verdict::Allow].map(|would| admits_staged(&filter, &flow, would));
            assert_eq!(admits, expected, "{filter:?}");
        }
        let only = filter(staged);
        assert!(!admits_unnamed(&only, &ring_event(EVENT_FLOW, "none"), 1));
        assert_eq!(EventMask::of([&only]), EventMask::NONE);
        let sampled = EventMask::of([&filter(|it| it.sample = 9)]);
        assert_eq!(sampled.with_every_flow(), EventMask { flows: true, drops: true, sample: 1 });
    }

    #[test]
    fn a_flow_and_its_end_are_sampled_together_and_drops_are_not() {
        let all = MonitorFilter::default();
        let of_port = |kind, port| {
            let mut raw = ring_event(kind, "none");
            raw.flow.source_port = port;
            raw
        };
        let admitted = (0..10_000).filter(|port| {
            let [flow, end] =
                [EVENT_FLOW, EVENT_END].map(|kind| admits_unnamed(&all, &of_port(kind, *port), 10));
            assert_eq!(flow, end);
            assert!(admits_unnamed(&all, &of_port(EVENT_DROP, *port), 10));
            flow
        });
        assert!((800..1_200).contains(&admitted.count()));
    }

    #[test]
    fn pods_go_by_their_name_with_and_without_the_namespace() {
        let party = |pod: Option<&str>| Party {
            address: "10.0.0.1".parse().unwrap(),
            port: 1,
            pod: pod.map(str::to_owned),
            others: Vec::new(),
        };
        let event = Event {
            time: 0,
            kind: EventKind::Flow,
            verdict: Verdict::Allow,
            protocol: "tcp".into(),
            source: party(Some("shop/friend")),
            destination: party(None),
            icmp: None,
            reason: None,
            rejected: false,
            rule: None,
            staged: Vec::new(),
            lost: 0,
        };
        for (pod, expected) in [
            (None, true),
            (Some("shop/friend"), true),
            (Some("friend"), true),
            (Some("shop"), false),
            (Some("other/friend"), false),
            (Some("riend"), false),
        ] {
            let filter = filter(|it| it.pod = pod.map(str::to_owned));
            assert_eq!(admits_named(&filter, &event), expected, "{pod:?}");
        }
    }
}

//! `cambricctl monitor`.

use std::net::IpAddr;

use clap::Args;
use ipamd_api::{
    Reply, Request,
    policy::{Event, EventKind, MonitorFilter, Party, Verdict},
};

use super::{
    daemon::Daemon,
    flow,
    output::{Output, clean},
};

/// Which events; each flag that is given must match.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// A pod of either side
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pod: Option<String>,
    /// An address of either side
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// allow: new flows and ends; deny: drops
    #[arg(long, value_parser = verdict)]
    verdict: Option<Verdict>,
    /// Only drops and what rules of the action Log match
    #[arg(long, conflicts_with = "verdict")]
    drops: bool,
    /// One of so many new flows
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,
    /// Only new flows that staged policies would judge otherwise; --verdict is what they would say
    #[arg(long, conflicts_with = "drops")]
    staged: bool,
}

fn verdict(text: &str) -> Result<Verdict, &'static str> {
    match text {
        "allow" => Ok(Verdict::Allow),
        "deny" => Ok(Verdict::Deny),
        _ => Err("verdicts are allow and deny"),
    }
}

/// Prints events as they come, until nobody reads them.
pub(super) fn run(daemon: &mut Daemon, filter: Filter, output: &Output) -> anyhow::Result<()> {
    let Filter { pod, address, verdict, drops: drops_only, sample, staged: staged_only } = filter;
    let client = &mut daemon.client;
    client.send(Request::Monitor(MonitorFilter {
        pod,
        address,
        verdict,
        drops_only,
        sample,
        staged_only,
    }))?;
    loop {
        let Reply::Events(events) = client.receive()? else {
            return Err(client.confused("the answer is of another sort".into()).into());
        };
        if output.stream(&events, line)?.is_break() {
            return Ok(());
        }
    }
}

/// An event on a line; what was lost before it on a line of its own.
fn line(event: &Event) -> String {
    let time = time_of_day(event.time);
    let lost = |what: &str| format!("{time} lost {} {what}", event.lost);
    let what = match event.kind {
        EventKind::Lost => return lost("events"),
        EventKind::Flow => "flow",
        EventKind::End => "end",
        EventKind::Drop => "drop",
        EventKind::Log => "log",
        EventKind::Staged => "staged",
    };
    let mut words = vec![time.clone(), what.to_owned(), clean(&event.protocol)];
    words.extend([side(&event.source, &event.protocol), "->".to_owned()]);
    words.push(side(&event.destination, &event.protocol));
    words.extend(event.reason.as_deref().map(clean));
    words.extend(event.rejected.then(|| "rejected".to_owned()));
    // A flow that was judged anew may be denied from then on.
    if event.verdict == Verdict::Deny && matches!(event.kind, EventKind::Flow | EventKind::End) {
        words.push("denied".to_owned());
    }
    if event.kind == EventKind::Staged {
        words.push(
            if event.verdict == Verdict::Deny { "would be denied" } else { "would be allowed" }.to_owned(),
        );
    }
    let mut line = words.join(" ") + &flow::by(event.rule.as_ref());
    if event.kind == EventKind::Staged && event.rule.is_none() {
        let because: Vec<_> = event.staged.iter().map(|policy| clean(&policy.to_string())).collect();
        line = format!("{line} because of {}", because.join(", "));
    }
    if event.lost > 0 { format!("{}\n{line}", lost("events before")) } else { line }
}

/// A side with what it is called in front: `shop/a 10.0.0.2:4242`.
fn side(party: &Party, protocol: &str) -> String {
    let (names, address) = (flow::names(party), flow::address(party, protocol));
    if names.is_empty() { address } else { format!("{names} {address}") }
}

/// The time of day, UTC, of microseconds since the Unix epoch.
fn time_of_day(microseconds: u64) -> String {
    let (milliseconds, seconds) = (microseconds / 1_000 % 1_000, microseconds / 1_000_000);
    let (hours, minutes) = (seconds / 3_600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{milliseconds:03}", seconds % 60)
}

#[cfg(test)]
mod tests {
    use ipamd_api::policy::{DecidingRule, ObjectName};

    use super::*;

    fn party(address: &str, port: u16, pod: &str) -> Party {
        Party { address: address.parse().unwrap(), port, pod: Some(pod.into()), others: Vec::new() }
    }

    fn drop() -> Event {
        let policy =
            ObjectName { kind: "NetworkPolicy".into(), namespace: Some("shop".into()), name: "guard".into() };
        Event {
            time: 1_700_000_096_789_123,
            kind: EventKind::Drop,
            verdict: Verdict::Deny,
            protocol: "tcp".into(),
            source: party("10.0.0.2", 4242, "shop/a"),
            destination: party("10.0.0.3", 81, "shop/b"),
            icmp: None,
            reason: Some("policy_ingress".into()),
            rejected: false,
            rule: Some(DecidingRule {
                text: format!("{policy} ingress[0]"),
                direction: "ingress".into(),
                policies: vec![policy],
                index: Some(0),
            }),
            staged: Vec::new(),
            lost: 0,
        }
    }

    #[test]
    fn a_drop_is_a_line_with_both_sides_the_reason_and_the_rule() {
        assert_eq!(
            line(&drop()),
            "22:14:56.789 drop tcp shop/a 10.0.0.2:4242 -> shop/b 10.0.0.3:81 policy_ingress \
             by NetworkPolicy shop/guard ingress[0]"
        );
    }

    #[test]
    fn a_flow_says_if_it_is_denied_and_pings_have_no_ports() {
        let flow = Event {
            kind: EventKind::Flow,
            verdict: Verdict::Allow,
            protocol: "icmp".into(),
            reason: None,
            rule: None,
            ..drop()
        };
        assert_eq!(line(&flow), "22:14:56.789 flow icmp shop/a 10.0.0.2 -> shop/b 10.0.0.3");
        let denied = Event { verdict: Verdict::Deny, ..flow };
        assert!(line(&denied).ends_with("10.0.0.3 denied"));
    }

    #[test]
    fn what_staged_policies_would_do_is_no_verdict_on_the_packet() {
        let policy = ObjectName {
            kind: "StagedNetworkPolicy".into(),
            namespace: Some("shop".into()),
            name: "guard".into(),
        };
        let staged = Event { kind: EventKind::Staged, reason: None, staged: vec![policy], ..drop() };
        assert_eq!(
            line(&staged),
            "22:14:56.789 staged tcp shop/a 10.0.0.2:4242 -> shop/b 10.0.0.3:81 would be denied \
             by NetworkPolicy shop/guard ingress[0]"
        );
        let deleted = Event { verdict: Verdict::Allow, rule: None, ..staged };
        let line = line(&deleted);
        assert!(line.ends_with(":81 would be allowed because of StagedNetworkPolicy shop/guard"), "{line}");
    }

    #[test]
    fn what_is_lost_is_said() {
        let lost = Event { kind: EventKind::Lost, lost: 12, ..drop() };
        assert_eq!(line(&lost), "22:14:56.789 lost 12 events");
        let after = line(&Event { lost: 3, ..drop() });
        assert!(after.starts_with("22:14:56.789 lost 3 events before\n22:14:56.789 drop"), "{after}");
    }

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        let odd = Event { reason: Some("a\nb\u{1b}[2J".into()), ..drop() };
        assert!(line(&odd).contains(r"a\nb\u{1b}[2J"));
    }

    #[test]
    fn times_are_of_the_day() {
        assert_eq!(time_of_day(0), "00:00:00.000");
        assert_eq!(time_of_day(86_399_999_999), "23:59:59.999");
    }
}

//! `cambricctl status`.

use std::{collections::BTreeMap, fmt::Write as _};

use ipamd_api::{
    Reply, Request,
    host::HostEndpoint,
    policy::PolicyStatus,
    wire::{AttachMode, ClusterStatus, MapUse, Status, Thread, Uplink},
};

use super::{
    daemon::Daemon,
    output::{Output, fields},
};

/// Shows it, and returns whether the node is ready.
pub(super) fn show(daemon: &mut Daemon, output: &Output) -> anyhow::Result<bool> {
    let status = daemon.ask(Request::Status, |reply| match reply {
        Reply::Status(status) => Some(*status),
        _ => None,
    })?;
    output.print(&status, text)?;
    Ok(status.ready)
}

fn text(status: &Status) -> String {
    let conntrack = status
        .conntrack
        .iter()
        .map(|(family, used)| format!("{family} {} of {}", used.entries, used.capacity));
    let mut drops = status
        .drops
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {count}"));
    let pending = status.cluster.as_ref().map_or(0, |it| it.pending_policies);
    let none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    fields([
        ("Node", status.node_name.clone()),
        ("Version", status.version.clone()),
        ("Ready", if status.ready { "yes" } else { "no" }.to_owned()),
        ("Cluster", cluster(status.cluster.as_ref())),
        ("Problems", none(status.problems.join("\n"))),
        ("Up for", duration(status.uptime_seconds)),
        ("Threads", threads(&status.busy)),
        ("Endpoints", status.endpoints.to_string()),
        ("Uplinks", none(uplinks(&status.uplinks))),
        ("Hosts", none(host_endpoints(&status.host_endpoints))),
        (
            "Attached by",
            match status.attach_mode {
                AttachMode::Tcx => "tcx",
                AttachMode::Clsact => "clsact",
            }
            .to_owned(),
        ),
        ("Connections", conntrack.collect::<Vec<_>>().join("\n")),
        ("Maps", none(fills(&status.maps))),
        ("Untracked", format!("{} flows", status.untracked)),
        ("Policies", policies(&status.policy, pending)),
        ("Staged policies", staged(&status.policy)),
        ("Policy tables", tables(&status.policy)),
        ("Events", format!("{} lost, {} suppressed", status.events_lost, status.events_suppressed)),
        ("Answers", format!("{} suppressed", status.answers_suppressed)),
        ("Drops", none(drops.by_ref().collect::<Vec<_>>().join("\n"))),
    ])
}

/// Those that are at something long, a line each.
fn threads(busy: &[Thread]) -> String {
    let line = |Thread { name, busy_seconds, deadline_seconds }: &Thread| {
        format!("{name} has been at one thing for {busy_seconds} s; the daemon ends at {deadline_seconds} s")
    };
    if busy.is_empty() { "on time".to_owned() } else { busy.iter().map(line).collect::<Vec<_>>().join("\n") }
}

/// A line for each map that has something.
fn fills(maps: &BTreeMap<String, MapUse>) -> String {
    let filled = maps.iter().filter(|(_, used)| used.entries > 0);
    let lines = filled.map(|(name, used)| format!("{name} {} of {}", used.entries, used.capacity));
    lines.collect::<Vec<_>>().join("\n")
}

/// A line for each, with why it is one and what masqueraded packets leave it with.
fn uplinks(uplinks: &[Uplink]) -> String {
    let lines = uplinks.iter().map(|Uplink { name, reasons, addresses }| {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let addresses = if addresses.is_empty() { "no address".to_owned() } else { addresses.join(", ") };
        format!("{name} ({addresses}): {}", reasons.join(", "))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A line for each host endpoint, with what it polices.
fn host_endpoints(hosts: &[HostEndpoint]) -> String {
    let lines = hosts.iter().map(|HostEndpoint { name, interfaces, polices_pods }| {
        let pods = if *polices_pods { ", and what pods send to the node" } else { "" };
        let interfaces =
            if interfaces.is_empty() { "no interface".to_owned() } else { interfaces.join(", ") };
        format!("{name}: {interfaces}{pods}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn cluster(cluster: Option<&ClusterStatus>) -> String {
    let Some(ClusterStatus { source, live, age_seconds, pending, .. }) = cluster else {
        return "none".into();
    };
    match age_seconds {
        // What is known is one thing, and what is in force another.
        _ if *live && *pending > 0 => format!("{source}, {pending} of its changes not in force yet"),
        _ if *live => format!("{source}, up to date"),
        Some(age) => format!("{source}, as it was {} ago", duration(*age)),
        None => format!("{source}, not known yet"),
    }
}

fn policies(policy: &PolicyStatus, pending: u64) -> String {
    let mut text = format!("{} enforced", policy.policies);
    if pending > 0 {
        let _ = write!(text, ", {pending} changes of policies not yet");
    }
    for (count, what) in [(policy.refused, "refused"), (policy.left_out, "left out")] {
        if count > 0 {
            let _ = write!(text, ", {count} {what} (see cambricctl policy list)");
        }
    }
    text
}

/// What is tried out; nothing if there is nothing to try.
fn staged(policy: &PolicyStatus) -> String {
    let PolicyStatus { staged, staged_judged, staged_would_deny, staged_would_allow, staged_lost, .. } =
        policy;
    if *staged == 0 {
        return String::new();
    }
    format!(
        "{staged} not in force; of {staged_judged} new flows {staged_would_deny} would be denied, {staged_would_allow} would be \
         allowed; {staged_lost} events lost (see cambricctl policy list)"
    )
}

fn tables(policy: &PolicyStatus) -> String {
    let PolicyStatus { classes, maps, entries, addresses, rules, bytes, .. } = policy;
    let kibibytes = bytes / 1024;
    format!(
        "{maps} maps of {entries} entries, {addresses} addresses in {classes} classes, {rules} rules; {kibibytes} KiB"
    )
}

/// A time for people: its two largest units.
pub(super) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes}m"),
        (days, hours, _) => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_enforced_is_shown() {
        let policy = PolicyStatus { policies: 3, ..PolicyStatus::default() };
        assert_eq!(policies(&policy, 0), "3 enforced");
        assert_eq!(policies(&policy, 20_000), "3 enforced, 20000 changes of policies not yet");
        let refused = policies(&PolicyStatus { refused: 2, ..policy }, 0);
        assert_eq!(refused, "3 enforced, 2 refused (see cambricctl policy list)");
    }

    #[test]
    fn a_cluster_whose_changes_wait_is_not_shown_as_up_to_date() {
        let status = |live, pending| {
            let source = "dir /cluster".to_owned();
            Some(ClusterStatus { source, live, age_seconds: Some(5), pending, ..ClusterStatus::default() })
        };
        assert_eq!(cluster(status(true, 0).as_ref()), "dir /cluster, up to date");
        assert_eq!(cluster(status(true, 7).as_ref()), "dir /cluster, 7 of its changes not in force yet");
        assert_eq!(cluster(status(false, 7).as_ref()), "dir /cluster, as it was 5s ago");
    }

    #[test]
    fn an_uplink_is_shown_with_why_it_is_one() {
        let uplink = |name: &str, addresses: &[&str]| Uplink {
            name: name.into(),
            reasons: vec!["default route IPv4".into(), "way to the node b (10.0.0.2)".into()],
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
        };
        assert_eq!(
            uplinks(&[uplink("eth0", &["10.0.0.1", "2001:db8::1"]), uplink("eth1", &[])]),
            "eth0 (10.0.0.1, 2001:db8::1): default route IPv4, way to the node b (10.0.0.2)\n\
             eth1 (no address): default route IPv4, way to the node b (10.0.0.2)"
        );
    }

    #[test]
    fn a_map_is_shown_with_its_fill_and_its_size() {
        let used = |entries| MapUse { entries, capacity: 100 };
        let maps =
            [("machines4".into(), used(7)), ("sockets4".into(), used(0)), ("sockets6".into(), used(100))];
        assert_eq!(fills(&maps.into()), "machines4 7 of 100\nsockets6 100 of 100");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([5, 65, 3_700, 90_000].map(duration), ["5s", "1m5s", "1h1m", "1d1h"]);
    }
}

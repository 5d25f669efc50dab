//! What came of all checks: a table for people, JSON for programs, and for each failure what to look at.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::{
    super::output::{clean, table},
    check::{Check, Family, Finding, Kind},
};

/// How a check has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Ok,
    Failed,
    Skipped,
}

/// A check and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    check: Kind,
    from: String,
    to: String,
    family: Option<Family>,
    result: Outcome,
    milliseconds: Option<u64>,
    /// What was seen, why it failed, or why it was left out.
    detail: String,
    /// What to look at, for a failure.
    look_at: Vec<&'static str>,
}

/// A whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Report {
    /// The name of the run, which is that of its namespace.
    pub run: String,
    rows: Vec<Row>,
    /// Packets that this node's programs have dropped meanwhile, by reason; what policies are tried with is among them.
    pub drops: BTreeMap<String, u64>,
    /// What could not be removed.
    pub left: Vec<String>,
}

impl Report {
    pub fn of(run: &str) -> Self {
        Self { run: run.to_owned(), ..Self::default() }
    }

    /// Whether nothing has failed.
    pub fn is_well(&self) -> bool {
        self.left.is_empty() && self.count(Outcome::Failed) == 0 && self.count(Outcome::Ok) > 0
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.rows.iter().filter(|row| row.result == outcome).count()
    }

    /// Adds what an agent has found of its checks. What it says nothing of has failed, for the reason `lost`.
    pub fn add(&mut self, checks: &[Check], findings: &[Finding], lost: &str) {
        for (number, check) in checks.iter().enumerate() {
            let found = findings.iter().find(|finding| finding.number == number);
            let ok = found.is_some_and(|finding| finding.ok);
            self.rows.push(Row {
                check: check.kind,
                from: check.from.clone(),
                to: check.to.clone(),
                family: check.family,
                result: if ok { Outcome::Ok } else { Outcome::Failed },
                milliseconds: found.map(|finding| finding.milliseconds),
                detail: found.map_or_else(|| lost.to_owned(), |finding| finding.detail.clone()),
                look_at: if ok { Vec::new() } else { look_at(check.kind).to_vec() },
            });
        }
    }

    /// Adds whether an agent has started, on which node.
    pub fn started(&mut self, agent: &str, node: &str, outcome: Result<String, String>) {
        let (result, detail) = match outcome {
            Ok(detail) => (Outcome::Ok, detail),
            Err(why) => (Outcome::Failed, why),
        };
        let look_at = if result == Outcome::Failed { look_at(Kind::Start).to_vec() } else { Vec::new() };
        self.rows.push(Row {
            check: Kind::Start,
            from: node.to_owned(),
            to: agent.to_owned(),
            family: None,
            result,
            milliseconds: None,
            detail,
            look_at,
        });
    }

    /// Adds what is left out, and why.
    pub fn leave_out(&mut self, left_out: Vec<(Kind, String)>) {
        self.rows.extend(left_out.into_iter().map(|(check, detail)| Row {
            check,
            from: "-".into(),
            to: "-".into(),
            family: None,
            result: Outcome::Skipped,
            milliseconds: None,
            detail,
            look_at: Vec::new(),
        }));
    }

    /// In the order of kinds, so that a table can be read.
    pub fn sort(&mut self) {
        self.rows.sort_by(|a, b| (a.check, &a.from, &a.to).cmp(&(b.check, &b.from, &b.to)));
    }

    /// As a table, with what to look at below it.
    pub fn text(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            let family = row.family.map_or("-", |family| match family {
                Family::IPv4 => "IPv4",
                Family::IPv6 => "IPv6",
            });
            let result = match row.result {
                Outcome::Ok => "ok",
                Outcome::Failed => "FAIL",
                Outcome::Skipped => "skipped",
            };
            let time = row.milliseconds.map_or("-".to_owned(), |it| format!("{it} ms"));
            let detail = if row.result == Outcome::Ok { String::new() } else { row.detail.clone() };
            [
                row.check.name().to_owned(),
                row.from.clone(),
                row.to.clone(),
                family.to_owned(),
                result.to_owned(),
                time,
                detail,
            ]
        });
        let mut text = table(["CHECK", "FROM", "TO", "FAMILY", "RESULT", "TIME", ""], rows);
        let failed: BTreeMap<Kind, &[&str]> = self
            .rows
            .iter()
            .filter(|row| row.result == Outcome::Failed)
            .map(|row| (row.check, &row.look_at[..]))
            .collect();
        // Writing to a String does not fail.
        for (kind, look_at) in failed {
            let _ = writeln!(text, "\n{kind} failed; look at:");
            for line in look_at {
                let _ = writeln!(text, "  {line}");
            }
        }
        let dropped: Vec<_> = self.drops.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        if !dropped.is_empty() {
            let _ = writeln!(
                text,
                "\nPackets dropped on this node meanwhile, those of policy-deny included: {}",
                dropped.join(", ")
            );
        }
        for left in &self.left {
            let _ = writeln!(text, "\nNot removed: {}; see cambricctl connectivity clean", clean(left));
        }
        let _ = writeln!(
            text,
            "\n{} ok, {} failed, {} skipped",
            self.count(Outcome::Ok),
            self.count(Outcome::Failed),
            self.count(Outcome::Skipped)
        );
        text
    }
}

/// What to look at when such a check fails, the likeliest first. "Both nodes" are those of the two pods.
fn look_at(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Start => &[
            "cambricctl preflight and cambricctl status, on that node",
            "in a cluster, kubectl -n kube-system logs daemonset/cambric and kubectl get events -A: why the pod does not run",
        ],
        Kind::PodToPod | Kind::Stream => &[
            "cambricctl monitor --verdict deny, on both nodes, while the test runs: who is refused, by which rule",
            "cambricctl policy list: which policies select every pod",
            "cambricctl status, on both nodes: problems, and drops by reason",
            "between nodes: the network must let VXLAN pass (UDP 4789), or with routing = \"direct\" the pods' addresses",
        ],
        Kind::MtuSized | Kind::OversizedRefused | Kind::OversizedCut => &[
            "cambricctl endpoint show POD: its MTU; the network between the nodes must carry that, and VXLAN 50 bytes more (over \
             IPv6 70): mtu in the daemon's configuration",
            "cambricctl status, on both nodes: drops by reason (unknown_fragment, early_fragment)",
            "whether a firewall on the way drops ICMP \"fragmentation needed\", \"packet too big\" or fragments",
        ],
        Kind::PodToNode => &[
            "cambricctl monitor --verdict deny, on the pod's node",
            "the node's own firewall: nft list ruleset, iptables-save",
            "cambricctl preflight, on the node",
        ],
        Kind::NodeToPod => &[
            "cambricctl status, on both nodes: problems, and drops by reason",
            "ip route get ADDRESS, on the node: whether other routes take what is for pods",
            "cambricctl preflight, on the node: what other plugins have left",
        ],
        Kind::Outside => &[
            "cambricctl status: the uplinks; masquerade and no-masquerade in the daemon's configuration",
            "cambricctl ct list --address ADDRESS: whether the flow is masqueraded",
            "cambricctl monitor --verdict deny, while the test runs",
            "whether the address answers the node itself; --outside names another",
        ],
        Kind::ClusterIp | Kind::Hairpin => &[
            "cambricctl service list, and cambricctl service show NAMESPACE/NAME while the test runs: backends and their states",
            "cambricctl status: whether the cluster's source is up to date",
            "cambricctl preflight: rules that kube-proxy has left",
        ],
        Kind::NodePort => &[
            "cambricctl service show NAMESPACE/NAME, while the test runs: where the service is reached",
            "nodeport-addresses in the daemon's configuration: which of the node's addresses serve node ports",
            "cambricctl preflight: rules that kube-proxy has left; the firewalls before the node",
        ],
        Kind::HostPort => &[
            "cambricctl endpoint show POD, while the test runs: its ports of the node",
            "the conflist: one plugin has the capability portMappings, cambric or portmap",
            "nodeport-addresses in the daemon's configuration",
        ],
        Kind::Dns => &[
            "in a cluster, kubectl -n kube-system get pods,endpointslices -l k8s-app=kube-dns: whether its DNS runs; on a bare node, \
             whether the resolver in /etc/resolv.conf answers the node itself",
            "cambricctl service show kube-system/kube-dns, on the pod's node",
            "cambricctl monitor --verdict deny, while the test runs",
        ],
        Kind::PolicyAllow => &[
            "cambricctl monitor --verdict deny, while the test runs: which rule refuses it",
            "cambricctl policy list: policies of an earlier tier or order that select every pod",
        ],
        Kind::PolicyDeny => &[
            "cambricctl policy list: whether the test's policies are refused or left out",
            "cambricctl status: whether the cluster's source is up to date",
            "cambricctl policy trace --from NAMESPACE/stranger-0 --to NAMESPACE/guarded --port tcp/8080, while the test runs",
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::check::{Act, Expect},
        *,
    };

    fn check(kind: Kind) -> Check {
        let act = Act::Tcp(([10, 0, 0, 1], 80).into());
        let (from, to) = ("client-0".into(), "server-0 10.0.0.1:80 tcp".into());
        Check { kind, from, to, family: Some(Family::IPv4), act, expect: Expect::Success }
    }

    fn found(number: usize, ok: bool, detail: &str) -> Finding {
        Finding { number, ok, milliseconds: 2, detail: detail.into() }
    }

    #[test]
    fn a_failure_says_why_and_what_to_look_at() {
        let mut report = Report::of("run");
        let checks = [check(Kind::PodToPod), check(Kind::NodePort)];
        report.add(&checks, &[found(0, true, ""), found(1, false, "no answer")], "");
        report.drops.insert("policy_denied".into(), 3);
        assert!(!report.is_well());
        let text = report.text();
        assert!(text.contains("FAIL") && text.contains("no answer"), "{text}");
        assert!(text.contains("node-port failed; look at:") && text.contains("nodeport-addresses"), "{text}");
        assert!(!text.contains("pod-to-pod failed"), "{text}");
        assert!(text.contains("policy_denied 3") && text.ends_with("1 ok, 1 failed, 0 skipped\n"), "{text}");
    }

    #[test]
    fn a_check_that_nobody_tells_of_has_failed() {
        let mut report = Report::of("run");
        report.add(&[check(Kind::PodToPod), check(Kind::Dns)], &[found(0, true, "")], "the agent was killed");
        assert!(!report.is_well());
        assert!(report.text().contains("the agent was killed"));
    }

    #[test]
    fn what_is_left_out_is_no_failure_but_nothing_is_no_success() {
        let mut report = Report::of("run");
        report.leave_out(vec![(Kind::Dns, "no server is named".into())]);
        assert!(!report.is_well(), "nothing was checked");
        report.add(&[check(Kind::PodToPod)], &[found(0, true, "")], "");
        assert!(report.is_well());
        assert!(report.text().contains("no server is named"));
    }

    #[test]
    fn what_is_left_behind_is_a_failure() {
        let mut report = Report::of("run");
        report.add(&[check(Kind::PodToPod)], &[found(0, true, "")], "");
        report.left.push("the namespace x".into());
        assert!(!report.is_well());
        assert!(report.text().contains("Not removed: the namespace x"));
    }

    #[test]
    fn every_kind_has_something_to_look_at() {
        assert!(Kind::ALL.into_iter().all(|kind| !look_at(kind).is_empty()));
    }

    #[test]
    fn programs_get_one_form_for_all() {
        let mut report = Report::of("run");
        report.add(&[check(Kind::MtuSized)], &[found(0, true, "x")], "");
        let json = serde_json::to_value(&report).unwrap();
        let row = &json["rows"][0];
        assert_eq!((row["check"].as_str(), row["result"].as_str()), (Some("mtu-sized"), Some("ok")));
        assert_eq!((row["family"].as_str(), row["milliseconds"].as_u64()), (Some("ipv4"), Some(2)));
    }
}

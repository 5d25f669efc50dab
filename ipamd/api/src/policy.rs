//! What is asked of policy, and what is told of flows.

use std::{fmt, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// What tells one object of the cluster from others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// Its kind; of the two kinds of the name NetworkPolicy, Calico's is `NetworkPolicy.projectcalico.org`.
    pub kind: String,
    /// Its namespace; `None` for what the cluster has only one of.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// What took a decision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DecidingRule {
    /// All of it, for people.
    pub text: String,
    /// `ingress` or `egress`, as the endpoint sees it.
    pub direction: String,
    /// The policy whose rule it is; for a tier's default, those because of which it holds.
    pub policies: Vec<ObjectName>,
    /// The rule's number in its policy and direction, from 0; `None`: a tier's default.
    pub index: Option<u64>,
}

/// How much policy there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyStatus {
    /// Policies in force.
    pub policies: u64,
    /// Staged policies, which are tried out.
    pub staged: u64,
    /// New flows that the staged policies have judged.
    pub staged_judged: u64,
    /// Those that were allowed, and would be denied.
    pub staged_would_deny: u64,
    /// Those that were denied, and would be allowed.
    pub staged_would_allow: u64,
    /// New flows that were not judged, because they were more than could be told or taken.
    pub staged_lost: u64,
    /// Objects of the cluster that could not be understood.
    pub refused: u64,
    /// Objects that are understood and not in force: they do not fit, or their tier is not known.
    pub left_out: u64,
    /// Classes of addresses that the policies tell apart.
    pub classes: u64,
    /// Policy maps in force: endpoints of equal rules share one.
    pub maps: u64,
    /// Entries in all of them together.
    pub entries: u64,
    /// Addresses and prefixes whose class is known.
    pub addresses: u64,
    /// Rules that are counted apart.
    pub rules: u64,
    /// Bytes that the policy maps and the classes of addresses take in the kernel.
    #[serde(default)]
    pub bytes: u64,
}

/// A policy in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicySummary {
    /// Which.
    pub policy: ObjectName,
    /// Its tier.
    pub tier: String,
    /// Its place in the tier; `None`: last.
    pub order: Option<f64>,
    /// The directions that it speaks of: `ingress`, `egress`.
    pub directions: Vec<String>,
    /// How many rules it has.
    // In JSON, `rules` is the list in [`PolicyDetail`], which holds these fields too.
    #[serde(rename = "rule_count")]
    pub rules: u64,
    /// How many endpoints of this node it selects.
    pub endpoints: u64,
    /// Where it was read, as FILE:LINE.
    pub origin: Option<String>,
    /// Of a staged policy, what it stands for; `None`: it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<StagedSummary>,
}

/// What a staged policy stands for, and what it would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedSummary {
    /// `set`, `delete`, `ignore` or `learn`.
    pub action: String,
    /// Whether the policy that it stands for is in force: it is replaced, or deleted.
    pub replaces: bool,
    /// The flows that would be judged otherwise because of it.
    #[serde(flatten)]
    pub tally: StagedTally,
}

/// How many flows would be judged otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StagedTally {
    /// New flows that were allowed, since the staged policy is as it is.
    pub would_deny: u64,
    /// New flows that were denied, since then.
    pub would_allow: u64,
    /// Flows that lived when the staged policies changed last, and were allowed.
    pub live_would_deny: u64,
    /// Likewise, that were denied.
    pub live_would_allow: u64,
}

/// What has come of a staged policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedDetail {
    /// By the rule that decides, or, where none would, the rule that has decided and would be gone.
    pub rules: Vec<StagedRule>,
    /// The flows that would be judged otherwise, in groups, the latest first.
    pub flows: Vec<FlowChange>,
}

/// What has come of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedRule {
    /// Which, in words.
    pub rule: String,
    /// The flows that would be judged otherwise because of it.
    #[serde(flatten)]
    pub tally: StagedTally,
}

/// An object that is not in force as it is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RefusedObject {
    /// The file, or what stands for it; `None` for what is not known to be from one.
    pub file: Option<PathBuf>,
    /// The line of the field, from 1; `None` for what has no lines.
    pub line: Option<u32>,
    /// Which object, as far as that could be read.
    pub object: Option<ObjectName>,
    /// The field; empty for the document as a whole.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
    /// Whether something of that kind and name is in force all the same: an earlier version, or what another file says.
    #[serde(default)]
    pub in_force: bool,
}

/// A part of the list of policies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyPage {
    /// Those in force, in the order in which they are asked.
    pub policies: Vec<PolicySummary>,
    /// Those that are staged.
    #[serde(default)]
    pub staged: Vec<PolicySummary>,
    /// Objects of any kind that are refused.
    pub refused: Vec<RefusedObject>,
    /// No page follows.
    pub last: bool,
}

/// Which policy is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyQuery {
    /// Its kind, where several have the name.
    pub kind: Option<String>,
    /// Its namespace; `None`: any, or none.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// All that is known of a policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyDetail {
    /// In short.
    #[serde(flatten)]
    pub summary: PolicySummary,
    /// Whom it is for, in words.
    pub subject: String,
    /// The endpoints of this node that it selects: pods as NAMESPACE/NAME.
    pub selects: Vec<String>,
    /// Its rules: those for ingress, then those for egress.
    pub rules: Vec<PolicyRule>,
    /// Of a staged policy, what has come of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<StagedDetail>,
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// `ingress` or `egress`.
    pub direction: String,
    /// Its number in its direction, from 0.
    pub index: u64,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// `allow`, `deny`, `pass` or `log`.
    pub action: String,
    /// What it matches, in words.
    pub matches: String,
    /// How many flows it decided or noted on this node since it is in force.
    pub hits: u64,
}

/// Asks what would become of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceQuery {
    /// Who opens it: an address, or a pod as NAMESPACE/NAME.
    pub from: String,
    /// Whom it is opened to, likewise.
    pub to: String,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port; for ICMP `type << 8 | code`.
    pub port: u16,
    /// Source port; `None`: some ephemeral one.
    #[serde(default)]
    pub source_port: Option<u16>,
}

/// One side of a flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Party {
    /// Its address.
    pub address: IpAddr,
    /// Its port; of the opener of an ICMP echo, the identifier; 0 where the protocol has none.
    pub port: u16,
    /// The pod that has the address, as NAMESPACE/NAME.
    pub pod: Option<String>,
    /// What else the address is known as: a node, a network set.
    #[serde(default)]
    pub others: Vec<String>,
}

/// An ICMP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IcmpMessage {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Its code.
    pub code: u8,
}

/// What becomes of a flow on all of its paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceVerdict {
    /// It passes on each.
    Allow,
    /// It is dropped on each.
    Deny,
    /// It depends on the family, or on the backend that a service chooses.
    Mixed,
}

impl fmt::Display for TraceVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Mixed => "mixed",
        })
    }
}

/// What becomes of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Whether it passes.
    pub verdict: TraceVerdict,
    /// One for each family that both sides have, and for each backend that a service may choose.
    pub paths: Vec<TracePath>,
    /// How many more there are than there is room to tell of.
    #[serde(default)]
    pub left_out: u64,
    /// Whether the compiler and the maps in the kernel say the same.
    pub agree: bool,
}

/// What becomes of a flow between two addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracePath {
    /// Who opens it.
    pub source: Party,
    /// Whom it is opened to; of a service, the backend.
    pub destination: Party,
    /// The ICMP message that opens it.
    #[serde(default)]
    pub icmp: Option<IcmpMessage>,
    /// The service that leads to the destination, as NAMESPACE/NAME; `None` where the flow is opened to it directly.
    #[serde(default)]
    pub service: Option<String>,
    /// Whether it passes.
    pub verdict: Verdict,
    /// What is asked on this node, in order; up to the first that denies. Where it is empty, the note says why.
    pub steps: Vec<TraceStep>,
    /// In words, why nobody is asked.
    #[serde(default)]
    pub note: Option<String>,
    /// What the staged policies would say, where that is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<StagedVerdict>,
}

/// What the staged policies would say of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedVerdict {
    /// Whether it would pass.
    pub verdict: Verdict,
    /// Why; `None`: no policy would decide.
    pub rule: Option<DecidingRule>,
    /// The staged policies because of which it is so.
    pub policies: Vec<ObjectName>,
}

/// What an endpoint's policy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStep {
    /// Whose: a pod as NAMESPACE/NAME.
    pub endpoint: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// What the compiler says.
    pub verdict: Verdict,
    /// Why; `None`: no policy speaks of this direction, or none of them decides.
    pub rule: Option<DecidingRule>,
    /// A rule of the action Log that matches before.
    pub logged: Option<DecidingRule>,
    /// In words where there is no rule: such as that the node always reaches its endpoints.
    pub note: Option<String>,
    /// What the maps in the kernel say.
    pub kernel: KernelSays,
}

/// What the maps in the kernel say of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelSays {
    /// The same as the compiler, by the same rule.
    Same,
    /// Something else: in words.
    Other(String),
}

/// A file of manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestText {
    /// Its name, for refusals.
    pub file: PathBuf,
    /// What is in it.
    pub text: String,
}

/// Flows that would be judged otherwise: those between the same two pods (or addresses, where there is no pod) to the same
/// port, whatever port they are opened from, of which the same is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowChange {
    /// IP protocol by name (`tcp`), or its number.
    pub protocol: String,
    /// How many there are.
    pub flows: u64,
    /// Who opened them: an address of the pod, if it has several. The port is 0.
    pub source: Party,
    /// Whom they were opened to: an address of the pod, if it has several.
    pub destination: Party,
    /// The ICMP message that opened them.
    #[serde(default)]
    pub icmp: Option<IcmpMessage>,
    /// What is in force says so.
    pub before: Verdict,
    /// Why.
    pub before_rule: Option<DecidingRule>,
    /// So it would be.
    pub after: Verdict,
    /// Why.
    pub after_rule: Option<DecidingRule>,
}

/// A part of what a change of policies would change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DiffPage {
    /// Flows seen lately that would be judged otherwise, in groups.
    pub changes: Vec<FlowChange>,
    /// How many flows would be judged otherwise, those included that there is no room to tell of.
    #[serde(default)]
    pub changed: u64,
    /// What of the files is refused; if there is any, nothing else is said.
    pub refused: Vec<RefusedObject>,
    /// How many flows were looked at: those that are tracked, and those that were refused lately.
    pub examined: u64,
    /// No page follows.
    pub last: bool,
}

/// Which events are wanted; each field that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MonitorFilter {
    /// Either side's pod, as NAMESPACE/NAME or NAME.
    pub pod: Option<String>,
    /// Either side's address.
    pub address: Option<IpAddr>,
    /// New flows and ends are `allow`, drops are `deny`.
    pub verdict: Option<Verdict>,
    /// Only drops and logs, so that flows need not be told of.
    pub drops_only: bool,
    /// One of so many new flows is told of; 0 and 1: all.
    pub sample: u32,
    /// Only what staged policies would judge otherwise; `verdict` is what they would say. Without it these events come to whoever
    /// asks for no verdict.
    pub staged_only: bool,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A flow was opened, or judged anew.
    Flow,
    /// A flow has ended.
    End,
    /// A packet was dropped.
    Drop,
    /// A rule of the action Log matched.
    Log,
    /// The staged policies would judge a new flow otherwise than it was.
    Staged,
    /// Events were lost or suppressed before this one.
    Lost,
}

/// Something that the programs tell of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Microseconds since the Unix epoch.
    pub time: u64,
    /// What.
    pub kind: EventKind,
    /// Whether it passed; of [`EventKind::Staged`], whether it would.
    pub verdict: Verdict,
    /// IP protocol by name (`tcp`), or its number.
    pub protocol: String,
    /// Who opened the flow.
    pub source: Party,
    /// Whom it was opened to.
    pub destination: Party,
    /// The ICMP message that opened it.
    #[serde(default)]
    pub icmp: Option<IcmpMessage>,
    /// Why it was dropped, as in the drop counters.
    pub reason: Option<String>,
    /// Whether policy denied it and has its sender told, by a TCP reset or an ICMP error.
    #[serde(default)]
    pub rejected: bool,
    /// Which rule decided; of [`EventKind::Staged`], which would.
    pub rule: Option<DecidingRule>,
    /// Of [`EventKind::Staged`], the staged policies because of which it is so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub staged: Vec<ObjectName>,
    /// How many events were lost since the last one.
    #[serde(default)]
    pub lost: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_in_full_has_its_rules_and_their_number() {
        let rule = PolicyRule {
            direction: "ingress".into(),
            index: 0,
            name: None,
            action: "allow".into(),
            matches: "anything".into(),
            hits: 7,
        };
        let detail = PolicyDetail {
            summary: PolicySummary {
                policy: ObjectName { kind: "Tier".into(), namespace: None, name: "a".into() },
                tier: "default".into(),
                order: Some(0.5),
                directions: vec!["ingress".into()],
                rules: 1,
                endpoints: 2,
                origin: None,
                staged: None,
            },
            subject: "all pods".into(),
            selects: vec!["shop/a".into()],
            rules: vec![rule],
            trial: None,
        };
        let json = serde_json::to_string(&detail).unwrap();
        assert_eq!(serde_json::from_str::<PolicyDetail>(&json).unwrap(), detail, "{json}");
    }
}

//! Writes what was observed as Hubble's clients read it.

use std::net::IpAddr;

use ipamd_api::policy::{DecidingRule, IcmpMessage, ObjectName, Verdict as Judged};
use ipamd_model::policy::{
    Direction,
    protocol::{self, ICMP, ICMPV6, SCTP, TCP, UDP},
};
use prost_types::Timestamp;

use crate::{
    observed::{Decision, Observed, Outcome, Owner, Side},
    proto::flow::{
        CiliumEventType, DropReason, Endpoint, Flow, FlowType, IcmPv4, IcmPv6, Ip, IpVersion, Layer4, Policy,
        Sctp, Service, Tcp, TcpFlags, TraceObservationPoint, TraceReason, TrafficDirection, Udp, Verdict,
        layer4::Protocol,
    },
    reasons, workload,
};

/// Numbers of kinds of events, as Hubble's clients know them.
pub mod event_type {
    /// A packet was dropped.
    pub const DROP: i32 = 1;
    /// A packet was seen on its way.
    pub const TRACE: i32 = 4;
    /// Policy has decided.
    pub const POLICY_VERDICT: i32 = 5;
}

/// Identities that mean the same in every cluster.
mod identity {
    pub const HOST: u32 = 1;
    pub const WORLD: u32 = 2;
    pub const REMOTE_NODE: u32 = 6;
    /// Those of pods begin here, and have 24 bits.
    pub const FIRST: u64 = 256;
    pub const BEYOND: u64 = 1 << 24;
}

/// Says that the address, port and protocol alone do not tell why; Hubble prints `all`.
const MATCH_ALL: u32 = 4;
/// How many labels of a pod are told, and how long each may be: a pod may have a megabyte of them.
const LABELS: usize = 64;
const LABEL: usize = 512;

/// The flow as clients read it. `uuid` is its own.
pub fn flow(observed: &Observed, node: &str, uuid: String) -> Flow {
    let Observed { outcome, source, destination, .. } = observed;
    let direction = direction(observed);
    let by_policy = decided_by_policy(observed);
    let (verdict, drop_reason) = match outcome {
        Outcome::Forwarded => (Verdict::Forwarded, DropReason::Unknown),
        Outcome::Dropped { reason, .. } => (Verdict::Dropped, reasons::nearest(reason)),
        Outcome::Staged { .. } => (Verdict::Audit, DropReason::Unknown),
    };
    let is_forwarded = *outcome == Outcome::Forwarded;
    let point = if is_forwarded { point(destination) } else { TraceObservationPoint::UnknownPoint };
    let event_type = match outcome {
        Outcome::Dropped { .. } => CiliumEventType { r#type: event_type::DROP, sub_type: drop_reason.into() },
        _ if by_policy => CiliumEventType { r#type: event_type::POLICY_VERDICT, sub_type: 0 },
        // Clients know this point by 0 here.
        _ if point == TraceObservationPoint::ToEndpoint => {
            CiliumEventType { r#type: event_type::TRACE, sub_type: 0 }
        }
        _ => CiliumEventType { r#type: event_type::TRACE, sub_type: point.into() },
    };
    let mut flow = Flow {
        time: Some(timestamp(observed.time)),
        uuid,
        verdict: verdict.into(),
        drop_reason: u32::try_from(i32::from(drop_reason)).unwrap_or_default(),
        drop_reason_desc: drop_reason.into(),
        ip: ip(source.address, destination.address),
        l4: layer4(observed),
        source: Some(endpoint(source)),
        destination: Some(endpoint(destination)),
        r#type: FlowType::L3L4.into(),
        node_name: node.to_owned(),
        destination_names: observed.names.clone(),
        event_type: Some(event_type),
        destination_service: observed
            .service
            .as_ref()
            .map(|(namespace, name)| Service { namespace: namespace.to_string(), name: name.to_string() }),
        traffic_direction: direction.into(),
        policy_match_type: if by_policy && verdict != Verdict::Dropped { MATCH_ALL } else { 0 },
        trace_observation_point: point.into(),
        trace_reason: if is_forwarded { TraceReason::New.into() } else { 0 },
        is_reply: (is_forwarded || by_policy).then_some(false),
        summary: summary(observed),
        ..Flow::default()
    };
    for decision in &observed.decisions {
        let policies = policies(decision, outcome);
        match (decision.direction, decision.verdict) {
            (Direction::Egress, Judged::Allow) => flow.egress_allowed_by.extend(policies),
            (Direction::Egress, Judged::Deny) => flow.egress_denied_by.extend(policies),
            (Direction::Ingress, Judged::Allow) => flow.ingress_allowed_by.extend(policies),
            (Direction::Ingress, Judged::Deny) => flow.ingress_denied_by.extend(policies),
        }
    }
    flow
}

/// A time, given in microseconds.
pub fn timestamp(micros: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(micros % 1_000_000 * 1_000).unwrap_or_default(),
    }
}

fn decided_by_policy(observed: &Observed) -> bool {
    match &observed.outcome {
        Outcome::Dropped { reason, .. } => reasons::is_by_policy(reason),
        Outcome::Staged { .. } => true,
        Outcome::Forwarded => observed.decisions.iter().any(|it| it.rule.is_some()),
    }
}

/// Of the decisions, the direction of the one that denies, else of the last that a policy took; where no policy has decided, as the
/// endpoint of this node sees it, and, between two of them, as the one that is reached.
fn direction(observed: &Observed) -> TrafficDirection {
    let told = |direction| match direction {
        Direction::Ingress => TrafficDirection::Ingress,
        Direction::Egress => TrafficDirection::Egress,
    };
    if let Outcome::Dropped { reason, .. } = &observed.outcome {
        match reason.as_str() {
            "policy_ingress" => return TrafficDirection::Ingress,
            "policy_egress" => return TrafficDirection::Egress,
            _ => {}
        }
    }
    let denies = observed.decisions.iter().find(|it| it.verdict == Judged::Deny);
    let decides = denies.or_else(|| observed.decisions.iter().rev().find(|it| it.rule.is_some()));
    match decides {
        Some(decision) => told(decision.direction),
        None if observed.destination.is_local => TrafficDirection::Ingress,
        None if observed.source.is_local => TrafficDirection::Egress,
        None => TrafficDirection::Unknown,
    }
}

/// Where a flow goes on from here.
fn point(destination: &Side) -> TraceObservationPoint {
    match (&destination.owner, destination.is_local) {
        (_, true) => TraceObservationPoint::ToEndpoint,
        (Owner::ThisNode, false) => TraceObservationPoint::ToHost,
        _ => TraceObservationPoint::ToNetwork,
    }
}

fn ip(source: IpAddr, destination: IpAddr) -> Option<Ip> {
    let is_known = !(source.is_unspecified() && destination.is_unspecified());
    let version = if source.is_ipv4() { IpVersion::IPv4 } else { IpVersion::IPv6 };
    is_known.then(|| Ip {
        source: source.to_string(),
        destination: destination.to_string(),
        ip_version: version.into(),
        ..Ip::default()
    })
}

fn layer4(observed: &Observed) -> Option<Layer4> {
    let (source_port, destination_port) = (observed.source.port.into(), observed.destination.port.into());
    let IcmpMessage { kind, code } = observed.icmp.unwrap_or(IcmpMessage { kind: 0, code: 0 });
    let protocol = match observed.protocol {
        TCP => {
            // A flow of TCP is new by its first packet.
            let flags = (observed.outcome == Outcome::Forwarded)
                .then(|| TcpFlags { syn: true, ..TcpFlags::default() });
            Protocol::Tcp(Tcp { source_port, destination_port, flags })
        }
        UDP => Protocol::Udp(Udp { source_port, destination_port }),
        SCTP => Protocol::Sctp(Sctp { source_port, destination_port }),
        ICMP => Protocol::IcmPv4(IcmPv4 { r#type: kind.into(), code: code.into() }),
        ICMPV6 => Protocol::IcmPv6(IcmPv6 { r#type: kind.into(), code: code.into() }),
        _ => return None,
    };
    Some(Layer4 { protocol: Some(protocol) })
}

fn endpoint(side: &Side) -> Endpoint {
    let reserved = |identity, label: &str| Endpoint {
        identity,
        labels: vec![format!("reserved:{label}")],
        ..Endpoint::default()
    };
    match &side.owner {
        Owner::ThisNode => reserved(identity::HOST, "host"),
        Owner::OtherNode(_) => reserved(identity::REMOTE_NODE, "remote-node"),
        Owner::World => reserved(identity::WORLD, "world"),
        Owner::Pod { namespace, name, labels, service_account } => {
            let own = labels.iter().take(LABELS).map(|(key, value)| format!("k8s:{key}={value}"));
            let mut told: Vec<String> = own.filter(|it| it.len() <= LABEL).collect();
            told.push(format!("k8s:io.kubernetes.pod.namespace={namespace}"));
            told.extend(
                service_account.iter().map(|it| format!("k8s:io.cilium.k8s.policy.serviceaccount={it}")),
            );
            told.sort_unstable();
            Endpoint {
                identity: identity_of(&told),
                namespace: namespace.to_string(),
                labels: told,
                pod_name: name.to_string(),
                workloads: workload::of(name, labels).into_iter().collect(),
                ..Endpoint::default()
            }
        }
    }
}

/// A number that follows from the labels, so that it is the same on every node and at every start. Two sets of labels may have the
/// same one.
fn identity_of(labels: &[String]) -> u32 {
    // FNV-1a: no hash of the standard library is the same in every release.
    let bytes = labels.iter().flat_map(|label| label.bytes().chain([0]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let number = identity::FIRST + hash % (identity::BEYOND - identity::FIRST);
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The policies because of which it is so.
fn policies(decision: &Decision, outcome: &Outcome) -> Vec<Policy> {
    let Some(rule) = &decision.rule else { return Vec::new() };
    let mut labels = Vec::new();
    labels.extend(decision.tier.iter().map(|tier| format!("cambric:tier={tier}")));
    match rule.index {
        Some(index) => labels.push(format!("cambric:rule={}[{index}]", rule.direction)),
        None => labels.push("cambric:default-deny=true".to_owned()),
    }
    let because = match outcome {
        Outcome::Staged { because, .. } if !because.is_empty() => {
            labels.push("cambric:staged=true".to_owned());
            because
        }
        _ => &rule.policies,
    };
    because.iter().map(|policy| told_policy(policy, &labels)).collect()
}

fn told_policy(ObjectName { kind, namespace, name }: &ObjectName, labels: &[String]) -> Policy {
    Policy {
        name: name.clone(),
        namespace: namespace.clone().unwrap_or_default(),
        labels: labels.to_vec(),
        kind: kind.clone(),
        ..Policy::default()
    }
}

/// What clients print last: the protocol as they know it, then the reason and the rule in words.
fn summary(observed: &Observed) -> String {
    let mut said = vec![match (observed.protocol, observed.icmp) {
        (TCP, _) if observed.outcome == Outcome::Forwarded => "TCP Flags: SYN".to_owned(),
        (ICMP, Some(IcmpMessage { kind, code })) => format!("ICMPv4 type {kind} code {code}"),
        (ICMPV6, Some(IcmpMessage { kind, code })) => format!("ICMPv6 type {kind} code {code}"),
        (other, _) => protocol::name(other).to_uppercase(),
    }];
    let deciding = |verdict| {
        let of = observed.decisions.iter().rev().find(|it| it.verdict == verdict)?;
        of.rule.as_ref().map(|DecidingRule { text, .. }| text.clone())
    };
    match &observed.outcome {
        Outcome::Forwarded => {}
        Outcome::Dropped { reason, rejected } => {
            said.push(if *rejected { format!("{reason}, rejected") } else { reason.clone() });
            said.extend(deciding(Judged::Deny));
        }
        Outcome::Staged { would, .. } => {
            let passes = if *would == Judged::Allow { "allow" } else { "deny" };
            said.push(format!("staged policies would {passes} it"));
            said.extend(deciding(*would));
        }
    }
    said.join("; ")
}

/// Whether policy has decided, allowed or denied: also a drop is a verdict of policy then.
pub fn is_policy_verdict(flow: &Flow) -> bool {
    let kind = flow.event_type.as_ref().map(|it| it.r#type);
    kind == Some(event_type::POLICY_VERDICT)
        || (kind == Some(event_type::DROP) && flow.drop_reason_desc() == DropReason::PolicyDenied)
}

#[cfg(test)]
mod tests;

//! Which flows a client gets. A filter matches a flow if each of its fields does; a field matches if one of its values does. A client gets
//! what some filter of its white list matches (all, if there is none) and none of its black list does.

mod conditions;
mod label_selector;
mod pattern;
mod side;

use crate::{
    cluster_name::CLUSTER,
    flow::{event_type, is_policy_verdict},
    proto::flow::{Flow, FlowFilter, TcpFlags, TraceObservationPoint, Verdict, layer4::Protocol},
};
use conditions::Conditions;
use pattern::Pattern;
use side::{Side, SideFilter};

/// How many filters a request may have.
const FILTERS: usize = 128;

/// The filters of a request.
pub struct Filters {
    white: Vec<Conditions>,
    black: Vec<Conditions>,
}

impl Filters {
    /// Reads them.
    ///
    /// # Errors
    /// In a sentence, which field cannot be understood, or is not served.
    pub fn read(white: &[FlowFilter], black: &[FlowFilter]) -> Result<Self, String> {
        if white.len() + black.len() > FILTERS {
            return Err(format!("more than {FILTERS} filters are too many"));
        }
        let read = |filters: &[FlowFilter]| filters.iter().map(filter).collect::<Result<Vec<_>, _>>();
        Ok(Self { white: read(white)?, black: read(black)? })
    }

    /// Whether the client gets this flow.
    pub fn admits(&self, flow: &Flow) -> bool {
        let white = self.white.is_empty() || self.white.iter().any(|filter| filter.matches(flow));
        white && !self.black.iter().any(|filter| filter.matches(flow))
    }
}

fn filter(filter: &FlowFilter) -> Result<Conditions, String> {
    refuse_unserved(filter)?;
    let mut conditions = Conditions::default();
    SideFilter {
        side: Side::Source,
        ips: &filter.source_ip,
        pods: &filter.source_pod,
        fqdns: &filter.source_fqdn,
        labels: &filter.source_label,
        services: &filter.source_service,
        workloads: &filter.source_workload,
        ports: &filter.source_port,
        identities: &filter.source_identity,
        clusters: &filter.source_cluster_name,
    }
    .add_to(&mut conditions)?;
    SideFilter {
        side: Side::Destination,
        ips: &filter.destination_ip,
        pods: &filter.destination_pod,
        fqdns: &filter.destination_fqdn,
        labels: &filter.destination_label,
        services: &filter.destination_service,
        workloads: &filter.destination_workload,
        ports: &filter.destination_port,
        identities: &filter.destination_identity,
        clusters: &filter.destination_cluster_name,
    }
    .add_to(&mut conditions)?;
    conditions.one_of(&filter.verdict, |verdict, flow| flow.verdict == *verdict)?;
    conditions.one_of(&filter.drop_reason_desc, |reason, flow| {
        flow.verdict() == Verdict::Dropped && flow.drop_reason_desc == *reason
    })?;
    conditions.one_of(&filter.traffic_direction, |direction, flow| flow.traffic_direction == *direction)?;
    conditions.one_of(&filter.reply, |reply, flow| flow.is_reply == Some(*reply))?;
    conditions.one_of(&filter.uuid, |uuid, flow| flow.uuid == *uuid)?;
    conditions.one_of(&filter.ip_version, |version, flow| {
        flow.ip.as_ref().is_some_and(|ip| ip.ip_version == *version)
    })?;
    conditions.one_of(&filter.encrypted, |encrypted, flow| {
        flow.ip.as_ref().is_some_and(|ip| ip.encrypted == *encrypted)
    })?;
    conditions.one_of(&filter.event_type, |wanted, flow| {
        let sub_type = wanted.match_sub_type.then_some(wanted.sub_type);
        is_of_type(flow, wanted.r#type, sub_type)
    })?;
    conditions.one_of(&filter.tcp_flags, |wanted, flow| has_flags(flow, wanted))?;
    conditions.any(&filter.protocol, |name| protocol(name), |is, flow| is(flow))?;
    conditions.any(
        &filter.node_name,
        |name| NodeName::read(name),
        |name, flow| name.matches(&flow.node_name),
    )?;
    Ok(conditions)
}

/// Refuses fields about what no flow here has. A client that asks for it learns so, instead of waiting for what never comes.
fn refuse_unserved(filter: &FlowFilter) -> Result<(), String> {
    let unserved = [
        (filter.http_status_code.is_empty(), "http_status_code"),
        (filter.http_method.is_empty(), "http_method"),
        (filter.http_path.is_empty(), "http_path"),
        (filter.http_url.is_empty(), "http_url"),
        (filter.http_header.is_empty(), "http_header"),
        (filter.dns_query.is_empty(), "dns_query"),
        (filter.trace_id.is_empty(), "trace_id"),
        (filter.ip_trace_id.is_empty(), "ip_trace_id"),
        (filter.source_ip_xlated.is_empty(), "source_ip_xlated"),
        (filter.interface.is_empty(), "interface"),
        (filter.node_labels.is_empty(), "node_labels"),
        (filter.experimental.as_ref().is_none_or(|it| it.cel_expression.is_empty()), "cel_expression"),
    ];
    match unserved.into_iter().find(|(is_empty, _)| !is_empty) {
        Some((_, field)) => Err(format!("{field}: flows cannot be filtered by it here")),
        None => Ok(()),
    }
}

/// A flow that policy has decided is of two types: a drop or a trace, and a verdict of policy.
fn is_of_type(flow: &Flow, wanted: i32, sub_type: Option<i32>) -> bool {
    let told = flow.event_type.unwrap_or_default();
    match wanted {
        event_type::POLICY_VERDICT => is_policy_verdict(flow) && sub_type.is_none_or(|it| it == 0),
        event_type::TRACE => {
            let point = match flow.trace_observation_point() {
                TraceObservationPoint::ToEndpoint => 0,
                point => point.into(),
            };
            flow.verdict() == Verdict::Forwarded && sub_type.is_none_or(|it| it == point)
        }
        _ => told.r#type == wanted && sub_type.is_none_or(|it| it == told.sub_type),
    }
}

/// Whether a flow has all flags that are wanted.
fn has_flags(flow: &Flow, wanted: &TcpFlags) -> bool {
    let Some(Protocol::Tcp(tcp)) = flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) else { return false };
    let Some(has) = &tcp.flags else { return false };
    let flags = |it: &TcpFlags| [it.fin, it.syn, it.rst, it.psh, it.ack, it.urg, it.ece, it.cwr, it.ns];
    flags(wanted).into_iter().zip(flags(has)).all(|(wanted, has)| has || !wanted)
}

fn protocol(name: &str) -> Result<fn(&Flow) -> bool, String> {
    fn is(flow: &Flow, of: fn(&Protocol) -> bool) -> bool {
        flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()).is_some_and(of)
    }
    Ok(match name.to_ascii_lowercase().as_str() {
        "tcp" => |flow| is(flow, |it| matches!(it, Protocol::Tcp(_))),
        "udp" => |flow| is(flow, |it| matches!(it, Protocol::Udp(_))),
        "sctp" => |flow| is(flow, |it| matches!(it, Protocol::Sctp(_))),
        "icmp" => |flow| is(flow, |it| matches!(it, Protocol::IcmPv4(_) | Protocol::IcmPv6(_))),
        "icmpv4" => |flow| is(flow, |it| matches!(it, Protocol::IcmPv4(_))),
        "icmpv6" => |flow| is(flow, |it| matches!(it, Protocol::IcmPv6(_))),
        other => {
            return Err(format!(
                "protocol: {other:?} is not served: icmp, icmpv4, icmpv6, sctp, tcp and udp are"
            ));
        }
    })
}

/// `[CLUSTER/]NODE`, each with `*` and `?`. No NODE: any.
struct NodeName(Option<Pattern>);

impl NodeName {
    fn read(text: &str) -> Result<Self, String> {
        let (cluster, node) = text.rsplit_once('/').unwrap_or(("", text));
        let in_cluster = cluster.is_empty() || Pattern::new(cluster, "node_name")?.matches(CLUSTER);
        let pattern = Pattern::new(if node.is_empty() { "*" } else { node }, "node_name")?;
        Ok(Self(in_cluster.then_some(pattern)))
    }

    fn matches(&self, node: &str) -> bool {
        self.0.as_ref().is_some_and(|pattern| pattern.matches(node))
    }
}

#[cfg(test)]
mod tests;

//! What would become of a flow, and why: by the rules, and by the tables.

use std::net::IpAddr;

use ipamd_api::{
    AttachmentKey,
    policy::{
        DecidingRule, KernelSays, Party, StagedVerdict, Trace, TracePath, TraceQuery, TraceStep,
        TraceVerdict, Verdict,
    },
};
use ipnetwork::IpNetwork;

use super::{
    cluster::Cluster,
    enforcer::Enforcer,
    judge::{self, Judgement},
    parties::pod_name,
    seen_flow::{NamedFlow, Numbers, SeenFlow},
    state::State,
};
use crate::{
    compile::{
        decide::{Allowing, Decision},
        policy_inputs::BARE_NAMESPACE,
    },
    tables::RuleId,
};
use ipamd_model::{
    objects::{Kind, ObjectId},
    policy::{
        Denied, Direction,
        protocol::{self, has_ports, question_of},
    },
    services::ServiceTarget,
};

/// Stands for the opener's port if the question names none.
const SOME_PORT: u16 = 49_152;

/// How a traced flow reaches its destination.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    Direct,
    /// By this service, which has chosen the destination.
    Service(String),
    /// To this service, which has no backend for it, for this reason.
    NoBackend(String, &'static str),
}

fn verdict(allow: bool) -> Verdict {
    if allow { Verdict::Allow } else { Verdict::Deny }
}

impl Cluster {
    /// The addresses of an operand: an address, or a pod as NAMESPACE/NAME.
    fn addresses(&self, text: &str, field: &str) -> Result<Vec<IpAddr>, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(vec![address.to_canonical()]);
        }
        let (namespace, name) = text.split_once('/').unwrap_or((BARE_NAMESPACE, text));
        let id = ObjectId::namespaced(Kind::Pod, namespace, name);
        let item = self.inputs.item(&id).ok_or_else(|| {
            format!("{field}: {text:?} is neither an address nor a pod that is known (NAMESPACE/NAME)")
        })?;
        let addresses = item.nets.iter().map(IpNetwork::ip).collect::<Vec<_>>();
        if addresses.is_empty() {
            return Err(format!("{field}: the pod {text} has no address"));
        }
        Ok(addresses)
    }

    /// The flows of a query, each with whether services treat its opener as inside.
    fn flows(&self, query: &TraceQuery) -> Result<Vec<(SeenFlow, bool)>, String> {
        let sources = self.addresses(&query.from, "from")?;
        let destinations = self.addresses(&query.to, "to")?;
        let mut flows = Vec::new();
        for source in sources {
            let inside = self.classes.pod_at(source).is_some() || self.node_addresses.contains(&source);
            for destination in destinations.iter().filter(|it| it.is_ipv4() == source.is_ipv4()) {
                let flow = SeenFlow {
                    protocol: query.protocol,
                    source,
                    // Of an echo, the identifier, which no policy speaks of.
                    source_port: query.source_port.unwrap_or(if has_ports(query.protocol) {
                        SOME_PORT
                    } else {
                        0
                    }),
                    destination: *destination,
                    destination_port: query.port,
                };
                flows.push((flow, inside));
            }
        }
        if flows.is_empty() {
            return Err(format!("{} and {} have no family of addresses in common", query.from, query.to));
        }
        Ok(flows)
    }
}

impl State {
    fn step(&self, key: &AttachmentKey, direction: Direction, flow: &NamedFlow) -> TraceStep {
        let judgement = judge::by_rules(key, direction, flow, &self.cluster, &self.written);
        let kernel = match judge::by_tables(key, direction, flow, &self.cluster, &*self.tables) {
            Ok((allow, rule)) if verdict(allow) == judgement.verdict() && rule == judgement.rule() => {
                KernelSays::Same
            }
            Ok((allow, rule)) => {
                let by =
                    self.cluster.deciding(rule).map(|rule| format!(" by {}", rule.text)).unwrap_or_default();
                KernelSays::Other(format!("{}{by}", verdict(allow)))
            }
            Err(error) => KernelSays::Other(error.to_string()),
        };
        let logged = match &judgement {
            Judgement::Decided(Decision { log, .. }) | Judgement::ByName(_, Allowing { log, .. }) => *log,
            Judgement::Unpoliced | Judgement::Node => None,
        };
        let note = match &judgement {
            Judgement::Node => Some("the node always reaches its endpoints".to_owned()),
            Judgement::Unpoliced => Some(format!("no policy selects it for {direction}")),
            Judgement::ByName(name, _) => Some(format!("by the DNS name {name}")),
            Judgement::Decided(Decision { rule: RuleId(0), .. }) => {
                Some("the policies that select it leave it open".to_owned())
            }
            Judgement::Decided(Decision { denied, by_name, .. }) => {
                let told = denied.filter(|it| *it == Denied::Reject);
                let told = told.map(|_| "rejected: the sender is told".to_owned());
                let by_name = by_name.as_ref().and_then(|by_name| self.cluster.allowed_by_name(by_name));
                let said: Vec<_> = told.into_iter().chain(by_name).collect();
                Some(said.join("; ")).filter(|said| !said.is_empty())
            }
        };
        TraceStep {
            endpoint: self
                .cluster
                .endpoints
                .get(key)
                .map(|endpoint| pod_name(&endpoint.item))
                .unwrap_or_default(),
            direction: direction.to_string(),
            verdict: judgement.verdict(),
            rule: self.cluster.deciding(judgement.rule()),
            logged: logged.and_then(|rule| self.cluster.deciding(rule)),
            note,
            kernel,
        }
    }

    fn path(&self, named: &NamedFlow, way: Route) -> TracePath {
        let flow = &named.flow;
        let Numbers { source, destination, icmp } = flow.numbers();
        let mut path = TracePath {
            source: self.cluster.party(flow.source, source),
            destination: self.cluster.party(flow.destination, destination),
            icmp,
            service: None,
            verdict: Verdict::Allow,
            steps: Vec::new(),
            note: None,
            staged: None,
        };
        let by_itself = match way {
            Route::NoBackend(service, note) => {
                return TracePath {
                    service: Some(service),
                    verdict: Verdict::Deny,
                    note: Some(note.into()),
                    ..path
                };
            }
            Route::Service(service) => {
                path.service = Some(service);
                "a pod reaches itself through a service, whatever its policies say"
            }
            Route::Direct => "what a pod sends to its own address does not leave it, so no policy is asked",
        };
        if flow.source == flow.destination {
            path.note = Some(by_itself.into());
            return path;
        }
        if let Some(question) = path.icmp.and_then(|icmp| question_of(flow.protocol, icmp.kind)) {
            return TracePath {
                verdict: Verdict::Deny,
                note: Some(format!(
                    "an ICMP answer opens no flow: it passes if it was asked for, so trace the question, {}/{question}",
                    protocol::name(flow.protocol)
                )),
                ..path
            };
        }
        for (direction, own, peer) in [
            (Direction::Egress, flow.source, flow.destination),
            (Direction::Ingress, flow.destination, flow.source),
        ] {
            if path.verdict == Verdict::Allow
                && let Some(key) = self.cluster.asked_about(direction, own, peer)
            {
                let step = self.step(key, direction, named);
                path.verdict = step.verdict;
                path.steps.push(step);
            }
        }
        if path.steps.is_empty() {
            path.note = Some("neither side is an endpoint of this node: others ask their policies".into());
        }
        path
    }

    fn trace(&self, query: &TraceQuery, asked: Vec<(NamedFlow, Route)>) -> Result<Trace, String> {
        let is_local = |address| self.cluster.endpoint_at(address).is_some();
        let concerns = |(NamedFlow { flow, .. }, way): &(NamedFlow, Route)| {
            is_local(flow.source) || is_local(flow.destination) || matches!(way, Route::NoBackend(..))
        };
        if !asked.iter().any(concerns) {
            return Err(match asked.as_slice() {
                [(_, Route::Direct), ..] | [] => {
                    format!("neither {} nor {} is an endpoint of this node", query.from, query.to)
                }
                [(_, Route::Service(service) | Route::NoBackend(service, _)), ..] => format!(
                    "neither {} nor a backend of the service {service} is an endpoint of this node",
                    query.from
                ),
            });
        }
        let paths = asked.into_iter().map(|(flow, way)| self.path(&flow, way)).collect::<Vec<_>>();
        let allowed = paths.iter().filter(|path| path.verdict == Verdict::Allow).count();
        let verdict = match allowed {
            0 => TraceVerdict::Deny,
            all if all == paths.len() => TraceVerdict::Allow,
            _ => TraceVerdict::Mixed,
        };
        let mut steps = paths.iter().flat_map(|path| &path.steps);
        let agree = steps.all(|step| step.kernel == KernelSays::Same);
        if !agree {
            tracing::error!(from = query.from, to = query.to, "the kernel's tables and the rules disagree");
        }
        Ok(Trace { verdict, paths, left_out: 0, agree })
    }
}

impl Enforcer {
    /// Judges a flow, and explains the judgement. `resolve` returns the target of a connection to a service's address,
    /// from inside or outside; `None` if the address and port belong to no service. `names` returns the DNS names that the opener of a
    /// flow was told for its destination.
    ///
    /// # Errors
    /// The part of the query that makes no sense, in a sentence.
    pub fn trace(
        &self,
        query: &TraceQuery,
        resolve: impl Fn(&SeenFlow, bool) -> Option<ServiceTarget>,
        names: impl Fn(&SeenFlow) -> Vec<String>,
    ) -> Result<Trace, String> {
        let flows = self.lock().cluster.flows(query)?;
        let mut asked = Vec::new();
        for (flow, inside) in flows {
            match resolve(&flow, inside) {
                None => asked.push((flow, Route::Direct)),
                Some(ServiceTarget { service, backends, refusal }) if backends.is_empty() => {
                    let empty = "the service has no backend that takes new connections: they are refused";
                    asked.push((flow, Route::NoBackend(service, refusal.unwrap_or(empty))));
                }
                Some(ServiceTarget { service, backends, .. }) => {
                    asked.extend(backends.into_iter().map(|backend| {
                        let to =
                            SeenFlow { destination: backend.ip(), destination_port: backend.port(), ..flow };
                        (to, Route::Service(service.clone()))
                    }));
                }
            }
        }
        let asked = asked.into_iter().map(|(flow, way)| (NamedFlow { names: names(&flow), flow }, way));
        let asked: Vec<_> = asked.collect();
        let flows: Vec<_> = asked.iter().map(|(flow, _)| flow.clone()).collect();
        let mut trace = self.lock().trace(query, asked)?;
        for (path, flow) in trace.paths.iter_mut().zip(&flows).filter(|(path, _)| !path.steps.is_empty()) {
            path.staged = self.compare_staged(flow).map(|otherwise| StagedVerdict {
                verdict: otherwise.change.after,
                rule: otherwise.change.after_rule,
                policies: otherwise.policies.iter().map(Into::into).collect(),
            });
        }
        Ok(trace)
    }

    /// Who has an address.
    pub fn party(&self, address: IpAddr, port: u16) -> Party {
        self.lock().cluster.party(address, port)
    }

    /// The rule of a number.
    pub fn rule(&self, rule: RuleId) -> Option<DecidingRule> {
        self.lock().cluster.deciding(rule)
    }
}

//! What would become of a flow, and why: by the rules, and by the tables.

use std::net::IpAddr;

use ipamd_api::{
    AttachmentKey,
    policy::{
        DecidingRule, IcmpMessage, KernelSays, Party, Trace, TracePath, TraceQuery, TraceStep, TraceVerdict,
        Verdict,
    },
};
use ipnetwork::IpNetwork;

use super::{
    Enforcer,
    state::State,
    tables::{ClassId, EntryKey, EntryOf, Outcome, RuleId, TableError},
};
use crate::compile::{policy_inputs::BARE_NAMESPACE, rules::Decision};
use ipamd_model::{
    objects::{Kind, ObjectId},
    policy::{
        Direction,
        protocol::{self, has_ports, is_icmp, question_of},
    },
    services::ServiceTarget,
};

/// Stands for the opener's port if the question names none.
const SOME_PORT: u16 = 49_152;

/// A flow, as its opener sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeenFlow {
    /// IP protocol number.
    pub protocol: u8,
    /// Who opens it.
    pub source: IpAddr,
    /// Its port.
    pub source_port: u16,
    /// Whom it is opened to.
    pub destination: IpAddr,
    /// Its port; for ICMP `type << 8 | code`.
    pub destination_port: u16,
}

/// How a traced flow reaches its destination.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    Direct,
    /// By this service, which has chosen the destination.
    Service(String),
    /// To this service, which has no backend for it, for this reason.
    NoBackend(String, &'static str),
}

/// The judgement of an endpoint's rules on a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// A rule, or a tier's default, or that all tiers leave it open.
    Decided(Decision),
    /// No policy speaks of the direction.
    Unpoliced,
    /// The node reaches its endpoints.
    Node,
}

impl Judgement {
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Decided(Decision { allow: false, .. }) => Verdict::Deny,
            Self::Decided(_) | Self::Unpoliced | Self::Node => Verdict::Allow,
        }
    }

    pub fn rule(self) -> RuleId {
        match self {
            Self::Decided(decision) => decision.rule,
            Self::Unpoliced | Self::Node => RuleId(0),
        }
    }
}

fn verdict(allow: bool) -> Verdict {
    if allow { Verdict::Allow } else { Verdict::Deny }
}

/// The numbers of a flow as people name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The opener's port, or the identifier of an ICMP echo; 0 where there is none.
    pub source: u16,
    /// The other side's port; 0 where there is none.
    pub destination: u16,
    /// The ICMP message.
    pub icmp: Option<IcmpMessage>,
}

impl SeenFlow {
    /// Its numbers apart: an ICMP type is no port.
    pub fn numbers(&self) -> Numbers {
        if is_icmp(self.protocol) {
            let [kind, code] = self.destination_port.to_be_bytes();
            Numbers { source: self.source_port, destination: 0, icmp: Some(IcmpMessage { kind, code }) }
        } else {
            let (source, destination) =
                if has_ports(self.protocol) { (self.source_port, self.destination_port) } else { (0, 0) };
            Numbers { source, destination, icmp: None }
        }
    }

    /// The other side, as the endpoint sees it.
    fn peer(&self, direction: Direction) -> IpAddr {
        match direction {
            Direction::Ingress => self.source,
            Direction::Egress => self.destination,
        }
    }
}

impl State {
    /// The endpoint that has an address.
    pub fn endpoint_at(&self, address: IpAddr) -> Option<&AttachmentKey> {
        let found = self.endpoints.iter().find(|(_, endpoint)| endpoint.addresses.contains(&address));
        found.map(|(key, _)| key)
    }

    /// Judges a flow by the endpoint's rules in force.
    pub fn judge_by_rules(&self, key: &AttachmentKey, direction: Direction, flow: &SeenFlow) -> Judgement {
        let peer = flow.peer(direction);
        if direction == Direction::Ingress && self.node_addresses.contains(&peer) {
            return Judgement::Node;
        }
        let rules = self.endpoints.get(key).and_then(|endpoint| endpoint.rules.as_ref());
        let Some(rules) = rules.map(|rules| rules.of(direction)).filter(|rules| rules.is_policed()) else {
            return Judgement::Unpoliced;
        };
        let atoms = self.derived.classes.atoms_of(IpNetwork::from(peer));
        let source_port = if has_ports(flow.protocol) { flow.source_port } else { 0 };
        Judgement::Decided(rules.about(&atoms).decide(
            Some(flow.protocol),
            source_port,
            flow.destination_port,
        ))
    }

    /// Judges a flow by the tables, as the programs do: whether it passes, and by which rule.
    fn judge_by_tables(
        &self,
        key: &AttachmentKey,
        direction: Direction,
        flow: &SeenFlow,
    ) -> Result<(bool, RuleId), TableError> {
        let Some(endpoint) = self.endpoints.get(key) else { return Ok((false, RuleId(0))) };
        let Some(posture) = self.tables.posture(endpoint.slot.number())? else {
            return Ok((false, RuleId(0)));
        };
        let policed = match direction {
            Direction::Ingress => posture.ingress,
            Direction::Egress => posture.egress,
        };
        let peer = self.tables.peer(flow.peer(direction))?;
        if !policed || (direction == Direction::Ingress && peer.is_some_and(|peer| peer.node)) {
            return Ok((true, RuleId(0)));
        }
        let Some(map) = posture.map else { return Ok((false, RuleId(0))) };
        let find = |of, port| {
            let key = EntryKey { of, protocol: Some(flow.protocol), port, port_bits: 16 };
            self.tables.find(map, key)
        };
        let class = peer.map_or(ClassId::WORLD, |peer| peer.class);
        let mut entry = find(EntryOf::Class(direction, class), flow.destination_port)?;
        if entry.is_none() {
            entry = find(EntryOf::Class(direction, ClassId::ANY), flow.destination_port)?;
        }
        if let Some(branch) = entry.and_then(|entry| match entry.outcome {
            Outcome::BySource(branch) => Some(branch),
            Outcome::Allow | Outcome::Deny => None,
        }) {
            entry = find(EntryOf::Branch(branch), flow.source_port)?;
        }
        Ok(entry.map_or((false, RuleId(0)), |entry| (entry.outcome == Outcome::Allow, entry.rule)))
    }

    /// A rule, for people and programs.
    pub fn deciding(&self, rule: RuleId) -> Option<DecidingRule> {
        self.names.name(rule).map(DecidingRule::from)
    }

    /// Who has an address.
    pub fn party(&self, address: IpAddr, port: u16) -> Party {
        let owners = self.derived.classes.owners(address);
        let pod = self.derived.classes.pod_at(address).map(pod_name);
        let others = owners.filter(|id| id.kind != Kind::Pod).map(ToString::to_string);
        let node = self.node_addresses.contains(&address).then(|| "this node".to_owned());
        Party { address, port, pod, others: node.into_iter().chain(others).collect() }
    }

    fn step(&self, key: &AttachmentKey, direction: Direction, flow: &SeenFlow) -> TraceStep {
        let judgement = self.judge_by_rules(key, direction, flow);
        let kernel = match self.judge_by_tables(key, direction, flow) {
            Ok((allow, rule)) if verdict(allow) == judgement.verdict() && rule == judgement.rule() => {
                KernelSays::Same
            }
            Ok((allow, rule)) => {
                let by = self.deciding(rule).map(|rule| format!(" by {}", rule.text)).unwrap_or_default();
                KernelSays::Other(format!("{}{by}", verdict(allow)))
            }
            Err(error) => KernelSays::Other(error.to_string()),
        };
        let logged = match judgement {
            Judgement::Decided(decision) => decision.log.and_then(|rule| self.deciding(rule)),
            Judgement::Unpoliced | Judgement::Node => None,
        };
        let note = match judgement {
            Judgement::Node => Some("the node always reaches its endpoints".to_owned()),
            Judgement::Unpoliced => Some(format!("no policy selects it for {direction}")),
            Judgement::Decided(Decision { rule: RuleId(0), .. }) => {
                Some("the policies that select it leave it open".to_owned())
            }
            Judgement::Decided(_) => None,
        };
        TraceStep {
            endpoint: self.endpoints.get(key).map(|endpoint| pod_name(&endpoint.item)).unwrap_or_default(),
            direction: direction.to_string(),
            verdict: judgement.verdict(),
            rule: self.deciding(judgement.rule()),
            logged,
            note,
            kernel,
        }
    }

    fn path(&self, flow: &SeenFlow, way: Route) -> TracePath {
        let Numbers { source, destination, icmp } = flow.numbers();
        let mut path = TracePath {
            source: self.party(flow.source, source),
            destination: self.party(flow.destination, destination),
            icmp,
            service: None,
            verdict: Verdict::Allow,
            steps: Vec::new(),
            note: None,
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
        for (direction, address) in [(Direction::Egress, flow.source), (Direction::Ingress, flow.destination)]
        {
            if path.verdict == Verdict::Allow
                && let Some(key) = self.endpoint_at(address)
            {
                let step = self.step(key, direction, flow);
                path.verdict = step.verdict;
                path.steps.push(step);
            }
        }
        if path.steps.is_empty() {
            path.note = Some("neither side is an endpoint of this node: others ask their policies".into());
        }
        path
    }

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
            let inside =
                self.derived.classes.pod_at(source).is_some() || self.node_addresses.contains(&source);
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

    fn trace(&self, query: &TraceQuery, asked: Vec<(SeenFlow, Route)>) -> Result<Trace, String> {
        let is_local = |address| self.endpoint_at(address).is_some();
        let concerns = |(flow, way): &(SeenFlow, Route)| {
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
            tracing::error!(from = query.from, to = query.to, "the tables say something else than the rules");
        }
        Ok(Trace { verdict, paths, left_out: 0, agree })
    }
}

impl Enforcer {
    /// Judges a flow, and explains the judgement. `resolve` returns the target of a connection to a service's address,
    /// from inside or outside; `None` if the address and port belong to no service.
    ///
    /// # Errors
    /// The part of the query that makes no sense, in a sentence.
    pub fn trace(
        &self,
        query: &TraceQuery,
        resolve: impl Fn(&SeenFlow, bool) -> Option<ServiceTarget>,
    ) -> Result<Trace, String> {
        let flows = self.lock().flows(query)?;
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
        self.lock().trace(query, asked)
    }

    /// Who has an address.
    pub fn party(&self, address: IpAddr, port: u16) -> Party {
        self.lock().party(address, port)
    }

    /// The rule of a number.
    pub fn rule(&self, rule: RuleId) -> Option<DecidingRule> {
        self.lock().deciding(rule)
    }
}

/// A pod as NAMESPACE/NAME.
pub(super) fn pod_name(id: &ObjectId) -> String {
    format!("{}/{}", id.namespace.as_deref().unwrap_or_default(), id.name)
}

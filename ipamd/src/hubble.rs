//! Hubble's API: who is served, and the thread that writes what the programs tell into the ring of the last flows. Without the key
//! nothing of this is there, and the programs tell no more than somebody else asks for.

use std::{net::TcpListener, os::unix::net::UnixListener, sync::Arc, thread::JoinHandle};

use anyhow::Context as _;
use tokio::{runtime::Builder, sync::oneshot};

use ipamd_api::policy::{Event, EventKind, Party, Verdict};
use ipamd_config::{Beyond, Config};
use ipamd_hubble::{
    cluster::ClusterView,
    flow,
    observed::{Decision, Observed, Outcome, Owner, Side},
    observer::{Observer, ThisNode},
    peers::{PeerService, Reached},
    ring::{Entry, Ring},
    server::{
        Listeners, Server,
        tls::{Handshakes, TlsFiles},
    },
    uuids::Uuids,
};
use ipamd_model::policy::{
    Direction,
    protocol::{self, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE},
};
use ipamd_policy::enforce::{Enforcer, FlowDecision, FlowFacts, SeenFlow, SideFacts};
use ipamd_runtime::supervisor;

use crate::{
    monitor::{Monitor, Subscription},
    node::Node,
    server::{self, SocketFile},
};

/// How many events are taken together.
const TOGETHER: usize = 128;

/// The threads that serve Hubble's API. They end when this is dropped.
#[derive(Debug)]
pub struct Hubble {
    _server: Server,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _socket_file: Option<SocketFile>,
}

/// What flows are told with.
#[derive(Debug)]
pub struct Sources {
    /// The node.
    pub node: Arc<Node>,
    /// Who has which address, and what policies say.
    pub policy: Arc<Enforcer>,
    /// The programs' events.
    pub monitor: Arc<Monitor>,
    /// Services by address, and nodes.
    pub cluster: Arc<ClusterView>,
}

impl Hubble {
    /// Starts them.
    ///
    /// # Errors
    /// Why nobody can be served.
    pub fn start(config: &Config, sources: Sources) -> anyhow::Result<Self> {
        let mut listeners = Listeners::default();
        let mut socket_file = None;
        if let Some(path) = &config.hubble.socket {
            let (listener, file) = listen(path).context("hubble-socket")?;
            (listeners.unix, socket_file) = (Some(listener), Some(file));
        }
        let mut reached = Reached::Locally;
        if let Some(Beyond { address, certificate, key, client_ca }) = config.hubble.beyond.clone() {
            let handshakes = Handshakes::new(TlsFiles { certificate, key, client_ca });
            let handshakes =
                handshakes.context("hubble-tls-certificate, hubble-tls-key and hubble-tls-client-ca")?;
            let listener = TcpListener::bind(address)
                .with_context(|| format!("hubble-listen: cannot listen on {address}"))?;
            (listeners.tls, reached) = (Some((listener, handshakes)), Reached::Tls(address.port()));
        }
        let peers = PeerService::new(Arc::clone(&sources.cluster.peers), reached);
        let ring = Arc::new(Ring::new(config.hubble.flows));
        let this_node = ThisNode {
            name: config.node_name.clone(),
            version: concat!("cambric ", env!("CARGO_PKG_VERSION")).into(),
        };
        let uuids = Uuids::new().context("cannot read the kernel's random numbers")?;
        let subscription = sources.monitor.subscribe_to_openings().context("cannot listen to flows")?;
        let server = Server::start(listeners, Observer::new(Arc::clone(&ring), this_node), peers)?;
        let (stop, stopped) = oneshot::channel();
        let writer = Writer { node_name: config.node_name.clone(), sources, uuids, ring };
        let runtime = Builder::new_current_thread().build()?;
        let thread = supervisor::spawn("flows", move || writer.run(&runtime, subscription, stopped))?;
        Ok(Self { _server: server, stop: Some(stop), thread: Some(thread), _socket_file: socket_file })
    }
}

impl Drop for Hubble {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It may be at the name of somebody, which waits for a large change of policies.
        if let Some(thread) = self.thread.take() {
            let _ = supervisor::join_within(thread, supervisor::FAREWELL);
        }
    }
}

fn listen(path: &std::path::Path) -> anyhow::Result<(UnixListener, SocketFile)> {
    let (listener, file) = server::listen(path)?;
    Ok((listener.into_std()?, file))
}

/// Writes flows into the ring.
struct Writer {
    node_name: String,
    sources: Sources,
    uuids: Uuids,
    ring: Arc<Ring>,
}

impl Writer {
    fn run(
        self,
        runtime: &tokio::runtime::Runtime,
        mut subscription: Subscription,
        mut stopped: oneshot::Receiver<()>,
    ) {
        loop {
            let events = supervisor::resting(|| {
                runtime.block_on(async {
                    tokio::select! {
                        events = subscription.next(TOGETHER) => events,
                        _ = &mut stopped => Vec::new(),
                    }
                })
            });
            // None come when this ends, or when the subscription does.
            if events.is_empty() {
                return;
            }
            self.ring.extend(events.iter().filter_map(|event| self.entry(event)));
        }
    }

    fn entry(&self, event: &Event) -> Option<Entry> {
        supervisor::beat();
        if event.kind == EventKind::Lost {
            return Some(Entry::Lost { events: event.lost, time: event.time });
        }
        let observed = self.observed(event)?;
        Some(Entry::Flow(Arc::new(flow::flow(&observed, &self.node_name, self.uuids.next()))))
    }

    fn observed(&self, event: &Event) -> Option<Observed> {
        let protocol = number(&event.protocol)?;
        let outcome = outcome(event)?;
        let seen = seen_flow(event, protocol);
        let names =
            self.sources.node.kernel().dns_names_of(seen.source, seen.destination).unwrap_or_default();
        let facts = self.sources.policy.flow_facts(seen, names.clone());
        let decisions = decisions(event, &outcome, &facts);
        Some(Observed {
            time: event.time,
            outcome,
            protocol,
            icmp: event.icmp,
            service: self.sources.cluster.services.at(seen.destination, seen.destination_port, protocol),
            source: side(&event.source, facts.source),
            destination: side(&event.destination, facts.destination),
            decisions,
            names,
        })
    }
}

fn outcome(event: &Event) -> Option<Outcome> {
    Some(match event.kind {
        EventKind::Flow => Outcome::Forwarded,
        EventKind::Drop => {
            Outcome::Dropped { reason: event.reason.clone().unwrap_or_default(), rejected: event.rejected }
        }
        EventKind::Staged => Outcome::Staged { would: event.verdict, because: event.staged.clone() },
        EventKind::End | EventKind::Log | EventKind::Lost => return None,
    })
}

fn seen_flow(event: &Event, protocol: u8) -> SeenFlow {
    let destination_port =
        event.icmp.map_or(event.destination.port, |icmp| u16::from_be_bytes([icmp.kind, icmp.code]));
    SeenFlow {
        protocol,
        source: event.source.address,
        source_port: event.source.port,
        destination: event.destination.address,
        destination_port,
    }
}

/// The number of a protocol that is given by its name, or as a number.
fn number(name: &str) -> Option<u8> {
    let known = [ICMP, TCP, UDP, ICMPV6, SCTP, UDPLITE].into_iter().find(|it| protocol::name(*it) == name);
    known.or_else(|| name.parse().ok())
}

/// What the policies have said. What the programs tell of it counts; what the rules in force say now is added as far as it agrees:
/// they may have changed since.
fn decisions(event: &Event, outcome: &Outcome, facts: &FlowFacts) -> Vec<Decision> {
    let by_rule = event.rule.as_ref().map(|rule| {
        let direction = if rule.direction == Direction::Egress.to_string() {
            Direction::Egress
        } else {
            Direction::Ingress
        };
        Decision { direction, verdict: event.verdict, rule: Some(rule.clone()), tier: None }
    });
    let judged = facts.decisions.iter().map(|FlowDecision { direction, verdict, rule, tier }| Decision {
        direction: *direction,
        verdict: *verdict,
        rule: rule.clone(),
        tier: tier.clone(),
    });
    match outcome {
        Outcome::Staged { .. } => by_rule.into_iter().collect(),
        // No policy was asked, or none has said this.
        Outcome::Dropped { .. } if by_rule.is_none() => Vec::new(),
        _ => {
            let is_by = |decision: &Decision, by: &Decision| decision.direction == by.direction;
            let said = judged.filter(|it| match &by_rule {
                Some(by) if is_by(it, by) => it.rule == by.rule && it.verdict == by.verdict,
                _ => it.verdict == Verdict::Allow,
            });
            let mut said: Vec<_> = said.collect();
            if let Some(by) = by_rule.filter(|by| !said.iter().any(|it| is_by(it, by))) {
                said.push(by);
            }
            said
        }
    }
}

fn side(party: &Party, facts: SideFacts) -> Side {
    let owner = match (facts.pod, facts.node) {
        (Some((namespace, name)), _) => {
            Owner::Pod { namespace, name, labels: facts.labels, service_account: facts.service_account }
        }
        (None, _) if facts.is_this_node => Owner::ThisNode,
        (None, Some(node)) => Owner::OtherNode(node),
        (None, None) => Owner::World,
    };
    Side { address: party.address, port: party.port, owner, is_local: facts.is_local }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ipamd_api::policy::{DecidingRule, IcmpMessage};

    use super::*;

    fn event(kind: EventKind, verdict: Verdict, rule: Option<&str>) -> Event {
        let party = |last: u8, port| Party {
            address: IpAddr::from([10, 0, 0, last]),
            port,
            pod: None,
            others: Vec::new(),
        };
        Event {
            time: 1,
            kind,
            verdict,
            protocol: "tcp".into(),
            source: party(1, 40_000),
            destination: party(2, 80),
            icmp: None,
            reason: (verdict == Verdict::Deny).then(|| "policy_ingress".to_owned()),
            rejected: false,
            rule: rule.map(|text| named(text, "ingress")),
            staged: Vec::new(),
            lost: 0,
        }
    }

    fn named(text: &str, direction: &str) -> DecidingRule {
        DecidingRule { text: text.into(), direction: direction.into(), policies: Vec::new(), index: Some(0) }
    }

    fn judged(direction: Direction, verdict: Verdict, text: &str) -> FlowDecision {
        let rule = Some(named(text, &direction.to_string()));
        FlowDecision { direction, verdict, rule, tier: Some("t".into()) }
    }

    /// Direction, verdict, rule, and whether the tier is known.
    fn said(event: &Event, judged: &[FlowDecision]) -> Vec<(Direction, Verdict, String, bool)> {
        let facts = FlowFacts { decisions: judged.to_vec(), ..FlowFacts::default() };
        let decisions = decisions(event, &outcome(event).unwrap(), &facts).into_iter();
        let told = decisions.map(|it| (it.direction, it.verdict, it.rule.unwrap().text, it.tier.is_some()));
        told.collect()
    }

    #[test]
    fn what_the_programs_tell_counts_and_what_the_rules_say_now_is_added() {
        let (egress, ingress) = (Direction::Egress, Direction::Ingress);
        let now = [judged(egress, Verdict::Allow, "e"), judged(ingress, Verdict::Deny, "i")];
        let e = || (egress, Verdict::Allow, "e".to_owned(), true);
        let i = |verdict, text: &str, tier| (ingress, verdict, text.to_owned(), tier);
        let dropped = event(EventKind::Drop, Verdict::Deny, Some("i"));
        assert_eq!(said(&dropped, &now), [e(), i(Verdict::Deny, "i", true)]);
        // The policies have changed since.
        let dropped = event(EventKind::Drop, Verdict::Deny, Some("before"));
        assert_eq!(said(&dropped, &now), [e(), i(Verdict::Deny, "before", false)]);
        let passed = event(EventKind::Flow, Verdict::Allow, Some("before"));
        assert_eq!(said(&passed, &now), [e(), i(Verdict::Allow, "before", false)]);
        let passed = event(EventKind::Flow, Verdict::Allow, None);
        assert_eq!(said(&passed, &now), [e()]);
        // By no policy.
        assert_eq!(said(&event(EventKind::Drop, Verdict::Deny, None), &now), []);
        let staged = event(EventKind::Staged, Verdict::Deny, Some("s"));
        assert_eq!(said(&staged, &now), [i(Verdict::Deny, "s", false)]);
    }

    #[test]
    fn protocols_go_by_name_and_by_number() {
        assert_eq!(["tcp", "udp", "icmpv6", "sctp", "47"].map(number), [6, 17, 58, 132, 47].map(Some));
        assert_eq!(number("nonsense"), None);
        let mut icmp = event(EventKind::Flow, Verdict::Allow, None);
        icmp.icmp = Some(IcmpMessage { kind: 8, code: 1 });
        assert_eq!(seen_flow(&icmp, ICMP).destination_port, 0x0801);
    }

    #[test]
    fn ends_and_logs_are_no_flows() {
        for kind in [EventKind::End, EventKind::Log, EventKind::Lost] {
            assert_eq!(outcome(&event(kind, Verdict::Allow, None)), None);
        }
    }
}

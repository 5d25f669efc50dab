//! Resolves the policies that select an endpoint into its rules. The endpoint's own side of a rule is evaluated. The other side becomes
//! predicates about addresses.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipnetwork::IpNetwork;

use super::{
    classes::Classes,
    domains::Domains,
    names::{RuleName, RuleNames},
    policy_inputs::{HostRole, PolicyInputs},
    rank::Selecting,
    rules::{
        AddressMatch, DirectionRules, DomainMatch, EndpointRules, PortMatch, PortSet, RuleMatch, TierRules,
        TrafficMatch,
    },
};
use crate::tables::RuleId;
use ipamd_model::{
    domain::DomainPattern,
    host::{FailsafePort, HostLayer},
    objects::NamedPort,
    policy::{
        Action, Denied, Direction, Entity, Family, Icmp, Policy, Ports, Rule, TierDefault, Traffic,
        protocol::{SCTP, TCP, UDP, UDPLITE, has_ports},
    },
};
use ipamd_runtime::work;

/// The endpoint's own side, for which rules are resolved.
#[derive(Clone, Debug)]
pub struct Own {
    /// The endpoint's addresses.
    pub addresses: Vec<IpAddr>,
    /// Its named ports.
    pub ports: Arc<[NamedPort]>,
    /// What becomes of packets that are denied by a policy which does not say it.
    pub denied: Denied,
    /// What it is of a host endpoint.
    pub host: Option<HostRole>,
}

impl Own {
    /// What becomes of packets that a policy denies which says this of them. At host endpoints nobody is told.
    fn denied_by(&self, said: Option<Denied>) -> Denied {
        if self.host.is_some() { Denied::Drop } else { said.unwrap_or(self.denied) }
    }

    /// Whether what no policy decides goes on to be asked elsewhere.
    fn goes_on(&self) -> bool {
        self.host.as_ref().is_some_and(|host| host.layer.goes_on())
    }
}

/// Which addresses of an endpoint a rule's own side means.
enum Meant {
    /// None.
    Not,
    /// All.
    Whole,
    /// Only the address of this family.
    In(Family),
}

/// What resolving reads, and what it takes numbers from.
pub struct Resolver<'a> {
    /// The cluster.
    pub inputs: &'a PolicyInputs,
    /// The predicates.
    pub classes: &'a mut Classes,
    /// The rules.
    pub names: &'a mut RuleNames,
    /// The patterns of DNS names.
    pub domains: &'a mut Domains,
}

impl Resolver<'_> {
    /// The rules of an endpoint.
    pub fn resolve(&mut self, selecting: &Selecting, own: &Own) -> EndpointRules {
        EndpointRules {
            ingress: self.direction(selecting, own, Direction::Ingress),
            egress: self.direction(selecting, own, Direction::Egress),
        }
    }

    fn direction(&mut self, selecting: &Selecting, own: &Own, direction: Direction) -> DirectionRules {
        let mut tiers: Vec<(Arc<str>, Vec<&Arc<Policy>>)> = Vec::new();
        for (rank, policy) in selecting.iter().filter(|(_, policy)| policy.rules(direction).is_some()) {
            match tiers.last_mut() {
                Some((tier, policies)) if *tier == *rank.tier() => policies.push(policy),
                _ => tiers.push((Arc::clone(rank.tier()), vec![policy])),
            }
        }
        let tiers = tiers.into_iter().map(|(tier, policies)| self.tier(&tier, &policies, own, direction));
        let tiers = tiers.collect::<Vec<_>>();
        match &own.host {
            Some(host) => self.of_host(host, tiers, direction),
            None => DirectionRules { tiers },
        }
    }

    /// The rules of a host endpoint: what no policy can close, then the policies, then what becomes of the rest.
    fn of_host(&mut self, host: &HostRole, tiers: Vec<TierRules>, direction: Direction) -> DirectionRules {
        if tiers.is_empty() && (host.layer != HostLayer::Local || host.allows_by_default) {
            return DirectionRules::default();
        }
        let tier =
            |rules, default, default_id| TierRules { rules, default, default_id, denied: Denied::Drop };
        let before = match host.layer {
            HostLayer::Forwarded => None,
            layer => Some(tier(self.failsafe(host, layer, direction), TierDefault::Pass, RuleId(0))),
        };
        let after = (host.layer == HostLayer::Local && !host.allows_by_default).then(|| {
            let name = RuleName::HostDefault { host: Arc::clone(&host.name), direction };
            tier(Vec::new(), TierDefault::Deny, self.names.number(name))
        });
        DirectionRules { tiers: before.into_iter().chain(tiers).chain(after).collect() }
    }

    /// Rules that allow the failsafe ports. What is not tracked has no answers: there the ports of the other direction are the
    /// source ports, and what is allowed goes on (rule 0) to be tracked.
    fn failsafe(&mut self, host: &HostRole, layer: HostLayer, direction: Direction) -> Vec<RuleMatch> {
        let (id, answers): (_, &[FailsafePort]) = match layer {
            HostLayer::Untracked => {
                let other = match direction {
                    Direction::Ingress => Direction::Egress,
                    Direction::Egress => Direction::Ingress,
                };
                (RuleId(0), host.failsafe.of(other))
            }
            _ => (self.names.number(RuleName::Failsafe { direction }), &[]),
        };
        let asked = host.failsafe.of(direction).iter().map(|port| (port, false));
        let all = asked.chain(answers.iter().map(|port| (port, true)));
        let rules = all.map(|(port, answers)| {
            let ports = PortSet { ranges: vec![(port.port, port.port)], peer: Vec::new() };
            let matched = PortMatch { one_of: Some(ports), none_of: None };
            let (source, destination) =
                if answers { (matched, PortMatch::default()) } else { (PortMatch::default(), matched) };
            let nets = port.net.map(|net| vec![self.classes.net(net)]);
            RuleMatch {
                id,
                action: Action::Allow,
                denied: Denied::Drop,
                peers: vec![AddressMatch { nets, ..AddressMatch::default() }],
                domains: Vec::new(),
                traffic: vec![TrafficMatch {
                    protocol: Some(port.protocol),
                    not_protocol: None,
                    source,
                    destination,
                }],
            }
        });
        rules.collect()
    }

    fn tier(
        &mut self,
        tier: &Arc<str>,
        policies: &[&Arc<Policy>],
        own: &Own,
        direction: Direction,
    ) -> TierRules {
        let mut rules = Vec::new();
        for policy in policies {
            for rule in policy.rules(direction).unwrap_or_default() {
                rules.extend(self.rule(policy, rule, own, direction));
            }
        }
        let default = self.inputs.tier(tier).map_or(TierDefault::Deny, |tier| tier.default);
        let default = if own.goes_on() { TierDefault::Pass } else { default };
        let default_id = match default {
            TierDefault::Pass => RuleId(0),
            TierDefault::Deny => self.names.number(RuleName::TierDefault {
                tier: Arc::clone(tier),
                direction,
                policies: policies.iter().map(|policy| policy.id.clone()).collect(),
            }),
        };
        // No single policy denies what none of them allows, so one that wants the sender told is enough.
        let said = policies.iter().filter_map(|policy| policy.denied).max();
        TierRules { rules, default, default_id, denied: own.denied_by(said) }
    }

    fn rule(&mut self, policy: &Policy, rule: &Rule, own: &Own, direction: Direction) -> Option<RuleMatch> {
        let (own_side, peer_side) = match direction {
            Direction::Ingress => (&rule.destinations, &rule.sources),
            Direction::Egress => (&rule.sources, &rule.destinations),
        };
        let family = match self.families(rule, own_side, own) {
            Meant::Not => return None,
            Meant::Whole => None,
            Meant::In(family) => Some(self.classes.net(whole(family))),
        };
        work::step(1 + peer_side.len());
        let mut known = HashSet::with_capacity(peer_side.len());
        let mut peers = Vec::with_capacity(peer_side.len());
        let mut by_name: Vec<(AddressMatch, BTreeSet<DomainPattern>)> = Vec::new();
        // A name says only what may be allowed: that an address does not have it is not known.
        let means_names = direction == Direction::Egress && rule.action == Action::Allow;
        for entity in peer_side {
            let peer = AddressMatch { family, ..self.address(entity) };
            if means_names && entity.may_mean_names() {
                self.names(entity, &peer, &mut by_name);
            }
            if entity.domains.is_empty() && known.insert(peer.clone()) {
                peers.push(peer);
            }
        }
        let domains = by_name.into_iter().map(|(address, patterns)| self.domains(address, &patterns));
        let domains = domains.filter(|it| !it.domains.is_empty()).collect::<Vec<_>>();
        let mut traffic = Vec::new();
        for it in &rule.traffic {
            self.traffic(it, own, direction, &mut traffic);
        }
        if peers.is_empty() && domains.is_empty() || traffic.is_empty() {
            return None;
        }
        let id = self.names.number(RuleName::Rule {
            policy: policy.id.clone(),
            direction,
            index: rule.index,
            name: rule.name.as_deref().map(Into::into),
        });
        let denied = own.denied_by(policy.denied);
        Some(RuleMatch { id, action: rule.action, denied, peers, domains, traffic })
    }

    /// Adds the DNS names that an alternative means: its own, or those of the network sets that it selects. What else it says of the
    /// address must hold, too.
    fn names(
        &self,
        entity: &Entity,
        address: &AddressMatch,
        by_name: &mut Vec<(AddressMatch, BTreeSet<DomainPattern>)>,
    ) {
        let address = AddressMatch { items: None, ..address.clone() };
        let of_sets = entity.items.iter().filter(|items| items.may_select_sets());
        let of_sets = of_sets.flat_map(|items| self.inputs.domains_of(items));
        let patterns = entity.domains.iter().chain(of_sets).cloned().collect::<BTreeSet<_>>();
        work::step(patterns.len());
        match by_name.iter_mut().find(|(known, _)| *known == address) {
            _ if patterns.is_empty() => {}
            Some((_, known)) => known.extend(patterns),
            None => by_name.push((address, patterns)),
        }
    }

    fn domains(&mut self, address: AddressMatch, patterns: &BTreeSet<DomainPattern>) -> DomainMatch {
        let mut domains: Vec<_> = patterns.iter().filter_map(|it| self.domains.number(it)).collect();
        domains.sort_unstable();
        DomainMatch { address, domains }
    }

    /// Which addresses of the endpoint the rule's own side means. What a host endpoint is asked about may have any address there, and the
    /// tables know only the other side. So a rule that means some of them allows nothing, and denies all.
    fn families(&mut self, rule: &Rule, own_side: &[Entity], own: &Own) -> Meant {
        if own.host.is_some() {
            let all = own_side.contains(&Entity::ANY);
            return match rule.family {
                _ if !all && rule.action != Action::Deny => Meant::Not,
                Some(family) => Meant::In(family),
                None => Meant::Whole,
            };
        }
        let family = |address: &IpAddr| if address.is_ipv4() { Family::V4 } else { Family::V6 };
        let meant = |this: &mut Self, address: IpAddr| {
            own_side.iter().any(|entity| {
                *entity == Entity::ANY
                    || entity.domains.is_empty() && {
                        let wanted = this.address(entity);
                        wanted.matches(&this.classes.atoms_of(address.into()))
                    }
            })
        };
        let mut all = true;
        let mut some = None;
        for address in &own.addresses {
            if rule.family.is_none_or(|wanted| wanted == family(address)) && meant(self, *address) {
                some = Some(family(address));
            } else {
                all = false;
            }
        }
        match some {
            None => Meant::Not,
            Some(_) if all => Meant::Whole,
            Some(family) => Meant::In(family),
        }
    }

    fn address(&mut self, entity: &Entity) -> AddressMatch {
        let mut numbers = |nets: &[IpNetwork]| {
            let mut numbers: Vec<_> = nets.iter().map(|net| self.classes.net(*net)).collect();
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        };
        let (nets, not_nets) = (entity.nets.as_deref().map(&mut numbers), numbers(&entity.not_nets));
        AddressMatch {
            items: entity.items.as_ref().map(|items| self.classes.selector(self.inputs, items)),
            not_items: entity.not_items.as_ref().map(|items| self.classes.selector(self.inputs, items)),
            nets,
            not_nets,
            family: None,
        }
    }

    fn traffic(&mut self, traffic: &Traffic, own: &Own, direction: Direction, made: &mut Vec<TrafficMatch>) {
        let sides = [
            &traffic.source_ports,
            &traffic.not_source_ports,
            &traffic.destination_ports,
            &traffic.not_destination_ports,
        ];
        let plain = TrafficMatch {
            protocol: traffic.protocol,
            not_protocol: traffic.not_protocol,
            ..TrafficMatch::default()
        };
        if sides.iter().all(|side| side.is_none()) {
            let icmp =
                |icmp: Option<Icmp>| icmp.map(|icmp| PortSet { ranges: vec![range(icmp)], peer: Vec::new() });
            let destination = PortMatch { one_of: icmp(traffic.icmp), none_of: icmp(traffic.not_icmp) };
            made.push(TrafficMatch { destination, ..plain });
            return;
        }
        let ported = [TCP, UDP, SCTP, UDPLITE].into_iter();
        for protocol in ported.filter(|ported| traffic.protocol.is_none_or(|wanted| wanted == *ported)) {
            debug_assert!(has_ports(protocol), "only these have ports");
            let mut side = |one_of: &Option<Ports>, none_of: &Option<Ports>, of_peer: bool| PortMatch {
                one_of: one_of.as_ref().map(|ports| self.ports(ports, protocol, own, of_peer)),
                none_of: none_of.as_ref().map(|ports| self.ports(ports, protocol, own, of_peer)),
            };
            let ingress = direction == Direction::Ingress;
            let source = side(&traffic.source_ports, &traffic.not_source_ports, ingress);
            let destination = side(&traffic.destination_ports, &traffic.not_destination_ports, !ingress);
            made.push(TrafficMatch { protocol: Some(protocol), source, destination, ..plain });
        }
    }

    fn ports(&mut self, ports: &Ports, protocol: u8, own: &Own, of_peer: bool) -> PortSet {
        let mut set = PortSet {
            ranges: ports.ranges.iter().map(|range| (*range.start(), *range.end())).collect(),
            peer: Vec::new(),
        };
        for name in &ports.names {
            if of_peer {
                set.peer.extend(self.classes.ports(name, protocol));
            } else {
                let named = own.ports.iter().filter(|port| port.protocol == protocol && port.name == *name);
                set.ranges.extend(named.map(|port| (port.port, port.port)));
            }
        }
        set
    }
}

fn range(icmp: Icmp) -> (u16, u16) {
    let kind = u16::from(icmp.kind) << 8;
    match icmp.code {
        Some(code) => (kind | u16::from(code), kind | u16::from(code)),
        None => (kind, kind | 0xff),
    }
}

/// All addresses of a family.
fn whole(family: Family) -> IpNetwork {
    let unspecified: IpAddr = match family {
        Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    // A length of 0 is valid.
    IpNetwork::new(unspecified, 0).unwrap_or_else(|_| unspecified.into())
}

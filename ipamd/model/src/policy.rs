//! Policies of every kind in one form: tiers in order, policies in order, rules in order, the first that matches decides.
//!
//! An endpoint and a direction are judged so: tiers from the lowest order up; in each, the policies that select the
//! endpoint and speak of the direction, from the lowest order up, then by name; their rules in order. `Allow` and `Deny`
//! decide; `Pass` goes on to the next tier; `Log` is noted and goes on to the next rule. Where policies of a tier select
//! the endpoint and none of their rules decides, the tier's default does. What no tier decides is allowed.

use std::{cmp::Ordering, fmt, ops::RangeInclusive, str::FromStr, sync::Arc};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

pub use crate::id::ObjectId as PolicyId;
use crate::{
    domain::DomainPattern, field::FieldError, host_layer::HostLayer, id::Origin, selector::Selector,
};

/// The tier of NetworkPolicies and of Calico policies that name none.
pub const DEFAULT_TIER: &str = "default";
/// The tier of ClusterNetworkPolicies with `tier: Admin`.
pub const ADMIN_TIER: &str = "kube-admin";
/// The tier of ClusterNetworkPolicies with `tier: Baseline`.
pub const BASELINE_TIER: &str = "kube-baseline";
/// The order of a NetworkPolicy in the default tier, as Calico has it.
pub const NETWORK_POLICY_ORDER: f64 = 1000.0;

/// A place in an order; what has none comes last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Order(pub Option<f64>);

impl Eq for Order {}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.0, other.0) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            (None, None) => Ordering::Equal,
            (None, _) => Ordering::Greater,
            (_, None) => Ordering::Less,
        }
    }
}

/// What a tier does with what its policies select and do not decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum TierDefault {
    /// It is dropped.
    #[default]
    Deny,
    /// The next tier is asked.
    Pass,
}

/// A tier of policies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tier {
    /// Its name.
    pub name: Arc<str>,
    /// Its place among the tiers.
    pub order: Order,
    /// What becomes of what it does not decide.
    pub default: TierDefault,
}

impl Tier {
    /// The tiers that are there without being declared; a declared tier of the same name takes its place.
    pub fn built_in() -> [Self; 3] {
        let tier =
            |name: &str, order, default| Self { name: name.into(), order: Order(Some(order)), default };
        [
            tier(ADMIN_TIER, 1_000.0, TierDefault::Pass),
            tier(DEFAULT_TIER, 1_000_000.0, TierDefault::Deny),
            tier(BASELINE_TIER, 10_000_000.0, TierDefault::Pass),
        ]
    }
}

/// What becomes of a packet that policy denies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Denied {
    /// It is dropped, and its sender waits for an answer in vain.
    #[default]
    Drop,
    /// It is dropped, and its sender is told: a TCP segment is answered by a reset, any other packet by the ICMP error
    /// "administratively prohibited".
    Reject,
}

impl Denied {
    /// The annotation of a namespace or a policy that says it.
    pub const ANNOTATION: &str = "cambric.io/denied";
}

impl FromStr for Denied {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "drop" => Ok(Self::Drop),
            "reject" => Ok(Self::Reject),
            _ => Err("neither \"drop\" nor \"reject\"".to_owned()),
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drop => "drop",
            Self::Reject => "reject",
        })
    }
}

/// A policy of any kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Policy {
    /// Which.
    pub id: PolicyId,
    /// Where it was read; not part of what it means.
    pub origin: Option<Origin>,
    /// Name of its tier.
    pub tier: Arc<str>,
    /// Its place in the tier.
    pub order: Order,
    /// The endpoints that it applies to: pods and host endpoints.
    pub subject: ItemSelector,
    /// What it is asked about at host endpoints. At pods only what is tracked is asked about: not by a policy that is for
    /// [`HostLayer::PreDnat`] or [`HostLayer::Untracked`].
    pub layer: HostLayer,
    /// Rules for what reaches the subjects; `None`: it says nothing of that direction.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for what the subjects send; `None`: it says nothing of that direction.
    pub egress: Option<Vec<Rule>>,
    /// What becomes of the packets that it denies; `None`: what the endpoint's namespace or the node says.
    pub denied: Option<Denied>,
    /// What of it is not understood. In its rules that is something of a kind that this version does not know, so that they are closed: which field, and what
    /// becomes of the rule.
    pub closed: Vec<FieldError>,
}

/// A direction, as the endpoint sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// What reaches the endpoint.
    Ingress,
    /// What the endpoint sends.
    Egress,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

impl Policy {
    /// Its rules for a direction; `None`: it says nothing of that direction.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// Whether it is asked at endpoints: at pods (`None`), or at host endpoints about that.
    pub fn is_asked_about(&self, layer: Option<HostLayer>) -> bool {
        match layer {
            None | Some(HostLayer::Local) => !self.layer.goes_on(),
            Some(layer) => self.layer == layer,
        }
    }

    /// Whether its rules are the same for every endpoint with an address that it selects: what they say of the endpoint's own side
    /// is everything, of either family, and they name none of its own ports, for which each pod may have another number.
    pub fn says_the_same_to_all(&self) -> bool {
        Direction::BOTH.into_iter().all(|direction| {
            self.rules(direction).unwrap_or_default().iter().all(|rule| {
                let own_side = match direction {
                    Direction::Ingress => &rule.destinations,
                    Direction::Egress => &rule.sources,
                };
                let names_ports = |it: &Traffic| {
                    let own = match direction {
                        Direction::Ingress => [&it.destination_ports, &it.not_destination_ports],
                        Direction::Egress => [&it.source_ports, &it.not_source_ports],
                    };
                    own.into_iter().flatten().any(|ports| !ports.names.is_empty())
                };
                rule.family.is_none()
                    && own_side.contains(&Entity::ANY)
                    && !rule.traffic.iter().any(names_ports)
            })
        })
    }
}

impl Policy {
    /// Gives back the room that its lists have left over: clusters have many policies.
    pub fn shrink_to_fit(&mut self) {
        for rules in [&mut self.ingress, &mut self.egress].into_iter().flatten() {
            for rule in rules.iter_mut() {
                rule.sources.shrink_to_fit();
                rule.destinations.shrink_to_fit();
                rule.traffic.shrink_to_fit();
            }
            rules.shrink_to_fit();
        }
    }
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
    /// The next tier is asked.
    Pass,
    /// It is noted, and the next rule is asked.
    Log,
}

/// One rule. It matches if one of its sources, one of its destinations and one of its traffics do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// Its number in the policy's list of the direction, from 0.
    pub index: usize,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// What it does.
    pub action: Action,
    /// The family it is for; `None`: both.
    pub family: Option<Family>,
    /// Alternatives; none of them matches nothing, [`Entity::ANY`] everything.
    pub sources: Vec<Entity>,
    /// Alternatives.
    pub destinations: Vec<Entity>,
    /// Alternatives; [`Traffic::ANY`] is everything.
    pub traffic: Vec<Traffic>,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One side of a rule: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Entity {
    /// The address belongs to one of these.
    pub items: Option<ItemSelector>,
    /// The address belongs to none of these.
    pub not_items: Option<ItemSelector>,
    /// The address lies in one of these; an empty list matches nothing.
    pub nets: Option<Vec<IpNetwork>>,
    /// The address lies in none of these.
    pub not_nets: Vec<IpNetwork>,
    /// If there are some: the endpoint was told the address as one of a DNS name that one of these means. By itself no address is meant
    /// then. Only what is sent can be allowed so.
    pub domains: Vec<DomainPattern>,
}

impl Entity {
    /// Matches every address.
    pub const ANY: Self =
        Self { items: None, not_items: None, nets: None, not_nets: Vec::new(), domains: Vec::new() };

    /// Whether it may mean an address by its DNS name in rules that allow what is sent: by itself, or because it may select network sets,
    /// which may have names.
    pub fn may_mean_names(&self) -> bool {
        !self.domains.is_empty() || self.items.as_ref().is_some_and(ItemSelector::may_select_sets)
    }
}

/// Which sorts of things a selector may select.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ItemKinds {
    /// Pods.
    Pods,
    /// Pods and host endpoints.
    PodsAndHosts,
    /// Pods, host endpoints and network sets, as Calico's selectors do.
    PodsAndNetworkSets,
    /// Nodes; `scope` and `service_accounts` do not concern them.
    Nodes,
    /// The endpoints of a Service: see [`service_name`](crate::service_name).
    ServiceEndpoints,
}

/// Whose language a selector is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Dialect {
    /// Kubernetes: it asks for labels as they are written.
    Kubernetes,
    /// Calico: something also has the labels of its namespace, as `pcns.KEY`, and a pod those of its service account, as `pcsa.KEY`.
    Calico,
}

/// Selects pods, network sets or nodes: all that is set must hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ItemSelector {
    /// Which sorts.
    pub kinds: ItemKinds,
    /// In which namespaces.
    pub scope: Scope,
    /// By their own labels.
    pub labels: Selector,
    /// What `labels` may ask for.
    pub dialect: Dialect,
    /// By a pod's service account: one of these names; `None`: any.
    pub service_account_names: Option<Vec<Arc<str>>>,
    /// By the labels of a pod's service account; `None`: any.
    pub service_accounts: Option<Selector>,
}

impl ItemSelector {
    /// Whether it may select network sets. These have no service account.
    pub fn may_select_sets(&self) -> bool {
        self.kinds == ItemKinds::PodsAndNetworkSets
            && self.service_account_names.is_none()
            && self.service_accounts.is_none()
    }
}

/// Which namespaces are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Scope {
    /// All, and what belongs to none.
    Any,
    /// The one of that name.
    Namespace(Arc<str>),
    /// Those whose labels match. In it `all()` is everything that belongs to a namespace and `global()` everything that
    /// belongs to none.
    Matching(Selector),
}

/// What a rule says of protocols and ports: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Traffic {
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// IP protocol number that it must not be.
    pub not_protocol: Option<u8>,
    /// ICMP type and code; only with the protocol ICMP or ICMPv6.
    pub icmp: Option<Icmp>,
    /// ICMP type and code that it must not be.
    pub not_icmp: Option<Icmp>,
    /// Ports of the side that opens the flow. Ports are matched for TCP, UDP, SCTP and UDPLite only: a rule that names
    /// some matches no other protocol.
    pub source_ports: Option<Ports>,
    /// Ports of that side that it must not be.
    pub not_source_ports: Option<Ports>,
    /// Ports of the other side.
    pub destination_ports: Option<Ports>,
    /// Ports of the other side that it must not be.
    pub not_destination_ports: Option<Ports>,
}

impl Traffic {
    /// Whether it speaks of ports.
    pub fn has_ports(&self) -> bool {
        self.ports().next().is_some()
    }

    /// All ports that it speaks of.
    pub fn ports(&self) -> impl Iterator<Item = &Ports> {
        let sides = [
            &self.source_ports,
            &self.not_source_ports,
            &self.destination_ports,
            &self.not_destination_ports,
        ];
        sides.into_iter().flatten()
    }

    /// Matches everything.
    pub const ANY: Self = Self {
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source_ports: None,
        not_source_ports: None,
        destination_ports: None,
        not_destination_ports: None,
    };
}

/// An ICMP type, and a code of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Icmp {
    /// The type.
    pub kind: u8,
    /// The code; `None`: any.
    pub code: Option<u8>,
}

/// A set of ports: the union of both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Ports {
    /// By number.
    pub ranges: Vec<RangeInclusive<u16>>,
    /// By name: the number that the pod whose port it is has under that name for the packet's protocol. An address
    /// that belongs to no pod has none.
    pub names: Vec<Arc<str>>,
}

/// IP protocol numbers that have a name in policies.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDPLite.
    pub const UDPLITE: u8 = 136;

    /// A protocol's name in small letters, or its number.
    pub fn name(protocol: u8) -> String {
        let known = match protocol {
            ICMP => "icmp",
            TCP => "tcp",
            UDP => "udp",
            ICMPV6 => "icmpv6",
            SCTP => "sctp",
            UDPLITE => "udplite",
            other => return other.to_string(),
        };
        known.to_owned()
    }

    /// Whether packets of the protocol have ports.
    pub fn has_ports(protocol: u8) -> bool {
        matches!(protocol, TCP | UDP | SCTP | UDPLITE)
    }

    /// Whether packets of the protocol have a type and a code.
    pub fn is_icmp(protocol: u8) -> bool {
        matches!(protocol, ICMP | ICMPV6)
    }

    /// The type of the ICMP message that one of this type answers; `None` if it is no answer. As the programs have it
    /// (`request_of` in ipv4.h and ipv6.h).
    pub fn question_of(protocol: u8, kind: u8) -> Option<u8> {
        match (protocol, kind) {
            (ICMP, 0) => Some(8),
            (ICMP, 14 | 16 | 18 | 43) | (ICMPV6, 129 | 140 | 161) => Some(kind - 1),
            _ => None,
        }
    }
}

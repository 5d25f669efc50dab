//! The ways to the other nodes' endpoints: a route for each of their prefixes, directly where the nodes share a subnet,
//! through an overlay of VXLAN where not.
//!
//! The overlay needs no word between nodes: a node's Ethernet address in it follows from its IP address, its IP address
//! in it is the gateway of its prefix.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use ipamd_api::MacAddr;
use ipnetwork::IpNetwork;

use super::{Observed, Plan, Step, Uplinks};
use crate::{
    cluster::objects::Node,
    config::RoutingMode,
    datapath::Uplink,
    ipam::{Family, Pool},
    netlink::{Forwarding, Link, Neighbour, Route, RouteKind, Vxlan},
    peers::Nodes,
};

/// Name of the overlay's interface.
pub const OVERLAY: &str = "cambric-overlay";
/// What a frame of the overlay has in front of it over IPv4 and over IPv6, in bytes: IP, UDP, VXLAN and Ethernet.
const OVERHEAD_V4: u32 = 20 + 8 + 8 + 14;
const OVERHEAD_V6: u32 = 40 + 8 + 8 + 14;
/// IPv6 needs no less.
const LEAST_MTU: u32 = 1280;

/// How to reach the other nodes.
#[derive(Clone, Debug)]
pub struct Routing {
    /// By which way.
    pub mode: RoutingMode,
    /// This node's name.
    pub own: String,
    /// Number of the overlay's network.
    pub vxlan_id: u32,
    /// UDP port of the overlay.
    pub vxlan_port: u16,
}

/// The overlay's interface as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Its Ethernet address.
    mac: MacAddr,
    /// What it is.
    vxlan: Vxlan,
    /// Bytes.
    pub mtu: u32,
}

impl Routing {
    /// The overlay, if there is to be one: unless every node is reached directly, and if this is a cluster of nodes.
    pub fn overlay(&self, nodes: &Nodes, uplinks: &Uplinks, observed: &Observed) -> Option<Overlay> {
        let wanted = matches!(self.mode, RoutingMode::Vxlan | RoutingMode::Auto);
        if !wanted || !nodes.values().any(|node| !node.pod_cidrs.is_empty()) {
            return None;
        }
        let own = nodes.get(&*self.own).map(|node| node.internal.as_slice()).unwrap_or_default();
        let is_here = |address: &IpAddr| observed.addresses.iter().any(|it| it.address == *address);
        let of_uplinks = uplinks.present.iter().flat_map(|uplink| {
            [uplink.ipv4.map(IpAddr::from), uplink.ipv6.map(IpAddr::from)].into_iter().flatten()
        });
        let known = own.iter().copied().filter(is_here);
        let mut candidates: Vec<_> = known.chain(of_uplinks).collect();
        // The order stays within a family.
        candidates.sort_by_key(IpAddr::is_ipv6);
        let local = *candidates.first()?;
        let overhead = if local.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
        let mtu = uplinks.mtu.unwrap_or(1500).saturating_sub(overhead).max(LEAST_MTU);
        let vxlan = Vxlan { id: self.vxlan_id, port: self.vxlan_port, local };
        Some(Overlay { mac: mac_of(local), vxlan, mtu })
    }
}

/// A node's Ethernet address in the overlay: of the locally administered ones, from the address that the node is reached
/// at.
fn mac_of(machine: IpAddr) -> MacAddr {
    let low = match machine {
        IpAddr::V4(ip) => u32::from(ip),
        // The words of an IPv6 address, stirred: two nodes of a cluster rarely differ in the last one only by chance.
        IpAddr::V6(ip) => ip
            .segments()
            .iter()
            .fold(0x811c_9dc5_u32, |hash, word| (hash ^ u32::from(*word)).wrapping_mul(0x0100_0193)),
    };
    let [a, b, c, d] = low.to_be_bytes();
    MacAddr([if machine.is_ipv4() { 0x02 } else { 0x06 }, 0xca, a, b, c, d])
}

/// The overlay's interface as an uplink, if it is there: what leaves by it as the node has the gateway's address.
pub fn overlay_uplink(pools: &[Pool], observed: &Observed) -> Option<Uplink> {
    let link = observed.links.iter().find(|link| is_overlay(link) && link.up)?;
    let mut uplink = Uplink { ifindex: link.index, ifname: link.name.clone(), ..Uplink::default() };
    for pool in pools {
        match pool.gateway() {
            IpAddr::V4(ip) => uplink.ipv4 = uplink.ipv4.or(Some(ip)),
            IpAddr::V6(ip) => uplink.ipv6 = uplink.ipv6.or(Some(ip)),
        }
    }
    Some(uplink)
}

fn is_overlay(link: &Link) -> bool {
    link.name == OVERLAY && link.vxlan.is_some()
}

/// What the kernel should have.
#[derive(Debug, Default)]
struct Wanted {
    routes: BTreeMap<IpNetwork, Route>,
    neighbours: HashMap<IpAddr, Neighbour>,
    forwarding: HashSet<Forwarding>,
    problems: BTreeSet<String>,
}

pub(super) fn plan(
    routing: &Routing,
    nodes: &Nodes,
    overlay: Option<Overlay>,
    pools: &[Pool],
    uplinks: &Uplinks,
    observed: &Observed,
    plan: &mut Plan,
) {
    let mut wanted = Wanted::default();
    let link = keep_overlay(overlay, observed, plan);
    if routing.mode != RoutingMode::None {
        let site = Site { overlay: overlay.zip(link), pools, uplinks, observed };
        for node in nodes.values().filter(|node| *node.name != *routing.own) {
            for cidr in &node.pod_cidrs {
                site.lead(routing.mode, node, *cidr, &mut wanted);
            }
        }
    }
    let present: HashMap<_, _> =
        observed.routes.iter().filter(|it| it.ours).map(|route| (route.destination, route)).collect();
    for (destination, route) in &wanted.routes {
        if present.get(destination).is_none_or(|it| *it != route) {
            plan.steps.push(Step::PutRoute(route.clone()));
        }
    }
    for route in observed.routes.iter().filter(|route| route.is_to_peer()) {
        if !wanted.routes.contains_key(&route.destination) {
            plan.steps.push(Step::RemoveRoute(route.clone()));
        }
    }
    if let Some(ifindex) = link {
        keep_neighbours(ifindex, &wanted, observed, plan);
    }
    plan.problems.extend(wanted.problems);
}

/// The overlay's interface, as it is to be. Returns its index if it is.
fn keep_overlay(overlay: Option<Overlay>, observed: &Observed, plan: &mut Plan) -> Option<u32> {
    let link = observed.links.iter().find(|link| is_overlay(link));
    let fits =
        |link: &&Link, overlay: &Overlay| link.vxlan == Some(overlay.vxlan) && link.mac == Some(overlay.mac);
    if let Some(link) = link
        && overlay.is_none_or(|overlay| !fits(&link, &overlay))
    {
        plan.steps.push(Step::RemoveOverlay { ifname: link.name.clone(), ifindex: link.index });
    }
    let overlay = overlay?;
    let Some(link) = link.filter(|link| fits(link, &overlay)) else {
        let Overlay { mac, vxlan, mtu } = overlay;
        plan.steps.push(Step::MakeOverlay { ifname: OVERLAY.into(), mac, mtu, vxlan });
        return None;
    };
    if link.mtu != overlay.mtu {
        plan.steps.push(Step::SetMtu { ifname: link.name.clone(), ifindex: link.index, mtu: overlay.mtu });
    }
    if !link.up {
        plan.steps.push(Step::SetUp { ifname: link.name.clone(), ifindex: link.index });
        return None;
    }
    Some(link.index)
}

fn keep_neighbours(ifindex: u32, wanted: &Wanted, observed: &Observed, plan: &mut Plan) {
    let here = |it: &&Neighbour| it.ifindex == ifindex;
    let neighbours: HashMap<_, _> =
        observed.neighbours.iter().filter(here).map(|it| (it.address, it)).collect();
    let forwarding: HashSet<_> = observed.forwarding.iter().filter(|it| it.ifindex == ifindex).collect();
    // A node that has moved: the old machine first, for frames go to all machines of an Ethernet address.
    for entry in &forwarding {
        if !wanted.forwarding.contains(entry) {
            plan.steps.push(Step::RemoveForwarding(**entry));
        }
    }
    for entry in &wanted.forwarding {
        if !forwarding.contains(entry) {
            plan.steps.push(Step::PutForwarding(*entry));
        }
    }
    for (address, neighbour) in &wanted.neighbours {
        if neighbours.get(address).is_none_or(|it| *it != neighbour) {
            plan.steps.push(Step::PutNeighbour(*neighbour));
        }
    }
    for (address, neighbour) in neighbours {
        if !wanted.neighbours.contains_key(&address) {
            plan.steps.push(Step::RemoveNeighbour(*neighbour));
        }
    }
}

/// Where this node is.
struct Site<'a> {
    /// The overlay and the index of its interface, once that is there.
    overlay: Option<(Overlay, u32)>,
    pools: &'a [Pool],
    uplinks: &'a Uplinks,
    observed: &'a Observed,
}

impl Site<'_> {
    /// Leads the packets for a prefix to its node.
    fn lead(&self, mode: RoutingMode, node: &Node, cidr: IpNetwork, wanted: &mut Wanted) {
        let overlaps = |pool: &&Pool| {
            let own = pool.cidr();
            own.contains(cidr.ip()) || cidr.contains(own.ip())
        };
        if let Some(pool) = self.pools.iter().find(overlaps) {
            let (name, own) = (&node.name, pool.cidr());
            wanted.problems.insert(format!(
                "the pod CIDR {cidr} of the node {name} overlaps {own}, this node's own; it is not led there"
            ));
            return;
        }
        if mode != RoutingMode::Vxlan
            && let Some((ifindex, next_hop)) = self.directly(node, cidr)
        {
            wanted.routes.insert(cidr, Route::to_peer(cidr, ifindex, next_hop, false, None));
        } else if mode != RoutingMode::Direct {
            self.by_overlay(node, cidr, wanted);
        }
    }

    /// The next hop to a node that shares a subnet with this one, and the interface to it.
    fn directly(&self, node: &Node, cidr: IpNetwork) -> Option<(u32, IpAddr)> {
        node.internal.iter().filter(|address| address.is_ipv4() == cidr.is_ipv4()).find_map(|next_hop| {
            let own = self.observed.addresses.iter().find(|own| {
                let of_uplink = self.uplinks.present.iter().any(|uplink| uplink.ifindex == own.ifindex);
                let subnet = IpNetwork::new(own.address, own.prefix);
                of_uplink && subnet.is_ok_and(|subnet| subnet.contains(*next_hop)) && own.address != *next_hop
            })?;
            Some((own.ifindex, *next_hop))
        })
    }

    fn by_overlay(&self, node: &Node, cidr: IpNetwork, wanted: &mut Wanted) {
        let Some((overlay, ifindex)) = self.overlay else { return };
        let same = |address: &&IpAddr| address.is_ipv4() == overlay.vxlan.local.is_ipv4();
        let Some(machine) = node.internal.iter().find(same).copied() else {
            let (name, local) = (&node.name, overlay.vxlan.local);
            wanted.problems.insert(format!(
                "the node {name} has no InternalIP that can be reached from {local}; its pods are out of reach"
            ));
            return;
        };
        let Ok(pool) = Pool::new(&*node.name, cidr) else { return };
        let (gateway, mac) = (pool.gateway(), mac_of(machine));
        let family = Family::of(cidr.ip());
        let source = self.pools.iter().find(|pool| pool.family() == family).map(Pool::gateway);
        wanted.routes.insert(cidr, Route::to_peer(cidr, ifindex, gateway, true, source));
        wanted.neighbours.insert(gateway, Neighbour { ifindex, address: gateway, mac });
        wanted.forwarding.insert(Forwarding { ifindex, mac, machine });
    }
}

/// How many other nodes are reached, and how, by the routes that are there.
pub fn reached(observed: &Observed) -> (usize, usize) {
    let overlay = observed.links.iter().find(|link| is_overlay(link)).map(|link| link.index);
    let to_peers = observed.routes.iter().filter(|route| route.is_to_peer());
    let by_overlay = |route: &&Route| match &route.kind {
        RouteKind::Unicast { ifindexes, .. } => overlay.is_some_and(|index| ifindexes.contains(&index)),
        _ => false,
    };
    let (over, direct): (Vec<_>, Vec<_>) = to_peers.partition(by_overlay);
    (direct.len(), over.len())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{netlink::Address, policy::labels::Labels};

    fn node(name: &str, addresses: &[&str], cidrs: &[&str]) -> (Arc<str>, Arc<Node>) {
        let node = Node {
            name: name.into(),
            labels: Labels::default(),
            addresses: Vec::new(),
            internal: addresses.iter().map(|it| it.parse().unwrap()).collect(),
            pod_cidrs: cidrs.iter().map(|it| it.parse().unwrap()).collect(),
        };
        (name.into(), Arc::new(node))
    }

    /// This node, one in its subnet, one beyond.
    fn nodes() -> Nodes {
        Nodes::from([
            node("own", &["192.0.2.1"], &["10.1.0.0/24", "fd00:1::/64"]),
            node("near", &["192.0.2.2", "2001:db8::2"], &["10.2.0.0/24", "fd00:2::/64"]),
            node("far", &["198.51.100.3"], &["10.3.0.0/24"]),
        ])
    }

    fn pools() -> Vec<Pool> {
        ["10.1.0.0/24", "fd00:1::/64"].map(|cidr| Pool::new(cidr, cidr.parse().unwrap()).unwrap()).to_vec()
    }

    fn uplinks() -> Uplinks {
        let uplink = Uplink { ifindex: 2, ifname: "eth0".into(), ipv4: "192.0.2.1".parse().ok(), ipv6: None };
        Uplinks { present: vec![uplink], mtu: Some(1500), problems: Vec::new() }
    }

    fn routing(mode: RoutingMode) -> Routing {
        Routing { mode, own: "own".into(), vxlan_id: 7, vxlan_port: 4789 }
    }

    fn machine() -> Observed {
        let address = Address { ifindex: 2, address: "192.0.2.1".parse().unwrap(), prefix: 24, usable: true };
        Observed { addresses: vec![address], ..Observed::default() }
    }

    fn planned(mode: RoutingMode, observed: &Observed) -> (Vec<String>, Vec<Step>) {
        let (routing, nodes, uplinks, mut result) = (routing(mode), nodes(), uplinks(), Plan::default());
        let overlay = routing.overlay(&nodes, &uplinks, observed);
        plan(&routing, &nodes, overlay, &pools(), &uplinks, observed, &mut result);
        let mut said: Vec<_> = result.steps.iter().map(ToString::to_string).collect();
        said.sort();
        (said, result.steps)
    }

    /// The machine once the overlay is there.
    fn with_overlay(mode: RoutingMode) -> Observed {
        let mut observed = machine();
        let (_, steps) = planned(mode, &observed);
        let link = steps.iter().find_map(|step| match step {
            Step::MakeOverlay { ifname, mac, mtu, vxlan } => Some(Link {
                index: 9,
                name: ifname.clone(),
                up: true,
                mtu: *mtu,
                mac: Some(*mac),
                vxlan: Some(*vxlan),
                ..Link::default()
            }),
            _ => None,
        });
        observed.links.extend(link);
        observed
    }

    /// Carries the steps out.
    fn perform(observed: &mut Observed, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::PutRoute(route) => observed.routes.push(route),
                Step::RemoveRoute(route) => observed.routes.retain(|it| *it != route),
                Step::PutNeighbour(neighbour) => observed.neighbours.push(neighbour),
                Step::RemoveNeighbour(neighbour) => observed.neighbours.retain(|it| *it != neighbour),
                Step::PutForwarding(forwarding) => observed.forwarding.push(forwarding),
                Step::RemoveForwarding(forwarding) => observed.forwarding.retain(|it| *it != forwarding),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn directly_is_only_where_the_subnet_is_shared() {
        let (said, _) = planned(RoutingMode::Direct, &machine());
        assert_eq!(said, ["put the route to 10.2.0.0/24 in place"]);
    }

    #[test]
    fn no_routing_means_no_routes() {
        assert!(planned(RoutingMode::None, &machine()).0.is_empty());
    }

    #[test]
    fn auto_is_direct_within_the_subnet_and_by_the_overlay_beyond() {
        let mut observed = with_overlay(RoutingMode::Auto);
        assert_eq!(observed.links[0].mtu, 1450);
        let (said, steps) = planned(RoutingMode::Auto, &observed);
        // The near node's IPv6 prefix is beyond: this node has no address of its subnet.
        assert_eq!(
            said,
            [
                "put the neighbour 10.3.0.1 in place",
                "put the neighbour fd00:2::1 in place",
                "put the route to 10.2.0.0/24 in place",
                "put the route to 10.3.0.0/24 in place",
                "put the route to fd00:2::/64 in place",
                "send the overlay's frames of 02:ca:c0:00:02:02 to 192.0.2.2",
                "send the overlay's frames of 02:ca:c6:33:64:03 to 198.51.100.3",
            ]
        );
        perform(&mut observed, steps);
        assert_eq!(planned(RoutingMode::Auto, &observed).0, Vec::<String>::new());
        assert_eq!(reached(&observed), (1, 2));

        // Another mode takes back what is of no use to it.
        let (said, _) = planned(RoutingMode::Direct, &observed);
        assert_eq!(
            said,
            [
                "remove the overlay's interface cambric-overlay",
                "remove the route to 10.3.0.0/24",
                "remove the route to fd00:2::/64",
            ]
        );
    }

    #[test]
    fn a_node_that_moves_is_followed() {
        let mut observed = with_overlay(RoutingMode::Vxlan);
        let (_, steps) = planned(RoutingMode::Vxlan, &observed);
        perform(&mut observed, steps);
        let mut nodes = nodes();
        nodes.extend([node("far", &["198.51.100.4"], &["10.3.0.0/24"])]);
        nodes.remove("near");
        let (routing, uplinks, mut result) = (routing(RoutingMode::Vxlan), uplinks(), Plan::default());
        let overlay = routing.overlay(&nodes, &uplinks, &observed);
        plan(&routing, &nodes, overlay, &pools(), &uplinks, &observed, &mut result);
        let mut said: Vec<_> = result.steps.iter().map(ToString::to_string).collect();
        said.sort();
        assert_eq!(
            said,
            [
                "put the neighbour 10.3.0.1 in place",
                "remove the neighbour 10.2.0.1",
                "remove the neighbour fd00:2::1",
                "remove the route to 10.2.0.0/24",
                "remove the route to fd00:2::/64",
                "send no more of the overlay's frames of 02:ca:c0:00:02:02 to 192.0.2.2",
                "send no more of the overlay's frames of 02:ca:c6:33:64:03 to 198.51.100.3",
                "send the overlay's frames of 02:ca:c6:33:64:04 to 198.51.100.4",
            ]
        );
    }

    #[test]
    fn a_prefix_that_overlaps_ours_is_told_of() {
        let mut nodes = nodes();
        nodes.extend([node("liar", &["192.0.2.9"], &["10.0.0.0/8"])]);
        let (routing, uplinks, mut result) = (routing(RoutingMode::Direct), uplinks(), Plan::default());
        plan(&routing, &nodes, None, &pools(), &uplinks, &machine(), &mut result);
        assert_eq!(result.problems.len(), 1, "{:?}", result.problems);
        assert!(result.problems[0].contains("node liar overlaps 10.1.0.0/24"));
        assert_eq!(result.steps.len(), 1);
    }
}

//! The routes to the other nodes' endpoints: one for each pod CIDR, direct where the nodes share a subnet, through a
//! VXLAN overlay where not.
//!
//! The overlay needs no messages between nodes: a node's Ethernet address in it follows from the node's name, and its
//! IPv6 address there from that; its IPv4 address is the gateway of its pod CIDR.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use ipamd_api::MacAddr;
use ipnetwork::IpNetwork;

use crate::{
    cidr_owners::CidrOwners,
    observed::{NodeRoutes, Observed},
    overlay::{Overlay, link_local_of, mac_of, machine_of},
    overlay_interface,
    plan::Plan,
    routing::Routing,
    step::Step,
    uplinks::Uplinks,
};
use ipamd_addresses::ipam::{Family, Pool};
use ipamd_config::RoutingMode;
use ipamd_kernel::netlink::{Forwarding, Neighbour, Route};
use ipamd_model::objects::{Node, Nodes};

/// How many nodes are named where the same is wrong with many.
const NAMED: usize = 3;

/// What the kernel should have.
#[derive(Debug, Default)]
struct Wanted {
    routes: BTreeMap<IpNetwork, Route>,
    neighbours: HashMap<IpAddr, Neighbour>,
    /// Which machine each Ethernet address is behind.
    forwarding: HashMap<MacAddr, IpAddr>,
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
    let link = overlay_interface::keep(overlay, observed, plan);
    if overlay.is_none() && routing.wants_overlay(nodes) {
        plan.problems.push(format!(
            "this node has no address that the overlay's frames could be sent from: neither the InternalIP of its Node \
             {:?} nor an uplink's",
            routing.own
        ));
    }
    let Some(node_routes) = &observed.node_routes else { return };
    let mut wanted = Wanted::default();
    if routing.mode != RoutingMode::None {
        let site = Site { overlay: overlay.zip(link), uplinks, observed };
        site.lead_all(routing, nodes, pools, &mut wanted);
        tell_of_missing(routing, nodes, pools, &mut wanted.problems);
    }
    // First where frames go, then what sends them there; and the other way round with what is not wanted any more.
    if let Some(ifindex) = link {
        put_neighbours(ifindex, &wanted, node_routes, plan);
    }
    keep_routes(&mut wanted, observed, node_routes, plan);
    if let Some(ifindex) = link {
        remove_neighbours(ifindex, &wanted, node_routes, plan);
    }
    plan.route_problems = Some(wanted.problems.into_iter().collect());
}

fn keep_routes(wanted: &mut Wanted, observed: &Observed, node_routes: &NodeRoutes, plan: &mut Plan) {
    let by_destination = |ours| {
        let routes =
            observed.routes.iter().chain(&node_routes.routes).filter(move |route| route.ours == ours);
        routes.map(|route| (route.destination, route)).collect::<HashMap<_, _>>()
    };
    let (ours, others) = (by_destination(true), by_destination(false));
    for (destination, route) in &wanted.routes {
        match ours.get(destination) {
            Some(present) if *present == route => {}
            None if others.contains_key(destination) => {
                wanted.problems.insert(format!(
                    "there is a route to {destination}, the pod CIDR of another node, that is not Cambric's and is left \
                     as it is: remove it, and one to that node is made"
                ));
            }
            _ => plan.steps.push(Step::PutRoute(route.clone())),
        }
    }
    for route in node_routes.routes.iter().filter(|route| route.is_to_peer()) {
        if !wanted.routes.contains_key(&route.destination) {
            plan.steps.push(Step::RemoveRoute(route.clone()));
        }
    }
}

fn put_neighbours(ifindex: u32, wanted: &Wanted, node_routes: &NodeRoutes, plan: &mut Plan) {
    let forwarding: HashSet<_> = node_routes.forwarding.iter().filter(|it| it.ifindex == ifindex).collect();
    for (mac, machine) in &wanted.forwarding {
        let entry = Forwarding { ifindex, mac: *mac, machine: *machine };
        if !forwarding.contains(&entry) {
            plan.steps.push(Step::PutForwarding(entry));
        }
    }
    let here = node_routes.neighbours.iter().filter(|it| it.ifindex == ifindex);
    let neighbours: HashMap<_, _> = here.map(|it| (it.address, it)).collect();
    for (address, neighbour) in &wanted.neighbours {
        if neighbours.get(address).is_none_or(|it| *it != neighbour) {
            plan.steps.push(Step::PutPeer(*neighbour));
        }
    }
}

fn remove_neighbours(ifindex: u32, wanted: &Wanted, node_routes: &NodeRoutes, plan: &mut Plan) {
    for neighbour in node_routes.neighbours.iter().filter(|it| it.ifindex == ifindex) {
        if !wanted.neighbours.contains_key(&neighbour.address) {
            plan.steps.push(Step::RemoveNeighbour(*neighbour));
        }
    }
    // What was put for an Ethernet address has taken the place of what was there; one more would get copies.
    for entry in node_routes.forwarding.iter().filter(|it| it.ifindex == ifindex) {
        if wanted.forwarding.get(&entry.mac) != Some(&entry.machine) {
            plan.steps.push(Step::RemoveForwarding(*entry));
        }
    }
}

/// Tells of whom no way leads to, because nobody says which addresses are there.
fn tell_of_missing(routing: &Routing, nodes: &Nodes, pools: &[Pool], problems: &mut BTreeSet<String>) {
    let others = || nodes.values().filter(|node| *node.name != *routing.own);
    let without: Vec<_> = others().filter(|node| node.pod_cidrs.is_empty()).map(|node| &*node.name).collect();
    if !without.is_empty() {
        let named = without.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
        let more = without.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        problems
            .insert(format!("the pods of {named}{more} are out of reach, for the Node has no spec.podCIDRs"));
    }
    let Some(own) = nodes.get(&*routing.own).filter(|_| others().next().is_some()) else { return };
    for pool in pools {
        let known =
            |cidr: &IpNetwork| cidr.contains(pool.cidr().ip()) && cidr.prefix() <= pool.cidr().prefix();
        if !own.pod_cidrs.iter().any(known) {
            problems.insert(format!(
                "other nodes do not lead packets to this node's addresses in {}, for they are not among spec.podCIDRs of \
                 its Node {}",
                pool.cidr(),
                own.name
            ));
        }
    }
}

/// Where this node is.
pub(super) struct Site<'a> {
    /// The overlay and the index of its interface, once that is there.
    pub(super) overlay: Option<(Overlay, u32)>,
    pub(super) uplinks: &'a Uplinks,
    pub(super) observed: &'a Observed,
}

impl Site<'_> {
    /// Leads the packets for every prefix to its node. What several claim goes to this node, or to the one whose name is
    /// first: so all nodes lead to the same.
    fn lead_all(&self, routing: &Routing, nodes: &Nodes, pools: &[Pool], wanted: &mut Wanted) {
        let mut owners = CidrOwners::default();
        for pool in pools {
            // Pools are disjoint.
            let _ = owners.claim(pool.cidr(), &routing.own);
        }
        for node in nodes.values().filter(|node| *node.name != *routing.own) {
            let is_own = |address: &IpAddr| self.observed.addresses.iter().any(|it| it.address == *address);
            if let Some(address) = node.internal.iter().find(|address| is_own(address)) {
                wanted.problems.insert(format!(
                    "the node {} has the InternalIP {address}, which is this node's own; nothing is led there",
                    node.name
                ));
                continue;
            }
            for cidr in &node.pod_cidrs {
                match owners.claim(*cidr, &node.name) {
                    Ok(()) => self.lead(routing.mode, node, *cidr, pools, wanted),
                    Err((held, owner)) => {
                        let whose = if *owner == *routing.own { "this node" } else { owner };
                        wanted.problems.insert(format!(
                            "the pod CIDR {cidr} of the node {} overlaps {held} of {whose}; it is not led there",
                            node.name
                        ));
                    }
                }
            }
        }
    }

    /// Leads the packets for a prefix to its node.
    fn lead(&self, mode: RoutingMode, node: &Node, cidr: IpNetwork, pools: &[Pool], wanted: &mut Wanted) {
        if mode != RoutingMode::Vxlan
            && let Some((ifindex, next_hop)) = self.directly(node, cidr)
        {
            wanted.routes.insert(cidr, Route::to_peer(cidr, ifindex, next_hop, false, None));
        } else if mode != RoutingMode::Direct {
            self.by_overlay(node, cidr, pools, wanted);
        }
    }

    /// The next hop to a node that shares a subnet with this one, and the interface to it.
    pub(super) fn directly(&self, node: &Node, cidr: IpNetwork) -> Option<(u32, IpAddr)> {
        node.internal.iter().filter(|address| address.is_ipv4() == cidr.is_ipv4()).find_map(|next_hop| {
            let own = self.observed.addresses.iter().find(|own| {
                let of_uplink = self.uplinks.present.iter().any(|uplink| uplink.ifindex == own.ifindex);
                let subnet = IpNetwork::new(own.address, own.prefix);
                of_uplink && subnet.is_ok_and(|subnet| subnet.contains(*next_hop))
            })?;
            Some((own.ifindex, *next_hop))
        })
    }

    fn by_overlay(&self, node: &Node, cidr: IpNetwork, pools: &[Pool], wanted: &mut Wanted) {
        let Some((overlay, ifindex)) = self.overlay else { return };
        let local = overlay.vxlan.local;
        let Some(machine) = machine_of(node).filter(|address| address.is_ipv4() == local.is_ipv4()) else {
            wanted.problems.insert(format!(
                "the node {} has no InternalIP that the overlay reaches from {local}; its pods are out of reach",
                node.name
            ));
            return;
        };
        let Ok(pool) = Pool::new(&*node.name, cidr) else {
            wanted.problems.insert(format!("the pod CIDR {cidr} of the node {} cannot be led to", node.name));
            return;
        };
        let mac = mac_of(&node.name);
        // A route to an IPv6 gateway within its own destination could not take the place of one by another interface.
        let (gateway, on_link) = match pool.gateway() {
            IpAddr::V4(ip) => (ip.into(), true),
            IpAddr::V6(_) => (link_local_of(mac).into(), false),
        };
        if *wanted.forwarding.entry(mac).or_insert(machine) != machine {
            wanted.problems.insert(format!(
                "the node {} would have the Ethernet address {mac} in the overlay, which another has; its pods are out of \
                 reach",
                node.name
            ));
            return;
        }
        let family = Family::of(cidr.ip());
        let source = pools.iter().find(|pool| pool.family() == family).map(Pool::gateway);
        wanted.routes.insert(cidr, Route::to_peer(cidr, ifindex, gateway, on_link, source));
        wanted.neighbours.insert(gateway, Neighbour { ifindex, address: gateway, mac });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use ipamd_kernel::netlink::{Address, Link, RouteKind};
    use ipamd_model::{labels::Labels, uplink::Uplink};

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
        let uplink =
            Uplink { ifindex: 2, ifname: "eth0".into(), ipv4: "192.0.2.1".parse().ok(), ..Uplink::default() };
        Uplinks { present: vec![uplink], mtu: Some(1500), ..Uplinks::default() }
    }

    fn routing(mode: RoutingMode) -> Routing {
        Routing { mode, own: "own".into(), vxlan_id: 7, vxlan_port: 4789, keeps_sources: false }
    }

    fn machine() -> Observed {
        let address = Address {
            ifindex: 2,
            address: "192.0.2.1".parse().unwrap(),
            prefix: 24,
            broadcast: None,
            usable: true,
        };
        Observed { addresses: vec![address], node_routes: Some(NodeRoutes::default()), ..Observed::default() }
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
        let node_routes = observed.node_routes.as_mut().unwrap();
        for step in steps {
            match step {
                Step::PutRoute(route) => node_routes.routes.push(route),
                Step::RemoveRoute(route) => node_routes.routes.retain(|it| *it != route),
                Step::PutPeer(neighbour) => node_routes.neighbours.push(neighbour),
                Step::RemoveNeighbour(neighbour) => node_routes.neighbours.retain(|it| *it != neighbour),
                Step::PutForwarding(forwarding) => node_routes.forwarding.push(forwarding),
                Step::RemoveForwarding(forwarding) => node_routes.forwarding.retain(|it| *it != forwarding),
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
                "put the neighbour fe80::6ba:a08b:a4eb in place",
                "put the route to 10.2.0.0/24 in place",
                "put the route to 10.3.0.0/24 in place",
                "put the route to fd00:2::/64 in place",
                "send the overlay's frames of 06:18:fe:3c:ad:e6 to 198.51.100.3",
                "send the overlay's frames of 06:ba:a0:8b:a4:eb to 192.0.2.2",
            ]
        );
        perform(&mut observed, steps);
        assert_eq!(planned(RoutingMode::Auto, &observed).0, Vec::<String>::new());

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
                "remove the neighbour 10.2.0.1",
                "remove the neighbour fe80::6ba:a08b:a4eb",
                "remove the route to 10.2.0.0/24",
                "remove the route to fd00:2::/64",
                "send no more of the overlay's frames of 06:18:fe:3c:ad:e6 to 198.51.100.3",
                "send no more of the overlay's frames of 06:ba:a0:8b:a4:eb to 192.0.2.2",
                "send the overlay's frames of 06:18:fe:3c:ad:e6 to 198.51.100.4",
            ]
        );
    }

    /// What is wrong with these nodes beside ours, and where packets are led.
    fn problems(
        mode: RoutingMode,
        others: &[(Arc<str>, Arc<Node>)],
        observed: &Observed,
    ) -> (Vec<String>, Vec<String>) {
        let mut nodes = nodes();
        nodes.extend(others.iter().cloned());
        let (routing, uplinks, mut result) = (routing(mode), uplinks(), Plan::default());
        let overlay = routing.overlay(&nodes, &uplinks, observed);
        plan(&routing, &nodes, overlay, &pools(), &uplinks, observed, &mut result);
        let routes = result.steps.iter().filter_map(|step| match step {
            Step::PutRoute(Route {
                destination, kind: RouteKind::Unicast { gateway: Some(it), .. }, ..
            }) => Some(format!("{destination} via {it}")),
            _ => None,
        });
        (result.route_problems.unwrap_or_default(), routes.collect())
    }

    #[test]
    fn a_prefix_that_several_claim_is_led_to_the_first_and_told_of() {
        let others = [
            node("liar", &["192.0.2.9"], &["10.0.0.0/8"]),
            node("nest", &["192.0.2.7"], &["10.2.0.128/25", "10.7.0.0/24"]),
        ];
        let (problems, routes) = problems(RoutingMode::Direct, &others, &machine());
        assert!(problems[0].contains("node liar overlaps 10.1.0.0/24 of this node"), "{problems:?}");
        assert!(problems[1].contains("node nest overlaps 10.2.0.0/24 of near"), "{problems:?}");
        assert_eq!(routes, ["10.2.0.0/24 via 192.0.2.2", "10.7.0.0/24 via 192.0.2.7"]);
    }

    #[test]
    fn a_node_with_this_node_s_address_gets_nothing() {
        let (problems, routes) =
            problems(RoutingMode::Auto, &[node("old", &["192.0.2.1"], &["10.9.0.0/24"])], &machine());
        assert!(problems[0].contains("node old has the InternalIP 192.0.2.1"), "{problems:?}");
        assert_eq!(routes, ["10.2.0.0/24 via 192.0.2.2"]);
    }

    #[test]
    fn nodes_that_cannot_be_reached_are_told_of() {
        let others = [
            node("six", &["2001:db8::6"], &["10.6.0.0/24"]),
            node("mute", &[], &["10.8.0.0/24"]),
            node("bare", &["192.0.2.5"], &[]),
        ];
        let (problems, _) = problems(RoutingMode::Vxlan, &others, &with_overlay(RoutingMode::Vxlan));
        let expected = [
            "the node mute has no InternalIP",
            "the node six has no InternalIP",
            "the pods of bare are out of reach",
        ];
        assert!(problems.iter().zip(expected).all(|(it, expected)| it.starts_with(expected)), "{problems:?}");
        assert_eq!(problems.len(), 3);
    }

    #[test]
    fn a_route_that_somebody_else_made_stays() {
        let mut observed = machine();
        let other =
            Route::to_peer("10.2.0.0/24".parse().unwrap(), 2, "192.0.2.77".parse().unwrap(), false, None);
        observed.routes.push(Route { ours: false, ..other });
        let (problems, routes) = problems(RoutingMode::Direct, &[], &observed);
        assert!(problems[0].contains("a route to 10.2.0.0/24"), "{problems:?}");
        assert_eq!(routes, Vec::<String>::new());
    }

    #[test]
    fn pools_that_the_node_does_not_tell_of_are_told_of() {
        let own = node("own", &["192.0.2.1"], &["10.1.0.0/16"]);
        let (problems, _) = problems(RoutingMode::Direct, &[own], &machine());
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("this node's addresses in fd00:1::/64"), "{problems:?}");
    }

    #[test]
    fn what_was_not_looked_at_stays_but_for_the_overlay() {
        let observed = Observed { node_routes: None, ..machine() };
        let (said, _) = planned(RoutingMode::Auto, &observed);
        assert_eq!(said, ["make the overlay's interface cambric-overlay"]);
        let observed = Observed { node_routes: None, ..with_overlay(RoutingMode::Auto) };
        assert!(planned(RoutingMode::Auto, &observed).0.is_empty());
    }
}

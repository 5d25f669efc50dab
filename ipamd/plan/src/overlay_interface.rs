//! The overlay's interface: what it should be like, and the steps that make it so.

use std::net::IpAddr;

use ipamd_api::MacAddr;

use crate::{
    observed::Observed,
    overlay::{OVERLAY, Overlay, mac_of, machine_of, overlay_link},
    plan::Plan,
    routing::Routing,
    step::Step,
    uplinks::Uplinks,
};
use ipamd_addresses::ipam::Pool;
use ipamd_kernel::netlink::{Link, Vxlan};
use ipamd_model::{
    objects::Nodes,
    uplink::{Frames, Uplink},
};

/// What a frame of the overlay has in front of it over IPv4 and over IPv6, in bytes: IP, UDP, VXLAN and Ethernet.
const OVERHEAD_V4: u32 = 20 + 8 + 8 + 14;
const OVERHEAD_V6: u32 = 40 + 8 + 8 + 14;
/// IPv6 needs no less.
const LEAST_MTU: u32 = 1280;

/// The overlay's interface as an uplink, if it is there: what leaves by it as the node has the gateway's address.
pub fn overlay_uplink(pools: &[Pool], uplinks: &Uplinks, observed: &Observed) -> Option<Uplink> {
    let link = overlay_link(observed).filter(|link| link.up)?;
    let frames = if uplinks.elsewhere.is_empty() { Frames::Seen } else { Frames::All };
    let mut uplink =
        Uplink { ifindex: link.index, ifname: link.name.clone(), overlay: Some(frames), ..Uplink::default() };
    for pool in pools {
        match pool.gateway() {
            IpAddr::V4(ip) => uplink.ipv4 = uplink.ipv4.or(Some(ip)),
            IpAddr::V6(ip) => uplink.ipv6 = uplink.ipv6.or(Some(ip)),
        }
    }
    Some(uplink)
}

impl Routing {
    /// Whether there is to be an overlay: unless every node is reached directly, and if this is a cluster of nodes.
    pub(super) fn wants_overlay(&self, nodes: &Nodes) -> bool {
        self.mode.may_need_overlay() && nodes.values().any(|node| !node.pod_cidrs.is_empty())
    }

    /// The overlay, if there is to be one and this node has an address to send its frames from.
    pub(super) fn overlay(&self, nodes: &Nodes, uplinks: &Uplinks, observed: &Observed) -> Option<Overlay> {
        if !self.wants_overlay(nodes) {
            return None;
        }
        let present = overlay_link(observed);
        let is_here = |address: IpAddr| observed.addresses.iter().any(|it| it.address == address);
        let of_uplinks = |v4: bool| {
            let mut addresses = uplinks.present.iter().map(|it| (it.ipv4, it.ipv6));
            addresses.find_map(|(four, six)| if v4 { four.map(IpAddr::from) } else { six.map(IpAddr::from) })
        };
        let kept = present.and_then(|link| Some(link.vxlan?.local));
        let local = if let Some(known) = nodes.get(&*self.own).and_then(|node| machine_of(node)) {
            // Others send to the Node's address, whether the machine has it (it may be translated on the way) or not.
            let local = is_here(known).then_some(known).or_else(|| of_uplinks(known.is_ipv4()));
            // An interface that is down has no addresses: it will be back.
            local.or(kept.filter(|it| it.is_ipv4() == known.is_ipv4()))?
        } else {
            // Nobody is told of this node's address, or not at the moment.
            let local = kept.filter(|local| is_here(*local));
            local.or_else(|| of_uplinks(true)).or_else(|| of_uplinks(false))?
        };
        let mac = mac_of(&self.own);
        let vxlan = Vxlan { id: self.vxlan_id, port: self.vxlan_port, local };
        let overhead = if local.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
        let of_interface = observed.addresses.iter().find(|it| it.address == local);
        let of_interface = of_interface.and_then(|it| observed.link(it.ifindex)).filter(|it| it.name != "lo");
        let under = of_interface.map(|link| link.mtu).or(uplinks.mtu);
        let mtu = under.map(|mtu| mtu.saturating_sub(overhead).max(LEAST_MTU));
        let mtu = mtu.or(present.map(|link| link.mtu)).unwrap_or(1500 - overhead);
        Some(Overlay { mac, vxlan, mtu })
    }
}

/// The overlay's interface, as it is to be. Returns its index if it is.
pub(super) fn keep(overlay: Option<Overlay>, observed: &Observed, plan: &mut Plan) -> Option<u32> {
    let link = overlay_link(observed);
    let Some(Overlay { mac, mtu, vxlan }) = overlay else {
        plan.steps.extend(link.map(removal));
        return None;
    };
    let Some((link, present)) = link.and_then(|link| Some((link, link.vxlan?))) else {
        make(mac, mtu, vxlan, observed, plan);
        return None;
    };
    let in_place =
        Vxlan { local: vxlan.local, ..present } == vxlan && present.local.is_ipv4() == vxlan.local.is_ipv4();
    if !in_place {
        plan.steps.push(removal(link));
        make(mac, mtu, vxlan, observed, plan);
        return None;
    }
    let (ifname, ifindex) = (link.name.clone(), link.index);
    if (present, link.mac) != (vxlan, Some(mac)) {
        plan.steps.push(Step::MoveOverlay { ifname: ifname.clone(), ifindex, mac, vxlan });
    }
    if link.mtu != mtu {
        plan.steps.push(Step::SetMtu { ifname: ifname.clone(), ifindex, mtu });
    }
    if !link.up {
        plan.steps.push(Step::SetUp { ifname, ifindex });
        return None;
    }
    Some(ifindex)
}

fn removal(link: &Link) -> Step {
    Step::RemoveOverlay { ifname: link.name.clone(), ifindex: link.index }
}

/// Makes the interface, unless somebody else's is in its way.
fn make(mac: MacAddr, mtu: u32, vxlan: Vxlan, observed: &Observed, plan: &mut Plan) {
    if observed.links.iter().any(|link| link.name == OVERLAY && link.vxlan.is_none()) {
        plan.problems.push(format!(
            "there is an interface {OVERLAY} that is not Cambric's, for it is no VXLAN: rename or remove it; without the \
             overlay other nodes are out of reach"
        ));
        return;
    }
    let same = |other: &Vxlan| {
        (other.id, other.port, other.local.is_ipv4()) == (vxlan.id, vxlan.port, vxlan.local.is_ipv4())
    };
    let in_the_way = |link: &&Link| link.name != OVERLAY && link.vxlan.as_ref().is_some_and(same);
    if let Some(other) = observed.links.iter().find(in_the_way) {
        plan.problems.push(format!(
            "the VXLAN interface {} has the number {} and the port {} that the overlay would have: remove it, or choose \
             others on all nodes (--vxlan-id, --vxlan-port); without the overlay other nodes are out of reach",
            other.name, vxlan.id, vxlan.port
        ));
        return;
    }
    plan.steps.push(Step::MakeOverlay { ifname: OVERLAY.into(), mac, mtu, vxlan });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::overlay::is_overlay;
    use ipamd_config::RoutingMode;
    use ipamd_kernel::netlink::Address;
    use ipamd_model::{labels::Labels, objects::Node};

    fn nodes(internal: &[&str]) -> Nodes {
        let own = Node {
            name: "own".into(),
            labels: Labels::default(),
            addresses: Vec::new(),
            internal: internal.iter().map(|it| it.parse().unwrap()).collect(),
            pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
        };
        Nodes::from([("own".into(), Arc::new(own))])
    }

    fn routing() -> Routing {
        Routing {
            mode: RoutingMode::Auto,
            own: "own".into(),
            vxlan_id: 7,
            vxlan_port: 4789,
            keeps_sources: false,
        }
    }

    fn address(text: &str) -> Address {
        Address { ifindex: 2, address: text.parse().unwrap(), prefix: 24, broadcast: None, usable: true }
    }

    fn machine() -> (Uplinks, Observed) {
        let eth0 = Link { index: 2, name: "eth0".into(), up: true, mtu: 1500, ..Link::default() };
        let uplink = Uplink {
            ifindex: 2,
            ifname: "eth0".into(),
            ipv4: "192.0.2.1".parse().ok(),
            ipv6: "2001:db8::1".parse().ok(),
            ..Uplink::default()
        };
        let addresses = vec![address("192.0.2.1"), address("2001:db8::1")];
        (
            Uplinks { present: vec![uplink], mtu: Some(1500), ..Uplinks::default() },
            Observed { links: vec![eth0], addresses, ..Observed::default() },
        )
    }

    /// What is planned for the interface, and the machine once it is done.
    fn kept(internal: &[&str], uplinks: &Uplinks, observed: &Observed) -> (Vec<String>, Observed) {
        let (mut plan, mut after) = (Plan::default(), observed.clone());
        keep(routing().overlay(&nodes(internal), uplinks, observed), observed, &mut plan);
        for step in &plan.steps {
            match step {
                Step::MakeOverlay { ifname, mac, mtu, vxlan } => after.links.push(Link {
                    index: 9,
                    name: ifname.clone(),
                    up: true,
                    mtu: *mtu,
                    mac: Some(*mac),
                    vxlan: Some(*vxlan),
                    ..Link::default()
                }),
                Step::MoveOverlay { mac, vxlan, .. } => {
                    let link = after.links.last_mut().unwrap();
                    (link.mac, link.vxlan) = (Some(*mac), Some(*vxlan));
                }
                Step::RemoveOverlay { .. } => after.links.retain(|link| !is_overlay(link)),
                _ => {}
            }
        }
        let said = plan.steps.iter().map(ToString::to_string).chain(plan.problems).collect();
        (said, after)
    }

    fn local(observed: &Observed) -> String {
        let link = observed.links.iter().find(|link| is_overlay(link)).unwrap();
        format!("{} mtu {}", link.vxlan.unwrap().local, link.mtu)
    }

    #[test]
    fn its_frames_are_sent_from_the_address_that_the_others_know() {
        let (uplinks, machine) = machine();
        for (internal, expected) in [
            (vec!["192.0.2.1"], "192.0.2.1 mtu 1450"),
            (vec!["2001:db8::1", "192.0.2.1"], "192.0.2.1 mtu 1450"),
            (vec!["2001:db8::1"], "2001:db8::1 mtu 1430"),
            (vec![], "192.0.2.1 mtu 1450"),
            // Of an address that is translated on its way, the family counts.
            (vec!["2001:db8::99"], "2001:db8::1 mtu 1430"),
        ] {
            let (_, after) = kept(&internal, &uplinks, &machine);
            assert_eq!(local(&after), expected, "{internal:?}");
            assert_eq!(kept(&internal, &uplinks, &after).0, Vec::<String>::new(), "{internal:?}");
        }
    }

    #[test]
    fn it_follows_the_node_s_address_without_being_made_anew() {
        let (mut uplinks, machine) = machine();
        let (_, mut after) = kept(&["192.0.2.1"], &uplinks, &machine);
        after.addresses = vec![address("192.0.2.5")];
        uplinks.present[0].ipv4 = "192.0.2.5".parse().ok();
        // First the machine's address changes, then the Node's.
        let (said, after) = kept(&["192.0.2.1"], &uplinks, &after);
        assert_eq!(said, ["have the overlay's frames sent from 192.0.2.5"]);
        assert_eq!(kept(&["192.0.2.5"], &uplinks, &after).0, Vec::<String>::new());
    }

    #[test]
    fn it_stays_while_the_node_or_its_address_is_away() {
        let (uplinks, machine) = machine();
        let (_, mut after) = kept(&["2001:db8::1"], &uplinks, &machine);
        assert_eq!(kept(&[], &uplinks, &after).0, Vec::<String>::new());
        after.addresses.clear();
        let none = Uplinks::default();
        assert_eq!(kept(&["2001:db8::1"], &none, &after).0, Vec::<String>::new());
    }

    #[test]
    fn interfaces_of_others_are_left_alone_and_told_of() {
        let (uplinks, mut machine) = machine();
        machine.links.push(Link { index: 5, name: OVERLAY.into(), ..Link::default() });
        let (said, _) = kept(&["192.0.2.1"], &uplinks, &machine);
        assert!(said.len() == 1 && said[0].contains("not Cambric's"), "{said:?}");
        let vxlan = Some(Vxlan { id: 7, port: 4789, local: "192.0.2.77".parse().unwrap() });
        machine.links[1] = Link { index: 5, name: "other".into(), vxlan, ..Link::default() };
        let (said, _) = kept(&["192.0.2.1"], &uplinks, &machine);
        assert!(said.len() == 1 && said[0].contains("the VXLAN interface other"), "{said:?}");
    }
}

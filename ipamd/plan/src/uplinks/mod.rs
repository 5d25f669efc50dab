//! The interfaces that lead out of the node, why, and the addresses that masqueraded packets leave with.
//!
//! The programs go onto the interface that has the address or the route, and so the IP packets: a bridge, a bond or a VLAN,
//! and not the devices below it. A frame of a VLAN passes those below first, with its tag, and is left alone there.

mod lookup;
mod reasons;
mod sources;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipamd_api::key::is_host_ifname;

pub use self::reasons::Reason;
use self::{
    reasons::{Reasons, add, reasons},
    sources::Sources,
};
use crate::{observed::Observed, overlay::is_overlay};
use ipamd_config::UplinkRule;
use ipamd_kernel::netlink::Link;
use ipamd_model::{objects::Nodes, uplink::Uplink};

/// The uplinks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uplinks {
    /// Those that exist, by their names' order in the configuration, or by index.
    pub present: Vec<Uplink>,
    /// Why each is one.
    pub(super) reasons: Reasons,
    /// The interfaces that lead to nodes but are no uplinks, by name: what comes by them passes no program.
    pub elsewhere: Vec<String>,
    /// The smallest of their MTUs.
    pub mtu: Option<u32>,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
}

impl Uplinks {
    /// Why an interface is an uplink, a phrase each.
    pub fn reasons(&self, ifindex: u32) -> impl Iterator<Item = String> {
        self.reasons.get(&ifindex).into_iter().flatten().map(ToString::to_string)
    }
}

/// The uplinks that the configuration names, or each interface that carries an address of this node's Node, a default
/// route, or the way to another node. `own` is this node's name.
pub fn uplinks(rule: &UplinkRule, own: &str, nodes: &Nodes, observed: &Observed) -> Uplinks {
    let mut uplinks = Uplinks::default();
    let internal = nodes.get(own).map_or(&[][..], |node| &node.internal);
    let reasons = reasons(own, nodes, observed);
    let to_nodes: Vec<_> = reasons
        .iter()
        .filter(|(_, all)| all.iter().any(Reason::is_of_nodes))
        .map(|(index, _)| *index)
        .collect();
    let links = if rule.named.is_empty() {
        find(rule, reasons, observed, &mut uplinks)
    } else {
        named(rule, observed, &mut uplinks)
    };
    let leads_by = |link: &&Link| {
        link.name != "lo" && !is_overlay(link) && !links.iter().any(|it| it.index == link.index)
    };
    uplinks.elsewhere = (to_nodes.into_iter())
        .filter_map(|index| observed.link(index).map(|link| upper(link, observed)))
        .filter(leads_by)
        .map(|link| link.name.clone())
        .collect();
    uplinks.mtu = links.iter().map(|link| link.mtu).min();
    for link in links {
        let sources = Sources { observed, internal, ifindex: link.index };
        uplinks.present.push(Uplink {
            ifindex: link.index,
            ifname: link.name.clone(),
            ipv4: sources.ipv4(),
            ipv6: sources.ipv6(),
            overlay: None,
        });
    }
    if uplinks.present.is_empty() {
        uplinks.problems.push(
            "this node has no uplink, so containers do not get out of it and node ports are not served: no interface \
             carries an address of its Node, a default route or the way to another node; give it one, or name an \
             interface (--uplink)"
                .to_owned(),
        );
    }
    for address in internal {
        let problem = tell_of_address(*address, rule, observed, &uplinks);
        uplinks.problems.extend(problem);
    }
    uplinks
}

fn named<'a>(rule: &UplinkRule, observed: &'a Observed, uplinks: &mut Uplinks) -> Vec<&'a Link> {
    let mut links = Vec::new();
    for name in &rule.named {
        match observed.links.iter().find(|link| link.name == *name) {
            None => uplinks.problems.push(format!("the uplink {name} does not exist")),
            Some(link) if link.headless => uplinks.problems.push(format!(
                "{name} cannot be an uplink, for its packets have no Ethernet header: name another interface (--uplink)"
            )),
            Some(link) => {
                add(&mut uplinks.reasons, link.index, Reason::Named);
                links.push(link);
            }
        }
    }
    links
}

fn find<'a>(
    rule: &UplinkRule,
    reasons: Reasons,
    observed: &'a Observed,
    uplinks: &mut Uplinks,
) -> Vec<&'a Link> {
    let mut found = Reasons::new();
    for (ifindex, reasons) in reasons {
        let Some(link) = observed.link(ifindex).map(|link| upper(link, observed)) else { continue };
        if may_lead_out(link, observed) && !rule.excluded.iter().any(|pattern| pattern.is_of(&link.name)) {
            for reason in reasons {
                add(&mut found, link.index, reason);
            }
        }
    }
    let mut links = Vec::new();
    for (link, reasons) in found.iter().filter_map(|(index, reasons)| Some((observed.link(*index)?, reasons)))
    {
        if link.headless {
            let name = &link.name;
            let why = reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            uplinks.problems.push(format!(
                "{name} cannot be an uplink ({why}), for its packets have no Ethernet header: what containers send by it \
                 is not masqueraded, and node ports are not served there; --uplink-exclude={name} if that is meant"
            ));
        } else {
            links.push(link);
        }
    }
    found.retain(|index, _| links.iter().any(|link| link.index == *index));
    uplinks.reasons = found;
    links
}

/// What hands an interface's packets to the host: the bridge or bond that it is a port of, or itself.
fn upper<'a>(link: &'a Link, observed: &'a Observed) -> &'a Link {
    let takes_frames = |master: &&Link| matches!(master.kind.as_str(), "bridge" | "bond" | "team");
    let mut link = link;
    // A bond may be the port of a bridge, and no more follows; a circle could not be made.
    for _ in 0..4 {
        match link.bridge.and_then(|index| observed.link(index)).filter(takes_frames) {
            Some(master) => link = master,
            None => break,
        }
    }
    link
}

/// Not what leads to containers, whatever they announce there.
fn may_lead_out(link: &Link, observed: &Observed) -> bool {
    let of_endpoint = is_host_ifname(&link.name)
        || link.second_names.iter().any(|name| is_host_ifname(name))
        || observed.endpoints.values().any(|endpoint| endpoint.ifindex == link.index);
    !of_endpoint && link.name != "lo" && !is_overlay(link)
}

/// What is wrong with where an InternalIP of this node is.
fn tell_of_address(
    address: IpAddr,
    rule: &UplinkRule,
    observed: &Observed,
    uplinks: &Uplinks,
) -> Option<String> {
    let carrying = observed.addresses.iter().filter(|it| it.address == address);
    let carrying: Vec<_> = carrying.filter_map(|it| observed.link(it.ifindex)).collect();
    let is_met = |link: &&Link| {
        let upper = upper(link, observed);
        // What is on `lo` is met at whatever interface it comes by.
        (link.name == "lo" && !uplinks.present.is_empty())
            || uplinks.present.iter().any(|uplink| uplink.ifindex == upper.index)
    };
    if carrying.iter().any(is_met) {
        return None;
    }
    let Some(link) = carrying.first() else {
        return Some(format!(
            "the Node's InternalIP {address} is on no interface of this node: other nodes and clients that use it do not \
             get here, unless it is translated on the way"
        ));
    };
    let name = &link.name;
    let what = if !rule.named.is_empty() {
        format!("name it, too (--uplink={name}), or name none")
    } else if link.headless {
        "the Node's address must be on an Ethernet interface (kubelet: --node-ip)".to_owned()
    } else if rule.excluded.is_empty() {
        "it leads to no network".to_owned()
    } else {
        "take it out of uplink-exclude".to_owned()
    };
    Some(format!(
        "the Node's InternalIP {address} is on {name}, which is no uplink: node ports are not served there, and packets \
         of containers that leave by it are not masqueraded; {what}"
    ))
}

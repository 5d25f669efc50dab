//! What each committed endpoint needs on the host.

use std::net::IpAddr;

use crate::{
    observed::Observed,
    plan::Plan,
    records::{Committed, Placed, Uncommitted},
    step::{Restoration, Shaping, Step},
};
use ipamd_addresses::ipam::Pool;
use ipamd_kernel::netlink::{Link, Neighbour, Qdisc, Route};

pub(super) fn plan(pools: &[Pool], endpoint: &Committed, observed: &Observed, plan: &mut Plan) {
    let Committed { attachment, host_ifname, at } = endpoint;
    let ifindex = &at.ifindex;
    // Without its interface there is nothing to mend: it is broken until it is deleted.
    let Some(link) = observed.link(*ifindex).filter(|link| link.is_named(host_ifname)) else { return };
    plan.host_ends.push((host_ifname.clone(), *ifindex));
    if !attachment.chained {
        plan_interface(pools, endpoint, link, observed, plan);
    }
    plan.steps.extend(restore(endpoint, observed));
}

/// An interface that stands without a commit gets the programs, which drop all that comes: without them its packets would find
/// their way through the host's stack.
pub(super) fn plan_uncommitted(endpoint: &Uncommitted, observed: &Observed, plan: &mut Plan) {
    let Uncommitted { key, host_ifname, fresh, unknown } = endpoint;
    let Some(link) = observed.links.iter().find(|link| link.is_named(host_ifname)) else { return };
    // An ADD that is under way attaches them itself, before it sets the interface up, or gives it the name.
    if *fresh && !*unknown {
        return;
    }
    plan.host_ends.push((host_ifname.clone(), link.index));
    if link.up {
        let why = if *unknown {
            "it is not known any more which pod it is"
        } else {
            "its ADD never came to an end"
        };
        plan.problems.push(format!(
            "{key}: {why}, so all packets of its interface {host_ifname} are dropped; restart its pod"
        ));
    }
}

/// What Cambric has made of an endpoint's interface.
fn plan_interface(pools: &[Pool], endpoint: &Committed, link: &Link, observed: &Observed, plan: &mut Plan) {
    let Committed { attachment, at: Placed { ifindex, .. }, .. } = endpoint;
    if link.mtu != attachment.mtu {
        plan.steps.push(Step::SetMtu { ifname: link.name.clone(), ifindex: *ifindex, mtu: attachment.mtu });
    }
    if !link.up {
        plan.steps.push(Step::SetUp { ifname: link.name.clone(), ifindex: *ifindex });
    }
    for assigned in &attachment.addresses {
        let address = assigned.address;
        for taken in observed.addresses.iter().filter(|taken| taken.address == address) {
            let of = observed.link(taken.ifindex).map_or("another interface", |link| &link.name);
            plan.problems.push(format!(
                "{address} of {} is an address of this node's interface {of}, too, so the node does not reach the pod; remove it: ip \
                 address del {address}/{} dev {of}",
                attachment.key, taken.prefix
            ));
        }
        // The gateway is the node's own only while its pool is configured.
        let source = pools.iter().any(|pool| pool.gateway() == assigned.gateway).then_some(assigned.gateway);
        if !observed.routes.iter().any(|route| leads_to(route, address, *ifindex, source)) {
            let route = Route { source, ..Route::to_endpoint(address, *ifindex, assigned.gateway) };
            plan.steps.push(Step::PutRoute(route));
        }
        let neighbour = Neighbour { ifindex: *ifindex, address, mac: attachment.container_mac };
        if !observed.neighbours.contains(&neighbour) {
            plan.steps.push(Step::PutNeighbour(neighbour));
        }
    }
}

fn leads_to(route: &Route, address: IpAddr, ifindex: u32, source: Option<IpAddr>) -> bool {
    let wanted = Route::to_endpoint(address, ifindex, address);
    route.destination == wanted.destination
        && route.kind == wanted.kind
        && (source.is_none() || route.source == source)
}

fn restore(endpoint: &Committed, observed: &Observed) -> Option<Step> {
    let known = |ip| observed.endpoints.get(&ip);
    let shaped =
        observed.qdiscs.iter().any(|qdisc| qdisc.ifindex == endpoint.at.ifindex && Qdisc::shapes(qdisc));
    let entry = endpoint.entry(shaped);
    if endpoint.attachment.ips().all(|ip| known(ip) == Some(&entry)) {
        return None;
    }
    let before = endpoint.entry(!shaped);
    let shaping = match (endpoint.attachment.ips().all(|ip| known(ip) == Some(&before)), shaped) {
        (false, _) => Shaping::Unchanged,
        (true, true) => Shaping::Began,
        (true, false) => Shaping::Ended,
    };
    Some(Step::Restore(Box::new(Restoration { endpoint: endpoint.clone(), entry, shaping })))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ipamd_api::{
        AttachmentKey,
        wire::{Assigned, NetnsId},
    };

    use super::*;
    use ipamd_addresses::attachment::Attachment;
    use ipamd_kernel::netlink::Address;
    use ipamd_model::endpoint::Slot;

    fn pools() -> Vec<Pool> {
        vec![Pool::new("p", "10.88.0.0/16".parse().unwrap()).unwrap()]
    }

    fn endpoint() -> Committed {
        let key = AttachmentKey { network: "n".into(), container_id: "c".into(), ifname: "eth0".into() };
        let (host_mac, container_mac) = key.macs();
        Committed {
            host_ifname: key.host_ifname(),
            at: Placed { ifindex: 7, slot: Slot(1) },
            attachment: Attachment {
                key,
                addresses: vec![Assigned {
                    address: "10.88.0.2".parse().unwrap(),
                    gateway: "10.88.0.1".parse().unwrap(),
                }],
                container_mac,
                host_mac,
                mtu: 1500,
                netns: "/run/netns/c".into(),
                netns_id: NetnsId { dev: 4, ino: 1 },
                netns_cookie: None,
                pod: None,
                labels: BTreeMap::new(),
                port_mappings: Vec::new(),
                chained: false,
                created: 0,
            },
        }
    }

    /// Everything is as it should be.
    fn healthy() -> Observed {
        let Committed { attachment, host_ifname, at } = endpoint();
        let ifindex = at.ifindex;
        let Assigned { address, gateway } = attachment.addresses[0];
        let link =
            Link { index: ifindex, name: host_ifname, up: true, mtu: 1500, veth: true, ..Link::default() };
        Observed {
            links: vec![link],
            routes: vec![Route::to_endpoint(address, ifindex, gateway)],
            neighbours: vec![Neighbour { ifindex, address, mac: attachment.container_mac }],
            qdiscs: vec![Qdisc { ifindex, kind: "noqueue".into() }],
            endpoints: [(address, endpoint().entry(false))].into(),
            ..Observed::default()
        }
    }

    fn planned(observed: &Observed) -> Vec<String> {
        let mut made = Plan::default();
        plan(&pools(), &endpoint(), observed, &mut made);
        made.steps.iter().map(Step::to_string).collect()
    }

    #[test]
    fn a_healthy_endpoint_is_left_alone_but_its_programs_are_looked_after() {
        let mut made = Plan::default();
        plan(&pools(), &endpoint(), &healthy(), &mut made);
        let host_ends = vec![(endpoint().host_ifname, 7)];
        assert_eq!(made, Plan { host_ends, ..Plan::default() });
    }

    type Harm = fn(&mut Observed);

    #[test]
    fn each_single_thing_is_put_back() {
        let name = endpoint().host_ifname;
        let cases: [(Harm, String); 8] = [
            (|o| o.links[0].up = false, format!("set interface {name} up")),
            (|o| o.links[0].mtu = 900, format!("set the MTU of interface {name} to 1500")),
            (|o| o.routes.clear(), "put the route to 10.88.0.2/32 in place".into()),
            (|o| o.routes[0].source = None, "put the route to 10.88.0.2/32 in place".into()),
            (|o| o.neighbours.clear(), "put the neighbour 10.88.0.2 in place".into()),
            (|o| o.endpoints.clear(), "tell the programs again of n/c/eth0".into()),
            (|o| o.qdiscs[0].kind = "tbf".into(), "send n/c/eth0 through its queue".into()),
            (
                |o| o.endpoints.values_mut().for_each(|entry| entry.shaped = true),
                "send n/c/eth0 directly again".into(),
            ),
        ];
        for (harm, repair) in cases {
            let mut observed = healthy();
            harm(&mut observed);
            assert_eq!(planned(&observed), [repair]);
        }
    }

    #[test]
    fn an_address_that_somebody_gave_to_the_node_is_told_of() {
        let mut observed = healthy();
        observed.links.push(Link { index: 2, name: "uplink".into(), ..Link::default() });
        let address = "10.88.0.2".parse().unwrap();
        observed.addresses.push(Address { ifindex: 2, address, prefix: 32, broadcast: None, usable: true });
        let mut made = Plan::default();
        plan(&pools(), &endpoint(), &observed, &mut made);
        assert!(made.steps.is_empty());
        let [problem] = &made.problems[..] else { panic!("{:?}", made.problems) };
        assert!(
            problem.starts_with("10.88.0.2 of n/c/eth0 is an address of this node's interface uplink, too")
        );
        assert!(problem.ends_with("remove it: ip address del 10.88.0.2/32 dev uplink"), "{problem}");
    }

    #[test]
    fn an_endpoint_whose_interface_is_gone_or_another_is_not_mended() {
        let mut gone = healthy();
        gone.links.clear();
        gone.routes.clear();
        assert_eq!(planned(&gone), Vec::<String>::new());
        let mut another = healthy();
        another.links[0].index = 8;
        another.neighbours.clear();
        assert_eq!(planned(&another), Vec::<String>::new());
    }

    #[test]
    fn an_interface_without_a_commit_gets_the_programs_and_is_told_of_once_its_add_is_over() {
        let Committed { attachment, host_ifname, .. } = endpoint();
        let planned = |fresh, unknown, observed: &Observed| {
            let uncommitted =
                Uncommitted { key: attachment.key.clone(), host_ifname: host_ifname.clone(), fresh, unknown };
            let mut made = Plan::default();
            plan_uncommitted(&uncommitted, observed, &mut made);
            (made.host_ends, made.problems)
        };
        let host_ends = vec![(host_ifname.clone(), 7)];
        assert_eq!(planned(true, false, &healthy()), (Vec::new(), Vec::new()));
        for unknown in [false, true] {
            let (attached, problems) = planned(unknown, unknown, &healthy());
            assert_eq!((attached, problems.len()), (host_ends.clone(), 1), "{problems:?}");
            assert!(problems[0].contains("are dropped; restart its pod"), "{problems:?}");
            assert_eq!(planned(false, unknown, &Observed::default()), (Vec::new(), Vec::new()));
        }
    }

    #[test]
    fn an_address_of_a_pool_that_is_gone_is_still_routed() {
        let mut observed = healthy();
        observed.routes[0].source = None;
        let mut made = Plan::default();
        plan(&[], &endpoint(), &observed, &mut made);
        assert_eq!(made.steps, []);
    }
}

//! What the node needs for its pools: forwarding, the gateway address, and an unreachable route for addresses that
//! nobody has.

use crate::{
    observed::Observed,
    plan::Plan,
    settings::{FORWARDING_V4, FORWARDING_V6, accept_ra},
    step::Step,
    uplinks::Uplinks,
};
use ipamd_addresses::ipam::{Family, Pool};
use ipamd_kernel::netlink::{Route, RouteKind};

pub(super) fn plan(pools: &[Pool], uplinks: &Uplinks, observed: &Observed, plan: &mut Plan) {
    let has = |family| pools.iter().any(|pool| pool.family() == family);
    if has(Family::V6) {
        for uplink in &uplinks.present {
            // 1 means "unless I forward"; it has to be said before forwarding is switched on.
            set(observed, plan, accept_ra(&uplink.ifname), |value| value == "1", "2");
        }
        set(observed, plan, FORWARDING_V6.into(), |value| value == "0", "1");
    }
    if has(Family::V4) {
        set(observed, plan, FORWARDING_V4.into(), |value| value == "0", "1");
    }
    let Some(lo) = observed.links.iter().find(|link| link.name == "lo") else {
        plan.problems.push("there is no interface lo to carry the gateway addresses".into());
        return;
    };
    if !lo.up {
        plan.steps.push(Step::SetUp { ifname: lo.name.clone(), ifindex: lo.index });
    }
    for pool in pools {
        let address = pool.gateway();
        if !observed.addresses.iter().any(|at| at.ifindex == lo.index && at.address == address) {
            plan.steps.push(Step::GiveGateway { lo: lo.index, address });
        }
        let dead_end =
            |route: &&Route| route.destination == pool.cidr() && route.kind == RouteKind::Unreachable;
        if observed.routes.iter().any(|route| dead_end(&route)) {
            continue;
        }
        // In its place, that is: the kernel has one route of each destination and metric.
        let wanted = Route::unreachable(pool.cidr());
        let in_the_way = |route: &Route| {
            route.destination == wanted.destination && route.metric == wanted.metric && !route.ours
        };
        if observed.routes.iter().any(in_the_way) {
            plan.problems.push(format!(
                "somebody else has a route to {}, which is a pool of this node: what is sent to addresses that no container \
                 has follows it; remove it, or choose another pool",
                pool.cidr()
            ));
        } else {
            plan.steps.push(Step::PutRoute(Route::unreachable(pool.cidr())));
        }
    }
    for address in &observed.given {
        if !pools.iter().any(|pool| pool.gateway() == *address) {
            plan.steps.push(Step::TakeGateway { lo: lo.index, address: *address });
        }
    }
    for route in &observed.routes {
        let stale = route.ours && route.kind == RouteKind::Unreachable;
        if stale && !pools.iter().any(|pool| pool.cidr() == route.destination) {
            plan.steps.push(Step::RemoveRoute(route.clone()));
        }
    }
}

fn set(
    observed: &Observed,
    plan: &mut Plan,
    path: String,
    wrong: impl Fn(&str) -> bool,
    value: &'static str,
) {
    if observed.sysctls.get(&path).is_some_and(|present| wrong(present)) {
        plan.steps.push(Step::Sysctl { path, value });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_kernel::netlink::{Address, Link};
    use ipamd_model::uplink::Uplink;

    fn pools() -> Vec<Pool> {
        ["10.88.0.0/16", "fd00:88::/64"].map(|cidr| Pool::new(cidr, cidr.parse().unwrap()).unwrap()).into()
    }

    fn fresh_machine() -> Observed {
        let sysctls = [(FORWARDING_V4, "0"), (FORWARDING_V6, "0"), ("net/ipv6/conf/eth0/accept_ra", "1")];
        Observed {
            links: vec![Link { index: 1, name: "lo".into(), ..Link::default() }],
            sysctls: sysctls.map(|(path, value)| (path.to_owned(), value.to_owned())).into(),
            ..Observed::default()
        }
    }

    fn planned(pools: &[Pool], observed: &Observed) -> Vec<String> {
        let eth0 = Uplink { ifindex: 2, ifname: "eth0".into(), ..Uplink::default() };
        let uplinks = Uplinks { present: vec![eth0], ..Uplinks::default() };
        let mut made = Plan::default();
        plan(pools, &uplinks, observed, &mut made);
        made.steps.iter().map(Step::to_string).collect()
    }

    #[test]
    fn a_fresh_machine_is_made_a_node() {
        assert_eq!(
            planned(&pools(), &fresh_machine()),
            [
                "set net.ipv6.conf.eth0.accept_ra to 2",
                "set net.ipv6.conf.all.forwarding to 1",
                "set net.ipv4.ip_forward to 1",
                "set interface lo up",
                "give lo the gateway address 10.88.0.1",
                "make the unused addresses of 10.88.0.0/16 unreachable",
                "give lo the gateway address fd00:88::1",
                "make the unused addresses of fd00:88::/64 unreachable",
            ]
        );
    }

    fn node() -> Observed {
        let sysctls = [(FORWARDING_V4, "1"), (FORWARDING_V6, "1"), ("net/ipv6/conf/eth0/accept_ra", "2")];
        let gateway = |text: &str, prefix| Address {
            ifindex: 1,
            address: text.parse().unwrap(),
            prefix,
            broadcast: None,
            usable: true,
        };
        Observed {
            links: vec![Link { index: 1, name: "lo".into(), up: true, ..Link::default() }],
            addresses: vec![gateway("10.88.0.1", 32), gateway("fd00:88::1", 128)],
            routes: pools().iter().map(|pool| Route::unreachable(pool.cidr())).collect(),
            sysctls: sysctls.map(|(path, value)| (path.to_owned(), value.to_owned())).into(),
            given: ["10.88.0.1".parse().unwrap(), "fd00:88::1".parse().unwrap()].into(),
            ..Observed::default()
        }
    }

    #[test]
    fn a_node_is_left_alone() {
        assert_eq!(planned(&pools(), &node()), Vec::<String>::new());
    }

    #[test]
    fn a_route_that_somebody_else_has_is_not_replaced() {
        let mut observed = node();
        let gateway = "192.0.2.1".parse().unwrap();
        let others = Route::to_peer("10.88.0.0/16".parse().unwrap(), 2, gateway, false, None);
        observed.routes[0] = Route { ours: false, metric: 0, ..others };
        let mut made = Plan::default();
        plan(&pools(), &Uplinks::default(), &observed, &mut made);
        assert_eq!((made.steps, made.problems.len()), (Vec::new(), 1));
        assert!(
            made.problems[0].contains("10.88.0.0/16, which is a pool of this node"),
            "{:?}",
            made.problems
        );
    }

    #[test]
    fn a_pool_that_is_no_longer_configured_leaves_nothing() {
        assert_eq!(
            planned(&pools()[..1], &node()),
            ["take the gateway address fd00:88::1 from lo", "remove the route to fd00:88::/64"]
        );
    }

    #[test]
    fn a_kernel_without_ipv6_is_not_asked_to_forward_it() {
        let mut observed = fresh_machine();
        observed.sysctls.retain(|path, _| path.contains("ipv4"));
        assert!(!planned(&pools(), &observed).iter().any(|step| step.contains("net.ipv6")));
    }
}

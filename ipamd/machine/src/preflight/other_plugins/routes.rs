//! Routes that another network plugin has left. Those through its interfaces go with them.

use std::collections::BTreeMap;

use super::{
    interfaces,
    network::{Network, leads_through},
    phrases::{counted, once_gone},
    plugin::Plugin,
};
use crate::preflight::finding::Finding;
use ipamd_kernel::netlink::{Route, RouteKind};

pub(super) const NAME: &str = "routes";

pub(super) fn check(network: &Network) -> Vec<(Plugin, Finding)> {
    let foreign = network.links.iter().filter(|link| {
        interfaces::owner(link).or(Plugin::of_pod_interface(&link.name, &link.kind)).is_some()
    });
    let foreign = foreign.map(|link| link.index).collect::<Vec<_>>();
    let stays = |route: &&Route| !foreign.iter().any(|index| leads_through(route, *index));
    let mut found: BTreeMap<u8, Vec<&Route>> = BTreeMap::new();
    for route in network.routes.iter().filter(stays) {
        if Plugin::of_protocol(route.protocol).is_some() {
            found.entry(route.protocol).or_default().push(route);
        }
    }
    let findings = found.iter().filter_map(|(protocol, routes)| {
        let (word, plugin) = Plugin::of_protocol(*protocol)?;
        Some((plugin, judge(word, plugin, routes)))
    });
    findings.collect()
}

fn judge(protocol: &str, plugin: Plugin, routes: &[&Route]) -> Finding {
    let example = routes.first().map_or_else(String::new, |route| route.destination.to_string());
    let blackholes = routes.iter().filter(|route| route.kind == RouteKind::Blackhole).count();
    let blackholes = match blackholes {
        0 => String::new(),
        count => format!(", {count} of them blackholes"),
    };
    // What BIRD has written may be by somebody else's configuration.
    let or_not = if protocol == "bird" { ", unless a routing daemon of this node's own has" } else { "" };
    let detail = format!(
        "{} {} of the protocol {protocol}{or_not}, such as to {example}{blackholes}; one to a smaller prefix goes before \
         Cambric's",
        plugin.has_left(),
        counted(routes.len(), "route"),
    );
    let removals = ["ip", "ip -6"].map(|ip| format!("{ip} route flush proto {protocol}"));
    Finding::warning(NAME, detail, once_gone(plugin, &removals))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_kernel::netlink::Link;

    fn route(destination: &str, kind: RouteKind, protocol: u8) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            kind,
            source: None,
            ours: false,
            protocol,
            metric: 0,
        }
    }

    fn through(ifindex: u32) -> RouteKind {
        RouteKind::Unicast { ifindexes: vec![ifindex], gateway: None, on_link: false }
    }

    #[test]
    fn routes_are_known_by_their_protocol_and_go_with_an_interface_that_goes() {
        let link = |index, name: &str, kind: &str| Link {
            index,
            name: name.into(),
            kind: kind.into(),
            ..Link::default()
        };
        let network = Network {
            links: vec![
                link(2, "eth0", ""),
                link(3, "vxlan.calico", "vxlan"),
                link(4, "cali0123456789a", "veth"),
            ],
            routes: vec![
                route("0.0.0.0/0", through(2), 16),
                route("10.244.1.64/26", RouteKind::Blackhole, 80),
                route("10.244.2.64/26", through(3), 80),
                route("10.244.1.65/32", through(4), 80),
                route("10.244.3.64/26", through(2), 12),
                route("10.244.1.0/24", RouteKind::Unreachable, 202),
            ],
        };
        let findings = check(&network);
        let said = findings.iter().map(|(_, finding)| finding.to_string()).collect::<Vec<_>>();
        assert_eq!(
            said,
            [
                "routes: Calico has left 1 route of the protocol bird, unless a routing daemon of this node's own has, such \
                 as to 10.244.3.64/26; one to a smaller prefix goes before Cambric's; once Calico is gone from this node: \
                 ip route flush proto bird; ip -6 route flush proto bird",
                "routes: Calico has left 1 route of the protocol 80, such as to 10.244.1.64/26, 1 of them blackholes; one \
                 to a smaller prefix goes before Cambric's; once Calico is gone from this node: ip route flush proto 80; ip \
                 -6 route flush proto 80",
            ]
        );
    }

    #[test]
    fn other_routes_are_nothing_to_tell_of() {
        let routes = vec![route("0.0.0.0/0", through(2), 16), route("10.0.0.0/8", RouteKind::Blackhole, 4)];
        assert_eq!(check(&Network { links: Vec::new(), routes }), []);
    }
}

//! The interfaces that lead out of the node, and the addresses that masqueraded packets leave with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipamd_api::key::is_host_ifname;

use super::Observed;
use crate::{
    datapath::Uplink,
    netlink::{Link, RouteKind},
};

/// The uplinks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uplinks {
    /// Those that exist, by their names' order in the configuration, or by index.
    pub present: Vec<Uplink>,
    /// The smallest of their MTUs.
    pub mtu: Option<u32>,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
}

/// The uplinks `named` in the configuration, or the interfaces of the default routes if none is.
pub fn uplinks(named: &[String], observed: &Observed) -> Uplinks {
    let mut uplinks = Uplinks::default();
    let links = if named.is_empty() {
        of_default_routes(observed)
    } else {
        let found = named.iter().filter_map(|name| {
            let link = observed.links.iter().find(|link| link.name == *name);
            if link.is_none() {
                uplinks.problems.push(format!("the uplink {name} does not exist"));
            }
            link
        });
        found.collect()
    };
    uplinks.mtu = links.iter().map(|link| link.mtu).min();
    for link in links {
        uplinks.present.push(Uplink {
            ifindex: link.index,
            ifname: link.name.clone(),
            ipv4: source_v4(observed, link.index),
            ipv6: source_v6(observed, link.index),
        });
    }
    uplinks
}

fn of_default_routes(observed: &Observed) -> Vec<&Link> {
    let leads_out = |link: &&Link| {
        !is_host_ifname(&link.name)
            && link.name != "lo"
            && default_routes(observed, link.index).next().is_some()
    };
    let mut links = observed.links.iter().filter(leads_out).collect::<Vec<_>>();
    links.sort_by_key(|link| link.index);
    links
}

/// The preferred sources of the default routes through an interface.
fn default_routes(observed: &Observed, ifindex: u32) -> impl Iterator<Item = Option<IpAddr>> {
    observed.routes.iter().filter_map(move |route| match &route.kind {
        RouteKind::Unicast { ifindexes, .. }
            if route.destination.prefix() == 0 && ifindexes.contains(&ifindex) =>
        {
            Some(route.source)
        }
        _ => None,
    })
}

/// Candidates in the order of preference: what the default route says, then the interface's own.
fn sources(observed: &Observed, ifindex: u32) -> impl Iterator<Item = IpAddr> {
    let own = observed.addresses.iter().filter(move |address| address.ifindex == ifindex && address.usable);
    default_routes(observed, ifindex).flatten().chain(own.map(|address| address.address))
}

fn source_v4(observed: &Observed, ifindex: u32) -> Option<Ipv4Addr> {
    sources(observed, ifindex).find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    })
}

fn source_v6(observed: &Observed, ifindex: u32) -> Option<Ipv6Addr> {
    let all = || {
        sources(observed, ifindex).filter_map(|ip| match ip {
            IpAddr::V6(ip) => Some(ip),
            IpAddr::V4(_) => None,
        })
    };
    // An address that is good everywhere before one of this site.
    all().find(|ip| !ip.is_unique_local()).or_else(|| all().next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Address, Route};

    fn link(index: u32, name: &str, mtu: u32) -> Link {
        Link { index, name: name.into(), up: true, mtu, ..Link::default() }
    }

    fn address(ifindex: u32, text: &str, usable: bool) -> Address {
        Address { ifindex, address: text.parse().unwrap(), prefix: 24, usable }
    }

    fn default_route(ifindexes: &[u32], source: Option<&str>) -> Route {
        let destination = if source.is_some_and(|s| s.contains(':')) { "::/0" } else { "0.0.0.0/0" };
        Route {
            destination: destination.parse().unwrap(),
            kind: RouteKind::Unicast { ifindexes: ifindexes.to_vec(), gateway: None, on_link: false },
            source: source.map(|source| source.parse().unwrap()),
            ours: false,
            protocol: 3,
        }
    }

    fn machine() -> Observed {
        Observed {
            links: vec![link(1, "lo", 65536), link(3, "eth1", 9000), link(2, "eth0", 1450)],
            addresses: vec![
                address(2, "192.0.2.9", false),
                address(2, "192.0.2.1", true),
                address(2, "192.0.2.2", true),
                address(2, "fd00::1", true),
                address(2, "2001:db8::1", true),
            ],
            routes: vec![default_route(&[2], None)],
            ..Observed::default()
        }
    }

    #[test]
    fn default_routes_make_uplinks() {
        let found = uplinks(&[], &machine());
        let eth0 = Uplink {
            ifindex: 2,
            ifname: "eth0".into(),
            ipv4: Some("192.0.2.1".parse().unwrap()),
            ipv6: Some("2001:db8::1".parse().unwrap()),
        };
        assert_eq!(found, Uplinks { present: vec![eth0], mtu: Some(1450), problems: vec![] });
    }

    #[test]
    fn a_multipath_default_route_has_several_and_its_source_is_taken() {
        let machine = Observed { routes: vec![default_route(&[2, 3], Some("192.0.2.2"))], ..machine() };
        let found = uplinks(&[], &machine);
        assert_eq!(
            found.present.iter().map(|uplink| uplink.ifname.as_str()).collect::<Vec<_>>(),
            ["eth0", "eth1"]
        );
        assert_eq!(found.present[0].ipv4, Some("192.0.2.2".parse().unwrap()));
    }

    #[test]
    fn named_uplinks_need_no_route_and_are_missed_by_name() {
        let found = uplinks(&["eth1".into(), "eth7".into()], &machine());
        assert_eq!(found.present.iter().map(|uplink| uplink.ifindex).collect::<Vec<_>>(), [3]);
        assert_eq!(found.problems, ["the uplink eth7 does not exist"]);
    }

    #[test]
    fn containers_are_no_way_out() {
        let mut machine = machine();
        machine.links.push(link(9, "cmbaaaaaaaaaaaa", 1500));
        machine.routes = vec![default_route(&[9], None), default_route(&[1], None)];
        assert_eq!(uplinks(&[], &machine).present, []);
    }
}

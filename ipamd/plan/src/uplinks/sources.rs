//! The addresses that masqueraded packets leave an uplink with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::observed::Observed;
use ipamd_kernel::netlink::{Route, RouteKind};

/// An interface, and the InternalIPs of this node's Node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources<'a> {
    pub(super) observed: &'a Observed,
    pub(super) internal: &'a [IpAddr],
    pub(super) ifindex: u32,
}

impl<'a> Sources<'a> {
    pub(super) fn ipv4(self) -> Option<Ipv4Addr> {
        self.own().chain(self.borrowed()).find_map(ipv4)
    }

    pub(super) fn ipv6(self) -> Option<Ipv6Addr> {
        let own = || self.own().filter_map(ipv6);
        // An address that is good everywhere before one of this site.
        let everywhere = own().find(|ip| !ip.is_unique_local());
        everywhere.or_else(|| own().next()).or_else(|| self.borrowed().find_map(ipv6))
    }

    /// In the order of preference: what the default route says, the Node's, the interface's others.
    fn own(self) -> impl Iterator<Item = IpAddr> + 'a {
        let here = move || self.usable().filter(move |(ifindex, _)| *ifindex == self.ifindex);
        let known = here().filter(move |(_, ip)| self.internal.contains(ip));
        let of_default = self.routes().filter(|route| route.destination.prefix() == 0);
        of_default.filter_map(|route| route.source).chain(known.chain(here()).map(|(_, ip)| ip))
    }

    /// For an interface without addresses, as where the node's is on `lo` and told to routers: what other routes by the
    /// interface say, or the Node's.
    fn borrowed(self) -> impl Iterator<Item = IpAddr> + 'a {
        let known = self.usable().filter(move |(_, ip)| self.internal.contains(ip));
        self.routes().filter_map(|route| route.source).chain(known.map(|(_, ip)| ip))
    }

    fn usable(self) -> impl Iterator<Item = (u32, IpAddr)> + 'a {
        self.observed.addresses.iter().filter(|it| it.usable).map(|it| (it.ifindex, it.address))
    }

    /// The routes through the interface, but for Cambric's own.
    fn routes(self) -> impl Iterator<Item = &'a Route> + 'a {
        self.observed.routes.iter().filter(move |route| {
            let RouteKind::Unicast { ifindexes, .. } = &route.kind else { return false };
            !route.ours && ifindexes.contains(&self.ifindex)
        })
    }
}

fn ipv4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

fn ipv6(ip: IpAddr) -> Option<Ipv6Addr> {
    match ip {
        IpAddr::V6(ip) => Some(ip),
        IpAddr::V4(_) => None,
    }
}

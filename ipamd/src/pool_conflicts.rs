//! Conflicts of a pool with this machine: with its own addresses and networks, and with endpoints that have the address
//! that would become the pool's gateway.

use std::net::IpAddr;

use ipamd_api::key::is_host_ifname;
use ipnetwork::IpNetwork;

use ipamd_addresses::{attachment::Attachment, ipam::Pool};
use ipamd_kernel::netlink::{Address, Link, NetlinkError, Route, RouteKind, Routes, Socket};

/// What the machine has.
#[derive(Clone, Debug, Default)]
struct Machine {
    links: Vec<Link>,
    addresses: Vec<Address>,
    routes: Vec<Route>,
}

impl Machine {
    fn see() -> Result<Self, NetlinkError> {
        let mut socket = Socket::open()?;
        Ok(Self {
            links: socket.links()?,
            addresses: socket.addresses()?,
            routes: socket.routes(Routes::Others)?,
        })
    }
}

/// The first conflict of `pools` with what this network namespace has or with `attachments`, in a sentence.
///
/// # Errors
/// Why that cannot be seen.
pub fn find(pools: &[Pool], attachments: &[Attachment]) -> Result<Option<String>, NetlinkError> {
    // On a thread of its own, in the same namespace: the socket blocks, and a thread that drives a runtime may not.
    let seen = std::thread::scope(|scope| scope.spawn(Machine::see).join());
    let machine = seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(pools.iter().find_map(|pool| of_machine(pool, &machine).or_else(|| of_endpoints(pool, attachments))))
}

fn of_machine(pool: &Pool, machine: &Machine) -> Option<String> {
    machine.addresses.iter().find_map(|at| {
        let link = machine.links.iter().find(|link| link.index == at.ifindex)?;
        let is_gateway = link.name == "lo" && at.address == pool.gateway();
        if is_gateway || !leads_on(link, machine) {
            return None;
        }
        let connected = IpNetwork::new(at.address, at.prefix).ok()?;
        let (cidr, name, address) = (pool.cidr(), &link.name, at.address);
        if cidr.contains(address) {
            return Some(format!(
                "the pool {cidr} holds {address}, an address of this node's interface {name}; choose another pool"
            ));
        }
        // A default route's worth of addresses is connected to nothing.
        let overlaps = cidr.contains(connected.network()) || connected.contains(cidr.network());
        (overlaps && at.prefix > 0).then(|| {
            format!(
                "the pool {cidr} overlaps {}/{}, the network of this node's interface {name}; choose another pool",
                connected.network(),
                at.prefix
            )
        })
    })
}

/// Whether an interface is a way of the node's own. Those of containers, and the bridge on which another plugin had
/// the same pool before, are none.
fn leads_on(link: &Link, machine: &Machine) -> bool {
    let has_default_route = || {
        machine.routes.iter().any(|route| {
            let RouteKind::Unicast { ifindexes, .. } = &route.kind else { return false };
            route.destination.prefix() == 0 && ifindexes.contains(&link.index)
        })
    };
    match link.kind.as_str() {
        _ if is_host_ifname(&link.name) => false,
        "bridge" => has_default_route(),
        "vxlan" => false,
        _ => true,
    }
}

fn of_endpoints(pool: &Pool, attachments: &[Attachment]) -> Option<String> {
    let gateway: IpAddr = pool.gateway();
    let holder = attachments.iter().find(|attachment| attachment.ips().any(|ip| ip == gateway))?;
    Some(format!(
        "the pool {} would have {gateway} for its gateway, which is the address of {}; choose another pool, or delete that \
         container first",
        pool.cidr(),
        holder.key
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidr: &str) -> Pool {
        Pool::new(cidr, cidr.parse().unwrap()).unwrap()
    }

    fn machine() -> Machine {
        let link = |index, name: &str, kind: &str| Link {
            index,
            name: name.into(),
            kind: kind.into(),
            up: true,
            ..Link::default()
        };
        let at = |ifindex, address: &str, prefix| Address {
            ifindex,
            address: address.parse().unwrap(),
            prefix,
            broadcast: None,
            usable: true,
        };
        Machine {
            links: vec![
                link(1, "lo", ""),
                link(2, "eth0", ""),
                link(3, "cni0", "bridge"),
                link(4, "br0", "bridge"),
            ],
            addresses: vec![
                at(1, "127.0.0.1", 8),
                at(1, "10.88.0.1", 32),
                at(2, "192.0.2.2", 24),
                at(2, "2001:db8::2", 64),
                at(3, "10.88.0.1", 16),
                at(4, "198.51.100.7", 25),
            ],
            routes: vec![Route {
                destination: "0.0.0.0/0".parse().unwrap(),
                ..Route::to_endpoint("192.0.2.1".parse().unwrap(), 4, "192.0.2.2".parse().unwrap())
            }],
        }
    }

    #[test]
    fn a_pool_on_the_node_s_own_networks_is_refused_with_both_names() {
        for (cidr, said) in [
            (
                "192.0.2.0/24",
                "the pool 192.0.2.0/24 holds 192.0.2.2, an address of this node's interface eth0",
            ),
            (
                "192.0.2.128/25",
                "the pool 192.0.2.128/25 overlaps 192.0.2.0/24, the network of this node's interface eth0",
            ),
            ("192.0.0.0/16", "the pool 192.0.0.0/16 holds 192.0.2.2"),
            ("2001:db8::1000/116", "overlaps 2001:db8::/64, the network of this node's interface eth0"),
            ("198.51.100.64/26", "overlaps 198.51.100.0/25, the network of this node's interface br0"),
        ] {
            let conflict = of_machine(&pool(cidr), &machine()).unwrap_or_default();
            assert!(
                conflict.contains(said) && conflict.ends_with("choose another pool"),
                "{cidr}: {conflict}"
            );
        }
    }

    #[test]
    fn a_pool_of_its_own_or_of_the_plugin_before_is_taken() {
        for cidr in ["10.88.0.0/16", "10.89.0.0/16", "fd00:88::/64", "192.0.3.0/24", "198.51.100.128/25"] {
            assert_eq!(of_machine(&pool(cidr), &machine()), None, "{cidr}");
        }
    }

    fn attachment(id: &str, ip: &str) -> Attachment {
        let mac = "02:00:00:00:00:01";
        let text = serde_json::json!({
            "key": { "network": "net", "container_id": id, "ifname": "eth0" },
            "addresses": [{ "address": ip, "gateway": ip }],
            "container_mac": mac, "host_mac": mac, "mtu": 1500, "netns": "/run/netns/x", "netns_id": { "dev": 4, "ino": 1 },
            "pod": null, "labels": {}, "created": 1
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_gateway_that_an_endpoint_has_is_refused() {
        let endpoints = [("a", "10.88.0.2"), ("b", "10.88.0.129")].map(|(id, ip)| attachment(id, ip));
        assert_eq!(of_endpoints(&pool("10.88.0.0/16"), &endpoints), None);
        let conflict = of_endpoints(&pool("10.88.0.128/25"), &endpoints).unwrap();
        assert!(
            conflict.contains("10.88.0.129 for its gateway, which is the address of net/b/eth0"),
            "{conflict}"
        );
    }
}

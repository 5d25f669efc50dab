//! Interfaces of the node that another network plugin has left. Those of its pods go with the pods.

use std::collections::BTreeMap;

use super::{
    network::Network,
    phrases::{counted, once_gone},
    plugin::Plugin,
};
use crate::preflight::finding::Finding;
use ipamd_kernel::netlink::Link;

pub(super) const NAME: &str = "interfaces";

pub(super) fn check(network: &Network) -> Vec<(Plugin, Finding)> {
    let mut found: BTreeMap<Plugin, Vec<&Link>> = BTreeMap::new();
    for link in &network.links {
        if let Some(plugin) = owner(link) {
            found.entry(plugin).or_default().push(link);
        }
    }
    let finding = |(plugin, links): (&Plugin, &Vec<&Link>)| {
        let shown = links.iter().map(|link| shown(link, network)).collect::<Vec<_>>();
        let removals = links.iter().map(|link| removal(link)).collect::<Vec<_>>();
        let detail = format!("{} {}", plugin.has_left(), shown.join(", "));
        (*plugin, Finding::warning(NAME, detail, once_gone(*plugin, &removals)))
    };
    found.iter().map(finding).collect()
}

/// Whose interface it is. `tunl0` comes with the kernel's module; somebody uses it if it is up.
pub(super) fn owner(link: &Link) -> Option<Plugin> {
    let plugin = Plugin::of_node_interface(&link.name, &link.kind)?;
    (link.kind != "ipip" || link.up).then_some(plugin)
}

fn shown(link: &Link, network: &Network) -> String {
    match network.routes_through(link.index) {
        0 => format!("{} ({})", link.name, link.kind),
        routes => format!("{} ({}, with {})", link.name, link.kind, counted(routes, "route")),
    }
}

fn removal(link: &Link) -> String {
    let name = &link.name;
    if name == "tunl0" {
        // The module's own cannot be deleted.
        format!("ip address flush dev {name}; ip link set {name} down")
    } else if link.veth {
        // It may have gone with its other end.
        format!("ip link delete {name} 2>/dev/null || true")
    } else {
        format!("ip link delete {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_kernel::netlink::Route;

    fn link(index: u32, name: &str, kind: &str) -> Link {
        Link { index, name: name.into(), kind: kind.into(), veth: kind == "veth", ..Link::default() }
    }

    #[test]
    fn each_plugins_interfaces_are_named_with_their_routes_and_what_removes_them() {
        let route =
            |cidr: &str| Route::to_peer(cidr.parse().unwrap(), 2, "10.244.1.0".parse().unwrap(), true, None);
        let network = Network {
            links: vec![
                link(1, "lo", ""),
                link(2, "flannel.1", "vxlan"),
                link(3, "cni0", "bridge"),
                link(4, "bpfin.cali", "veth"),
                link(5, "tunl0", "ipip"),
                link(6, "cambric-overlay", "vxlan"),
            ],
            routes: vec![route("10.244.1.0/24"), route("10.244.2.0/24")],
        };
        let findings = check(&network);
        let said = findings.iter().map(|(_, finding)| finding.to_string()).collect::<Vec<_>>();
        assert_eq!(
            said,
            [
                "interfaces: Flannel has left flannel.1 (vxlan, with 2 routes); once Flannel is gone from this node: ip link \
                 delete flannel.1",
                "interfaces: Calico has left bpfin.cali (veth); once Calico is gone from this node: ip link delete \
                 bpfin.cali 2>/dev/null || true",
                "interfaces: the reference plugins have left cni0 (bridge); once the reference plugins are gone from this \
                 node: ip link delete cni0",
            ]
        );
    }

    #[test]
    fn a_tunnel_that_only_the_module_made_is_nobodys() {
        let mut network = Network { links: vec![link(5, "tunl0", "ipip")], ..Network::default() };
        assert_eq!(check(&network), []);
        network.links[0].up = true;
        assert!(check(&network)[0].1.remedy.ends_with("ip address flush dev tunl0; ip link set tunl0 down"));
    }
}

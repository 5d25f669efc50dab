//! Whether another network plugin runs here, or has pods here.

use std::collections::BTreeMap;

use super::{network::Network, phrases::counted, plugin::Plugin};
use crate::preflight::finding::Finding;
use ipamd_kernel::{
    netlink::Link,
    processes::{self, Process},
};

pub(super) const NAME: &str = "other-plugins";

pub(super) fn check(network: &Network) -> Vec<(Plugin, Finding)> {
    judge(&processes::named(|name| Plugin::of_process(name).is_some()), &network.links)
}

fn judge(processes: &[Process], links: &[Link]) -> Vec<(Plugin, Finding)> {
    let mut running: BTreeMap<Plugin, Vec<String>> = BTreeMap::new();
    for Process { name, number } in processes {
        if let Some(plugin) = Plugin::of_process(name) {
            running.entry(plugin).or_default().push(format!("{name} (process {number})"));
        }
    }
    let mut pods: BTreeMap<Plugin, Vec<&str>> = BTreeMap::new();
    for link in links {
        if let Some(plugin) = owner_of_pod(link, links) {
            pods.entry(plugin).or_default().push(&link.name);
        }
    }
    let mut findings = Vec::new();
    for plugin in Plugin::ALL {
        let processes = running.get(&plugin).map(|names| names.join(", "));
        let pods = pods.get(&plugin).map(|names| {
            let example = names.first().copied().unwrap_or_default();
            format!("{} of pods, such as {example}", counted(names.len(), "interface"))
        });
        let drain = "kubectl drain NODE --ignore-daemonsets --delete-emptydir-data";
        let finding = match (processes, pods) {
            (Some(processes), pods) => Some(Finding::warning(
                NAME,
                format!(
                    "{plugin} runs here: {processes}{}",
                    pods.map_or_else(String::new, |pods| format!("; it has {pods}"))
                ),
                format!(
                    "two network plugins must not both have pods on a node: {drain}, then take {plugin} away from it as \
                     docs/migrate.md says"
                ),
            )),
            (None, Some(pods)) => Some(Finding::warning(
                NAME,
                format!("{} {pods}", plugin.has_left()),
                format!(
                    "Cambric neither polices these pods nor leads them to services until they are made anew: {drain}"
                ),
            )),
            (None, None) => None,
        };
        findings.extend(finding.map(|finding| (plugin, finding)));
    }
    findings
}

/// Whose pod this is an interface of: by its name, or by the bridge that it is a port of.
fn owner_of_pod(link: &Link, links: &[Link]) -> Option<Plugin> {
    Plugin::of_pod_interface(&link.name, &link.kind).or_else(|| {
        let bridge = links.iter().find(|bridge| Some(bridge.index) == link.bridge)?;
        let of_node = Plugin::of_node_interface(&link.name, &link.kind).is_some();
        (link.veth && !of_node).then(|| Plugin::of_node_interface(&bridge.name, &bridge.kind))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::finding::Outcome;

    fn veth(index: u32, name: &str, bridge: Option<u32>) -> Link {
        Link { index, name: name.into(), kind: "veth".into(), veth: true, bridge, ..Link::default() }
    }

    fn bridge(index: u32, name: &str) -> Link {
        Link { index, name: name.into(), kind: "bridge".into(), ..Link::default() }
    }

    #[test]
    fn pods_are_told_by_their_names_or_their_bridge() {
        let links = [
            bridge(2, "cni0"),
            bridge(3, "docker0"),
            bridge(4, "weave"),
            veth(5, "veth1", Some(2)),
            veth(6, "veth2", Some(2)),
            veth(7, "veth3", Some(3)),
            veth(8, "vethwe-bridge", Some(4)),
            veth(9, "cali0123456789a", None),
        ];
        let findings = judge(&[], &links);
        assert!(findings.iter().all(|(_, finding)| finding.outcome == Outcome::Warning));
        let details = findings.iter().map(|(_, finding)| &*finding.detail).collect::<Vec<_>>();
        assert_eq!(
            details,
            [
                "Calico has left 1 interface of pods, such as cali0123456789a",
                "the reference plugins have left 2 interfaces of pods, such as veth1",
            ]
        );
    }

    #[test]
    fn one_that_runs_is_named_with_its_process() {
        let process = |name: &str, number| Process { name: name.into(), number };
        let findings =
            judge(&[process("calico-node", 7), process("flanneld", 8)], &[veth(9, "cali0123456789a", None)]);
        let details = findings.iter().map(|(_, finding)| &*finding.detail).collect::<Vec<_>>();
        assert_eq!(
            details,
            [
                "Flannel runs here: flanneld (process 8)",
                "Calico runs here: calico-node (process 7); it has 1 interface of pods, such as cali0123456789a",
            ]
        );
        assert!(findings[0].1.remedy.starts_with("two network plugins must not both have pods on a node: "));
    }

    #[test]
    fn a_node_of_nobody_elses_is_well() {
        assert_eq!(judge(&[], &[bridge(3, "docker0"), veth(7, "veth3", Some(3))]), []);
    }
}

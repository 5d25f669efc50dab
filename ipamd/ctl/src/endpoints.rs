//! `cambricctl endpoint`.

use std::{
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::bail;
use ipamd_api::{
    Reply, Request,
    wire::{Endpoint, EndpointState},
};

use super::{
    daemon::Daemon,
    output::{Output, fields, table},
    status::duration,
};

/// How much of a container id a table shows; runtimes show as much.
const SHORT_ID: usize = 13;

pub(super) fn list(daemon: &mut Daemon, output: &Output) -> anyhow::Result<()> {
    output.print(&all(daemon)?, |endpoints| {
        let titles = ["CONTAINER", "NETWORK", "INTERFACE", "IPV4", "IPV6", "HOST END", "STATE", "POD", "AGE"];
        table(titles, endpoints.iter().map(row))
    })
}

pub(super) fn show(daemon: &mut Daemon, which: &str, output: &Output) -> anyhow::Result<()> {
    let mut matching = all(daemon)?.into_iter().filter(|endpoint| is(endpoint, which));
    match (matching.next(), matching.next()) {
        (None, _) => bail!("there is no endpoint {which}; cambricctl endpoint list names them all"),
        (Some(_), Some(_)) => {
            bail!("{which} can be several endpoints; name one by its address or host interface")
        }
        (Some(endpoint), None) => output.print(&endpoint, text),
    }
}

pub(super) fn all(daemon: &mut Daemon) -> anyhow::Result<Vec<Endpoint>> {
    daemon.ask(Request::Endpoints, |reply| match reply {
        Reply::Endpoints(endpoints) => Some(endpoints),
        _ => None,
    })
}

fn is(endpoint: &Endpoint, which: &str) -> bool {
    let by_address =
        || which.parse::<IpAddr>().is_ok_and(|ip| endpoint.addresses.iter().any(|a| a.address == ip));
    let by_pod =
        || endpoint.pod.as_ref().is_some_and(|pod| format!("{}/{}", pod.namespace, pod.name) == which);
    endpoint.key.container_id.starts_with(which) || endpoint.host_ifname == which || by_address() || by_pod()
}

fn address(endpoint: &Endpoint, v4: bool) -> String {
    let mut addresses = endpoint.addresses.iter().map(|assigned| assigned.address);
    addresses.find(|ip| ip.is_ipv4() == v4).map_or_else(|| "-".to_owned(), |ip| ip.to_string())
}

fn row(endpoint: &Endpoint) -> [String; 9] {
    [
        endpoint.key.container_id.chars().take(SHORT_ID).collect(),
        endpoint.key.network.clone(),
        endpoint.key.ifname.clone(),
        address(endpoint, true),
        address(endpoint, false),
        endpoint.host_ifname.clone(),
        state(endpoint).to_owned(),
        endpoint.pod.as_ref().map_or_else(|| "-".to_owned(), |pod| format!("{}/{}", pod.namespace, pod.name)),
        age(endpoint),
    ]
}

pub(super) fn text(endpoint: &Endpoint) -> String {
    let addresses = endpoint.addresses.iter().map(|a| format!("{} via {}", a.address, a.gateway));
    let labels = endpoint.labels.iter().map(|(key, value)| format!("{key}={value}"));
    let ports = endpoint.port_mappings.iter().map(ToString::to_string);
    let ifindex = endpoint.host_ifindex.map_or_else(|| "gone".to_owned(), |index| format!("index {index}"));
    fields([
        ("Container", endpoint.key.container_id.clone()),
        ("Network", endpoint.key.network.clone()),
        ("Interface", endpoint.key.ifname.clone()),
        ("State", state(endpoint).to_owned()),
        ("Addresses", addresses.collect::<Vec<_>>().join("\n")),
        ("Node's ports", ports.collect::<Vec<_>>().join("\n")),
        ("Ethernet", endpoint.container_mac.to_string()),
        ("MTU", endpoint.mtu.to_string()),
        ("Host end", format!("{} ({ifindex}, {})", endpoint.host_ifname, endpoint.host_mac)),
        ("Namespace", endpoint.netns.display().to_string()),
        (
            "Pod",
            endpoint
                .pod
                .as_ref()
                .map_or_else(String::new, |pod| format!("{}/{} {}", pod.namespace, pod.name, pod.uid)),
        ),
        ("Labels", labels.collect::<Vec<_>>().join("\n")),
        ("Age", age(endpoint)),
    ])
}

fn state(endpoint: &Endpoint) -> &'static str {
    match endpoint.state {
        EndpointState::Reserved => "reserved",
        EndpointState::Ready => "ready",
        EndpointState::Broken => "broken",
    }
}

fn age(endpoint: &Endpoint) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    duration(now.saturating_sub(endpoint.created))
}

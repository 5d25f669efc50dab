//! Where connections to services may go, as the Service API says it.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;

use crate::oracle::net::Net;

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A pod of this node.
    Pod(IpAddr),
    /// A process of the node itself.
    Node,
    /// Somebody beyond the node.
    Outside(IpAddr),
}

/// What a client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// No service is there.
    Nothing,
    /// One of these endpoints.
    By(BTreeSet<(IpAddr, u16)>),
    /// A refusal.
    Refused,
    /// Silence.
    Dropped,
}

/// The node that is asked about.
#[derive(Clone, Debug)]
pub struct Here {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// It serves cluster addresses to whoever is beyond it.
    pub cluster_ips_outside: bool,
}

/// A cluster's documents.
#[derive(Clone, Copy, Debug)]
pub struct Documents<'a>(pub &'a [Value]);

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

fn is(value: &Value, kind: &str) -> bool {
    value["kind"] == kind
}

fn protocol(port: &Value) -> u8 {
    match port["protocol"].as_str() {
        Some("UDP") => 17,
        Some("SCTP") => 132,
        _ => 6,
    }
}

fn ip(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

fn has_label(value: &Value, label: &str) -> bool {
    value["metadata"]["labels"].get(label).is_some()
}

fn is_others(value: &Value) -> bool {
    has_label(value, "service.kubernetes.io/service-proxy-name")
        || has_label(value, "service.kubernetes.io/headless")
}

/// By which sort of address a service is met.
enum Met {
    Cluster,
    External { balancer: bool },
}

impl Documents<'_> {
    /// The services that this node balances.
    fn services(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(|it| {
            is(it, "Service")
                && text(it, "/spec/type") != "ExternalName"
                && !is_others(it)
                && list(it, "/spec/clusterIPs").any(|address| ip(address).is_some())
        })
    }

    /// What a client gets that connects to an address and port.
    pub fn serve(&self, here: &Here, client: Client, address: IpAddr, port: u16, by: u8) -> Served {
        // Loopback is everybody's own, and no address at all means it.
        if address.is_unspecified() || (address.is_loopback() && client != Client::Node) {
            return Served::Nothing;
        }
        let is_inside = here.cluster_ips_outside || !matches!(client, Client::Outside(_));
        let mut at_cluster_address = false;
        for service in self.services() {
            let of_family =
                list(service, "/spec/clusterIPs").filter_map(ip).any(|it| it.is_ipv4() == address.is_ipv4());
            let kind = text(service, "/spec/type");
            let at_cluster = list(service, "/spec/clusterIPs").filter_map(ip).any(|it| it == address);
            at_cluster_address |= at_cluster;
            let at_external = list(service, "/spec/externalIPs").filter_map(ip).any(|it| it == address);
            let at_balancer = kind == "LoadBalancer"
                && list(service, "/status/loadBalancer/ingress")
                    .filter_map(|it| ip(&it["ip"]))
                    .any(|it| it == address);
            for of_service in list(service, "/spec/ports").filter(|it| of_family && protocol(it) == by) {
                let is_port = of_service["port"] == port;
                let is_node_port = matches!(kind, "NodePort" | "LoadBalancer")
                    && of_service["nodePort"] == port
                    && here.addresses.contains(&address);
                let met = if at_cluster && is_port && !is_inside {
                    return Served::Dropped;
                } else if at_cluster && is_port {
                    Met::Cluster
                } else if (at_external && is_port)
                    || (is_node_port && !at_cluster && !(at_balancer && is_port))
                {
                    Met::External { balancer: false }
                } else if at_balancer && is_port {
                    Met::External { balancer: true }
                } else {
                    continue;
                };
                return self.by_port(here, client, service, of_service, &met, address.is_ipv4());
            }
        }
        match at_cluster_address {
            true if is_inside => Served::Refused,
            true => Served::Dropped,
            false => Served::Nothing,
        }
    }

    fn by_port(
        &self,
        here: &Here,
        client: Client,
        service: &Value,
        port: &Value,
        met: &Met,
        v4: bool,
    ) -> Served {
        if let Met::External { balancer: true } = met {
            // A family without ranges is open.
            let ranges: Vec<Net> = list(service, "/spec/loadBalancerSourceRanges")
                .filter_map(Value::as_str)
                .filter(|range| range.contains(':') != v4)
                .filter_map(Net::read)
                .collect();
            let within = |source: &IpAddr| ranges.iter().any(|range| range.has(*source));
            let welcome = match &client {
                Client::Pod(source) | Client::Outside(source) => within(source),
                Client::Node => here.addresses.iter().any(within),
            };
            if !ranges.is_empty() && !welcome {
                return Served::Dropped;
            }
        }
        let local = match (met, client) {
            (Met::Cluster, _) => text(service, "/spec/internalTrafficPolicy") == "Local",
            (Met::External { .. }, Client::Outside(_)) => {
                text(service, "/spec/externalTrafficPolicy") == "Local"
            }
            (Met::External { .. }, _) => false,
        };
        let all = self.endpoints(service, port, v4);
        let cluster_wide = self.usable(here, &all, false);
        let usable = if local { self.usable(here, &all, true) } else { cluster_wide.clone() };
        match (usable.is_empty(), cluster_wide.is_empty()) {
            (false, _) => Served::By(usable),
            (true, false) if local => Served::Dropped,
            (true, _) => Served::Refused,
        }
    }

    /// The endpoints of a service's port, each with its number there.
    fn endpoints(&self, service: &Value, port: &Value, v4: bool) -> Vec<(&Value, IpAddr, u16)> {
        let mut found: Vec<(&Value, IpAddr, u16)> = Vec::new();
        let mut slices: Vec<_> =
            self.0.iter().filter(|it| is(it, "EndpointSlice") && !is_others(it)).collect();
        slices.sort_by_key(|it| text(it, "/metadata/name").to_owned());
        for slice in slices {
            let ours = text(slice, "/metadata/namespace") == text(service, "/metadata/namespace")
                && slice["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
                && (text(slice, "/addressType") == "IPv4") == v4;
            let name = |it: &Value| it["name"].as_str().unwrap_or_default().to_owned();
            for number in list(slice, "/ports")
                .filter(|it| ours && name(it) == name(port) && protocol(it) == protocol(port))
                .filter_map(|it| u16::try_from(it["port"].as_u64()?).ok())
            {
                for endpoint in list(slice, "/endpoints") {
                    let Some(address) = endpoint["addresses"].get(0).and_then(ip) else { continue };
                    match found.iter_mut().find(|(_, a, p)| (*a, *p) == (address, number)) {
                        Some(known) if !ready(known.0) && ready(endpoint) => known.0 = endpoint,
                        Some(_) => {}
                        None => found.push((endpoint, address, number)),
                    }
                }
            }
        }
        found
    }

    /// Those that take new connections.
    fn usable(&self, here: &Here, all: &[(&Value, IpAddr, u16)], local: bool) -> BTreeSet<(IpAddr, u16)> {
        let is_here = |endpoint: &Value| endpoint["nodeName"] == here.name.as_str();
        let candidates: Vec<_> = all.iter().filter(|(endpoint, ..)| !local || is_here(endpoint)).collect();
        let ready_ones: Vec<_> = candidates.iter().filter(|(endpoint, ..)| ready(endpoint)).collect();
        let names = |endpoint: &Value, key: &str| -> Vec<String> {
            endpoint["hints"][key]
                .as_array()
                .into_iter()
                .flatten()
                .map(|it| text(it, "/name").to_owned())
                .collect()
        };
        let zone = self.0.iter().find(|it| is(it, "Node") && it["metadata"]["name"] == here.name.as_str());
        let zone = zone.map(|it| text(it, "/metadata/labels/topology.kubernetes.io~1zone").to_owned());
        let mut close = ready_ones.clone();
        if !local {
            // Node hints come before those of zones; either counts only if all have it and one is meant for here.
            for (key, own) in [("forNodes", Some(here.name.clone())), ("forZones", zone)] {
                let Some(own) = own.filter(|it| !it.is_empty()) else { continue };
                let all_have = ready_ones.iter().all(|(endpoint, ..)| !names(endpoint, key).is_empty());
                let ours: Vec<_> = ready_ones
                    .iter()
                    .copied()
                    .filter(|(endpoint, ..)| names(endpoint, key).contains(&own))
                    .collect();
                if all_have && !ours.is_empty() {
                    close = ours;
                    break;
                }
            }
        }
        if !close.is_empty() {
            return close.iter().map(|(_, address, port)| (*address, *port)).collect();
        }
        let lasts = candidates.iter().filter(|(endpoint, ..)| {
            let serving = endpoint["conditions"]["serving"].as_bool().unwrap_or(ready(endpoint));
            serving && endpoint["conditions"]["terminating"].as_bool().unwrap_or(false)
        });
        lasts.map(|(_, address, port)| (*address, *port)).collect()
    }
}

fn ready(endpoint: &Value) -> bool {
    endpoint["conditions"]["ready"].as_bool().unwrap_or(true)
}

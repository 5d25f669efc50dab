//! What to ask of a cluster: everything at whose edges something may be wrong.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;

use crate::oracle::{
    inventory::Local,
    net::Net,
    packet::{Flow, protocol},
};

/// Addresses of nobody.
const WORLD: [&str; 4] = ["198.51.100.1", "2001:db9::1", "0.0.0.1", "255.255.255.254"];

/// Addresses and flows that are of interest.
#[derive(Clone, Debug)]
pub struct Questions {
    /// The addresses.
    pub peers: BTreeSet<IpAddr>,
    /// The flows.
    pub flows: Vec<Flow>,
}

impl Questions {
    /// Those that documents and endpoints suggest.
    pub fn of<'a>(
        documents: impl IntoIterator<Item = &'a Value>,
        locals: impl IntoIterator<Item = &'a Local>,
    ) -> Self {
        let mut found = Found::default();
        for document in documents {
            found.look_into(document, "");
        }
        found.nets.extend(locals.into_iter().flat_map(|local| &local.addresses).map(ToString::to_string));
        let nets = found.nets.iter().filter_map(|it| Net::read(it));
        let peers =
            nets.flat_map(Net::borders).chain(WORLD.iter().filter_map(|it| it.parse().ok())).collect();
        Self { peers, flows: found.flows() }
    }

    /// Pairs of an endpoint's address and a peer's.
    pub fn pairs<'a>(&'a self, local: &'a Local) -> impl Iterator<Item = (IpAddr, IpAddr)> + 'a {
        let of_family = |own: IpAddr| self.peers.iter().filter(move |peer| peer.is_ipv4() == own.is_ipv4());
        local.addresses.iter().flat_map(move |&own| of_family(own).map(move |&peer| (own, peer)))
    }
}

/// What is named in documents.
#[derive(Debug, Default)]
struct Found {
    nets: BTreeSet<String>,
    ports: BTreeSet<u16>,
    source_ports: BTreeSet<u16>,
}

impl Found {
    /// Looks into a value that is under such a field.
    fn look_into(&mut self, value: &Value, under: &str) {
        match value {
            Value::Object(fields) => {
                for (name, inner) in fields {
                    let name = match (under, name.as_str()) {
                        ("source", "ports" | "notPorts") => "source ports",
                        (_, name) => name,
                    };
                    self.look_into(inner, name);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.look_into(item, under)),
            Value::String(text) => {
                if Net::read(text).is_some() {
                    self.nets.insert(text.clone());
                } else if let Some((first, last)) = text.split_once(':') {
                    self.take_port(first.parse().ok(), under);
                    self.take_port(last.parse().ok(), under);
                }
            }
            Value::Number(number) if !["order", "priority", "type", "code", "ipVersion"].contains(&under) => {
                self.take_port(number.as_u64().and_then(|it| it.try_into().ok()), under);
            }
            _ => {}
        }
    }

    fn take_port(&mut self, port: Option<u16>, under: &str) {
        let of_source = under == "source ports";
        let ports = if of_source { &mut self.source_ports } else { &mut self.ports };
        ports.extend(port);
    }

    fn flows(&self) -> Vec<Flow> {
        let beside = |port: &u16| [port.saturating_sub(1), *port, port.saturating_add(1)];
        let ports = self.ports.iter().flat_map(beside).chain([0, 53]).collect::<BTreeSet<_>>();
        let sources = self.source_ports.iter().flat_map(beside).chain([80, 40_000]).collect::<BTreeSet<_>>();
        let mut flows = Vec::new();
        let mut add = |protocol, source_port, destination_port| {
            flows.push(Flow { protocol, source_port, destination_port });
        };
        for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP, protocol::UDPLITE] {
            for &port in &ports {
                // The ports of the two sides are matched apart; all of one with some of the other will do.
                let some = if [79, 80, 8080].contains(&port) { 16 } else { 2 };
                sources.iter().rev().take(some).for_each(|&source| add(protocol, source, port));
            }
        }
        for protocol in [protocol::ICMP, protocol::ICMPV6] {
            for kind in [0, 3, 4, 8, 128, 254, 255] {
                for code in [0, 1, 2, 255] {
                    add(protocol, 0, u16::from_be_bytes([kind, code]));
                }
            }
        }
        add(protocol::GRE, 0, 0);
        add(protocol::GRE + 1, 0, 0);
        flows
    }
}

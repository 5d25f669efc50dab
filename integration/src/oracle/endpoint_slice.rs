//! `discovery.k8s.io/v1` EndpointSlice: where a Service leads, for rules that name the Service.

use std::net::IpAddr;

use serde_json::Value;

use super::document::{field, labels, list, metadata, port, protocol, texts};

/// An EndpointSlice.
#[derive(Clone, Debug)]
pub struct EndpointSlice {
    namespace: String,
    service: Option<String>,
    /// Protocols and ports.
    ports: Vec<(u8, u16)>,
    addresses: Vec<IpAddr>,
}

impl EndpointSlice {
    /// Reads one.
    pub fn read(document: &Value) -> Self {
        let labels = labels(&document["metadata"], "labels");
        let ports = list(document, "ports")
            .iter()
            .filter_map(|it| Some((field(it, "protocol").map_or(6, protocol), port(&it["port"])?)));
        let endpoints = list(document, "endpoints").iter();
        let addresses = endpoints.filter_map(|it| texts(it, "addresses").first()?.parse().ok());
        Self {
            namespace: metadata(document, "namespace").to_owned(),
            service: labels.get("kubernetes.io/service-name").cloned(),
            ports: ports.collect(),
            addresses: addresses.collect(),
        }
    }

    /// Whether it is of that Service.
    pub fn is_of(&self, namespace: &str, service: &str) -> bool {
        self.namespace == namespace && self.service.as_deref() == Some(service)
    }

    /// Whether one of its endpoints has an address.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Whether its endpoints have a port.
    pub fn has_port(&self, protocol: u8, port: u16) -> bool {
        self.ports.contains(&(protocol, port))
    }
}

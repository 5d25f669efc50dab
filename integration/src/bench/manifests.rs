//! The same services as manifests of the cluster.

use std::{fmt::Write, fs, io, net::Ipv4Addr, path::Path};

use super::population::{Backend, PORT, Population, SERVICE_PORT};

/// Services of one file.
const TOGETHER: usize = 500;

/// The file of the EndpointSlice of the service that is measured.
pub const SLICE: &str = "measured-endpoints.yaml";

/// What the service that is measured has besides an address in the cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outside {
    /// Its port at the nodes' addresses.
    pub node_port: Option<u16>,
}

/// Writes a Service and an EndpointSlice for each service of a population, those of the one that is measured in files of
/// their own.
pub fn write(folder: &Path, population: &Population, outside: Outside) -> io::Result<()> {
    let measured = population.measured();
    let others: Vec<u32> = (0..population.services).filter(|service| *service != measured).collect();
    for (number, services) in others.chunks(TOGETHER).enumerate() {
        let mut text = String::new();
        for service in services {
            let endpoints: Vec<Ipv4Addr> =
                population.endpoints(*service).into_iter().map(|Backend { address, .. }| address).collect();
            text += &service_manifest(*service, Outside::default());
            text += &slice_manifest(*service, &endpoints, "elsewhere");
        }
        fs::write(folder.join(format!("services-{number}.yaml")), text)?;
    }
    fs::write(folder.join("measured.yaml"), service_manifest(measured, outside))?;
    fs::write(folder.join(SLICE), slice_manifest(measured, &population.backends, &population.node))
}

/// A Service.
pub fn service_manifest(service: u32, outside: Outside) -> String {
    let (kind, node_port) = match outside.node_port {
        Some(port) => ("NodePort", format!(", nodePort: {port}")),
        None => ("ClusterIP", String::new()),
    };
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{ namespace: {}, name: {} }}\nspec:\n  type: {kind}\n  \
         clusterIP: {address}\n  clusterIPs: [ {address} ]\n  \
         ports: [ {{ name: http, protocol: TCP, port: {SERVICE_PORT}, targetPort: {PORT}{node_port} }} ]\n",
        Population::namespace(service),
        Population::name(service),
        address = Population::cluster_ip(service),
    )
}

/// An EndpointSlice of all endpoints of a service, which are on one node.
pub fn slice_manifest(service: u32, endpoints: &[Ipv4Addr], node: &str) -> String {
    let name = Population::name(service);
    let mut text = format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: {}\n  name: {name}-a\n  \
         labels: {{ kubernetes.io/service-name: {name} }}\naddressType: IPv4\n\
         ports: [ {{ name: http, protocol: TCP, port: {PORT} }} ]\nendpoints:",
        Population::namespace(service),
    );
    if endpoints.is_empty() {
        text += " []";
    }
    for address in endpoints {
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "\n- {{ addresses: [ {address} ], conditions: {{ ready: true, serving: true, terminating: false }}, nodeName: {node} }}"
        );
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_is_written_once() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let population = Population {
            services: 1_001,
            backends: vec![Ipv4Addr::new(10, 88, 0, 2)],
            node: "node-1".into(),
        };
        write(folder.path(), &population, Outside { node_port: Some(30_080) })?;
        let mut text = String::new();
        for entry in fs::read_dir(folder.path())? {
            text += &fs::read_to_string(entry?.path())?;
        }
        assert_eq!(text.matches("kind: Service\n").count(), 1_001);
        assert_eq!(text.matches("kind: EndpointSlice\n").count(), 1_001);
        assert_eq!(text.matches("nodePort: 30080").count(), 1);
        assert_eq!(text.matches("nodeName: node-1").count(), 1);
        Ok(())
    }
}

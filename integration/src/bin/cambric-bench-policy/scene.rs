//! The cluster that is measured: manifests in a folder, and the endpoints of this node.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::Result;
use ipamd_api::{AttachmentKey, wire};
use ipamd_policy::enforce::LocalEndpoint;

/// Namespaces of the cluster.
pub const NAMESPACES: u32 = 20;
/// Apps of each namespace; each has a policy.
pub const APPS: u32 = 50;
/// Pods of the cluster that are endpoints of this node.
pub const LOCAL: u32 = 110;
/// Pods of one manifest.
const TOGETHER: u32 = 500;

/// A pod of the cluster by its number: its namespace and app follow from it.
#[derive(Clone, Copy, Debug)]
pub struct PodNumber(pub u32);

impl PodNumber {
    fn namespace(self) -> u32 {
        self.0 % NAMESPACES
    }

    fn app(self) -> u32 {
        self.0 / NAMESPACES % APPS
    }

    /// Its IPv4 address.
    pub fn ipv4(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 88, 0, 2)) + self.0)
    }

    fn ipv6(self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 2)) + u128::from(self.0))
    }

    /// Its manifest. One of this node has its addresses from there.
    pub fn manifest(self) -> String {
        let status = if self.0 < LOCAL {
            String::new()
        } else {
            format!(
                "status: {{ phase: Running, podIPs: [ {{ ip: {} }}, {{ ip: '{}' }} ] }}\n",
                self.ipv4(),
                self.ipv6()
            )
        };
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  namespace: ns-{}\n  name: pod-{}\n  \
             labels: {{ app: app-{}, pod-template-hash: h{} }}\nspec:\n  serviceAccountName: default\n  containers:\n  \
             - name: c\n    ports: [ {{ name: http, containerPort: 8080, protocol: TCP }} ]\n{status}",
            self.namespace(),
            self.0,
            self.app(),
            self.app() % 7,
        )
    }

    /// The same pod as an endpoint of this node.
    pub fn endpoint(self) -> LocalEndpoint {
        let key = AttachmentKey {
            network: "bench".into(),
            container_id: format!("c{}", self.0),
            ifname: "eth0".into(),
        };
        let pod = wire::Pod {
            namespace: format!("ns-{}", self.namespace()),
            name: format!("pod-{}", self.0),
            uid: String::new(),
        };
        LocalEndpoint {
            host: None,
            key,
            pod: Some(pod),
            labels: [("app".to_owned(), format!("app-{}", self.app()))].into(),
            addresses: vec![IpAddr::from(self.ipv4()), IpAddr::from(self.ipv6())],
        }
    }
}

/// A policy for an app: it is reached by the app before it, by a team's namespaces and from a block, and reaches the app
/// behind it and DNS.
pub fn policy(name: &str, namespace: u32, app: u32) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ namespace: ns-{namespace}, name: {name} }}\n\
         spec:\n  podSelector: {{ matchLabels: {{ app: app-{app} }} }}\n  policyTypes: [Ingress, Egress]\n  ingress:\n  \
         - from: [ {{ podSelector: {{ matchLabels: {{ app: app-{before} }} }} }} ]\n    \
         ports: [ {{ port: http }}, {{ protocol: TCP, port: 9000, endPort: 9100 }} ]\n  \
         - from: [ {{ namespaceSelector: {{ matchLabels: {{ team: team-{team} }} }} }} ]\n    ports: [ {{ port: 443 }} ]\n  \
         - from: [ {{ ipBlock: {{ cidr: 172.{block}.0.0/16, except: [ 172.{block}.7.0/24 ] }} }} ]\n  egress:\n  \
         - to: [ {{ podSelector: {{ matchLabels: {{ app: app-{behind} }} }} }} ]\n    ports: [ {{ port: http }} ]\n  \
         - ports: [ {{ protocol: UDP, port: 53 }} ]\n",
        before = (app + APPS - 1) % APPS,
        behind = (app + 1) % APPS,
        team = app % 5,
        block = 16 + app % 16,
    )
}

/// Writes the manifests of a cluster with so many policies and pods, of which the first are this node's.
pub fn write(folder: &Path, policies: u32, pods: u32) -> Result<()> {
    let mut namespaces = String::new();
    for number in 0..NAMESPACES {
        writeln!(
            namespaces,
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: ns-{number}, labels: {{ team: team-{} }} }}",
            number % 5
        )?;
    }
    fs::write(folder.join("namespaces.yaml"), namespaces)?;
    for first in (0..pods).step_by(TOGETHER as usize) {
        let together = (first..pods.min(first + TOGETHER)).map(|number| PodNumber(number).manifest());
        fs::write(folder.join(format!("pods-{first}.yaml")), together.collect::<String>())?;
    }
    for number in 0..policies {
        let (namespace, app) = (number % NAMESPACES, number / NAMESPACES % APPS);
        let text = policy(&format!("policy-{number}"), namespace, app);
        fs::write(folder.join(format!("policy-{number}.yaml")), text)?;
    }
    Ok(())
}

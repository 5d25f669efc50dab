mod changes;
mod denied;
mod domains;
mod explaining;
mod failing;
mod flow_facts;
mod hostile;
mod hosts;
mod services;
mod staged;
mod watched;

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use ipamd_api::{
    AttachmentKey,
    policy::{KernelSays, Trace, TraceQuery, TraceVerdict, Verdict},
    wire,
};

use super::{Applied, Enforcer, LocalEndpoint, SeenFlow, Writes, memory::Memory};
use crate::tables::{Limits, Tables};
use ipamd_model::{
    endpoint::Slot,
    objects::{Batch, Change, Kind, ObjectId},
    policy::protocol,
};
use ipamd_sources::manifest;

const ROOM: Limits = Limits {
    slots: 100,
    maps: 100,
    entries: 200,
    addresses: 100,
    prefixes: 100,
    rules: 1000,
    domains: 20,
    domains_of_name: 3,
};

/// A node without a kernel.
struct Bench {
    tables: Memory,
    enforcer: Enforcer,
}

/// What the manifests in a text put.
fn puts(text: &str) -> Vec<Change> {
    let manifest = manifest::read(Path::new("test.yaml"), text);
    assert!(manifest.refusals.is_empty(), "{:?}", manifest.refusals);
    manifest.objects.into_iter().map(|located| Change::Put(located.object)).collect()
}

fn batch(text: &str) -> Batch {
    Batch { changes: puts(text), refusals: None }
}

/// A pod of this node in the namespace `n`: 10.0.0.`last`, labelled `app`.
fn local(last: u8, app: &str) -> LocalEndpoint {
    LocalEndpoint {
        host: None,
        key: AttachmentKey {
            network: "test".into(),
            container_id: format!("container-{last}"),
            ifname: "eth0".into(),
        },
        pod: Some(wire::Pod { namespace: "n".into(), name: format!("p{last}"), uid: String::new() }),
        labels: [("app".to_owned(), app.to_owned())].into(),
        addresses: vec![address(last)],
    }
}

fn address(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

/// The manifest of a pod elsewhere: 10.0.1.`last`, labelled `app`.
fn remote(last: u8, app: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{ namespace: n, name: r{last}, labels: {{ app: {app} }} }}\n\
         spec: {{ containers: [ {{ name: c, ports: [ {{ name: web, containerPort: {} }} ] }} ] }}\n\
         status: {{ podIPs: [ {{ ip: 10.0.1.{last} }} ] }}\n",
        8000 + u16::from(last)
    )
}

/// A policy for `app: guarded` that lets `app: friend` in on a port.
fn guard(name: &str, port: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ namespace: n, name: {name} }}\n\
         spec:\n  podSelector: {{ matchLabels: {{ app: guarded }} }}\n  ingress:\n  \
         - {{ from: [ {{ podSelector: {{ matchLabels: {{ app: friend }} }} }} ], ports: [ {{ port: {port} }} ] }}\n"
    )
}

impl Bench {
    fn new(tables: Memory) -> Self {
        let enforcer = Enforcer::new(Box::new(tables.clone()));
        Self { tables, enforcer }
    }

    /// With these pods, and this cluster.
    fn started(limits: Limits, pods: &[LocalEndpoint], cluster: &str) -> Self {
        let bench = Self::new(Memory::new(limits));
        bench.start(pods, cluster);
        bench
    }

    fn start(&self, pods: &[LocalEndpoint], cluster: &str) -> Vec<(AttachmentKey, Slot)> {
        let pods = pods.iter().map(|pod| (pod.clone(), None));
        self.enforcer.start(pods, BTreeSet::from([[10, 0, 0, 254].into()]), batch(cluster)).unwrap()
    }

    fn apply(&self, text: &str) -> Applied {
        self.enforcer.apply(batch(text))
    }

    fn remove(&self, kind: Kind, name: &str) -> Applied {
        let id = match kind {
            Kind::Tier | Kind::GlobalNetworkPolicy | Kind::StagedGlobalNetworkPolicy | Kind::Namespace => {
                ObjectId::global(kind, name)
            }
            _ => ObjectId::namespaced(kind, "n", name),
        };
        self.enforcer.apply(Batch { changes: vec![Change::Remove(id)], refusals: None })
    }

    /// The names of addresses are those that [`Memory::tell`] was told.
    fn trace(&self, from: &str, to: &str, port: u16) -> Trace {
        let names = |flow: &SeenFlow| {
            let asking = self.enforcer.lock().cluster.endpoint_at(flow.source).cloned();
            let slot = asking.map(|key| self.slot(&key));
            slot.map(|slot| self.tables.told(slot, flow.destination)).unwrap_or_default()
        };
        let query =
            TraceQuery { from: from.into(), to: to.into(), protocol: protocol::TCP, port, source_port: None };
        let trace = self.enforcer.trace(&query, |_, _| None, names).unwrap();
        let steps = trace.paths.iter().flat_map(|path| &path.steps);
        assert!(steps.into_iter().all(|step| step.kernel == KernelSays::Same), "{trace:#?}");
        trace
    }

    /// The slot of an endpoint.
    fn slot(&self, key: &AttachmentKey) -> Slot {
        self.enforcer.lock().cluster.endpoints[key].slot.number()
    }

    /// Whether a TCP flow passes, by the rules and the tables.
    fn passes(&self, from: &str, to: &str, port: u16) -> bool {
        self.trace(from, to, port).verdict == TraceVerdict::Allow
    }
}

//! The product, fed with documents and endpoints as the oracle is, on tables in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use ipamd_api::{AttachmentKey, wire};
use ipamd_model::{
    endpoint::Slot,
    objects::{Batch, Change, Object},
    policy,
};
use ipamd_policy::{
    enforce::{Enforcer, LocalEndpoint, SeenFlow, memory::Memory},
    tables::{RuleId, Tables},
};
use ipamd_sources::manifest;
use serde_json::Value;

use super::{
    generate::{Scene, Step, id},
    inventory::Local,
    lookup::look_up,
    packet::{Direction, Flow},
};

/// Documents as a file has them.
pub fn manifest_text<'a>(documents: impl IntoIterator<Item = &'a Value>) -> String {
    let documents = documents.into_iter().map(|document| format!("{document:#}\n"));
    documents.collect::<Vec<_>>().join("---\n")
}

/// The objects that a file says.
///
/// # Errors
/// What of it is refused.
pub fn objects(text: &str) -> Result<Vec<Object>> {
    let manifest = manifest::read(Path::new("cluster.yaml"), text);
    ensure!(manifest.refusals.is_empty(), "refused: {:?}", manifest.refusals);
    Ok(manifest.objects.into_iter().map(|located| located.object).collect())
}

fn key(local: &Local) -> AttachmentKey {
    AttachmentKey {
        network: "cambric".to_owned(),
        container_id: local.container.clone(),
        ifname: "eth0".to_owned(),
    }
}

fn endpoint(local: &Local) -> LocalEndpoint {
    let pod = local.pod.clone().map(|(namespace, name)| wire::Pod { namespace, name, uid: String::new() });
    LocalEndpoint {
        host: None,
        key: key(local),
        pod,
        labels: local.labels.clone(),
        addresses: local.addresses.clone(),
    }
}

/// An enforcer, and the tables that it writes.
#[derive(Debug)]
pub struct Product {
    /// The enforcer.
    pub enforcer: Enforcer,
    /// Its tables.
    pub tables: Memory,
    /// The slots of the endpoints, by container.
    slots: BTreeMap<String, Slot>,
}

impl Product {
    /// Starts with a cluster.
    ///
    /// # Errors
    /// A document is refused, or the enforcer does not start.
    pub fn start<'a>(
        documents: impl IntoIterator<Item = &'a Value>,
        locals: &[Local],
        node_addresses: &[IpAddr],
    ) -> Result<Self> {
        let tables = Memory::default();
        Ok(Self {
            tables: tables.clone(),
            ..Self::start_on(Box::new(tables), documents, locals, node_addresses)?
        })
    }

    /// Starts with a cluster, on other tables than in memory.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_on<'a>(
        tables: Box<dyn Tables>,
        documents: impl IntoIterator<Item = &'a Value>,
        locals: &[Local],
        node_addresses: &[IpAddr],
    ) -> Result<Self> {
        let enforcer = Enforcer::new(tables);
        let changes = objects(&manifest_text(documents))?.into_iter().map(Change::Put).collect();
        let first = Batch { changes, refusals: Some(Vec::new()) };
        let endpoints = locals.iter().map(|local| (endpoint(local), None));
        let addresses = node_addresses.iter().copied().collect::<BTreeSet<_>>();
        let slots = enforcer.start(endpoints, addresses, first)?;
        let slots = slots.into_iter().map(|(key, slot)| (key.container_id, slot)).collect();
        Ok(Self { enforcer, tables: Memory::default(), slots })
    }

    /// The slot of an endpoint.
    pub fn slot(&self, local: &Local) -> Option<Slot> {
        self.slots.get(&local.container).copied()
    }

    /// Takes a step of a cluster's story.
    ///
    /// # Errors
    /// A document is refused, or an endpoint does not fit.
    pub fn take(&mut self, step: &Step, before: &Scene) -> Result<()> {
        match step {
            Step::Change { put, .. } => self.change(step.removed(&before.documents), put),
            Step::Admit(local) => self.admit(local),
            Step::Dismiss(index) if !before.locals.is_empty() => {
                self.dismiss(&before.locals[index.index(before.locals.len())])
            }
            Step::Dismiss(_) => Ok(()),
            Step::Tidy => {
                self.enforcer.retry();
                Ok(())
            }
        }
    }

    /// Removes what some documents stand for and puts others, in one batch.
    ///
    /// # Errors
    /// One is refused.
    pub fn change<'a>(
        &self,
        remove: impl IntoIterator<Item = &'a Value>,
        put: impl IntoIterator<Item = &'a Value>,
    ) -> Result<()> {
        let mut changes = Vec::new();
        for document in remove {
            changes.extend(objects(&manifest_text([document]))?.iter().map(|it| Change::Remove(it.id())));
        }
        let mut seen = BTreeSet::new();
        for document in put.into_iter().filter(|document| seen.insert(id(document))) {
            changes.extend(objects(&manifest_text([document]))?.into_iter().map(Change::Put));
        }
        self.enforcer.apply(Batch { changes, refusals: None });
        Ok(())
    }

    /// Takes an endpoint in, or its new state.
    ///
    /// # Errors
    /// It does not fit.
    pub fn admit(&mut self, local: &Local) -> Result<()> {
        let slot = self.enforcer.admit(endpoint(local))?;
        self.slots.insert(local.container.clone(), slot);
        Ok(())
    }

    /// Forgets an endpoint.
    ///
    /// # Errors
    /// Packets of its slot are let through.
    pub fn dismiss(&mut self, local: &Local) -> Result<()> {
        self.enforcer.dismiss(&key(local));
        let slot = self.slots.remove(&local.container).context("the endpoint was not there")?;
        let flow = Flow { protocol: 6, source_port: 40_000, destination_port: 80 };
        for direction in Direction::BOTH {
            let (passes, _) = look_up(&self.tables, slot, direction, Ipv4Addr::LOCALHOST.into(), &[], flow)?;
            ensure!(!passes, "{direction:?} of the endpoint that is gone passes");
        }
        Ok(())
    }

    /// Whether a flow between an endpoint and a peer would pass with the staged policies; `None` if there is nothing to try.
    pub fn would_pass(
        &self,
        local: &Local,
        direction: Direction,
        (own, peer): (IpAddr, IpAddr),
        names: &[String],
        flow: Flow,
    ) -> Option<bool> {
        let (direction, source, destination) = match direction {
            Direction::Ingress => (policy::Direction::Ingress, peer, own),
            Direction::Egress => (policy::Direction::Egress, own, peer),
        };
        let Flow { protocol, source_port, destination_port } = flow;
        let flow = SeenFlow { protocol, source, source_port, destination, destination_port };
        self.enforcer.would_pass(&key(local), direction, &flow, names)
    }

    /// Whether a flow between an endpoint and a peer passes, and which rule says so. The endpoint was told the peer's address as one of
    /// these DNS names.
    ///
    /// # Errors
    /// The endpoint is not there.
    pub fn verdict(
        &self,
        local: &Local,
        direction: Direction,
        peer: IpAddr,
        names: &[String],
        flow: Flow,
    ) -> Result<(bool, RuleId)> {
        let slot = *self.slots.get(&local.container).context("the endpoint is not there")?;
        Ok(look_up(&self.tables, slot, direction, peer, names, flow)?)
    }
}

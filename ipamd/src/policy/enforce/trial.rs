//! Policies tried out on the flows that were seen, beside those in force.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    path::PathBuf,
};

use ipamd_api::{
    AttachmentKey,
    policy::{DiffPage, FlowChange, ManifestText, RefusedObject, Verdict},
};

use super::{
    Enforcer,
    explain::{Said, SeenFlow},
    memory::Memory,
    settle::Unsettled,
    state::State,
    tables::RuleId,
};
use crate::{
    cluster::manifest,
    policy::model::{Direction, protocol},
};

/// Changes that are told at most.
const MOST_CHANGES: usize = 10_000;

/// What became of a flow, and by which rule.
type Judged = (Verdict, RuleId);

impl State {
    /// The same cluster on tables of its own.
    fn copy(&self) -> Self {
        let mut copy = Self::new(Box::new(Memory::new(self.tables.limits())));
        copy.world = self.world.clone();
        copy.node_addresses.clone_from(&self.node_addresses);
        copy
    }

    fn by_address(&self) -> HashMap<IpAddr, AttachmentKey> {
        let each = self.endpoints.iter();
        each.flat_map(|(key, it)| it.addresses.iter().map(|address| (*address, key.clone()))).collect()
    }

    /// What becomes of a flow; `None`: neither side is an endpoint of this node.
    fn judge(&self, flow: &SeenFlow, endpoints: &HashMap<IpAddr, AttachmentKey>) -> Option<Judged> {
        let mut judged = None;
        for (direction, address) in [(Direction::Egress, flow.source), (Direction::Ingress, flow.destination)]
        {
            let Some(key) = endpoints.get(&address) else { continue };
            let said: Said = self.said(key, direction, flow);
            judged = Some((said.verdict(), said.rule()));
            if said.verdict() == Verdict::Deny {
                break;
            }
        }
        judged
    }
}

impl Enforcer {
    /// Which of the flows would be judged otherwise if the files' objects were applied.
    pub fn diff(&self, files: Vec<ManifestText>, flows: &[SeenFlow]) -> DiffPage {
        let mut page = DiffPage { examined: flows.len() as u64, last: true, ..DiffPage::default() };
        let mut objects = Vec::new();
        for ManifestText { file, text } in files {
            let manifest = manifest::read(&file, &text);
            page.refused.extend(manifest.refusals.iter().map(RefusedObject::from));
            objects.extend(manifest.objects.into_iter().map(|located| located.object));
        }
        if !page.refused.is_empty() {
            return page;
        }
        let flows = flows.iter().copied().collect::<BTreeSet<_>>();
        let (before, left_out, mut trial) = {
            let state = self.lock();
            let endpoints = state.by_address();
            let judged = flows.iter().filter_map(|flow| Some((*flow, state.judge(flow, &endpoints)?)));
            (judged.collect::<Vec<_>>(), state.left_out(), state.copy())
        };
        for object in objects {
            trial.world.put(object);
        }
        let locals = trial.world.locals.values().cloned().collect::<Vec<_>>();
        for endpoint in locals {
            trial.place(endpoint, None);
        }
        if let Err(unsettled) = trial.rebuild() {
            let reason = match unsettled {
                Unsettled::Overflow(overflow) => overflow.to_string(),
                Unsettled::Table(error) => error.to_string(),
            };
            page.refused.push(RefusedObject {
                file: PathBuf::new(),
                line: 0,
                object: None,
                field: String::new(),
                reason,
            });
            return page;
        }
        // What is left out today already is no news.
        page.refused.extend(trial.left_out().into_iter().filter(|it| !left_out.contains(it)));
        let endpoints = trial.by_address();
        for (flow, (was, was_rule)) in before {
            let Some((is, is_rule)) = trial.judge(&flow, &endpoints) else { continue };
            if was != is && page.changes.len() < MOST_CHANGES {
                page.changes.push(FlowChange {
                    protocol: protocol::name(flow.protocol),
                    source: trial.party(flow.source, flow.source_port),
                    destination: trial.party(flow.destination, flow.destination_port),
                    before: was,
                    before_rule: self.rule(was_rule),
                    after: is,
                    after_rule: trial.deciding(is_rule),
                });
            }
        }
        page
    }
}

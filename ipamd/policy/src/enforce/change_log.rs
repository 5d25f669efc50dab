//! What the cluster was told since the staged set took it in. Nothing is kept while there is no staged set.

use std::{collections::BTreeSet, mem, net::IpAddr};

use ipamd_api::AttachmentKey;

use crate::compile::policy_inputs::LocalEndpoint;
use ipamd_model::objects::Change;

/// How much is kept. If more comes, the staged set is made anew.
const MOST: usize = 65_536;

/// Something that the cluster was told.
#[derive(Debug)]
pub(super) enum Told {
    Change(Change),
    Endpoint(LocalEndpoint),
    NoEndpoint(AttachmentKey),
    NodeAddresses(BTreeSet<IpAddr>),
}

/// What the cluster was told.
#[derive(Debug, Default)]
pub(super) struct ChangeLog {
    /// `None`: not all of it is there, or nobody has taken the cluster in.
    told: Option<Vec<Told>>,
}

impl ChangeLog {
    /// Adds something, if there is a staged set.
    pub fn push(&mut self, told: impl FnOnce() -> Told) {
        if let Some(log) = &mut self.told {
            if log.len() < MOST {
                log.push(told());
            } else {
                self.told = None;
            }
        }
    }

    /// Begins to keep what is told.
    pub fn begin(&mut self) {
        self.told = Some(Vec::new());
    }

    /// Forgets all. What follows cannot be told, or nobody wants it.
    pub fn end(&mut self) {
        self.told = None;
    }

    /// What was told since this was asked last; `None` if that is not known.
    pub fn take(&mut self) -> Option<Vec<Told>> {
        self.told.as_mut().map(mem::take)
    }
}

//! A second state of the same cluster, on which policies are tried out.

use std::{collections::HashMap, net::IpAddr};

use ipamd_api::AttachmentKey;

use super::{memory::Memory, state::State, trial::overlay::Overlay, write_error::WriteError};
use crate::tables::TableError;

impl State {
    /// The same cluster on tables of its own.
    pub fn copy(&self) -> Self {
        let mut copy = Self::new(Box::new(Memory::new(self.tables.limits())));
        copy.cluster.inputs = self.cluster.inputs.clone();
        copy.cluster.denied = self.cluster.denied;
        copy.cluster.node_addresses.clone_from(&self.cluster.node_addresses);
        copy
    }

    pub fn by_address(&self) -> HashMap<IpAddr, AttachmentKey> {
        let each = self.cluster.endpoints.iter();
        each.flat_map(|(key, it)| it.addresses.iter().map(|address| (*address, key.clone()))).collect()
    }

    /// Puts the policies of a copy in force on its tables, for all endpoints.
    pub fn begin_copy(&mut self) -> Result<(), WriteError> {
        let locals = self.cluster.inputs.locals.values().cloned().collect::<Vec<_>>();
        for endpoint in locals {
            // There is always a free slot, because the copy has as many slots as the original.
            let Some(slot) = self.slots.claim(None, self.tables.limits().slots) else { break };
            self.cluster.put_endpoint(endpoint, slot);
        }
        self.rebuild()?;
        self.started = true;
        Ok(())
    }

    /// As [`Self::begin_copy`], where staged policies have been applied. One that does not fit replaces nothing.
    pub fn begin_copy_with(&mut self, overlay: &mut Overlay) -> Result<(), WriteError> {
        self.begin_copy()?;
        Ok(self.keep_what_stays(overlay)?)
    }

    /// Puts back the policies whose staged replacements do not fit: they would stay in force.
    pub fn keep_what_stays(&mut self, overlay: &mut Overlay) -> Result<(), TableError> {
        let back = overlay.keep(self.left_out.unfit.keys());
        if back.is_empty() { Ok(()) } else { self.apply(back).map(drop) }
    }
}

//! Keeps the tables in step: programs what owners want, lets others have what that frees, and makes the writes together.

use std::net::IpAddr;

use ipamd_api::{AttachmentKey, PortMapping};

use super::{
    claimed_frontends,
    inherited_tables::InheritedTables,
    ledger::Ledger,
    node_addresses::NodeAddresses,
    owner::Owner,
    port::Wanted,
    state::State,
    tables::{Family, TableError},
    write_failure::has_failed,
};
use ipamd_runtime::{queued_lock::TakeIn, supervisor};

/// How many unsatisfied owners are tried again when space is freed.
const AT_ONCE: usize = 5;

/// A container, its new host ports, and the addresses that they lead to.
type HostPorts = (AttachmentKey, Vec<PortMapping>, Vec<IpAddr>);

impl TakeIn for State {
    type Waiting = HostPorts;

    fn take_in(&mut self, (key, mappings, backends): HostPorts) {
        self.set_host_ports(&key, &mappings, &backends);
    }
}

impl State {
    pub fn set_host_ports(&mut self, key: &AttachmentKey, mappings: &[PortMapping], backends: &[IpAddr]) {
        let concerned = self.inputs.set_host_ports(key, mappings, backends);
        if self.started && concerned {
            self.sync_tables(vec![Owner::HostPorts(key.clone())]);
        }
    }

    pub fn set_node_addresses(&mut self, addresses: NodeAddresses) {
        self.inputs.node_addresses = addresses.all;
        self.inputs.node_ports = addresses.node_ports;
        if let Some(health) = &self.health {
            health.set_addresses(addresses.limited.then(|| self.inputs.node_ports.clone()));
        }
    }

    /// Programs what these owners want now.
    pub fn sync_tables(&mut self, owners: Vec<Owner>) {
        if self.failed {
            return self.write(Self::rebuild);
        }
        self.write(|state| {
            for owner in owners {
                state.sync_owner(&owner);
            }
            state.serve_waiting();
            state.commit()
        });
    }

    /// Programs the owners that wait for freed frontends: only the first for each, because the others would wait again.
    fn serve_waiting(&mut self) {
        let freed = std::mem::take(&mut self.ledger.freed);
        if freed.is_empty() {
            return;
        }
        for key in freed {
            while !self.ledger.owners.contains_key(&key)
                && let Some(owner) = self.ledger.pop_first_waiting(&key)
            {
                self.sync_owner(&owner);
            }
        }
        // A freed frontend may be a host port of a container. A node has few of these, so all that are unsatisfied are
        // tried.
        let ports = self.ledger.unsatisfied.iter().rev().take_while(|it| matches!(it, Owner::HostPorts(_)));
        let ports: Vec<_> = ports.cloned().collect();
        for owner in ports.into_iter().chain(self.ledger.next_unsatisfied(AT_ONCE)) {
            self.sync_owner(&owner);
        }
    }

    pub fn write(&mut self, write: impl FnOnce(&mut Self) -> Result<(), TableError>) {
        let written = write(self);
        self.failed = has_failed(&written);
    }

    /// Programs everything from scratch on top of what the tables hold. First it finds the owner of all that is in
    /// force; only then it writes, because a write into space that is in force would redirect another service's
    /// connections.
    pub fn rebuild(&mut self) -> Result<(), TableError> {
        let mut ledger = Ledger::new(self.tables.limits());
        let mut inherited = InheritedTables::read(&*self.tables, &mut ledger.space)?;
        self.inputs.own_frontends().for_each(|own| inherited.reserve_number(own));
        ledger.skip_numbers(inherited.highest());
        for family in Family::ALL {
            // On nobody's account until an owner takes it over.
            for (what, count) in inherited.counts(family) {
                ledger.allowance.take(None, family, what, count);
            }
        }
        ledger.inherited = Some(inherited);
        self.ledger = ledger.continues(&mut self.ledger);
        self.health_checks.keep(|id| self.inputs.index.services.contains_key(id));
        for owner in self.all_owners() {
            self.sync_owner(&owner);
        }
        self.stage_node_addresses();
        self.clear_inheritance();
        self.commit()
    }

    fn all_owners(&self) -> Vec<Owner> {
        let services = self.inputs.index.services.keys().cloned().map(Owner::Service);
        services.chain(self.inputs.host_ports.keys().cloned().map(Owner::HostPorts)).collect()
    }

    fn commit(&mut self) -> Result<(), TableError> {
        if let Some(health) = &self.health {
            health.set(self.health_checks.checks());
        }
        let any = !self.ledger.of_backends.is_empty();
        if any != self.has_host_backends {
            self.tables.set_host_backends(any)?;
            self.has_host_backends = any;
        }
        let of_backends = &self.ledger.of_backends;
        self.ledger.staged.unmarked.retain(|port| !of_backends.has(*port));
        let staged = std::mem::take(&mut self.ledger.staged);
        for (family, what, count) in staged.commit(&mut *self.tables, &mut self.ledger.space)? {
            self.ledger.allowance.give(None, family, what, count);
        }
        Ok(())
    }

    fn sync_owner(&mut self, owner: &Owner) {
        supervisor::beat();
        let wanted = match owner {
            Owner::Service(id) => {
                self.update_health_check(id);
                let wanted = self.wanted_of_service(id);
                self.move_host_ports(owner, &wanted);
                wanted
            }
            Owner::HostPorts(key) => self.wanted_of_container(key),
        };
        self.program_ports(owner, wanted);
    }

    /// Moves host ports out of the way of a service before it is programmed.
    fn move_host_ports(&mut self, owner: &Owner, wanted: &[Wanted]) {
        let before =
            self.ledger.programmed.get(owner).into_iter().flatten().flat_map(|port| &port.plan.frontends);
        let frontends: Vec<_> = wanted.iter().flat_map(|port| &port.plan.frontends).collect();
        let more = self.ledger.claimed.replace(before, &frontends);
        // In a rebuild host ports come after all services.
        if !more || self.ledger.inherited.is_some() {
            return;
        }
        let is_in_the_way = |(key, mappings): (&AttachmentKey, &Vec<(PortMapping, Vec<IpAddr>)>)| {
            let meets = |mapping: &PortMapping| {
                frontends.iter().any(|frontend| claimed_frontends::conflicts(frontend, mapping))
            };
            mappings.iter().any(|(mapping, _)| meets(mapping)).then(|| Owner::HostPorts(key.clone()))
        };
        let in_the_way: Vec<_> = self.inputs.host_ports.iter().filter_map(is_in_the_way).collect();
        for owner in in_the_way {
            self.sync_owner(&owner);
        }
    }
}

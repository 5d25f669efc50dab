//! The first half of ADD: reserves addresses and interface names.

use ipamd_api::{
    ApiError, AttachmentKey, ErrorKind, MTU,
    wire::{Reservation, Reserve},
};

use super::{
    chained, ports,
    records::{Record, State},
    repair::Leak,
    this_node::Node,
    wall_clock::now,
};
use ipamd_addresses::{attachment::Attachment, leaks::Grace};
use ipamd_runtime::{monotonic::Moment, queued_lock::locked};
use ipamd_store::Batch;

impl Node {
    /// Reserves what an attachment is to be made of; for one that stands, says the same again. The record is on its
    /// way to the disk when this returns; [`Self::commit`] waits for it.
    ///
    /// # Errors
    /// Why nothing could be reserved; nothing has changed then.
    pub fn reserve(&self, request: &Reserve) -> Result<Reservation, ApiError> {
        check_key(&request.key)?;
        check_request(request)?;
        chained::check(request, self.is_chained)?;
        self.check_host_ports(request)?;
        match self.reserve_checked(request) {
            // A container that is gone without a DEL, as after a restart of the machine, must keep neither its ports nor the
            // last addresses.
            Err(error) if matches!(error.kind, ErrorKind::PortInUse | ErrorKind::PoolExhausted) => {
                let leaks = self.repair_leaks(Grace::Waived);
                for Leak { key, reason } in &leaks {
                    tracing::warn!(
                        %key,
                        "freed a leaked attachment, because the ADD of {} needs a port or an address: its interface is gone and {reason}",
                        request.key
                    );
                }
                if leaks.is_empty() { Err(error) } else { self.reserve_checked(request) }
            }
            answer => answer,
        }
    }

    fn reserve_checked(&self, request: &Reserve) -> Result<Reservation, ApiError> {
        let attach_mode = match request.chained {
            None => self.kernel.attach_mode_in(&request.key.network),
            // It is up already, and the qdisc of a filter would stop its traffic for a moment.
            Some(_) => self.kernel.attach_mode(),
        };
        let state = &mut *self.state();
        ports::check_free(state, request)?;
        if let Some(record) = state.records.get_mut(&request.key) {
            let is_same = chained::is_same(&record.attachment, request);
            let stands = record
                .committed
                .is_some_and(|at| self.kernel.link_index(&request.key.host_ifname()) == Some(at.ifindex));
            // Another plugin changed its interface in the same namespace: take it over again.
            let is_changed = request.chained.is_some() && record.attachment.netns_id == request.netns_id;
            match (stands, is_same) {
                (true, true) => {
                    agrees(&record.attachment, request)?;
                    record.touched = Moment::now();
                    return Ok(Reservation { attach_mode, ..self.reservation(record) });
                }
                (true, false) if !is_changed => return Err(elsewhere(&record.attachment)),
                (false, true) if is_of_same_pod(&record.attachment, request) => {
                    record.touched = Moment::now();
                    return Ok(Reservation { attach_mode, ..self.reservation(record) });
                }
                // The runtime made a new container of the same id, or another plugin a new interface: the old one is gone.
                // Or an ADD was broken off.
                _ => drop(self.detach(state, &request.key)?),
            }
        }
        let attachment = match &request.chained {
            None => self.allocate(state, request)?,
            Some(made) => self.take_over(state, request, made)?,
        };
        let stored = match self.store_new(state, &attachment) {
            Ok(ticket) => ticket,
            Err(error) => {
                for address in attachment.ips() {
                    state.allocator.release(address);
                }
                return Err(error);
            }
        };
        let key = attachment.key.clone();
        let touched = Moment::now();
        let record = Record { attachment, stored: Some(stored), committed: None, touched };
        let reservation = Reservation { attach_mode, ..self.reservation(&record) };
        tracing::debug!(%key, "reserved");
        state.records.insert(key, record);
        Ok(reservation)
    }

    fn allocate(&self, state: &mut State, request: &Reserve) -> Result<Attachment, ApiError> {
        let addresses = state
            .allocator
            .reserve(&request.key, &request.addresses)
            .map_err(|error| ApiError::new(error.kind(), error.to_string()))?;
        let (host_mac, container_mac) = request.key.macs();
        let of_node = *locked(&self.mtu);
        if let Some(mtu) = request.mtu.filter(|mtu| *mtu > of_node) {
            tracing::warn!(
                key = %request.key, mtu,
                "the network configuration asks for a larger MTU than the {of_node} bytes that the node's uplinks take: large \
                 packets are cut or refused on their way out"
            );
        }
        Ok(Attachment {
            key: request.key.clone(),
            addresses,
            container_mac: request.mac.unwrap_or(container_mac),
            host_mac,
            mtu: request.mtu.unwrap_or(of_node),
            netns: request.netns.clone(),
            netns_id: request.netns_id,
            netns_cookie: None,
            pod: request.pod.clone(),
            labels: request.labels.clone(),
            port_mappings: request.port_mappings.clone(),
            chained: false,
            created: now(),
        })
    }

    /// Submits a new record with the cursors that its addresses moved.
    pub(super) fn store_new(
        &self,
        state: &mut State,
        attachment: &Attachment,
    ) -> Result<ipamd_store::Ticket, ApiError> {
        let mut batch = Batch::new();
        batch.put(attachment).map_err(|error| self.refusal(&error))?;
        let moved = state
            .allocator
            .cursors()
            .filter(|(pool, last)| state.cursors.get(*pool) != Some(last))
            .map(|(pool, last)| (pool.to_owned(), last))
            .collect::<Vec<_>>();
        for (pool, last) in &moved {
            batch.cursor(pool, *last);
        }
        let ticket = self.submit(batch)?;
        state.cursors.extend(moved);
        Ok(ticket)
    }
}

/// Whether the parts of a key are what the specification allows, as far as names and paths depend on it.
pub(super) fn check_key(key: &AttachmentKey) -> Result<(), ApiError> {
    key.fault().map_or(Ok(()), |fault| Err(ApiError::new(ErrorKind::InvalidRequest, fault)))
}

fn check_request(request: &Reserve) -> Result<(), ApiError> {
    let invalid = |message| Err(ApiError::new(ErrorKind::InvalidRequest, message));
    if let Some(mtu) = request.mtu.filter(|mtu| !MTU.contains(mtu)) {
        return invalid(format!("mtu is {mtu}, but must be from {} to {}", MTU.start(), MTU.end()));
    }
    if let Some(mac) = request.mac.filter(|mac| !mac.is_unicast()) {
        return invalid(format!("mac {mac} is not the address of one interface"));
    }
    ports::check_mappings(&request.port_mappings)
}

/// The refusal of another container under the key of one that stands.
fn elsewhere(attachment: &Attachment) -> ApiError {
    ApiError::new(
        ErrorKind::Exists,
        format!(
            "{} stands already in the network namespace {}; delete it first",
            attachment.key,
            attachment.netns.display()
        ),
    )
}

/// Whether a request for what has a record, but does not stand, is of the very ADD that made the record: then it gets the
/// same addresses.
fn is_of_same_pod(attachment: &Attachment, request: &Reserve) -> bool {
    agrees(attachment, request).is_ok()
        && attachment.pod == request.pod
        && attachment.labels == request.labels
}

/// Whether a request asks for what the attachment already has.
fn agrees(attachment: &Attachment, request: &Reserve) -> Result<(), ApiError> {
    let differs = |what: String| {
        Err(ApiError::new(
            ErrorKind::Exists,
            format!("{} stands already with {what}; delete it first to change that", attachment.key),
        ))
    };
    let addresses = || attachment.ips().map(|ip| ip.to_string()).collect::<Vec<_>>().join(" and ");
    if let Some(other) = request.addresses.iter().find(|wanted| !attachment.ips().any(|ip| ip == **wanted)) {
        return differs(format!("{}, without the requested {other}", addresses()));
    }
    if request.mac.is_some_and(|mac| mac != attachment.container_mac) {
        return differs(format!("the Ethernet address {}", attachment.container_mac));
    }
    if request.mtu.is_some_and(|mtu| mtu != attachment.mtu) {
        return differs(format!("an MTU of {}", attachment.mtu));
    }
    if !ports::are_same(&attachment.port_mappings, &request.port_mappings) {
        let mappings = attachment.port_mappings.iter().map(ToString::to_string).collect::<Vec<_>>();
        return differs(match mappings.as_slice() {
            [] => "no port mappings".to_owned(),
            some => format!("the port mappings {}", some.join(", ")),
        });
    }
    Ok(())
}

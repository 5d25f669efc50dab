//! DEL and GC: cutting attachments off and giving their addresses back.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use ipamd_api::{ApiError, AttachmentKey, ErrorKind, wire::ValidAttachment};

use super::{
    commit::Patience, internal_error::internal, records::State, reserve::check_key, this_node::Node,
};
use ipamd_store::{Batch, Ticket};

/// How long an answer waits for an interface to disappear. The kernel hides it within a millisecond or so, unless
/// it is still busy with others.
const DISAPPEARS_WITHIN: Duration = Duration::from_millis(50);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// An attachment that is cut off; what is left is to wait.
#[derive(Debug)]
#[must_use]
pub(super) struct Detached {
    removed: Option<Ticket>,
    link: Option<(String, u32)>,
}

impl Node {
    /// Cuts an attachment off, gives its addresses back and removes its interface. Returns when the removal of the
    /// record is durable and, as a rule, the interface is gone. An attachment that is not known is fine.
    ///
    /// # Errors
    /// Why the record could not be removed.
    pub async fn release(&self, key: &AttachmentKey) -> Result<(), ApiError> {
        check_key(key)?;
        let detached = self.detach(&mut self.state(), key)?;
        self.await_gone(key, detached).await
    }

    /// Releases what an ADD had reserved whose plugin is gone before its commit. A DEL may have been here already: that of a
    /// runtime which kills an ADD and deletes is sometimes read before the request of the killed one.
    ///
    /// # Errors
    /// Why the record could not be removed.
    pub async fn give_up(&self, key: &AttachmentKey) -> Result<(), ApiError> {
        let detached = {
            let mut state = self.state();
            if state.records.get(key).is_none_or(|record| record.committed.is_some()) {
                return Ok(());
            }
            tracing::info!(%key, "the plugin is gone before its commit; its reservation is released");
            self.detach(&mut state, key)?
        };
        self.await_gone(key, detached).await
    }

    /// Releases every attachment of `network` that nothing in `valid` may mean; returns how many.
    ///
    /// # Errors
    /// The first that could not be released; the others are tried all the same.
    pub async fn collect(&self, network: &str, valid: &[ValidAttachment]) -> Result<u64, ApiError> {
        let is_whole = |it: &&ValidAttachment| it.container_id.is_some() && it.ifname.is_some();
        let whole = valid.iter().filter(is_whole).collect::<HashSet<_>>();
        let in_part = valid.iter().filter(|it| !is_whole(it)).collect::<Vec<_>>();
        let is_stale = |key: &AttachmentKey| {
            let (container_id, ifname) = (Some(key.container_id.clone()), Some(key.ifname.clone()));
            key.network == network
                && !whole.contains(&ValidAttachment { container_id, ifname })
                && !in_part.iter().any(|it| it.may_be(key))
        };
        let stale = self.state().records.keys().filter(|key| is_stale(key)).cloned().collect::<Vec<_>>();
        let mut failed = None;
        let mut released = 0;
        // All are cut off before any is waited for.
        let mut detached = Vec::with_capacity(stale.len());
        for key in stale {
            match self.detach(&mut self.state(), &key) {
                Ok(left) => detached.push((key, left)),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        for (key, left) in detached {
            match self.await_gone(&key, left).await {
                Ok(()) => released += 1,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(released), Err)
    }

    /// Releases the attachment that holds `address`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if none does; [`ErrorKind::InUse`] if its interface exists, unless `force`.
    pub async fn release_address(&self, address: IpAddr, force: bool) -> Result<(), ApiError> {
        let (key, detached) = {
            let mut state = self.state();
            let key = state.allocator.holder(address).cloned().ok_or_else(|| {
                ApiError::new(ErrorKind::NotFound, format!("address {address} is not in use"))
            })?;
            let host_ifname = key.host_ifname();
            if !force && self.kernel.link_index(&host_ifname).is_some() {
                return Err(ApiError::new(
                    ErrorKind::InUse,
                    format!("address {address} is in use by {key}, whose interface {host_ifname} exists"),
                ));
            }
            let detached = self.detach(&mut state, &key)?;
            (key, detached)
        };
        self.await_gone(&key, detached).await
    }

    /// Cuts an attachment off: nothing of it is forwarded once this returns, and its addresses are free. The removal
    /// of the record and of the interface are under way. This waits for nothing, for the state is held: policy and services
    /// forget it by [`Self::taken_in`].
    pub(super) fn detach(&self, state: &mut State, key: &AttachmentKey) -> Result<Detached, ApiError> {
        let mut removed = None;
        if let Some(record) = state.records.get(key) {
            let ips = record.attachment.ips().collect::<Vec<_>>();
            // First what the kernel may refuse: then the attachment stays, in memory and on the disk, and can be released again.
            for ip in &ips {
                self.kernel.remove_endpoint(*ip).map_err(internal)?;
            }
            // A second attachment may be in the same namespace.
            let cookie = record.attachment.netns_cookie;
            let is_shared = || {
                let mut others = state.records.values().filter(|it| it.attachment.key != *key);
                others.any(|it| it.attachment.netns_cookie == cookie)
            };
            if let Some(cookie) = cookie.filter(|_| !is_shared()) {
                self.kernel.remove_namespace(cookie).map_err(internal)?;
            }
            if record.committed.is_some() {
                self.kernel.raise_epoch(&ips.iter().copied().collect()).map_err(internal)?;
            }
            let mut batch = Batch::new();
            batch.remove(key);
            // Before the record is: a file without one is that of a record which the store has lost. If the record stays after
            // all, the reconciliation writes it again.
            self.files.remove(key);
            let ticket = self.submit(batch)?;
            // Also of an ADD that failed at its commit, policy may know the addresses, with this pod's labels.
            self.policy.dismiss_later(key);
            if record.committed.is_some() {
                if !record.attachment.port_mappings.is_empty() {
                    self.services.set_host_ports_later(key, Vec::new(), Vec::new());
                }
                tracing::info!(%key, "endpoint removed");
            }
            state.records.remove(key);
            for ip in ips {
                state.allocator.release(ip);
            }
            removed = Some(ticket);
        }
        let host_ifname = key.host_ifname();
        // One that another plugin made is that plugin's to remove. Its programs stay, and drop all that comes.
        let link = self.kernel.own_link_index(&host_ifname).map(|ifindex| (host_ifname, ifindex));
        if let Some((host_ifname, ifindex)) = &link {
            state.leaving.insert(*ifindex);
            self.kernel.remove_link(host_ifname, *ifindex);
        }
        if removed.is_none() {
            // It may be an earlier release's whose record could not be removed from the disk: then this one has failed, too, and
            // whoever has noted the deletion keeps the note for a daemon that can.
            removed = Some(self.submit(Batch::new())?);
        }
        Ok(Detached { removed, link })
    }

    async fn await_gone(&self, key: &AttachmentKey, detached: Detached) -> Result<(), ApiError> {
        self.taken_in(&Patience::begin(self)).await;
        if let Some(ticket) = detached.removed {
            ticket.wait().await.map_err(|error| self.refusal(&error))?;
        }
        if let Some((host_ifname, ifindex)) = &detached.link {
            let deadline = tokio::time::Instant::now() + DISAPPEARS_WITHIN;
            while self.kernel.link_index(host_ifname) == Some(*ifindex) {
                if tokio::time::Instant::now() >= deadline {
                    // The reconciliation removes the pins once it is gone.
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        self.unpin_if_gone(key);
        Ok(())
    }

    /// Removes the link pins of an attachment that has neither a record nor an interface. Not before: without them
    /// the programs leave the interface, and what is left of its traffic would pass unchecked.
    fn unpin_if_gone(&self, key: &AttachmentKey) {
        let state = self.state();
        let host_ifname = key.host_ifname();
        // A new ADD of the same attachment may have begun.
        if !state.records.contains_key(key) && self.kernel.link_index(&host_ifname).is_none() {
            self.kernel.unpin_links(&host_ifname);
        }
    }
}

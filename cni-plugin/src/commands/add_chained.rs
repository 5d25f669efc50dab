//! ADD behind other plugins: polices and serves the interface that they have made.

use ipamd_api::{
    AttachmentKey, Client, Reply, Request,
    wire::{Commit, Reservation},
};
use ipamd_netlink::{Family, Socket};
use serde_json::json;

use super::reservation::{book, holds_ports, reserve, undo_reservation};
use crate::{
    chained::{self, Found},
    config::{AddConfig, Previous},
    daemon::unexpected,
    environment::Sandbox,
    error::{CniError, Failure},
    interface, invocation,
    netns::Netns,
    observe, programs,
    settle::settle,
};

/// Puts the programs on the interface and has the daemon take it over. The result is that of the plugins before.
pub(super) fn add_chained(
    sandbox: &Sandbox,
    config: &AddConfig,
    previous: &Previous,
) -> Result<Vec<u8>, Failure> {
    let network = &config.network;
    let key = invocation::key(&network.name, &sandbox.target);
    let netns = Netns::open(sandbox)?;
    let mut host = Socket::open(Family::Route).map_err(CniError::from)?;
    let found = chained::find(&mut host, &netns, &key.ifname, &previous.result)?;
    let request = reserve(&key, &netns, sandbox, config, Some(found.made.clone()));
    let (client, reservation) = book(&network.socket, &key, &request)?;
    let mut attempt = Attempt { key: &key, client, host, reservation };
    let done = attempt.is_taken_over().and_then(|()| holds_ports(&attempt.reservation, config));
    match done.and_then(|()| attempt.take_over(&netns, &found)) {
        Ok(()) => {
            let mut result = previous.given.clone();
            result["cniVersion"] = json!(network.version.as_str());
            serde_json::to_vec(&result).map_err(|error| CniError::io("write the result")(error.into()).into())
        }
        Err(error) => {
            let mut details = programs::unpin(&attempt.reservation);
            let name = &attempt.reservation.host_ifname;
            if let Err(error) = interface::unname_host_end(&mut attempt.host, name) {
                details.push(error.to_string());
            }
            let mut failure = undo_reservation(Some(&mut attempt.client), &network.socket, &key, error);
            details.append(&mut failure.details);
            Err(Failure { details, ..failure })
        }
    }
}

/// An ADD that has its reservation.
struct Attempt<'a> {
    key: &'a AttachmentKey,
    client: Client,
    host: Socket,
    reservation: Reservation,
}

impl Attempt<'_> {
    /// A daemon that does not know of other plugins' interfaces yet would have assigned addresses of its own.
    fn is_taken_over(&self) -> Result<(), CniError> {
        if self.reservation.chained {
            return Ok(());
        }
        Err(CniError::Daemon(
            "the daemon is older than the plugin, and cannot stand behind others; restart it".into(),
        ))
    }

    fn take_over(&mut self, netns: &Netns, found: &Found) -> Result<(), CniError> {
        let host_ifindex = found.host.index;
        if self.reservation.committed && self.stands(netns)? {
            tracing::info!(key = %self.key, "it stands already");
            return Ok(());
        }
        // Nothing of this endpoint is in the maps, so from here on every packet of it is dropped.
        programs::attach(&self.reservation, host_ifindex)?;
        interface::name_host_end(&mut self.host, self.key, &self.reservation, &found.host)?;
        let (netns_cookie, mut container) =
            netns.inside(|| Ok((ipamd_api::netns::cookie().ok(), Socket::open(Family::Route)?)))?;
        let commit = Commit { key: self.key.clone(), host_ifindex, netns_cookie };
        match self.client.call(Request::Commit(commit))? {
            Reply::Done => {}
            other => return Err(unexpected(&self.client, "a commit", &other).into()),
        }
        // The plugin before said that the kernel has the address, which is not that it takes packets for it.
        settle(self.key, &mut self.host, host_ifindex, &mut container, &self.reservation);
        tracing::info!(key = %self.key, host_ifindex, interface = found.host.name, "taken over");
        Ok(())
    }

    /// Whether the attachment is all there, by what CHECK looks at.
    fn stands(&mut self, netns: &Netns) -> Result<bool, CniError> {
        let host = observe::end(&mut self.host, &self.reservation.host_ifname)?;
        let container = netns.inside(|| observe::end(&mut Socket::open(Family::Route)?, &self.key.ifname))?;
        let mut faults =
            chained::faults(&self.reservation, &self.key.ifname, host.as_ref(), container.as_ref());
        faults.extend(host.iter().flat_map(|host| programs::faults(&self.reservation, host.index)));
        if !faults.is_empty() {
            tracing::info!(key = %self.key, ?faults, "taking it over anew");
        }
        Ok(faults.is_empty())
    }
}

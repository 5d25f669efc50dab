//! ADD: reserves addresses, makes the interface, and commits it.

use std::path::Path;

use ipamd_api::{
    AttachmentKey, Client, ClientError, Reply, Request,
    wire::{Commit, Reservation},
};
use ipamd_netlink::{Family, Socket};

use super::{
    add_chained::add_chained,
    reservation::{book, holds_ports, reserve, undo_reservation},
};
use crate::{
    config::AddConfig,
    daemon::unexpected,
    environment::Sandbox,
    error::{CniError, Failure},
    interface, invocation,
    netns::Netns,
    programs, result,
    settle::settle,
};

/// Makes the attachment and returns the result. What fails leaves nothing behind, and what stands is not touched.
pub fn add(sandbox: &Sandbox, config: &AddConfig) -> Result<Vec<u8>, Failure> {
    if let Some(previous) = &config.previous {
        return add_chained(sandbox, config, previous);
    }
    let network = &config.network;
    let key = invocation::key(&network.name, &sandbox.target);
    let netns = Netns::open(sandbox)?;
    // It stays in the host's namespace when this thread leaves that.
    let host = Socket::open(Family::Route).map_err(CniError::from)?;
    let request = reserve(&key, &netns, sandbox, config, None);
    let (client, reservation) = book(&network.socket, &key, &request)?;
    let mut attempt =
        Attempt { key: &key, client, socket: &network.socket, request: &request, host, reservation };
    if attempt.stands(&netns)? {
        let (ifname, netns) = (key.ifname.clone(), netns.path().to_owned());
        return Err(CniError::InterfaceExists { ifname, netns, is_own: true }.into());
    }
    match holds_ports(&attempt.reservation, config).and_then(|()| attempt.make(&netns)) {
        Ok(()) => result::print(
            network.version,
            &attempt.reservation,
            &key.ifname,
            &netns.path().to_string_lossy(),
            &config.dns,
        )
        .map_err(|error| CniError::io("write the result")(error.into()).into()),
        Err(error) => Err(attempt.undo(error)),
    }
}

/// An ADD that has its reservation.
struct Attempt<'a> {
    key: &'a AttachmentKey,
    client: Client,
    socket: &'a Path,
    /// What was reserved by.
    request: &'a Request,
    host: Socket,
    reservation: Reservation,
}

impl Attempt<'_> {
    /// Whether an ADD before this one was completed, and the interface that it made is there. The specification has a
    /// second ADD fail then. One that was broken off before the runtime could hear of it is made anew.
    fn stands(&self, netns: &Netns) -> Result<bool, CniError> {
        let is_there = || Ok(interface::index_of(&self.key.ifname).is_some());
        Ok(self.reservation.committed && netns.inside(is_there)?)
    }

    fn make(&mut self, netns: &Netns) -> Result<(), CniError> {
        let ifname = &self.key.ifname;
        if self.reservation.committed {
            // The container has lost its end, by another name perhaps.
            interface::remove(&mut self.host, &self.reservation.host_ifname)?;
        }
        let host_ifindex = interface::create(&mut self.host, &self.reservation, ifname, netns)?;
        // Before the interface comes up: no packet passes it without the programs.
        programs::attach(&self.reservation, host_ifindex)?;
        interface::configure_host_end(&mut self.host, self.key, &self.reservation, host_ifindex)?;
        netns.enter()?;
        let mut container = Socket::open(Family::Route)?;
        interface::configure_container_end(&mut container, self.key, &self.reservation, ifname)?;
        // Linux before 5.14 tells none; then the container's packets are led to services one by one.
        let netns_cookie = ipamd_api::netns::cookie().ok();
        let commit = Commit { key: self.key.clone(), host_ifindex, netns_cookie };
        match self.commit(Request::Commit(commit))? {
            Reply::Done => {}
            other => return Err(unexpected(&self.client, "a commit", &other).into()),
        }
        // The kernel has been at it while the daemon was; it takes nothing back.
        settle(self.key, &mut self.host, host_ifindex, &mut container, &self.reservation);
        tracing::info!(key = %self.key, host_ifindex, "added");
        Ok(())
    }

    /// Commits. A daemon that is restarted in the midst of the ADD is waited for, and goes on where the last one stopped.
    fn commit(&mut self, commit: Request) -> Result<Reply, CniError> {
        match self.client.call(commit.clone()) {
            Err(error @ ClientError::Exchange { .. }) if error.is_passing() => {
                tracing::info!(key = %self.key, %error, "committing to the next daemon");
                let (client, again) = book(self.socket, self.key, self.request).map_err(|it| it.error)?;
                self.client = client;
                if (Reservation { committed: false, ..again }) != self.reservation {
                    let restarted = "the Cambric daemon was restarted in the midst of the ADD, and reserves something else now";
                    return Err(CniError::TryAgainLater(restarted.to_owned()));
                }
                Ok(self.client.call(commit)?)
            }
            answer => Ok(answer?),
        }
    }

    /// Takes back all that this ADD and any before it did; what that meets goes into the details.
    fn undo(mut self, error: CniError) -> Failure {
        let mut details = Vec::new();
        if let Err(error) = interface::remove(&mut self.host, &self.reservation.host_ifname) {
            details.push(error.to_string());
        }
        details.extend(programs::unpin(&self.reservation));
        let mut failure = undo_reservation(Some(&mut self.client), self.socket, self.key, error);
        details.append(&mut failure.details);
        Failure { details, ..failure }
    }
}

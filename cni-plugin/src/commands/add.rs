//! ADD: reserves addresses, makes the interface, and commits it.

use std::path::Path;

use ipamd_api::{
    AttachmentKey, Client, ClientError, Reply, Request,
    wire::{Chained, Commit, Reservation, Reserve},
};

use super::add_chained::add_chained;
use crate::{
    config::AddConfig,
    daemon::{self, unexpected},
    environment::Sandbox,
    error::{CniError, Failure},
    expectation::Expectation,
    interface, invocation,
    netlink::Netlink,
    netns::Netns,
    observe, programs, record, result,
};

/// The least MTU that IPv6 works with, in bytes.
const MIN_IPV6_MTU: u32 = 1280;

/// Makes the attachment, or finds it made, and returns the result. What fails leaves nothing behind.
pub fn add(sandbox: &Sandbox, config: &AddConfig) -> Result<Vec<u8>, Failure> {
    if let Some(previous) = &config.previous {
        return add_chained(sandbox, config, previous);
    }
    let network = &config.network;
    let key = invocation::key(&network.name, &sandbox.target);
    let netns = Netns::open(sandbox)?;
    let mut client = Client::connect(&network.socket).map_err(CniError::from)?;
    daemon::forget_released(&network.socket, &key);
    client.send(reserve(&key, &netns, sandbox, config, None)).map_err(CniError::from)?;
    // Opened while the daemon reserves; it stays in the host's namespace when this thread leaves that.
    let host = Netlink::open();
    let reserved = client.receive().and_then(|reply| match reply {
        Reply::Reservation(reservation) => Ok(*reservation),
        other => Err(unexpected(&client, "a reservation", &other)),
    });
    let mut attempt = match (reserved, host) {
        (Ok(reservation), Ok(host)) => {
            Attempt { key: &key, client, socket: &network.socket, host, reservation }
        }
        (Err(error @ ClientError::Refused(_)), _) => return Err(CniError::from(error).into()),
        // Nobody knows whether the daemon has reserved.
        (Err(error), _) => return Err(undo_reservation(&mut client, &network.socket, &key, error.into())),
        (_, Err(error)) => return Err(undo_reservation(&mut client, &network.socket, &key, error.into())),
    };
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

/// What the daemon is asked for first.
pub(super) fn reserve(
    key: &AttachmentKey,
    netns: &Netns,
    sandbox: &Sandbox,
    config: &AddConfig,
    chained: Option<Chained>,
) -> Request {
    Request::Reserve(Box::new(Reserve {
        key: key.clone(),
        netns: netns.path().to_owned(),
        netns_id: netns.id(),
        addresses: config.addresses.clone(),
        mac: config.mac,
        mtu: config.mtu,
        pod: sandbox.pod.clone(),
        labels: config.labels.clone(),
        port_mappings: config.port_mappings.clone(),
        chained,
    }))
}

/// A daemon that does not know of mappings yet passes over them; nobody should believe a port mapped that is not.
pub(super) fn holds_ports(reservation: &Reservation, config: &AddConfig) -> Result<(), CniError> {
    match record::port_faults(Some(reservation), &config.port_mappings).into_iter().next() {
        None => Ok(()),
        Some(fault) => {
            Err(CniError::Daemon(format!("{fault}: the daemon is older than the plugin; restart it")))
        }
    }
}

/// An ADD that has its reservation.
struct Attempt<'a> {
    key: &'a AttachmentKey,
    client: Client,
    socket: &'a Path,
    host: Netlink,
    reservation: Reservation,
}

impl Attempt<'_> {
    fn make(&mut self, netns: &Netns) -> Result<(), CniError> {
        let ifname = &self.key.ifname;
        if self.reservation.mtu < MIN_IPV6_MTU
            && self.reservation.addresses.iter().any(|assigned| assigned.address.is_ipv6())
        {
            return Err(CniError::InvalidConfig {
                field: "mtu".to_owned(),
                wanted: format!("must be at least {MIN_IPV6_MTU} where IPv6 addresses are assigned"),
                value: self.reservation.mtu.to_string(),
            });
        }
        if self.reservation.committed {
            if self.stands(netns)? {
                tracing::info!(key = %self.key, "it stands already");
                return Ok(());
            }
            // Its pair goes now, in case it is broken in a way that its name does not show.
            interface::remove(&mut self.host, &self.reservation.host_ifname)?;
        }
        let host_ifindex = interface::create(&mut self.host, &self.reservation, ifname, netns)?;
        // Before the interface comes up: no packet passes it without the programs.
        programs::attach(&self.reservation, host_ifindex)?;
        interface::configure_host_end(&mut self.host, self.key, &self.reservation, host_ifindex)?;
        netns.enter()?;
        interface::configure_container_end(&mut Netlink::open()?, self.key, &self.reservation, ifname)?;
        // Linux before 5.14 tells none; then the container's packets are led to services one by one.
        let netns_cookie = ipamd_api::netns::cookie().ok();
        let commit = Commit { key: self.key.clone(), host_ifindex, netns_cookie };
        match self.client.call(Request::Commit(commit))? {
            Reply::Done => {}
            other => return Err(unexpected(&self.client, "a commit", &other).into()),
        }
        tracing::info!(key = %self.key, host_ifindex, "added");
        Ok(())
    }

    /// Whether the attachment is all there, by what CHECK looks at.
    fn stands(&mut self, netns: &Netns) -> Result<bool, CniError> {
        let expected = Expectation::of(&self.reservation, &self.key.ifname);
        let Some(host) = observe::end(&mut self.host, &expected.host_ifname)? else { return Ok(false) };
        let container = netns.inside(|| observe::end(&mut Netlink::open()?, &self.key.ifname))?;
        let mut faults = expected.faults(Some(&host), container.as_ref());
        faults.extend(programs::faults(&self.reservation, host.index));
        if !faults.is_empty() {
            tracing::info!(key = %self.key, ?faults, "making it anew");
        }
        Ok(faults.is_empty())
    }

    /// Takes back all that this ADD and any before it did; what that meets goes into the details.
    fn undo(mut self, error: CniError) -> Failure {
        let mut details = Vec::new();
        if let Err(error) = interface::remove(&mut self.host, &self.reservation.host_ifname) {
            details.push(error.to_string());
        }
        details.extend(programs::unpin(&self.reservation));
        let mut failure = undo_reservation(&mut self.client, self.socket, self.key, error);
        details.append(&mut failure.details);
        Failure { details, ..failure }
    }
}

/// Gives the reservation back, or leaves the daemon a note to do so.
pub(super) fn undo_reservation(
    client: &mut Client,
    socket: &Path,
    key: &AttachmentKey,
    error: CniError,
) -> Failure {
    tracing::error!(%key, %error, "add failed");
    let mut failure = Failure::from(error);
    // The connection may be what broke; a new one may work.
    let released =
        daemon::release(client, key).or_else(|_| daemon::release(&mut Client::connect(socket)?, key));
    if let Err(error) = released {
        failure.details.push(format!("the addresses are not given back yet: {error}"));
        if let Err(error) = daemon::leave_released(socket, key) {
            failure.details.push(error.to_string());
        }
    }
    failure
}

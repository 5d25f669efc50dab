//! What every ADD begins with: the daemon reserves, and takes it back if the ADD fails.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use ipamd_api::{
    AttachmentKey, Client, ClientError, Reply, Request,
    wire::{Chained, Reservation, Reserve},
};

use crate::{
    config::AddConfig,
    daemon::{self, patiently, unexpected},
    environment::Sandbox,
    error::{CniError, Failure},
    netns::Netns,
    record,
};

/// How long the daemon may take to take back a reservation. One that hangs has cost the ADD its time already, and finds a note
/// when it goes on.
const UNDO_PATIENCE: Duration = Duration::from_secs(3);

/// Has the daemon reserve, and waits for it while it is being restarted. The attachment is this ADD's until the connection
/// ends.
pub(super) fn book(
    socket: &Path,
    key: &AttachmentKey,
    request: &Request,
) -> Result<(Client, Reservation), Failure> {
    // Whether it may have reserved without this plugin's hearing of it.
    let mut unheard = false;
    let booked = patiently(&Instant::now(), || {
        let mut client = Client::connect(socket)?;
        daemon::forget_released(socket, key);
        let reply = client.call(request.clone());
        unheard |= !matches!(reply, Ok(_) | Err(ClientError::Refused(_)));
        match reply? {
            Reply::Reservation(reservation) => Ok((client, *reservation)),
            other => {
                unheard = true;
                Err(unexpected(&client, "a reservation", &other))
            }
        }
    });
    booked.map_err(|error| match error {
        // Then nothing is reserved, or what stands is not this ADD's.
        ClientError::Refused(_) => CniError::from(error).into(),
        _ if unheard => undo_reservation(None, socket, key, error.into()),
        _ => CniError::from(error).into(),
    })
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

/// Gives the reservation back, or leaves the daemon a note to do so.
pub(super) fn undo_reservation(
    client: Option<&mut Client>,
    socket: &Path,
    key: &AttachmentKey,
    error: CniError,
) -> Failure {
    tracing::error!(%key, %error, "add failed");
    let mut failure = Failure::from(error);
    let release = |client: &mut Client| {
        client.wait_at_most(UNDO_PATIENCE);
        daemon::release(client, key)
    };
    let by_new_one = || release(&mut Client::connect(socket)?);
    let released = match client {
        // The connection may be what broke; a new one may work.
        Some(client) => release(client).or_else(|_| by_new_one()),
        None => by_new_one(),
    };
    if let Err(error) = released {
        failure.details.push(format!("the addresses are not given back yet: {error}"));
        if let Err(error) = daemon::leave_released(socket, key) {
            failure.details.push(error.to_string());
        }
    }
    failure
}

//! DEL: removes an attachment, whatever is left of it, with the daemon or without.

use std::{collections::BTreeSet, path::Path};

use ipamd_api::{AttachmentKey, Client, ClientError, Reply, Request};
use ipamd_netlink::{Family, Socket};

use crate::{
    config::del::DelConfig,
    daemon::{self, unexpected},
    environment::Target,
    interface, invocation,
};

/// Removes the attachment. Nothing makes it fail: what cannot be done now is left to the daemon and logged.
pub fn del(target: &Target, config: &DelConfig) {
    let keys = match &config.name {
        Some(name) => BTreeSet::from([invocation::key(name, target)]),
        None => whatever_their_network(target, &config.socket),
    };
    for key in &keys {
        remove(key, &config.socket);
    }
}

fn remove(key: &AttachmentKey, socket: &Path) {
    if let Some(fault) = key.fault() {
        // A note would ask the daemon for what it can never do.
        tracing::warn!(%key, "there is nothing to delete, for no ADD takes this: {fault}");
        return;
    }
    let released = Client::connect(socket).and_then(|mut client| daemon::release(&mut client, key));
    if let Err(error) = &released {
        tracing::warn!(%key, %error, "the daemon could not release the attachment; leaving it a note");
        if let Err(error) = daemon::leave_released(socket, key) {
            tracing::error!(%key, %error, "the daemon will find the leftovers by itself");
        }
    }
    // The daemon removes the interface of what it knows; this is for what it does not, or when it is away.
    let name = key.host_ifname();
    if interface::is_own(&name)
        && let Err(error) =
            Socket::open(Family::Route).and_then(|mut host| interface::remove(&mut host, &name))
    {
        tracing::error!(%key, %error, "the interface stays until the daemon removes it");
    }
    tracing::info!(%key, "deleted");
}

/// The attachments of the container with an interface of that name, as the daemon records them and as the interfaces' aliases
/// tell: a configuration whose name cannot be read names none.
fn whatever_their_network(target: &Target, socket: &Path) -> BTreeSet<AttachmentKey> {
    let recorded = || {
        let mut client = Client::connect(socket)?;
        match client.call(Request::Endpoints)? {
            Reply::Endpoints(endpoints) => Ok(endpoints),
            other => Err::<_, ClientError>(unexpected(&client, "a list of endpoints", &other)),
        }
    };
    let mut keys = BTreeSet::new();
    match recorded() {
        Ok(endpoints) => keys.extend(endpoints.into_iter().map(|endpoint| endpoint.key)),
        Err(error) => tracing::warn!(%error, "the daemon does not tell which attachments the container has"),
    }
    match Socket::open(Family::Route).and_then(|mut host| interface::keys(&mut host)) {
        Ok(named) => keys.extend(named),
        Err(error) => tracing::error!(%error, "cannot see which interfaces the container has"),
    }
    keys.retain(|key| key.container_id == target.container_id && key.ifname == target.ifname);
    tracing::warn!(count = keys.len(), "the configuration names no network; deleting what the container has");
    keys
}

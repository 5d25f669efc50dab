//! DEL: removes an attachment, whatever is left of it, with the daemon or without.

use ipamd_api::Client;

use crate::{config::Network, daemon, environment::Target, interface, invocation, netlink::Netlink};

/// Removes the attachment. Nothing makes it fail: what cannot be done now is left to the daemon and logged.
pub fn del(target: &Target, network: &Network) {
    let key = invocation::key(network, target);
    let released = Client::connect(&network.socket).and_then(|mut client| daemon::release(&mut client, &key));
    if let Err(error) = &released {
        tracing::warn!(%key, %error, "the daemon could not release the attachment; leaving it a note");
        if let Err(error) = daemon::leave_released(&network.socket, &key) {
            tracing::error!(%key, %error, "the daemon will find the leftovers by itself");
        }
    }
    // The daemon removes the interface of what it knows; this is for what it does not, or when it is away.
    let name = key.host_ifname();
    if interface::is_own(&name)
        && let Err(error) = Netlink::open().and_then(|mut host| interface::remove(&mut host, &name))
    {
        tracing::error!(%key, %error, "the interface stays until the daemon removes it");
    }
    tracing::info!(%key, "deleted");
}

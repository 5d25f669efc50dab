//! GC: removes every attachment of the network that the runtime does not list.

use ipamd_api::{Client, Reply, Request};

use crate::{config::gc::GcConfig, daemon::unexpected, error::CniError};

/// Has the daemon release what is not listed.
pub fn gc(config: GcConfig) -> Result<(), CniError> {
    let mut client = Client::connect(&config.network.socket)?;
    match client.call(Request::Gc { network: config.network.name, valid: config.valid })? {
        Reply::Collected { released } => {
            tracing::info!(released, "collected");
            Ok(())
        }
        other => Err(unexpected(&client, "a garbage collection", &other).into()),
    }
}

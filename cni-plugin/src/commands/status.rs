//! STATUS: whether ADD can be served now.

use ipamd_api::{Client, Reply, Request};

use crate::{config::Network, daemon::unexpected, error::CniError};

/// Fails with all that keeps ADD from being served.
pub fn status(network: &Network) -> Result<(), CniError> {
    let ask = || {
        let mut client = Client::connect(&network.socket)?;
        match client.call(Request::Status)? {
            Reply::Status(status) => Ok(status),
            other => Err(unexpected(&client, "a status request", &other)),
        }
    };
    match ask() {
        Ok(status) if status.ready => Ok(()),
        Ok(status) if status.problems.is_empty() => {
            Err(CniError::NotAvailable(vec!["its daemon is not ready".to_owned()]))
        }
        Ok(status) => Err(CniError::NotAvailable(status.problems)),
        Err(error) => Err(CniError::NotAvailable(vec![error.to_string()])),
    }
}

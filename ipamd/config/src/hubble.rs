//! Who may see the flows of this node by Hubble's API.

use std::{net::SocketAddr, path::PathBuf};

use crate::{error::ConfigError, options::Options, values::HubbleFlows};

/// How many flows are kept unless the configuration says otherwise: some megabytes.
const FLOWS: usize = 4_096;

/// What of Hubble's API is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hubble {
    /// The unix socket that it is served on.
    pub socket: Option<PathBuf>,
    /// Where clients beyond the node are served.
    pub beyond: Option<Beyond>,
    /// How many of the last flows are kept.
    pub flows: usize,
}

/// How clients beyond the node are served: by TLS, and only if they have a certificate of an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// Where it is listened.
    pub address: SocketAddr,
    /// The daemon's certificate, in PEM.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities of clients.
    pub client_ca: PathBuf,
}

impl Hubble {
    /// Takes the keys that are about it.
    pub(super) fn take(options: &mut Options) -> Result<Self, ConfigError> {
        let files = [
            ("hubble-tls-certificate", options.hubble_tls_certificate.take()),
            ("hubble-tls-key", options.hubble_tls_key.take()),
            ("hubble-tls-client-ca", options.hubble_tls_client_ca.take()),
        ];
        let missing = files.iter().find(|(_, file)| file.is_none()).map(|(key, _)| *key);
        let beyond = match (options.hubble_listen, missing, files.map(|(_, file)| file)) {
            (Some(address), None, [Some(certificate), Some(key), Some(client_ca)]) => {
                Some(Beyond { address, certificate, key, client_ca })
            }
            (Some(_), missing, _) => {
                return Err(ConfigError::HubbleWithoutTls { missing: missing.unwrap_or_default() });
            }
            (None, ..) => None,
        };
        let socket = options.hubble_socket.take();
        if let Some(path) = socket.clone().filter(|path| path.is_relative()) {
            return Err(ConfigError::Relative { key: "hubble-socket", path });
        }
        let flows = options.hubble_flows.take().map_or(FLOWS, |HubbleFlows(flows)| flows as usize);
        Ok(Self { socket, beyond, flows })
    }

    /// Whether anybody is served.
    pub fn is_on(&self) -> bool {
        self.socket.is_some() || self.beyond.is_some()
    }
}

//! The configuration of a DEL, of which nothing is wrong enough to keep an interface in being.

use std::path::PathBuf;

use ipamd_api::DEFAULT_SOCKET;

use super::Network;
use crate::document::Document;
use crate::{environment::is_identifier, logging::Logging, version::CniVersion};

/// What a DEL takes from it, as far as it can be read.
#[derive(Clone, Debug, PartialEq)]
pub struct DelConfig {
    /// `cniVersion`, if it is one of ours.
    pub version: Option<CniVersion>,
    /// `name`, if it is one that ADD takes. Without it, the container and the interface's name tell which attachments are
    /// meant: a container has one interface of a name, whatever its network.
    pub name: Option<String>,
    /// `socket`: where the daemon listens.
    pub socket: PathBuf,
    /// `logLevel` and `logFile`.
    pub logging: Logging,
}

impl DelConfig {
    /// What undoes an ADD of this network.
    pub fn of(network: &Network) -> Self {
        Self {
            version: Some(network.version),
            name: Some(network.name.clone()),
            socket: network.socket.clone(),
            logging: network.logging.clone(),
        }
    }

    /// Reads it; there may be none that can be decoded.
    pub fn read(document: Option<&Document>) -> Self {
        let text = |name: &str| document?.field(name).text().ok().flatten().map(str::to_owned);
        let socket = text("socket").filter(|path| path.starts_with('/'));
        Self {
            version: document.and_then(|document| document.version().ok()),
            name: text("name").filter(|name| is_identifier(name)),
            socket: socket.unwrap_or_else(|| DEFAULT_SOCKET.to_owned()).into(),
            logging: document.and_then(|document| Logging::parse(document).ok()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(config: &Value) -> DelConfig {
        DelConfig::read(Some(&Document::decode(config.to_string().as_bytes()).unwrap()))
    }

    #[test]
    fn whatever_is_wrong_is_passed_over() {
        let config = read(&json!({
            "cniVersion": "1.0.0", "name": "net", "socket": 7, "logLevel": [], "mtu": "x", "prevResult": "junk", "ipam": 1,
        }));
        assert_eq!((config.version, config.name.as_deref()), (Some(CniVersion::V1_0_0), Some("net")));
        assert_eq!(config.socket, PathBuf::from(DEFAULT_SOCKET));
        for version in [json!("9.9.9"), json!(1), json!([])] {
            let config = read(&json!({"cniVersion": version, "name": "net", "socket": "/run/x"}));
            assert_eq!((config.version, config.name.as_deref()), (None, Some("net")));
            assert_eq!(config.socket, PathBuf::from("/run/x"));
        }
    }

    #[test]
    fn a_name_that_no_add_takes_is_no_name() {
        for name in [json!(null), json!(""), json!("../x"), json!(7), json!("x".repeat(256))] {
            assert_eq!(read(&json!({"name": name})).name, None, "{name}");
        }
        assert_eq!(DelConfig::read(None).name, None);
    }
}

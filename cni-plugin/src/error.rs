//! Every way the plugin fails, with the specification's code for it, and the JSON that tells the runtime.

use std::{io, path::PathBuf};

use ipamd_api::{ApiError, ClientError, ErrorKind};
use ipamd_netlink::NetlinkError;
use serde::Serialize;

use crate::{text::message, version::CniVersion};

/// Why the plugin failed. Codes up to 99 are the specification's, those above 100 are Cambric's own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CniError {
    /// 1: the configuration's version is not one of ours.
    #[error("cniVersion {found:?} is not supported; Cambric supports {}", CniVersion::ALL.map(CniVersion::as_str).join(", "))]
    IncompatibleVersion {
        /// As configured; 0.1.0 where nothing is.
        found: String,
    },
    /// 1: the command is newer than the configuration.
    #[error("cniVersion {found} does not know {command}, which came with {needs}")]
    CommandTooNew {
        /// The command.
        command: &'static str,
        /// The first version that has it.
        needs: CniVersion,
        /// The configuration's.
        found: CniVersion,
    },
    /// 2: a field that asks for what Cambric does not do.
    #[error("{key} = {value} is not supported: {reason}")]
    UnsupportedField {
        /// The field, with the path to it.
        key: String,
        /// What it holds, as JSON.
        value: String,
        /// Why it cannot be served, and what to do.
        reason: &'static str,
    },
    /// 3: CHECK of what is not there at all.
    #[error(
        "nothing is known of {attachment}: the daemon has no record of it, and neither end of its interface exists"
    )]
    ContainerUnknown {
        /// network/container/interface.
        attachment: String,
    },
    /// 4: environment variables, each with what is wrong with it.
    #[error("invalid environment: {}", .0.join("; "))]
    Environment(Vec<String>),
    /// 5: reading or writing failed.
    #[error("cannot {step}: {source}")]
    Io {
        /// What was being done, on what.
        step: String,
        /// The system's reason.
        source: io::Error,
    },
    /// 6: the standard input is not a network configuration in JSON.
    #[error("cannot decode the network configuration on the standard input: {0}")]
    Undecodable(String),
    /// 7: a field of the configuration that is wrong.
    #[error("invalid network configuration: {field} {wanted}, not {value}")]
    InvalidConfig {
        /// The field, with the path to it.
        field: String,
        /// What it must be: a phrase that starts with "must".
        wanted: String,
        /// What it is, as JSON.
        value: String,
    },
    /// 7: a field of the configuration that is missing.
    #[error("invalid network configuration: {field} is missing; it {wanted}")]
    MissingConfig {
        /// The field, with the path to it.
        field: String,
        /// What it must be: a phrase that starts with "must".
        wanted: String,
    },
    /// 7: the configuration's chain is not the one that the daemon is configured for.
    #[error("{0}")]
    WrongPlace(String),
    /// 11: the daemon is away, or cannot serve this now.
    #[error("{0}")]
    TryAgainLater(String),
    /// 50: STATUS finds that ADD would fail.
    #[error("Cambric cannot serve ADD now: {}", first(.0))]
    NotAvailable(Vec<String>),
    /// 51: STATUS finds that containers which run may not be reached, or reach nobody.
    #[error("Cambric's containers have limited connectivity: {}", first(.0))]
    LimitedConnectivity(Vec<String>),
    /// 101: no address is left.
    #[error("{0}")]
    PoolExhausted(String),
    /// 102: the requested address cannot be had from any pool.
    #[error("{0}")]
    AddressUnavailable(String),
    /// 103: the requested address belongs to another attachment.
    #[error("{0}")]
    AddressInUse(String),
    /// 104: CHECK found differences.
    #[error("{attachment} is not as it was set up ({} found): {}", faults.len(), faults.first().map_or("", String::as_str))]
    Differs {
        /// network/container/interface.
        attachment: String,
        /// Every difference, a sentence each.
        faults: Vec<String>,
    },
    /// 105: the kernel refused a step.
    #[error("{0}")]
    Kernel(String),
    /// 106: the daemon refused for a reason that needs a person.
    #[error("{0}")]
    Daemon(String),
    /// 107: the container has an interface of that name already.
    #[error("CNI_IFNAME {ifname:?}: the container's namespace {} has an interface of that name already", netns.display())]
    InterfaceExists {
        /// `CNI_IFNAME`.
        ifname: String,
        /// `CNI_NETNS`.
        netns: PathBuf,
        /// Whether an ADD has made it that was completed.
        is_own: bool,
    },
    /// 107: an ADD of the same container and interface name has made another interface, which stands.
    #[error("{0}")]
    AttachmentExists(String),
    /// 108: a port of the node that leads to another attachment.
    #[error("{0}")]
    PortInUse(String),
    /// 999: a mistake in the plugin itself.
    #[error("the plugin has failed by a mistake of its own: {0}")]
    Internal(String),
}

fn first(sentences: &[String]) -> &str {
    sentences.first().map_or("", String::as_str)
}

impl CniError {
    /// The number in the error object's `code`.
    pub fn code(&self) -> u32 {
        match self {
            Self::IncompatibleVersion { .. } | Self::CommandTooNew { .. } => 1,
            Self::UnsupportedField { .. } => 2,
            Self::ContainerUnknown { .. } => 3,
            Self::Environment(_) => 4,
            Self::Io { .. } => 5,
            Self::Undecodable(_) => 6,
            Self::InvalidConfig { .. } | Self::MissingConfig { .. } | Self::WrongPlace(_) => 7,
            Self::TryAgainLater(_) => 11,
            Self::NotAvailable(_) => 50,
            Self::LimitedConnectivity(_) => 51,
            Self::PoolExhausted(_) => 101,
            Self::AddressUnavailable(_) => 102,
            Self::AddressInUse(_) => 103,
            Self::Differs { .. } => 104,
            Self::Kernel(_) => 105,
            Self::Daemon(_) => 106,
            Self::InterfaceExists { .. } | Self::AttachmentExists(_) => 107,
            Self::PortInUse(_) => 108,
            Self::Internal(_) => 999,
        }
    }

    /// What else helps whoever reads the error, a sentence each: all of what was found, why, and what to do.
    fn advice(&self) -> Vec<String> {
        let text = match self {
            Self::Differs { faults, .. } => return faults.clone(),
            Self::NotAvailable(reasons) | Self::LimitedConnectivity(reasons) => {
                return reasons.iter().cloned().chain(["cambricctl status tells more".to_owned()]).collect();
            }
            Self::IncompatibleVersion { .. } => "write one of these versions into the conflist",
            Self::CommandTooNew { .. } => {
                "raise the cniVersion of the conflist, or list the newer one in its cniVersions"
            }
            Self::UnsupportedField { .. }
            | Self::InvalidConfig { .. }
            | Self::MissingConfig { .. }
            | Self::Undecodable(_) => {
                "the network configuration comes from the runtime's conflist; correct it there"
            }
            Self::WrongPlace(_) => {
                "the conflist and the key chained of the daemon's configuration must agree"
            }
            Self::ContainerUnknown { .. } => {
                "there is nothing to delete either; the runtime may make the container anew"
            }
            Self::Environment(_) => "the runtime sets these variables; its log says why",
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => "the plugin must run as root",
                io::ErrorKind::StorageFull => "free space on that file system",
                _ => return Vec::new(),
            },
            Self::TryAgainLater(_) => {
                "systemctl status cambric-ipamd, or the log of its pod on this node, says why the daemon is away"
            }
            Self::PoolExhausted(_) => {
                "cambricctl ipam list shows who has the addresses; delete containers, or give the node another pool"
            }
            Self::AddressUnavailable(_) => "cambricctl ipam list shows the pools",
            Self::AddressInUse(_) => "cambricctl ipam show ADDRESS shows who has it",
            Self::Kernel(_) => "cambricctl preflight says what the machine lacks",
            Self::Daemon(_) => {
                "the daemon's log tells more: journalctl -u cambric-ipamd, or the log of its pod on this node"
            }
            Self::InterfaceExists { is_own: true, .. } | Self::AttachmentExists(_) => {
                "an ADD has made it, and it was not touched; DEL comes before another ADD"
            }
            Self::InterfaceExists { is_own: false, .. } => {
                "it is not Cambric's, and was not touched; remove it, or ask for another name"
            }
            Self::PortInUse(_) => "cambricctl endpoint list shows the containers of the node",
            Self::Internal(_) => {
                "what was begun is undone by DEL; please report it with the plugin's version"
            }
        };
        vec![text.to_owned()]
    }

    /// A closure for `map_err` on I/O.
    pub fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { step: step.into(), source }
    }
}

impl From<NetlinkError> for CniError {
    fn from(error: NetlinkError) -> Self {
        Self::Kernel(error.to_string())
    }
}

impl From<bpf::attach::AttachError> for CniError {
    fn from(error: bpf::attach::AttachError) -> Self {
        Self::Kernel(error.to_string())
    }
}

impl From<ClientError> for CniError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(ApiError { kind, message }) => match kind {
                ErrorKind::PoolExhausted => Self::PoolExhausted(message),
                ErrorKind::AddressUnavailable => Self::AddressUnavailable(message),
                ErrorKind::WrongPlace => Self::WrongPlace(message),
                ErrorKind::InUse => Self::AddressInUse(message),
                ErrorKind::PortInUse => Self::PortInUse(message),
                ErrorKind::TryAgainLater => Self::TryAgainLater(message),
                ErrorKind::Exists => Self::AttachmentExists(message),
                _ => Self::Daemon(message),
            },
            ClientError::Connect { .. } | ClientError::Exchange { .. } => {
                Self::TryAgainLater(error.to_string())
            }
            _ => Self::Daemon(error.to_string()),
        }
    }
}

/// An error on its way to the runtime: with what undoing met, and in the configuration's version.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: CniError,
    /// What else the reader should know, a sentence each.
    pub details: Vec<String>,
    /// The configuration's version where it is known and ours.
    pub version: Option<CniVersion>,
}

impl From<CniError> for Failure {
    fn from(error: CniError) -> Self {
        Self { details: error.advice(), error, version: None }
    }
}

impl Failure {
    /// The same failure, told in `version`.
    #[must_use]
    pub fn in_version(self, version: Option<CniVersion>) -> Self {
        Self { version, ..self }
    }

    /// The error object of the specification. Where the configuration's version is not known, it carries the newest.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct ErrorObject<'a> {
            cni_version: &'a str,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        // Both name what others have written.
        let (told, details) = (self.error.to_string(), self.details.join("; "));
        let object = ErrorObject {
            cni_version: self.version.unwrap_or(CniVersion::NEWEST).as_str(),
            code: self.error.code(),
            msg: &message(&told),
            details: &message(&details),
        };
        // Strings and numbers always serialize; the constant only spares an unwrap.
        serde_json::to_string(&object)
            .unwrap_or_else(|_| r#"{"cniVersion":"1.1.0","code":5,"msg":"cannot write JSON"}"#.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_object_has_version_code_sentence_and_details() {
        let failure = Failure {
            error: CniError::InvalidConfig {
                field: "mtu".into(),
                wanted: "must be a number".into(),
                value: "\"x\"".into(),
            },
            details: vec!["one".into(), "two".into()],
            version: Some(CniVersion::V0_4_0),
        };
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&failure.to_json()).unwrap(),
            serde_json::json!({
                "cniVersion": "0.4.0",
                "code": 7,
                "msg": "invalid network configuration: mtu must be a number, not \"x\"",
                "details": "one; two",
            })
        );
    }

    #[test]
    fn without_a_known_version_the_newest_speaks_and_empty_details_are_left_out() {
        let mut failure = Failure::from(CniError::TryAgainLater("later".into()));
        failure.details.clear();
        assert_eq!(failure.to_json(), r#"{"cniVersion":"1.1.0","code":11,"msg":"later"}"#);
    }

    #[test]
    fn an_error_says_what_to_do() {
        for (error, said) in [
            (CniError::TryAgainLater(String::new()), "systemctl status cambric-ipamd"),
            (CniError::PoolExhausted(String::new()), "cambricctl ipam list"),
            (CniError::Kernel(String::new()), "cambricctl preflight"),
            (CniError::Undecodable(String::new()), "conflist"),
            (CniError::NotAvailable(vec!["one".into(), "two".into()]), "one; two; cambricctl status"),
            (CniError::LimitedConnectivity(vec!["one".into(), "two".into()]), "one; two; cambricctl status"),
            (CniError::io("write")(io::ErrorKind::PermissionDenied.into()), "as root"),
        ] {
            let failure = Failure::from(error);
            assert!(failure.details.join("; ").contains(said), "{failure:?}");
        }
        let many = CniError::NotAvailable(vec!["one".into(), "two".into()]).to_string();
        assert_eq!(many, "Cambric cannot serve ADD now: one", "the rest is in the details");
    }

    #[test]
    fn a_failed_check_lists_every_difference_in_the_details() {
        let failure = Failure::from(CniError::Differs {
            attachment: "net/c/eth0".into(),
            faults: vec!["eth0 is down".into(), "no default route".into()],
        });
        assert_eq!(failure.details, ["eth0 is down", "no default route"]);
        assert_eq!(failure.error.to_string(), "net/c/eth0 is not as it was set up (2 found): eth0 is down");
    }

    #[test]
    fn the_daemons_refusals_have_codes_of_their_own() {
        let code = |kind| CniError::from(ClientError::Refused(ApiError::new(kind, "no"))).code();
        assert_eq!(code(ErrorKind::PoolExhausted), 101);
        assert_eq!(code(ErrorKind::AddressUnavailable), 102);
        assert_eq!(code(ErrorKind::InUse), 103);
        assert_eq!(code(ErrorKind::PortInUse), 108);
        assert_eq!(code(ErrorKind::Exists), 107);
        assert_eq!(code(ErrorKind::TryAgainLater), 11);
        assert_eq!(code(ErrorKind::Internal), 106);
        let away = ClientError::Connect { socket: "/x".into(), source: io::ErrorKind::NotFound.into() };
        assert_eq!(CniError::from(away).code(), 11);
    }
}

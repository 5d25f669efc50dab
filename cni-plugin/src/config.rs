//! The network configuration from the standard input. What has been parsed is valid.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use ipamd_api::{DEFAULT_SOCKET, MTU, MacAddr, PortMapping};
use serde_json::{Map, Value};

pub mod del;
pub mod dns;
pub mod gc;
#[cfg(test)]
mod go;
mod labels;
mod port_mappings;
#[cfg(test)]
mod recorded;
mod runtime;

use crate::document::Document;
use crate::{
    cni_args::Requested,
    environment::{Command, IDENTIFIER, is_identifier},
    error::CniError,
    logging::Logging,
    prev_result::PrevResult,
    result::Dns,
    version::CniVersion,
};

/// The largest configuration that is read, in bytes. A GC lists every attachment of a node, and libcni writes the list twice:
/// some 200 bytes each.
pub const MAX_CONFIG: u64 = 16 << 20;

/// What every command takes from the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// `cniVersion`.
    pub version: CniVersion,
    /// `name`.
    pub name: String,
    /// `socket`: where the daemon listens.
    pub socket: PathBuf,
    /// `logLevel` and `logFile`.
    pub logging: Logging,
}

impl Network {
    /// The network, or what is wrong with its configuration.
    pub fn parse(document: &Document, command: Command) -> Result<Self, CniError> {
        let version = document.version()?;
        if version < command.since() {
            return Err(CniError::CommandTooNew {
                command: command.as_str(),
                needs: command.since(),
                found: version,
            });
        }
        let name = document.field("name");
        let name = match name.text()? {
            Some(text) if is_identifier(text) => text.to_owned(),
            Some(_) => return Err(name.must(IDENTIFIER)),
            None => return Err(name.must("must be the network's name")),
        };
        let socket = match document.field("socket").text()? {
            Some(path) if path.starts_with('/') => path.into(),
            Some(_) => return Err(document.field("socket").must("must be an absolute path")),
            None => DEFAULT_SOCKET.into(),
        };
        Ok(Self { version, name, socket, logging: Logging::parse(document)? })
    }
}

/// The configuration of an ADD.
#[derive(Clone, Debug, PartialEq)]
pub struct AddConfig {
    /// What every command takes.
    pub network: Network,
    /// `mtu`.
    pub mtu: Option<u32>,
    /// `args.cni.labels`.
    pub labels: BTreeMap<String, String>,
    /// The addresses that the runtime asks for: at most one of each family, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The Ethernet address that the runtime asks for.
    pub mac: Option<MacAddr>,
    /// The `portMappings` capability.
    pub port_mappings: Vec<PortMapping>,
    /// `dns` and the capability of that name, passed through into the result.
    pub dns: Dns,
    /// `prevResult`, if other plugins come before this one in the chain.
    pub previous: Option<Previous>,
}

/// What the plugins before this one have made.
#[derive(Clone, Debug, PartialEq)]
pub struct Previous {
    /// As it is read.
    pub result: PrevResult,
    /// As it was given: the result of this plugin too.
    pub given: Value,
}

impl AddConfig {
    /// The configuration, with what `CNI_ARGS` asks for; or what is wrong with it.
    pub fn parse(document: &Document, requested: &Requested) -> Result<Self, CniError> {
        let config = Self::of(document, Command::Add)?;
        let Some(given) = previous(document)? else {
            return Ok(Self {
                addresses: runtime::addresses(document, &requested.addresses)?,
                mac: runtime::mac(document, requested.mac)?,
                ..config
            });
        };
        // What `CNI_ARGS` and `args` ask for goes to every plugin of the chain, and those before have heard it.
        for of_interface in [
            document.field("mtu"),
            runtime::capability(document, "ips"),
            runtime::capability(document, "mac"),
        ] {
            if !of_interface.is_blank() {
                return Err(of_interface.unsupported(
                    "the plugins before Cambric in the chain make the interface; give it to them",
                ));
            }
        }
        let result = PrevResult::parse(&given, config.network.version)?;
        Ok(Self { previous: Some(Previous { result, given: given.into() }), ..config })
    }

    /// What an ADD would read of it, whatever the command is, but for what `CNI_ARGS` and a `prevResult` say.
    pub fn of(document: &Document, command: Command) -> Result<Self, CniError> {
        let network = Network::parse(document, command)?;
        let ipam = document.field("ipam");
        if !ipam.is_blank() {
            return Err(ipam.unsupported("Cambric's daemon assigns the addresses itself; remove the section"));
        }
        let masquerade = document.field("ipMasq");
        if !masquerade.is_absent() {
            return Err(masquerade.unsupported("masquerade is the daemon's to decide; remove the field"));
        }
        runtime::refuse_unsupported(document)?;
        Ok(Self {
            network,
            mtu: document.field("mtu").number_in(MTU)?,
            labels: labels::parse(document)?,
            addresses: runtime::addresses(document, &[])?,
            mac: runtime::mac(document, None)?,
            port_mappings: port_mappings::parse(document)?,
            dns: runtime::dns(document, dns::parse(&document.field("dns"))?)?,
            previous: None,
        })
    }
}

/// `prevResult`, unless it says nothing. Go's plugins decode it into a map first, and what they read is that map, written
/// again.
fn previous(document: &Document) -> Result<Option<Map<String, Value>>, CniError> {
    let field = document.field("prevResult");
    if field.is_blank() {
        field.object()?;
        return Ok(None);
    }
    field.map()
}

/// The configuration of a CHECK.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckConfig {
    /// What every command takes.
    pub network: Network,
    /// The `portMappings` capability, as ADD had it.
    pub port_mappings: Vec<PortMapping>,
    /// `prevResult`: what the last plugin of the chain returned from ADD.
    pub prev_result: PrevResult,
}

impl CheckConfig {
    /// The configuration, or what is wrong with it. It must be one that ADD takes, and have a `prevResult`.
    pub fn parse(document: &Document) -> Result<Self, CniError> {
        let AddConfig { network, port_mappings, .. } = AddConfig::of(document, Command::Check)?;
        let field = document.field("prevResult");
        let given = field.map()?.ok_or_else(|| field.must("must be the result of the attachment's ADD"))?;
        let prev_result = PrevResult::parse(&given, network.version)?;
        Ok(Self { network, port_mappings, prev_result })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(value: &Value) -> Document {
        Document::decode(value.to_string().as_bytes()).unwrap()
    }

    fn with(extra: &Value) -> Document {
        let mut config = json!({"cniVersion": "1.1.0", "name": "net", "type": "cambric"});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        document(&config)
    }

    fn add(document: &Document) -> Result<AddConfig, CniError> {
        AddConfig::parse(document, &Requested::default())
    }

    fn add_error(extra: &Value) -> CniError {
        AddConfig::parse(&with(extra), &Requested::default()).unwrap_err()
    }

    #[test]
    fn a_full_configuration_is_read() {
        let config = add(&with(&json!({
            "socket": "/run/x.sock", "mtu": 1400, "logLevel": "debug", "unknown": {"is": "ignored"},
            "args": {"cni": {"labels": [{"key": "app", "value": "web"}]}},
            "runtimeConfig": {"ips": ["10.0.0.7/16", "fd00::7"], "mac": "02:00:00:00:00:07", "bandwidth": {"ingressRate": 0},
                "portMappings": [{"hostPort": 8080, "containerPort": 80}]},
            "ipam": {}, "dns": {"nameservers": ["10.0.0.2"], "domain": "d", "search": ["s"], "options": ["o"]},
        })))
        .unwrap();
        assert_eq!(config.network.version, CniVersion::V1_1_0);
        assert_eq!(config.network.name, "net");
        assert_eq!(config.network.socket, PathBuf::from("/run/x.sock"));
        assert_eq!(config.mtu, Some(1400));
        assert_eq!(config.labels, BTreeMap::from([("app".into(), "web".into())]));
        assert_eq!(config.addresses, ["10.0.0.7".parse::<IpAddr>().unwrap(), "fd00::7".parse().unwrap()]);
        assert_eq!(config.mac, Some(MacAddr([2, 0, 0, 0, 0, 7])));
        assert_eq!(
            config.port_mappings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["8080/tcp to 80"]
        );
        assert_eq!(config.dns.nameservers, ["10.0.0.2"]);
    }

    #[test]
    fn a_small_configuration_has_defaults() {
        let config = add(&with(&json!({"mtu": null}))).unwrap();
        assert_eq!(config.network.socket, PathBuf::from(DEFAULT_SOCKET));
        assert_eq!((config.mtu, config.mac, config.addresses.len(), config.labels.len()), (None, None, 0, 0));
        assert_eq!(config.dns, Dns::default());
    }

    #[test]
    fn a_wrong_field_is_named_with_its_value() {
        for (extra, field, value) in [
            (json!({"name": ""}), "name", "\"\""),
            (json!({"name": "../x"}), "name", "\"../x\""),
            (json!({"name": 7}), "name", "7"),
            (json!({"socket": "relative"}), "socket", "\"relative\""),
            (json!({"socket": ["/x"]}), "socket", "[\"/x\"]"),
            (json!({"name": "x".repeat(256)}), "name", &format!("\"{}…", "x".repeat(199))),
            (json!({"mtu": 1279}), "mtu", "1279"),
            (json!({"mtu": 65536}), "mtu", "65536"),
            (json!({"mtu": -1}), "mtu", "-1"),
            (json!({"mtu": 1500.5}), "mtu", "1500.5"),
            (json!({"mtu": "1500"}), "mtu", "\"1500\""),
            (json!({"logLevel": "loud"}), "logLevel", "\"loud\""),
            (json!({"logFile": "x"}), "logFile", "\"x\""),
            (json!({"args": []}), "args", "[]"),
            (json!({"args": {"cni": {"labels": {}}}}), "args.cni.labels", "{}"),
            (json!({"runtimeConfig": 1}), "runtimeConfig", "1"),
            (json!({"runtimeConfig": {"ips": "10.0.0.1"}}), "runtimeConfig.ips", "\"10.0.0.1\""),
            (json!({"runtimeConfig": {"ips": ["10.0.0.256"]}}), "runtimeConfig.ips[0]", "\"10.0.0.256\""),
            (json!({"runtimeConfig": {"ips": ["10.0.0.1/33"]}}), "runtimeConfig.ips[0]", "\"10.0.0.1/33\""),
            (
                json!({"runtimeConfig": {"mac": "01:00:00:00:00:00"}}),
                "runtimeConfig.mac",
                "\"01:00:00:00:00:00\"",
            ),
            (json!({"dns": "x"}), "dns", "\"x\""),
            (json!({"dns": {"search": [1]}}), "dns.search[0]", "1"),
        ] {
            let error = add_error(&extra);
            assert_eq!(error.code(), 7, "{extra}: {error}");
            let text = error.to_string();
            assert!(
                text.contains(&format!(" {field} ")) && text.ends_with(&format!("not {value}")),
                "{extra}: {text}"
            );
        }
    }

    #[test]
    fn what_cambric_does_not_do_is_refused_with_key_and_value() {
        for (extra, key) in [
            (json!({"ipam": {"type": "host-local"}}), "ipam = {\"type\":\"host-local\"}"),
            (json!({"ipMasq": false}), "ipMasq = false"),
            (json!({"IPMasq": true}), "ipMasq = true"),
            (
                json!({"runtimeConfig": {"bandwidth": {"ingressRate": 1}}}),
                "runtimeConfig.bandwidth = {\"ingressRate\":1}",
            ),
            (json!({"prevResult": {"cniVersion": "1.0.0"}, "mtu": 1400}), "mtu = 1400"),
            (
                json!({"prevResult": {"cniVersion": "1.0.0"}, "runtimeConfig": {"ips": ["10.0.0.1"]}}),
                "runtimeConfig.ips = [\"10.0.0.1\"]",
            ),
        ] {
            let error = add_error(&extra);
            assert_eq!(error.code(), 2, "{error}");
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[test]
    fn versions_and_commands_must_fit() {
        for (version, code) in
            [(json!("0.3.2"), 1), (json!("2.0.0"), 1), (json!("v1.0.0"), 1), (json!(1.1), 6), (json!([]), 6)]
        {
            assert_eq!(add_error(&json!({"cniVersion": version})).code(), code, "{version}");
        }
        let missing = add(&document(&json!({"name": "x", "cniVersion": "0.9.0"}))).unwrap_err();
        assert!(
            missing.code() == 1
                && missing.to_string().contains("supports 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"),
            "{missing}"
        );
        let too_new = |version, command| {
            Network::parse(&with(&json!({"cniVersion": version})), command).map_err(|e| e.code())
        };
        assert_eq!(too_new("0.3.1", Command::Check), Err(1));
        assert!(too_new("0.4.0", Command::Check).is_ok());
        assert_eq!(too_new("1.0.0", Command::Gc), Err(1));
        assert_eq!(too_new("1.0.0", Command::Status), Err(1));
        assert!(too_new("1.1.0", Command::Gc).is_ok());
    }

    #[test]
    fn status_refuses_what_add_refuses() {
        let good = json!({"name": "net", "cniVersion": "1.1.0"});
        assert!(AddConfig::of(&document(&good), Command::Status).is_ok());
        for (field, value, code) in [
            ("ipam", json!({"type": "host-local"}), 2),
            ("ipMasq", json!(true), 2),
            ("mtu", json!(5), 7),
            ("dns", json!(5), 7),
            ("args", json!({"cni": {"labels": 5}}), 7),
        ] {
            let mut config = good.clone();
            config[field] = value;
            for command in [Command::Status, Command::Add] {
                let error = AddConfig::of(&document(&config), command).unwrap_err();
                assert_eq!(error.code(), code, "{field}: {error}");
            }
        }
    }

    #[test]
    fn a_configuration_without_a_version_is_of_the_oldest() {
        for config in [
            json!({"name": "net"}),
            json!({"name": "net", "cniVersion": ""}),
            json!({"name": "net", "cniVersion": null}),
        ] {
            assert_eq!(add(&document(&config)).unwrap().network.version, CniVersion::V0_1_0);
        }
        let missing = add(&document(&json!({"cniVersion": "1.0.0"}))).unwrap_err();
        let text = "invalid network configuration: name is missing; it must be the network's name";
        assert_eq!((missing.code(), missing.to_string().as_str()), (7, text));
    }

    #[test]
    fn a_check_needs_a_prev_result() {
        assert_eq!(CheckConfig::parse(&with(&json!({}))).unwrap_err().code(), 7);
        assert!(CheckConfig::parse(&with(&json!({"prevResult": {"interfaces": [], "ips": []}}))).is_ok());
    }
}

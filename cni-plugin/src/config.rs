//! The network configuration from the standard input. What has been parsed is valid.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use ipamd_api::{DEFAULT_SOCKET, MacAddr, PortMapping, wire::ValidAttachment};
use serde_json::Value;

pub mod document;
mod labels;
mod port_mappings;
mod runtime;

use crate::{
    environment::{Command, is_identifier},
    error::CniError,
    logging::Logging,
    prev_result::PrevResult,
    result::Dns,
    version::CniVersion,
};
use document::{Document, Field};

/// The largest configuration that is read, in bytes. A long list of valid attachments in a GC is about 100 bytes
/// each.
pub const MAX_CONFIG: u64 = 1 << 20;

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
        let (version, name) = Self::identity(document, command)?;
        let socket = match document.field("socket").text()? {
            Some(path) if path.starts_with('/') => path.into(),
            Some(_) => return Err(document.field("socket").must("must be an absolute path")),
            None => DEFAULT_SOCKET.into(),
        };
        Ok(Self { version, name, socket, logging: Logging::parse(document)? })
    }

    /// The network for a DEL, which passes over every mistake that does not keep it from removing the interface.
    pub fn parse_leniently(document: &Document, command: Command) -> Result<Self, CniError> {
        let (version, name) = Self::identity(document, command)?;
        let socket = document.field("socket").text().ok().flatten().filter(|path| path.starts_with('/'));
        Ok(Self {
            version,
            name,
            socket: socket.unwrap_or(DEFAULT_SOCKET).into(),
            logging: Logging::parse(document).unwrap_or_default(),
        })
    }

    fn identity(document: &Document, command: Command) -> Result<(CniVersion, String), CniError> {
        let version = document.version()?;
        if version < command.since() {
            return Err(CniError::CommandTooNew {
                command: command.as_str(),
                needs: command.since(),
                found: version,
            });
        }
        let name = document.field("name");
        match name.text()? {
            Some(text) if is_identifier(text) => Ok((version, text.to_owned())),
            Some(_) => Err(name
                .must("must start with a letter or digit and go on with letters, digits, '_', '.' and '-'")),
            None => Err(name.must("must be the network's name")),
        }
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
    /// The `ips` capability: at most one address of each family.
    pub addresses: Vec<IpAddr>,
    /// The `mac` capability.
    pub mac: Option<MacAddr>,
    /// The `portMappings` capability.
    pub port_mappings: Vec<PortMapping>,
    /// `dns`, passed through into the result.
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
    /// The configuration, or what is wrong with it.
    pub fn parse(document: &Document) -> Result<Self, CniError> {
        let config = Self::parse_for(document, Command::Add)?;
        let field = document.field("prevResult");
        if field.is_blank() {
            return Ok(config);
        }
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
        let result = PrevResult::parse(&field)?;
        let given = field.value().cloned().unwrap_or_default();
        Ok(Self { previous: Some(Previous { result, given }), ..config })
    }

    fn parse_for(document: &Document, command: Command) -> Result<Self, CniError> {
        let network = Network::parse(document, command)?;
        let ipam = document.field("ipam");
        if !ipam.is_blank() {
            return Err(ipam.unsupported("Cambric's daemon assigns the addresses itself; remove the section"));
        }
        runtime::refuse_unsupported(document)?;
        Ok(Self {
            network,
            mtu: document.field("mtu").number_in(68..=65535)?,
            labels: labels::parse(document)?,
            addresses: runtime::addresses(document)?,
            mac: runtime::mac(document)?,
            port_mappings: port_mappings::parse(document)?,
            dns: dns(&document.field("dns"))?,
            previous: None,
        })
    }
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
        let AddConfig { network, port_mappings, .. } = AddConfig::parse_for(document, Command::Check)?;
        let prev_result = PrevResult::parse(&document.field("prevResult"))?;
        Ok(Self { network, port_mappings, prev_result })
    }
}

/// The configuration of a GC.
#[derive(Clone, Debug, PartialEq)]
pub struct GcConfig {
    /// What every command takes.
    pub network: Network,
    /// `cni.dev/valid-attachments`: what stays.
    pub valid: Vec<ValidAttachment>,
}

impl GcConfig {
    /// The configuration, or what is wrong with it. A missing list is an error rather than an empty one, which would
    /// remove every container's interface.
    pub fn parse(document: &Document) -> Result<Self, CniError> {
        let network = Network::parse(document, Command::Gc)?;
        let mut list = document.field("cni.dev/valid-attachments");
        if list.is_absent() {
            // The name that an earlier text of the specification gave it.
            list = document.field("cni.dev/attachments");
        }
        let Some(entries) = list.array()? else {
            return Err(document
                .field("cni.dev/valid-attachments")
                .must("must list the attachments that stay"));
        };
        let valid = entries
            .map(|entry| {
                let text = |name| {
                    let field = entry.field(name);
                    match field.text()? {
                        Some(text) if !text.is_empty() => Ok(text.to_owned()),
                        _ => Err(field.must("must be a string that is not empty")),
                    }
                };
                entry.object()?;
                Ok(ValidAttachment { container_id: text("containerID")?, ifname: text("ifname")? })
            })
            .collect::<Result<_, CniError>>()?;
        Ok(Self { network, valid })
    }
}

/// Reads a `dns` section, of a configuration or a result.
pub fn dns(section: &Field) -> Result<Dns, CniError> {
    section.object()?;
    let texts = |name| -> Result<Vec<String>, CniError> {
        let list = section.field(name);
        let Some(entries) = list.array()? else { return Ok(Vec::new()) };
        entries
            .map(|entry| entry.text()?.map(str::to_owned).ok_or_else(|| entry.must("must be a string")))
            .collect()
    };
    Ok(Dns {
        nameservers: texts("nameservers")?,
        domain: section.field("domain").text()?.unwrap_or_default().to_owned(),
        search: texts("search")?,
        options: texts("options")?,
    })
}

/// Whether a value says nothing: absent, null, empty, zero, or made of such values only.
fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.values().all(is_blank),
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

    fn add_error(extra: &Value) -> CniError {
        AddConfig::parse(&with(extra)).unwrap_err()
    }

    #[test]
    fn a_full_configuration_is_read() {
        let config = AddConfig::parse(&with(&json!({
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
        let config = AddConfig::parse(&with(&json!({"mtu": null}))).unwrap();
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
            (json!({"name": null}), "name", "nothing"),
            (json!({"socket": "relative"}), "socket", "\"relative\""),
            (json!({"socket": ["/x"]}), "socket", "[\"/x\"]"),
            (json!({"mtu": 67}), "mtu", "67"),
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
            [(json!("0.1.0"), 1), (json!("2.0.0"), 1), (json!(""), 1), (Value::Null, 1), (json!(1.1), 6)]
        {
            assert_eq!(add_error(&json!({"cniVersion": version})).code(), code, "{version}");
        }
        let missing = AddConfig::parse(&document(&json!({"name": "net"}))).unwrap_err();
        assert!(missing.code() == 1 && missing.to_string().contains("0.1.0"), "{missing}");
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
    fn a_delete_passes_over_what_does_not_matter() {
        let network = Network::parse_leniently(
            &with(&json!({"socket": 7, "logLevel": [], "mtu": "x", "prevResult": "junk", "ipam": 1})),
            Command::Del,
        );
        assert_eq!(network.unwrap().socket, PathBuf::from(DEFAULT_SOCKET));
        assert_eq!(
            Network::parse_leniently(&with(&json!({"name": null})), Command::Del).unwrap_err().code(),
            7
        );
    }

    #[test]
    fn a_gc_needs_its_list() {
        let parse = |extra| GcConfig::parse(&with(&extra)).map(|config| config.valid);
        assert_eq!(parse(json!({})).unwrap_err().code(), 7);
        assert_eq!(parse(json!({"cni.dev/valid-attachments": []})).unwrap(), []);
        let one = ValidAttachment { container_id: "c".into(), ifname: "eth0".into() };
        for name in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            assert_eq!(
                parse(json!({name: [{"containerID": "c", "ifname": "eth0"}]})).unwrap(),
                std::slice::from_ref(&one)
            );
        }
        for list in [
            json!({}),
            json!(["c"]),
            json!([{}]),
            json!([{"containerID": "c"}]),
            json!([{"containerID": 1, "ifname": "e"}]),
        ] {
            let error = parse(json!({"cni.dev/valid-attachments": list})).unwrap_err();
            assert!(error.code() == 7 && error.to_string().contains("cni.dev/valid-attachments"), "{error}");
        }
    }

    #[test]
    fn a_check_needs_a_prev_result() {
        assert_eq!(CheckConfig::parse(&with(&json!({}))).unwrap_err().code(), 7);
        assert!(CheckConfig::parse(&with(&json!({"prevResult": {"interfaces": [], "ips": []}}))).is_ok());
    }
}

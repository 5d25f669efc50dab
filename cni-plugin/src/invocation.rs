//! One call of the plugin: its environment and its standard input, parsed and valid.

use ipamd_api::AttachmentKey;

use crate::{
    config::{AddConfig, CheckConfig, Network, del::DelConfig, gc::GcConfig},
    document::Document,
    environment::{Command, Lookup, Sandbox, Target},
    error::{CniError, Failure},
    logging::Logging,
    version::CniVersion,
};

/// What is asked of the plugin.
#[derive(Debug)]
pub enum Invocation {
    /// ADD
    Add(Sandbox, Box<AddConfig>),
    /// DEL
    Del(Target, DelConfig),
    /// CHECK
    Check(Sandbox, CheckConfig),
    /// GC
    Gc(GcConfig),
    /// STATUS
    Status(Network),
    /// VERSION, with the `cniVersion` that the caller speaks.
    Version(String),
}

impl Invocation {
    /// Reads the environment and the configuration, which may itself not have been to be read. Faults of the environment are
    /// told first.
    pub fn parse(
        command: Command,
        lookup: Lookup,
        stdin: Result<Vec<u8>, CniError>,
    ) -> Result<Self, Failure> {
        let document = stdin.and_then(|stdin| Document::decode(&stdin));
        let version = document.as_ref().ok().and_then(|document| document.version().ok());
        Self::parse_decoded(command, lookup, document)
            .map_err(|error| Failure::from(error).in_version(version))
    }

    fn parse_decoded(
        command: Command,
        lookup: Lookup,
        document: Result<Document, CniError>,
    ) -> Result<Self, CniError> {
        match command {
            Command::Add => {
                let sandbox = Sandbox::from_environment(lookup)?;
                let config = AddConfig::parse(&document?, &sandbox.requested)?;
                Ok(Self::Add(sandbox, Box::new(config)))
            }
            Command::Del => {
                let target = Target::from_environment(lookup)?;
                Ok(Self::Del(target, DelConfig::read(document.as_ref().ok())))
            }
            Command::Check => {
                let sandbox = Sandbox::from_environment(lookup)?;
                Ok(Self::Check(sandbox, CheckConfig::parse(&document?)?))
            }
            Command::Gc => Ok(Self::Gc(GcConfig::parse(&document?)?)),
            // A configuration that ADD refuses is one that it cannot be served with.
            Command::Status => Ok(Self::Status(AddConfig::of(&document?, command)?.network)),
            // Runtimes send what they like, the oldest nothing; what is no version is passed over.
            Command::Version => {
                let field = document.as_ref().ok().map(|document| document.field("cniVersion"));
                let asked = field.and_then(|field| field.text().ok().flatten().map(str::to_owned));
                let asked = asked.filter(|asked| !asked.is_empty());
                Ok(Self::Version(asked.unwrap_or_else(|| CniVersion::NEWEST.as_str().to_owned())))
            }
        }
    }

    /// The configuration's version, if the command has one that is ours.
    pub fn version(&self) -> Option<CniVersion> {
        match self {
            Self::Add(_, config) => Some(config.network.version),
            Self::Del(_, config) => config.version,
            Self::Status(network) => Some(network.version),
            Self::Check(_, config) => Some(config.network.version),
            Self::Gc(config) => Some(config.network.version),
            Self::Version(_) => None,
        }
    }

    /// What is logged, and where, unless the command has no network.
    pub fn logging(&self) -> Option<&Logging> {
        match self {
            Self::Add(_, config) => Some(&config.network.logging),
            Self::Del(_, config) => Some(&config.logging),
            Self::Status(network) => Some(&network.logging),
            Self::Check(_, config) => Some(&config.network.logging),
            Self::Gc(config) => Some(&config.network.logging),
            Self::Version(_) => None,
        }
    }
}

/// What identifies the attachment of `target` to the network of that name.
pub fn key(network: &str, target: &Target) -> AttachmentKey {
    AttachmentKey {
        network: network.to_owned(),
        container_id: target.container_id.clone(),
        ifname: target.ifname.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, ffi::OsString, os::unix::ffi::OsStringExt};

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn parse(
        command: Command,
        variables: &HashMap<&str, OsString>,
        stdin: &[u8],
    ) -> Result<Invocation, Failure> {
        Invocation::parse(command, &|name| variables.get(name).cloned(), Ok(stdin.to_vec()))
    }

    fn good_environment() -> HashMap<&'static str, OsString> {
        [("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/run/netns/c")]
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect()
    }

    #[test]
    fn faults_of_the_environment_come_first_in_the_configurations_version() {
        let failure =
            parse(Command::Add, &HashMap::new(), br#"{"cniVersion": "0.4.0", "name": ""}"#).unwrap_err();
        assert_eq!((failure.error.code(), failure.version), (4, Some(CniVersion::V0_4_0)));
        let failure = parse(Command::Add, &HashMap::new(), b"junk").unwrap_err();
        assert_eq!((failure.error.code(), failure.version), (4, None));
        let failure = parse(Command::Add, &good_environment(), b"junk").unwrap_err();
        assert_eq!((failure.error.code(), failure.version), (6, None));
        let failure = parse(Command::Add, &good_environment(), br#"{"cniVersion": "9.0.0"}"#).unwrap_err();
        assert_eq!((failure.error.code(), failure.version), (1, None));
    }

    #[test]
    fn a_version_request_echoes_what_the_caller_speaks() {
        let asked = |stdin: &[u8]| match parse(Command::Version, &HashMap::new(), stdin) {
            Ok(Invocation::Version(asked)) => asked,
            other => panic!("{other:?}"),
        };
        assert_eq!(asked(br#"{"cniVersion": "0.2.0"}"#), "0.2.0");
        for junk in [&b""[..], b" ", b"{}", br#"{"cniVersion": 1}"#, br#"{"cniVersion": ""}"#, b"junk", b"[]"]
        {
            assert_eq!(asked(junk), "1.1.0");
        }
    }

    /// JSON values of every sort, shallow.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            prop_oneof![Just("1.1.0"), Just("net"), Just("10.0.0.5/24"), Just("02:00:00:00:00:01")]
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let name = prop_oneof![
                "[a-z]{1,6}".boxed(),
                prop::sample::select(FIELDS).prop_map(str::to_owned).boxed()
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(name, inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    const FIELDS: &[&str] = &[
        "cniVersion",
        "name",
        "socket",
        "mtu",
        "logLevel",
        "logFile",
        "args",
        "cni",
        "labels",
        "key",
        "value",
        "runtimeConfig",
        "ips",
        "mac",
        "portMappings",
        "hostPort",
        "containerPort",
        "protocol",
        "hostIP",
        "bandwidth",
        "ipam",
        "dns",
        "nameservers",
        "prevResult",
        "interfaces",
        "routes",
        "address",
        "gateway",
        "interface",
        "dst",
        "gw",
        "sandbox",
        "cni.dev/valid-attachments",
        "containerID",
        "ifname",
    ];

    const COMMANDS: &[Command] =
        &[Command::Add, Command::Del, Command::Check, Command::Gc, Command::Status, Command::Version];

    /// Whatever is wrong, the runtime gets an error object it can read.
    fn an_object_or_an_invocation(parsed: Result<Invocation, Failure>) -> Result<(), TestCaseError> {
        if let Err(failure) = parsed {
            let object: Value = serde_json::from_str(&failure.to_json()).unwrap();
            prop_assert!(object["code"].as_u64().is_some_and(|code| code > 0));
            prop_assert!(object["msg"].as_str().is_some_and(|msg| !msg.is_empty()));
            prop_assert!(CniVersion::parse(object["cniVersion"].as_str().unwrap()).is_some());
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            command in prop::sample::select(COMMANDS),
            stdin in prop::collection::vec(any::<u8>(), 0..200),
            environment in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 5),
        ) {
            let names = ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS", "CNI_NETNS_OVERRIDE"];
            let variables = names.into_iter().zip(environment.into_iter().map(OsString::from_vec)).collect();
            an_object_or_an_invocation(parse(command, &variables, &stdin))?;
            an_object_or_an_invocation(parse(command, &good_environment(), &stdin))?;
        }

        #[test]
        fn arbitrary_fields_never_panic(
            command in prop::sample::select(COMMANDS),
            fields in prop::collection::hash_map(prop::sample::select(FIELDS), value(), 0..6),
        ) {
            let mut config = json!({"cniVersion": "1.1.0", "name": "net"});
            config.as_object_mut().unwrap().extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
            an_object_or_an_invocation(parse(command, &good_environment(), config.to_string().as_bytes()))?;
        }

        #[test]
        fn arbitrary_arguments_never_panic(args in "[A-Z_a-z=;0-9 ]{0,60}") {
            let mut variables = good_environment();
            variables.insert("CNI_ARGS", args.into());
            an_object_or_an_invocation(parse(Command::Add, &variables, br#"{"cniVersion": "1.1.0", "name": "net"}"#))?;
        }
    }
}

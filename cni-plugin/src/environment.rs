//! The environment variables that carry a command's parameters.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use ipamd_api::{MAX_NAME, wire::Pod};

use crate::{
    cni_args::{self, CniArgs, Requested},
    error::CniError,
    text::cut,
    version::CniVersion,
};

/// How the variables are looked up: `std::env::var_os` in the plugin, a table in the tests.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Add a container to the network.
    Add,
    /// Remove it.
    Del,
    /// See whether it is as ADD left it.
    Check,
    /// Remove all but the attachments that are listed.
    Gc,
    /// Say whether ADD can be served.
    Status,
    /// List the versions that are supported.
    Version,
}

impl Command {
    const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    /// As it is written in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The first version of the specification that has it.
    pub fn since(self) -> CniVersion {
        match self {
            Self::Add | Self::Del | Self::Version => CniVersion::V0_1_0,
            Self::Check => CniVersion::V0_4_0,
            Self::Gc | Self::Status => CniVersion::V1_1_0,
        }
    }

    /// Reads `CNI_COMMAND`; `None` without one: then it is a person who calls, not a runtime.
    pub fn from_environment(lookup: Lookup) -> Result<Option<Self>, CniError> {
        let Some(text) = lookup("CNI_COMMAND").filter(|text| !text.is_empty()) else { return Ok(None) };
        match Self::ALL.into_iter().find(|command| text == command.as_str()) {
            Some(command) => Ok(Some(command)),
            None => Err(CniError::Environment(vec![format!(
                "CNI_COMMAND must be one of ADD, DEL, CHECK, GC, STATUS, VERSION, not {}",
                quoted(&text)
            )])),
        }
    }
}

/// Which interface of which container is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// The parameters of ADD and CHECK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Whose interface.
    pub target: Target,
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// `CNI_NETNS_OVERRIDE`: the namespace may be the one that the plugin stands in.
    pub may_be_own_netns: bool,
    /// The pod that `CNI_ARGS` names.
    pub pod: Option<Pod>,
    /// What `CNI_ARGS` asks for.
    pub requested: Requested,
}

impl Target {
    /// Reads what DEL needs; everything else about the environment may be missing or wrong.
    pub fn from_environment(lookup: Lookup) -> Result<Self, CniError> {
        let mut faults = Vec::new();
        let target = Self::read(lookup, &mut faults);
        target.filter(|_| faults.is_empty()).ok_or(CniError::Environment(faults))
    }

    fn read(lookup: Lookup, faults: &mut Vec<String>) -> Option<Self> {
        let container_id = required(lookup, "CNI_CONTAINERID", faults).filter(|id| {
            let good = is_identifier(id);
            if !good {
                let mut id = id.clone();
                cut(&mut id, 2 * MAX_NAME);
                faults.push(format!("CNI_CONTAINERID {IDENTIFIER}, not {id:?}"));
            }
            good
        });
        let ifname = required(lookup, "CNI_IFNAME", faults).filter(|name| {
            let good = is_interface_name(name);
            if !good {
                faults.push(format!(
                    "CNI_IFNAME must be 1 to 15 bytes without '/', ':', '%' or white space, and none of \".\", \"..\", \"all\" and \"default\", not {name:?}"
                ));
            }
            good
        });
        Some(Self { container_id: container_id?, ifname: ifname? })
    }
}

impl Sandbox {
    /// Reads what ADD and CHECK need, and names everything that is wrong at once.
    pub fn from_environment(lookup: Lookup) -> Result<Self, CniError> {
        let mut faults = Vec::new();
        let target = Target::read(lookup, &mut faults);
        let netns = match lookup("CNI_NETNS") {
            Some(path) if path.is_empty() => {
                faults.push("CNI_NETNS must be the path of a network namespace, not \"\"".to_owned());
                None
            }
            Some(path) => Some(PathBuf::from(path)),
            None => {
                faults.push("CNI_NETNS is missing".to_owned());
                None
            }
        };
        let args = match lookup("CNI_ARGS").unwrap_or_default().into_string() {
            Ok(args) => cni_args::parse(&args, &mut faults),
            Err(args) => {
                faults.push(format!("CNI_ARGS must be UTF-8, not {}", quoted(&args)));
                CniArgs::default()
            }
        };
        let may_be_own_netns = lookup("CNI_NETNS_OVERRIDE")
            .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"));
        match (target, netns) {
            (Some(target), Some(netns)) if faults.is_empty() => {
                let CniArgs { pod, requested } = args;
                Ok(Self { target, netns, may_be_own_netns, pod, requested })
            }
            _ => Err(CniError::Environment(faults)),
        }
    }
}

fn required(lookup: Lookup, name: &str, faults: &mut Vec<String>) -> Option<String> {
    match lookup(name).map(OsString::into_string) {
        Some(Ok(value)) => Some(value),
        Some(Err(value)) => {
            faults.push(format!("{name} must be UTF-8, not {}", quoted(&value)));
            None
        }
        None => {
            faults.push(format!("{name} is missing"));
            None
        }
    }
}

fn quoted(value: &OsStr) -> String {
    format!("{:?}", value.to_string_lossy())
}

/// What container ids and network names must be: of the specification's alphabet, and no longer than the daemon records.
pub const IDENTIFIER: &str = "must start with a letter or digit, go on with letters, digits, '_', '.' and '-', and have at most 255 bytes";

/// Whether it is [`IDENTIFIER`].
pub fn is_identifier(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

fn is_interface_name(name: &str) -> bool {
    // Linux reads a '%' as a pattern for a name of its own choice.
    let forbidden = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control();
    // `all` and `default` are folders of the kernel's beside those of its interfaces.
    let taken = matches!(name, "." | ".." | "all" | "default");
    (1..=15).contains(&name.len()) && !taken && !name.contains(forbidden)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn sandbox(variables: &[(&str, &str)]) -> Result<Sandbox, CniError> {
        Sandbox::from_environment(&|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    fn good() -> Vec<(&'static str, &'static str)> {
        vec![("CNI_CONTAINERID", "abc"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/run/netns/a")]
    }

    #[test]
    fn a_complete_environment_is_read() {
        let mut variables = good();
        variables.push(("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;FOO=bar"));
        variables.push(("CNI_NETNS_OVERRIDE", "true"));
        assert_eq!(
            sandbox(&variables).unwrap(),
            Sandbox {
                target: Target { container_id: "abc".into(), ifname: "eth0".into() },
                netns: "/run/netns/a".into(),
                may_be_own_netns: true,
                pod: Some(Pod { namespace: "default".into(), name: "web-0".into(), uid: String::new() }),
                requested: Requested::default(),
            }
        );
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let error =
            sandbox(&[("CNI_CONTAINERID", "-x"), ("CNI_IFNAME", "a/b"), ("CNI_ARGS", "FOO=1")]).unwrap_err();
        assert_eq!(error.code(), 4);
        let text = error.to_string();
        for part in
            ["CNI_CONTAINERID", "\"-x\"", "CNI_IFNAME", "\"a/b\"", "CNI_NETNS is missing", "CNI_ARGS", "FOO"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_missing_variable_is_named() {
        for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
            let variables: Vec<_> = good().into_iter().filter(|(key, _)| *key != name).collect();
            assert_eq!(
                sandbox(&variables).unwrap_err().to_string(),
                format!("invalid environment: {name} is missing")
            );
        }
    }

    #[test]
    fn names_follow_the_specification() {
        for id in ["a", "0", "a_b.c-d", "Z9"] {
            assert!(is_identifier(id), "{id}");
        }
        assert!(is_identifier(&"x".repeat(MAX_NAME)) && !is_identifier(&"x".repeat(MAX_NAME + 1)));
        assert!(IDENTIFIER.contains(&MAX_NAME.to_string()));
        for id in ["", "_a", ".a", "-a", "a b", "a/b", "ä", "a\n"] {
            assert!(!is_identifier(id), "{id}");
        }
        for name in ["eth0", "a", "exactly15bytes.", "net-1_x"] {
            assert!(is_interface_name(name), "{name}");
        }
        for name in
            ["", ".", "..", "sixteenbyteslong", "a/b", "a:b", "a b", "a\tb", "eth%d", "a\0", "all", "default"]
        {
            assert!(!is_interface_name(name), "{name:?}");
        }
    }

    #[test]
    fn an_unknown_command_is_refused_by_name() {
        let error = Command::from_environment(&|_| Some("add".into())).unwrap_err();
        assert!(
            error.to_string().contains("CNI_COMMAND") && error.to_string().contains("\"add\""),
            "{error}"
        );
        assert_eq!(Command::from_environment(&|_| None).unwrap(), None);
        assert_eq!(Command::from_environment(&|_| Some("".into())).unwrap(), None);
        assert_eq!(Command::from_environment(&|_| Some("GC".into())).unwrap(), Some(Command::Gc));
    }

    #[test]
    fn what_is_not_utf8_is_an_error_and_no_panic() {
        let junk = OsString::from_vec(vec![0xff, 0xfe]);
        let error = Sandbox::from_environment(&|_| Some(junk.clone())).unwrap_err();
        for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_ARGS"] {
            assert!(error.to_string().contains(name), "{error}");
        }
        assert_eq!(Command::from_environment(&|_| Some(junk.clone())).unwrap_err().code(), 4);
    }

    #[test]
    fn a_delete_looks_at_nothing_but_the_key() {
        let target = Target::from_environment(&|name| match name {
            "CNI_CONTAINERID" => Some("abc".into()),
            "CNI_IFNAME" => Some("eth0".into()),
            _ => Some(OsString::from_vec(vec![0xff])),
        });
        assert_eq!(target.unwrap(), Target { container_id: "abc".into(), ifname: "eth0".into() });
    }
}

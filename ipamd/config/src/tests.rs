use std::path::Path;

use ipamd_api::DEFAULT_SOCKET;

use super::*;
use crate::file::parse;
use bpf::sizes::{Machine, MapSizes};

fn flags(flags: &[&str]) -> Result<Config, String> {
    let command_line = CommandLine::try_parse_from([&["cambric-ipamd"], flags].concat())
        .map_err(|error| error.to_string())?;
    Config::check(command_line.options).map_err(|error| error.to_string())
}

fn file(text: &str) -> Result<Config, String> {
    parse(Path::new("ipamd.toml"), text).and_then(Config::check).map_err(|error| error.to_string())
}

#[test]
fn one_pool_is_enough_and_the_rest_has_defaults() {
    let config = file("pool = [\"10.88.0.0/16\"]").unwrap();
    assert_eq!(config.socket, Path::new(DEFAULT_SOCKET));
    assert_eq!(config.state_dir, Path::new(DEFAULT_STATE_DIR));
    assert_eq!(config.bpffs, Path::new("/sys/fs/bpf/cambric"));
    assert_eq!(config.pools[0].name(), "10.88.0.0/16");
    assert_eq!(config.masquerade_ports, 10_000..=29_999);
    assert_eq!(config.sizes, RequestedSizes::default());
    assert!(
        config.masquerade
            && config.uplinks == UplinkRule::default()
            && config.attach.is_none()
            && config.mtu.is_none()
    );
    assert_eq!(config.cluster, Cluster::None);
    assert!(config.socket_lb && config.node_port_addresses.is_empty());
    assert_eq!(config.external_services, ExternalServiceMode::Snat);
    assert!(!config.node_name.is_empty());
}

#[test]
fn behind_other_plugins_there_is_nothing_to_assign() {
    let config = flags(&["--chained=true", "--routing=vxlan"]).unwrap();
    assert_eq!((config.interface_owner, config.routing), (InterfaceOwner::ChainedPlugin, RoutingMode::None));
    assert!(!config.masquerade && !config.needs_pools());
    assert!(file("chained = true\npool = [\"10.88.0.0/16\"]").unwrap_err().contains("the pool 10.88.0.0/16"));
    assert_eq!(
        flags(&["--pool=10.88.0.0/16", "--chained=false"]).unwrap().interface_owner,
        InterfaceOwner::Cambric
    );
}

/// Every key, as a file has it.
const EVERY_KEY: &str = r#"
socket = "/s"
state-dir = "/d"
bpffs = "/b"
cgroup = "/c"
node-name = "n"
uplink = ["eth0", "eth1"]
cluster = "none"
metrics = "127.0.0.1:9"
hubble-socket = "/u"
hubble-flows = 100
hubble-listen = "127.0.0.1:4244"
hubble-tls-certificate = "/t"
hubble-tls-key = "/k"
hubble-tls-client-ca = "/a"
masquerade = false
no-masquerade = ["10.0.0.0/8"]
masquerade-ports = "2000-3000"
conntrack-size = 4096
conntrack-timeout = ["tcp-established=7200", "udp=10"]
policy-entries = 1000
policy-addresses = 2000
policy-prefixes = 3000
policy-rules = 4000
denied = "reject"
dns-resolvers = ["10.0.0.53"]
dns-search = ["example.com"]
dns-least-ttl = 5
deny-directory = "/x"
deny-exempt = ["198.51.100.0/24"]
deny-mode = "generic"
socket-lb = "off"
external-service-mode = "dsr"
nodeport-addresses = ["192.0.2.0/24"]
kube-api-server = "https://192.0.2.1:6443"
host-root = "/h"
cni-conf-dir = "/n"
cni-bin-dir = "/o"
cni-conflist = "/l"
routing = "vxlan"
vxlan-port = 8472
vxlan-id = 7
attach = "clsact"
cluster-stale-after = 40
address-rest = 30
thread-deadline = 90
mtu = 1400
log-level = "debug"
log-format = "json"
[[pool]]
name = "a"
cidr = "10.0.0.0/24"
[[pool]]
name = "b"
cidr = "fd00::/64"
"#;

#[test]
fn every_key_is_a_flag_and_both_mean_the_same() {
    let from_flags = flags(&[
        "--socket=/s",
        "--state-dir=/d",
        "--bpffs=/b",
        "--cgroup=/c",
        "--node-name=n",
        "--uplink=eth0",
        "--uplink=eth1",
        "--pool=a=10.0.0.0/24",
        "--pool=b=fd00::/64",
        "--cluster=none",
        "--metrics=127.0.0.1:9",
        "--hubble-socket=/u",
        "--hubble-flows=100",
        "--hubble-listen=127.0.0.1:4244",
        "--hubble-tls-certificate=/t",
        "--hubble-tls-key=/k",
        "--hubble-tls-client-ca=/a",
        "--masquerade=false",
        "--no-masquerade=10.0.0.0/8",
        "--masquerade-ports=2000-3000",
        "--conntrack-size=4096",
        "--conntrack-timeout=tcp-established=7200",
        "--conntrack-timeout=udp=10",
        "--policy-entries=1000",
        "--policy-addresses=2000",
        "--policy-prefixes=3000",
        "--policy-rules=4000",
        "--denied=reject",
        "--dns-resolvers=10.0.0.53",
        "--dns-search=example.com",
        "--dns-least-ttl=5",
        "--deny-directory=/x",
        "--deny-exempt=198.51.100.0/24",
        "--deny-mode=generic",
        "--socket-lb=off",
        "--external-service-mode=dsr",
        "--nodeport-addresses=192.0.2.0/24",
        "--kube-api-server=https://192.0.2.1:6443",
        "--host-root=/h",
        "--cni-conf-dir=/n",
        "--cni-bin-dir=/o",
        "--cni-conflist=/l",
        "--routing=vxlan",
        "--vxlan-port=8472",
        "--vxlan-id=7",
        "--attach=clsact",
        "--cluster-stale-after=40",
        "--address-rest=30",
        "--thread-deadline=90",
        "--mtu=1400",
        "--log-level=debug",
        "--log-format=json",
    ]);
    let from_file = file(EVERY_KEY);
    let config = from_flags.unwrap();
    assert_eq!(config, from_file.unwrap());
    assert!(!config.socket_lb);
    assert_eq!(config.external_services, ExternalServiceMode::Dsr);
    let prefixes = config.node_port_addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(prefixes, ["192.0.2.0/24"]);
}

#[test]
fn a_flag_overrides_the_file() {
    let options = parse(Path::new("f"), "mtu = 1400\nnode-name = \"a\"\npool = [\"10.0.0.0/24\"]").unwrap();
    let command_line =
        CommandLine::try_parse_from(["cambric-ipamd", "--mtu=9000", "--pool=10.1.0.0/24"]).unwrap();
    let config = Config::check(command_line.options.or(options)).unwrap();
    assert_eq!((config.mtu, config.node_name.as_str()), (Some(9000), "a"));
    assert_eq!(config.pools.iter().map(Pool::name).collect::<Vec<_>>(), ["10.1.0.0/24"]);
}

#[test]
fn a_flag_turns_what_the_file_says_of_services() {
    let text = "pool = [\"10.0.0.0/24\"]\nsocket-lb = \"off\"\nexternal-service-mode = \"dsr\"\n\
                nodeport-addresses = [\"192.0.2.0/24\"]";
    let options = parse(Path::new("f"), text).unwrap();
    let command_line = CommandLine::try_parse_from([
        "cambric-ipamd",
        "--socket-lb=on",
        "--external-service-mode=snat",
        "--nodeport-addresses=198.51.100.0/24",
    ]);
    let config = Config::check(command_line.unwrap().options.or(options)).unwrap();
    assert!(config.socket_lb);
    assert_eq!(config.external_services, ExternalServiceMode::Snat);
    assert_eq!(config.node_port_addresses, ["198.51.100.0/24".parse().unwrap()]);
}

#[test]
fn bad_values_and_unknown_keys_are_refused_by_name() {
    for (text, named) in [
        ("sokcet = \"/s\"", "sokcet"),
        ("pool = [\"10.0.0.0\"]", "10.0.0.0"),
        ("pool = [\"10.0.0.1/24\"]", "10.0.0.1/24"),
        ("[[pool]]\nname = \"a\"\ncird = \"10.0.0.0/24\"", "cird"),
        ("mtu = 100", "mtu is 100"),
        ("mtu = \"big\"", "mtu"),
        ("conntrack-size = 1", "conntrack-size is 1"),
        ("conntrack-timeout = [\"tcp-new=9\"]", "tcp-new"),
        ("masquerade-ports = \"80-90\"", "80-90"),
        ("attach = \"xdp\"", "xdp"),
        ("metrics = \"localhost\"", "localhost"),
        ("node-name = \"a b\"", "a b"),
        ("log-level = \"loud\"", "loud"),
        ("cluster = \"kubernetes\"", "kubernetes"),
        ("policy-entries = 1", "policy-entries is 1"),
        ("policy-rules = \"all\"", "policy-rules"),
        ("denied = \"refuse\"", "neither \"drop\" nor \"reject\""),
        ("socket-lb = \"maybe\"", "\"maybe\": this is on or off"),
        ("socket-lb = true", "socket-lb"),
        ("external-service-mode = \"nat\"", "\"nat\": external service modes are snat and dsr"),
        ("nodeport-addresses = [\"eth0\"]", "eth0"),
        ("nodeport-addresses = [\"192.0.2.0/33\"]", "192.0.2.0/33"),
        ("vxlan-port = 0", "vxlan-port is 0"),
        ("uplink = [\"eth0\", \"lo\"]", "uplink names lo"),
        ("state-dir = \"state\"", "state-dir is \"state\""),
        ("socket = \"run/s\"", "socket is \"run/s\""),
        ("bpffs = \"\"", "bpffs is \"\""),
        ("hubble-socket = \"s\"", "hubble-socket is \"s\""),
        ("hubble-flows = 0", "hubble-flows is 0"),
        ("hubble-listen = \"127.0.0.1:4244\"", "hubble-tls-certificate is not"),
        ("", "--pool"),
    ] {
        let error = file(text).unwrap_err();
        assert!(error.contains(named), "{text}: {error}");
    }
    for (flag, named) in [
        ("--sokcet=/s", "--sokcet"),
        ("--pool=10.0.0.0", "10.0.0.0"),
        ("--mtu=100", "--mtu"),
        ("--masquerade=maybe", "maybe"),
        ("--metrics=localhost", "--metrics"),
        ("--socket-lb=maybe", "--socket-lb"),
        ("--external-service-mode=nat", "--external-service-mode"),
        ("--nodeport-addresses=eth0", "--nodeport-addresses"),
    ] {
        let error = flags(&[flag]).unwrap_err();
        assert!(error.contains(named), "{flag}: {error}");
    }
}

#[test]
fn a_named_file_must_exist() {
    let missing = CommandLine::try_parse_from(["cambric-ipamd", "--config=/nonexistent/ipamd.toml"]).unwrap();
    assert!(matches!(Config::load(missing), Err(ConfigError::Read { .. })));
}

#[test]
fn the_example_is_what_the_defaults_are() {
    // Every key stands in it behind one `#`; without it the file must be valid too.
    let example = include_str!("../../../conf/ipamd.toml");
    let bare = file(example).unwrap();
    // Of these two there may be one only.
    for left_out in ["uplink =", "uplink-exclude ="] {
        let uncommented = example
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .filter(|line| !line.starts_with("pool =") && !line.starts_with(left_out))
            .collect::<Vec<_>>()
            .join("\n");
        let full = file(&uncommented).unwrap();
        assert_eq!((&bare.socket, &bare.masquerade_ports), (&full.socket, &full.masquerade_ports));
        // On a machine of 8 GiB they are what the example says.
        let machine = Machine { memory: 8 << 30, processors: 4 };
        assert_eq!(MapSizes::new(&bare.sizes, machine), MapSizes::new(&full.sizes, machine));
        assert_eq!((bare.socket_lb, bare.external_services), (full.socket_lb, full.external_services));
    }
}

#[test]
fn uplinks_are_named_or_some_are_excluded() {
    let pool = "pool = [\"10.88.0.0/16\"]\n";
    let from_file = file(&format!("{pool}uplink-exclude = [\"eth9\", \"docker*\"]")).unwrap();
    let from_flags =
        flags(&["--pool=10.88.0.0/16", "--uplink-exclude=eth9", "--uplink-exclude=docker*"]).unwrap();
    assert_eq!(from_file.uplinks, from_flags.uplinks);
    let excludes = |name| from_file.uplinks.excluded.iter().any(|it| it.is_of(name));
    assert!(excludes("eth9") && excludes("docker0") && !excludes("eth0"));
    let error = file(&format!("{pool}uplink-exclude = [\"*\"]")).unwrap_err();
    assert!(error.contains("\"*\" is neither the name of an interface"), "{error}");
    let error = flags(&["--pool=10.88.0.0/16", "--uplink=eth0", "--uplink-exclude=eth9"]).unwrap_err();
    assert!(error.contains("uplink-exclude"), "{error}");
}

#[test]
fn whatever_a_configuration_file_holds_is_taken_or_refused_by_its_name() {
    let holds = |input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let read = || parse(Path::new("/etc/fuzz.toml"), &text).and_then(Config::check);
        let shown = format!("{:?}", read());
        ::fuzz::same("the same file, read again", &format!("{:?}", read()), &shown)?;
        match read() {
            // The parser shows the line and points at what is wrong with it.
            Err(ConfigError::File { detail, .. }) if !detail.is_empty() => Ok(()),
            Err(error) => ::fuzz::one_sentence(&error.to_string()),
            Ok(config)
                if config.pools.is_empty()
                    && config.cluster == Cluster::None
                    && !shown.contains("ChainedPlugin") =>
            {
                Err("there is nothing to hand out addresses from".into())
            }
            Ok(_) => Ok(()),
        }
    };
    ::fuzz::Target::new("config", ::fuzz::Form::Text).holds(holds);
}

#[test]
fn the_page_of_keys_has_a_row_for_each() {
    let page = include_str!("../../../docs/tuning.md");
    let command = <Options as clap::Args>::augment_args(clap::Command::new("daemon"));
    for key in command.get_arguments().filter_map(clap::Arg::get_long) {
        assert!(page.lines().any(|line| line.starts_with(&format!("| `{key}` |"))), "{key} has no row");
    }
}

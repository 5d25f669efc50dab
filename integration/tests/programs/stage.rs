//! The programs with maps that a daemon's own code writes.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bpf::sizes::{Machine, MapSizes, PolicySizes, RequestedSizes};
use integration::programs::{Bench, Knobs, Served};
use ipamd_datapath::{Datapath, DatapathConfig};
use ipamd_model::deny::DenyMode;

use crate::packets::{TCP_SYN, seen, tcp4, tcp6};

/// A folder on the bpffs; removed with all pins in it.
struct Pinned(PathBuf);

impl Pinned {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = PathBuf::from(format!("/sys/fs/bpf/cambric-test-programs-{process}-{number}"));
        fs::create_dir(&folder).expect("a bpffs at /sys/fs/bpf");
        Self(folder)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The programs, and the daemon's way to their maps.
pub struct Stage {
    pub bench: Bench,
    pub datapath: Arc<Datapath>,
    pub config: DatapathConfig,
    _pinned: Pinned,
}

impl Stage {
    pub fn new() -> Self {
        Self::with(&Knobs::default())
    }

    pub fn with(knobs: &Knobs) -> Self {
        let mut bench = Bench::new(knobs).unwrap();
        let pinned = Pinned::new();
        let config = DatapathConfig {
            pins: bpf::attach::Pins::new(&pinned.0),
            attach_mode: None,
            // As the programs were loaded, so that their maps are adopted.
            sizes: MapSizes::new(
                &RequestedSizes { conntrack: Some(131_072), ..RequestedSizes::default() },
                Machine { memory: 0, processors: 1 },
            ),
            masquerade: true,
            masquerade_ports: 10_000..=29_999,
            lifetimes: bpf::layout::LIFETIMES,
            policy_rules: PolicySizes::default().rules,
            dns_search: Vec::new(),
            deny_mode: DenyMode::Auto,
            dns_least_lifetime: 60,
            overlay: None,
        };
        bench.pin_maps(&config.pins).unwrap();
        let datapath = Arc::new(Datapath::open(&config).unwrap());
        Self { bench, datapath, config, _pinned: pinned }
    }
}

#[test]
fn the_fill_of_each_map_is_counted_by_its_name() {
    let stage = Stage::new();
    let fills = stage.datapath.map_use().unwrap();
    let capacity = |name: &str| fills[name].capacity;
    assert!(fills["endpoints4"].entries >= 2, "{fills:?}");
    assert!(fills["endpoints4"].entries < fills["endpoints4"].capacity, "{fills:?}");
    assert_eq!(capacity("fragments4"), u64::from(stage.config.sizes.fragments));
    assert_eq!(capacity("no_masquerade6"), u64::from(stage.config.sizes.prefixes));
    assert_eq!(fills["sockets6"].entries, 0, "{fills:?}");
}

#[test]
fn a_daemon_marks_the_frontends_that_one_without_marks_has_left_and_no_others() {
    let stage = Stage::new();
    let (bench, client, server) = (&stage.bench, stage.bench.a, stage.bench.b);
    let cluster4 = SocketAddr::new(Ipv4Addr::new(172, 30, 0, 1).into(), 80);
    let cluster6 = SocketAddr::new(Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1).into(), 80);
    bench.serve(&Served::tcp(1, cluster4, &[SocketAddr::new(server.ipv4.into(), 8080)])).unwrap();
    bench.serve(&Served::tcp(2, cluster6, &[SocketAddr::new(server.ipv6.into(), 8080)])).unwrap();
    let exact = bench.served_marks().unwrap();
    assert_eq!(exact.iter().map(|word| word.count_ones()).sum::<u32>(), 2);
    let mut ports = 1_000..;
    let mut led = |to: SocketAddr| {
        let ports = (ports.next().unwrap(), to.port());
        let packet = match to.ip() {
            IpAddr::V4(ip) => tcp4(&client, ip, ports, TCP_SYN),
            IpAddr::V6(ip) => tcp6(&client, ip, ports, TCP_SYN),
        };
        seen(&bench.run("from_endpoint", client.ifindex, &packet).unwrap().packet).ports.1 == 8080
    };

    for (word, found) in [(0, false), (u64::MAX, true)] {
        bench.set_served_marks(word).unwrap();
        assert_eq!((led(cluster4), led(cluster6)), (found, found), "the programs go by the marks: {word:x}");
        Datapath::open(&stage.config).unwrap();
        assert_eq!(bench.served_marks().unwrap(), exact);
        assert!(led(cluster4) && led(cluster6));
    }
}

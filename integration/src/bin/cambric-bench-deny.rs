//! Frames a second that one core sends and drops, of a sender that is among 100,000 denied prefixes: by the deny sets' program in the
//! driver and behind it, by a policy of Cambric's TC programs, and by an nftables set at the raw priority. Each on a node of its own,
//! in turns. Sender and receiver share one core, so a frame's time is that of sending it and of dropping it.
//!
//! `CAMBRIC_BENCH_QUICK=1`: few and short rounds.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use integration::testbed::{FAR4, Frames, Machine, NODE4, Node, Pod, Settings, eventually};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, SysconfVar, sysconf},
};
use tempfile::TempDir;

const PREFIXES: u32 = 100_000;
const PATIENCE: Duration = Duration::from_mins(1);

/// A way to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Native,
    Generic,
    Policy,
    Nftables,
}

impl Way {
    const ALL: [Self; 4] = [Self::Native, Self::Generic, Self::Policy, Self::Nftables];

    fn name(self) -> &'static str {
        match self {
            Self::Native => "deny set, native XDP",
            Self::Generic => "deny set, generic XDP",
            Self::Policy => "a policy that denies all, TC (no list)",
            Self::Nftables => "nftables, a set at priority raw",
        }
    }
}

struct Scene<'n> {
    way: Way,
    node: &'n Node,
    frames: Frames,
    frame: Vec<u8>,
    /// Whom the frames are to, if it is not the node.
    _pod: Option<Pod<'n>>,
}

/// A node that drops in that way, with its files.
fn node(way: Way) -> Result<(Node, TempDir)> {
    let folder = tempfile::tempdir()?;
    let mut settings = Settings::default().cluster();
    settings.flags.retain(|flag| !flag.starts_with("--log-level"));
    if let Way::Native | Way::Generic = way {
        let list: Vec<_> = prefixes().collect();
        fs::write(folder.path().join("list.txt"), list.join("\n"))?;
        let mode = if way == Way::Native { "native" } else { "generic" };
        settings = settings
            .flag(format!("--deny-directory={}", folder.path().display()))
            .flag(format!("--deny-mode={mode}"));
    }
    let node = Node::start_with(settings)?;
    if way == Way::Nftables {
        let elements: Vec<_> = prefixes().collect();
        let rules = folder.path().join("rules");
        fs::write(&rules, format!("{NFT_SET}\nadd element inet bench deny {{ {} }}\n", elements.join(", ")))?;
        node.netns().run("nft", &["-f", rules.to_str().context("a path")?])?;
    }
    Ok((node, folder))
}

impl<'n> Scene<'n> {
    fn new(way: Way, node: &'n Node) -> Result<Self> {
        let pod = if way == Way::Policy {
            fs::write(node.cluster().join("policy.yaml"), POLICY)?;
            Some(node.add_pod_of("shop/guarded", &[("app", "guarded")])?)
        } else {
            None
        };
        let to = pod.as_ref().map_or(NODE4, Pod::ipv4);
        let frames = Frames::open(node.neighbour.netns(), "lan")?;
        let (from_mac, to_mac) = (node.neighbour.netns().mac_of("lan")?, node.netns().mac_of("uplink")?);
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(from_mac, to_mac)
            .ipv4(FAR4.octets(), to.octets(), 64)
            .udp(40_000, 7777)
            .write(&mut frame, &[0; 18])?;
        let scene = Self { way, node, frames, frame, _pod: pod };
        let drops = || scene.turn(64).is_ok_and(|(_, dropped)| dropped >= 64);
        ensure!(eventually(PATIENCE, drops), "{way:?} does not drop: {}", scene.node.status()?);
        Ok(scene)
    }

    /// Sends so many frames; how long it took, and how many were dropped by the way that is measured.
    fn turn(&self, count: u32) -> Result<(Duration, u64)> {
        let before = self.dropped()?;
        let began = Instant::now();
        for _ in 0..count {
            self.frames.send(&self.frame)?;
        }
        let took = began.elapsed();
        Ok((took, self.dropped()? - before))
    }

    fn dropped(&self) -> Result<u64> {
        match self.way {
            Way::Native | Way::Generic => {
                let deny = self.node.ctl(&["deny", "list"])?;
                Ok(deny["sets"][0]["packets"].as_u64().unwrap_or(0))
            }
            Way::Policy => self.node.drops("policy_ingress"),
            Way::Nftables => {
                let counter =
                    self.node.netns().run("nft", &["list", "counter", "inet", "bench", "dropped"])?;
                let count = counter.split_whitespace().skip_while(|word| *word != "packets").nth(1);
                count.context("a counter")?.parse().context("a count")
            }
        }
    }
}

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: guard }
spec: { podSelector: { matchLabels: { app: guarded } }, ingress: [] }
";

const NFT_SET: &str = "\
add table inet bench
add counter inet bench dropped
add set inet bench deny { type ipv4_addr; flags interval; }
add chain inet bench early { type filter hook prerouting priority raw; }
add rule inet bench early ip saddr @deny counter name dropped drop";

/// The prefixes, the sender's among them.
fn prefixes() -> impl Iterator<Item = String> {
    let others = (0..PREFIXES - 1).map(|at| {
        // From 11.0.0.0 on, every other /28.
        let address = Ipv4Addr::from(0x0b00_0000 + at * 32);
        format!("{address}/28")
    });
    others.chain([format!("{}/32", IpAddr::from(FAR4))])
}

fn main() -> Result<()> {
    let quick = env::var_os("CAMBRIC_BENCH_QUICK").is_some();
    let (rounds, count) = if quick { (3, 20_000) } else { (9, 200_000) };
    let mut core = CpuSet::new();
    core.set(usize::try_from(sysconf(SysconfVar::_NPROCESSORS_ONLN)?.unwrap_or(1) - 1)?)?;
    let nodes = Way::ALL.into_iter().map(node).collect::<Result<Vec<_>>>()?;
    let scenes = Way::ALL.into_iter().zip(&nodes).map(|(way, (node, _))| Scene::new(way, node));
    let scenes = scenes.collect::<Result<Vec<_>>>()?;
    sched_setaffinity(Pid::from_raw(0), &core).context("cannot stay on one core")?;
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); scenes.len()];
    for _ in 0..rounds {
        for (scene, rates) in scenes.iter().zip(&mut rates) {
            let (took, dropped) = scene.turn(count)?;
            let way = scene.way;
            ensure!(
                dropped * 100 >= u64::from(count) * 99,
                "{way:?}: only {dropped} of {count} were dropped by it"
            );
            rates.push(f64::from(count) / took.as_secs_f64());
        }
    }
    println!(
        "| frames a second that one core sends and drops, {PREFIXES} prefixes, median (min-max) of {rounds} turns | rate | / nftables |"
    );
    println!("| --- | --- | --- |");
    let nftables = median(rates.last().context("a way")?);
    for (scene, rates) in scenes.iter().zip(&rates) {
        let (least, most) =
            (rates.iter().copied().fold(f64::MAX, f64::min), rates.iter().copied().fold(0.0, f64::max));
        let middle = median(rates);
        println!(
            "| {} | {:.0}k ({:.0}k-{:.0}k) | {:.2} |",
            scene.way.name(),
            middle / 1e3,
            least / 1e3,
            most / 1e3,
            middle / nftables
        );
    }
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

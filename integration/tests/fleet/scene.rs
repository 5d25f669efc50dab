//! What the scenarios have in common.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::fleet::{Fleet, Place, Subnet};
use integration::testbed::{Answering, Asking, Machine, Node, Pod, eventually};
use serde_json::Value;

/// How long a change may take to be in force, on a machine that runs other tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Two nodes of one subnet, and one beyond.
pub const ONE: Place = Place::new(Subnet::First, 11);
pub const TWO: Place = Place::new(Subnet::First, 12);
pub const THREE: Place = Place::new(Subnet::Second, 13);

/// Where pods serve.
pub const PORT: u16 = 80;

/// A pod with what it serves.
pub struct Serving<'n> {
    pub pod: Pod<'n>,
    _server: Answering,
}

impl<'n> Serving<'n> {
    pub fn on(fleet: &Fleet, node: &'n Node, name: &str) -> Result<Self> {
        let pod = fleet.add_pod(node, name)?;
        Ok(Self { _server: Answering::start(&pod, name, PORT)?, pod })
    }
}

/// Whether a machine reaches a server at an address by TCP and UDP, and is seen with one of these addresses.
pub fn is_seen_as(from: &impl Asking, to: SocketAddr, own: &[IpAddr]) -> Result<()> {
    for (how, answer) in [("tcp", from.ask_tcp(to)), ("udp", from.ask_udp(to))] {
        let answer = answer.with_context(|| format!("{how} to {to}"))?;
        ensure!(own.contains(&answer.client.ip()), "{how} to {to}: seen as {}", answer.client);
    }
    Ok(())
}

/// The same by TCP alone: a server with several addresses may answer a datagram from another one.
pub fn is_seen_by_tcp(from: &impl Asking, to: SocketAddr, own: &[IpAddr]) -> Result<()> {
    let answer = from.ask_tcp(to).with_context(|| format!("tcp to {to}"))?;
    ensure!(own.contains(&answer.client.ip()), "tcp to {to}: seen as {}", answer.client);
    Ok(())
}

/// Every pod reaches every other, in each family, and is seen with its own address.
pub fn all_reach_all(pods: &[&Serving<'_>]) -> Result<()> {
    for from in pods {
        for to in pods {
            for address in to.pod.addresses() {
                is_seen_as(&from.pod, (*address, PORT).into(), from.pod.addresses())
                    .with_context(|| format!("{} to {}", from.pod.name(), to.pod.name()))?;
            }
        }
    }
    Ok(())
}

/// Waits until something goes well; fails with what was amiss last.
pub fn in_time(what: &str, mut tried: impl FnMut() -> Result<()>) -> Result<()> {
    let mut last = Ok(());
    let well = || {
        last = tried();
        last.is_ok()
    };
    if eventually(PATIENCE, well) { Ok(()) } else { last.with_context(|| what.to_owned()) }
}

/// Waits until one of the problems that a node tells of has these words, or none has.
pub fn tells(node: &Node, words: &str, expected: bool) -> Result<()> {
    in_time(&format!("{} tells of {words:?}: {expected}", node.name()), || {
        let problems = node.status()?["problems"].clone();
        let told = problems.as_array().into_iter().flatten().filter_map(Value::as_str);
        ensure!(told.into_iter().any(|it| it.contains(words)) == expected, "{problems}");
        Ok(())
    })
}

/// The routes to other nodes' pods as a node has them: the prefix, and whether it leads through the overlay.
pub fn ways(node: &Node) -> Result<Vec<(String, bool)>> {
    let mut ways = Vec::new();
    for family in ["-4", "-6"] {
        for line in node.netns().ip(&format!("{family} route show proto 202"))?.lines() {
            if line.contains(" via ") {
                let prefix = line.split_whitespace().next().context("a prefix")?;
                ways.push((prefix.to_owned(), line.contains("dev cambric-overlay")));
            }
        }
    }
    ways.sort();
    Ok(ways)
}

/// Waits until a node leads to these places, and no others: directly, and through the overlay.
pub fn leads_to(node: &Node, direct: &[Place], overlay: &[Place]) -> Result<()> {
    let all = |places: &[Place], over| {
        places.iter().flat_map(|it| it.pod_cidrs()).map(move |it| (it, over)).collect()
    };
    let mut wanted: Vec<(String, bool)> = all(direct, false);
    wanted.extend(all(overlay, true));
    wanted.sort();
    in_time(&format!("the routes of {}", node.name()), || {
        let found = ways(node)?;
        ensure!(found == wanted, "{found:?} and not {wanted:?}\n{}", node.log());
        Ok(())
    })
}

/// What the overlay's interface of a node has besides itself: neighbours and forwarding entries, by their addresses.
pub fn overlay_entries(node: &Node) -> Result<(usize, usize)> {
    let permanent = |text: String| text.lines().filter(|line| line.contains("PERMANENT")).count();
    let neighbours = permanent(node.netns().ip("neighbour show dev cambric-overlay")?);
    let forwarding = node.netns().run("bridge", &["fdb", "show", "dev", "cambric-overlay"])?;
    Ok((neighbours, forwarding.lines().filter(|line| line.contains("dst")).count()))
}

//! The agent: what runs in each pod of the test. It serves, it probes, and prints a line for each thing that it has seen.

mod dns;
mod exchange;
mod icmp;
mod options;
mod probe;
mod serve;

use std::{
    io::{self, Write},
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Context;
use clap::Args;

pub(super) use self::dns::Resolvers;
use self::probe::perform;
use super::{
    super::machine::wait_for_the_end,
    check::{Hello, Line, Probe},
};
use ipamd_kernel::netlink::{RouteKind, Routes, Socket};

/// How many probes are under way at a time: most of them wait.
const AT_ONCE: usize = 16;

/// What an agent does.
#[derive(Debug, Args)]
pub(crate) struct Agent {
    /// What it answers to the question who it is
    #[arg(long)]
    name: String,
    /// Port to serve, TCP and UDP; repeatable
    #[arg(long, value_name = "PORT")]
    serve: Vec<u16>,
    /// Probes, as JSON
    #[arg(long, default_value = "[]")]
    probes: Probes,
    /// How long a probe may take until its outcome is as expected, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    patience: u64,
    /// Goes on serving when the probes are done
    #[arg(long)]
    stay: bool,
}

/// Probes as they are written on the command line.
#[derive(Clone, Debug)]
struct Probes(Vec<Probe>);

impl std::str::FromStr for Probes {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(Self)
    }
}

/// The arguments that an agent is started with.
pub(super) fn arguments(
    name: &str,
    serve: &[u16],
    probes: &[Probe],
    patience: Duration,
    stay: bool,
) -> Vec<String> {
    let mut arguments = vec!["connectivity".to_owned(), "agent".into(), format!("--name={name}")];
    arguments.extend(serve.iter().map(|port| format!("--serve={port}")));
    // Numbers, addresses and names: JSON has a form for each.
    let probes = serde_json::to_string(probes).unwrap_or_default();
    arguments.extend([format!("--probes={probes}"), format!("--patience={}", patience.as_secs())]);
    if stay {
        arguments.push("--stay".into());
    }
    arguments
}

/// Does it.
///
/// # Errors
/// It cannot serve.
pub(crate) fn run(agent: &Agent) -> anyhow::Result<()> {
    let served = agent.serve.iter().try_for_each(|port| serve::start(&agent.name, *port));
    if let Err(error) = served {
        print(&Line::Broken(error.to_string()));
        return Err(error.into());
    }
    print(&Line::Hello(Hello { name: agent.name.clone(), gateways: gateways() }));
    let Probes(probes) = &agent.probes;
    let patience = Duration::from_secs(agent.patience);
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(probes.len()) {
            scope.spawn(|| {
                while let Some(probe) = probes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    print(&Line::Finding(perform(probe, patience)));
                }
            });
        }
    });
    if !probes.is_empty() {
        print(&Line::End);
    }
    if probes.is_empty() || agent.stay {
        wait_for_the_end().context("cannot wait for a signal")?;
    }
    Ok(())
}

/// Prints a line whole.
fn print(line: &Line) {
    static STDOUT: Mutex<()> = Mutex::new(());
    let Ok(mut text) = serde_json::to_string(line) else { return };
    text.push('\n');
    let _whole = STDOUT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut stdout = io::stdout();
    // Whoever reads may have left.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// The next hops of the default routes; none if they cannot be read.
fn gateways() -> Vec<IpAddr> {
    let routes = Socket::open().and_then(|mut socket| socket.routes(Routes::Others));
    let gateway = |kind| match kind {
        RouteKind::Unicast { gateway, .. } => gateway,
        _ => None,
    };
    let defaults = routes.into_iter().flatten().filter(|route| route.destination.prefix() == 0);
    let mut gateways: Vec<IpAddr> = defaults
        .filter_map(|route| gateway(route.kind))
        // A link-local one has no meaning without its interface.
        .filter(|address| !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()))
        .collect();
    gateways.sort_unstable();
    gateways.dedup();
    gateways
}

//! How evenly connections to a service are spread over the servers behind it.

use std::{net::SocketAddr, path::PathBuf, sync::mpsc, thread};

use anyhow::{Context, Result, anyhow};
use nix::sys::socket::{setsockopt, sockopt::Linger};

use crate::{
    netns::Netns,
    path::{connect, pin, settle},
    service::{Server, join, ready},
};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// What the table's row is called
    #[arg(long)]
    name: String,
    /// The namespace of the client
    #[arg(long)]
    client: String,
    /// The cgroup that its sockets belong to
    #[arg(long)]
    cgroup: PathBuf,
    /// The service
    #[arg(long)]
    target: SocketAddr,
    /// The servers
    #[arg(long, value_name = "NETNS@ADDRESS:PORT", value_delimiter = '+', required = true)]
    servers: Vec<Server>,
    /// How many connections
    #[arg(long, default_value_t = 100_000)]
    connections: u32,
    /// The core of client and servers
    #[arg(long, default_value_t = 1)]
    cpu: usize,
}

/// Connects, counts who accepts, and prints a row: the fewest, the most, and how far from even that is.
pub fn run(options: &Options) -> Result<()> {
    join(&options.cgroup)?;
    let counts = count(options)?;
    let even = f64::from(options.connections) / f64::from(u32::try_from(counts.len())?);
    let furthest = counts.iter().map(|count| (f64::from(*count) / even - 1.0).abs()).fold(0.0, f64::max);
    let (least, most) = (counts.iter().min().unwrap_or(&0), counts.iter().max().unwrap_or(&0));
    println!(
        "| {} | {} over {} | {least} | {most} | {:.2} | 3 |",
        options.name,
        options.connections,
        counts.len(),
        furthest * 100.0
    );
    Ok(())
}

fn count(options: &Options) -> Result<Vec<u32>> {
    let (ready_to, listens) = mpsc::channel();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let listeners = options.servers.iter().map(Server::listen).collect::<Result<Vec<_>>>()?;
            pin(options.cpu)?;
            ready_to.send(())?;
            let mut counts = vec![0; listeners.len()];
            let mut all = 0;
            while all < options.connections {
                for number in ready(&listeners)? {
                    listeners[number].accept()?;
                    counts[number] += 1;
                    all += 1;
                }
            }
            anyhow::Ok(counts)
        });
        let client = scope.spawn(move || {
            settle(&Netns(options.client.clone()), options.cpu)?;
            if listens.recv().is_err() {
                return Ok(());
            }
            for number in 0..options.connections {
                let connection = connect(options.target).with_context(|| format!("connection {number}"))?;
                // Reset, so that its port is free again at once.
                setsockopt(&connection, Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
            }
            anyhow::Ok(())
        });
        let (client, server) = (client.join(), server.join());
        client.map_err(|_| anyhow!("the client has panicked"))?.context("client")?;
        server.map_err(|_| anyhow!("the server has panicked"))?.context("server")
    })
}

//! Services at scale: writes the same services as manifests, as kube-proxy's iptables rules and as its nftables table, and
//! times how soon a change of one of them is in force. `scripts/bench service` prepares the namespaces.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::Result;
use clap::{Args, Parser};
use integration::bench::{
    Changes, Metrics, Population, SERVICE_PORT, iptables, manifests, nftables, time_changes,
};

/// Services at scale.
#[derive(Debug, Parser)]
#[command(name = "cambric-bench-service", max_term_width = 110)]
enum CommandLine {
    /// Prints rules for iptables-restore
    Iptables(Rules),
    /// Writes a table for nft -f, in files to be loaded by the order of their names
    Nftables {
        #[command(flatten)]
        rules: Rules,
        /// Where; it is made
        folder: PathBuf,
    },
    /// Writes manifests
    Manifests {
        #[command(flatten)]
        scale: Scale,
        /// The port of the measured service at the nodes' addresses
        #[arg(long)]
        node_port: Option<u16>,
        /// Where; it is made
        folder: PathBuf,
    },
    /// Prints where the measured service is reached
    Address {
        #[command(flatten)]
        scale: Scale,
    },
    /// Times changes of the measured service's endpoints, in the network namespace of a daemon that follows manifests
    Changes {
        #[command(flatten)]
        scale: Scale,
        /// The network namespace of the first endpoint
        #[arg(long, value_name = "FILE")]
        netns: PathBuf,
        /// The daemon's metrics
        #[arg(long)]
        metrics: SocketAddr,
        /// Changes of each sort
        #[arg(long, default_value_t = 300)]
        count: u32,
        /// The folder that the daemon follows
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Scale {
    /// How many
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// Endpoints of the one that is measured
    #[arg(long, value_delimiter = ',')]
    backends: Vec<Ipv4Addr>,
    /// The node that they are on
    #[arg(long, default_value = "node")]
    node: String,
}

#[derive(Debug, Args)]
struct Rules {
    #[command(flatten)]
    scale: Scale,
    /// The prefix of all pods
    #[arg(long, default_value = "10.88.0.0/16")]
    pods: String,
}

impl Scale {
    fn population(self) -> Population {
        Population { services: self.services, backends: self.backends, node: self.node }
    }
}

fn main() -> Result<()> {
    match CommandLine::parse() {
        CommandLine::Iptables(Rules { scale, pods }) => {
            print!("{}", iptables::rules(&scale.population(), &pods)?);
        }
        CommandLine::Nftables { rules: Rules { scale, pods }, folder } => {
            fs::create_dir_all(&folder)?;
            for (text, number) in nftables::rules(&scale.population(), &pods)?.iter().zip(0..) {
                fs::write(folder.join(format!("{number:03}.nft")), text)?;
            }
        }
        CommandLine::Manifests { scale, node_port, folder } => {
            fs::create_dir_all(&folder)?;
            manifests::write(&folder, &scale.population(), manifests::Outside { node_port })?;
        }
        CommandLine::Address { scale } => {
            println!("{}:{SERVICE_PORT}", Population::cluster_ip(scale.population().measured()));
        }
        CommandLine::Changes { scale, netns, metrics, count, folder } => {
            let population = scale.population();
            let number = population.services;
            let changes = Changes { cluster: folder, population, netns, metrics: Metrics(metrics), count };
            let mut times = time_changes(&changes)?;
            println!("| one endpoint of one among {number} services, ms | p50 | p99 | max | limit of p50 |");
            println!("| --- | ---: | ---: | ---: | ---: |");
            print("from word of it to programmed, by the daemon", &mut times.programmed, "0.200");
            print("from the file's change to the first connection", &mut times.reachable, "");
        }
    }
    Ok(())
}

fn print(name: &str, times: &mut [Duration], limit: &str) {
    times.sort_unstable();
    let [p50, p99, max] = [50, 99, 100].map(|percent| {
        let at = (times.len() * percent / 100).min(times.len() - 1);
        times[at].as_secs_f64() * 1e3
    });
    println!("| {name} | {p50:.3} | {p99:.3} | {max:.3} | {limit} |");
}

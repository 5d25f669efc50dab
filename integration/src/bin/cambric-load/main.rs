//! Takes the times of CNI plugins, of paths between two network namespaces and of services, in turns; prints tables.
//! `scripts/bench` prepares the namespaces and says what to compare.

mod churn;
mod cni;
mod fairness;
mod path;
mod service;
mod spread;

use std::{fs::File, path::Path, str::FromStr};

use anyhow::{Context, Result};
use clap::Parser;
use nix::sched::{CloneFlags, setns};

/// Takes the times of CNI plugins, of paths between two network namespaces and of services, in turns.
#[derive(Debug, Parser)]
#[command(name = "cambric-load", max_term_width = 110)]
enum CommandLine {
    /// ADD and DEL, one at a time and in parallel
    Cni(cni::Options),
    /// Requests per second and throughput, client and server on one core
    Path(path::Options),
    /// Requests per second of a service and of the servers behind it, on one core
    Service(service::Options),
    /// Packets of many flows, while the node changes: what is lost, what comes out of order
    Churn(churn::Options),
    /// How evenly connections to a service are spread
    Fairness(fairness::Options),
}

fn main() -> Result<()> {
    match CommandLine::parse() {
        CommandLine::Cni(options) => cni::run(&options),
        CommandLine::Path(options) => path::run(&options),
        CommandLine::Service(options) => service::run(&options),
        CommandLine::Churn(options) => churn::run(&options),
        CommandLine::Fairness(options) => fairness::run(&options),
    }
}

/// A named network namespace, as `ip netns` makes them.
#[derive(Clone, Debug)]
struct Netns(String);

impl Netns {
    fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    /// Moves this thread into it.
    fn enter(&self) -> Result<()> {
        let path = self.path();
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {path}"))
    }
}

/// The parts of an option's value that are separated by commas.
fn parts<const N: usize>(text: &str, form: &str) -> Result<[String; N], String> {
    let parts: Vec<String> = text.split(',').map(str::to_owned).collect();
    parts.try_into().map_err(|_| format!("{text:?} is not of the form {form}"))
}

/// Reads a value, saying which it is when it is wrong.
fn parse<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}

/// The file's contents.
fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

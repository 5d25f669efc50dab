//! Takes the times of CNI plugins, of paths between two network namespaces and of services, in turns; prints tables.
//! `scripts/bench` prepares the namespaces and says what to compare.

mod churn;
mod cni;
mod fairness;
mod netns;
mod option_values;
mod path;
mod service;
mod spread;

use anyhow::Result;
use clap::Parser;

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

//! `cambricctl dns`.

use std::net::IpAddr;

use clap::Args;
use ipamd_api::{
    Reply, Request,
    wire::{DnsEntry, DnsFilter},
};

use super::{
    daemon::Daemon,
    output::{Output, table},
    status::duration,
};

/// Which names; each flag that is given must match.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// The name
    #[arg(long)]
    name: Option<String>,
    /// The address
    #[arg(long)]
    address: Option<IpAddr>,
    /// The pod that was told, as NAMESPACE/NAME
    #[arg(long)]
    pod: Option<String>,
}

pub(super) fn list(daemon: &mut Daemon, filter: Filter, output: &Output) -> anyhow::Result<()> {
    let name = filter.name.map(|name| name.trim_end_matches('.').to_ascii_lowercase());
    let client = &mut daemon.client;
    client.send(Request::DnsNames(DnsFilter { name, address: filter.address, pod: filter.pod }))?;
    let mut names = Vec::new();
    loop {
        match client.receive()? {
            Reply::DnsNames(page) => {
                names.extend(page.names);
                if page.last {
                    break;
                }
            }
            _ => return Err(client.confused("the answer is of another sort".into()).into()),
        }
    }
    output.print(&names, |names| {
        table(["ENDPOINT", "NAME", "ADDRESS", "EXPIRES IN", "IN A POLICY"], names.iter().map(row))
    })
}

fn row(entry: &DnsEntry) -> [String; 5] {
    let expires = if entry.expires_in == 0 { "expired".to_owned() } else { duration(entry.expires_in) };
    let in_policy = if entry.in_policy { "yes" } else { "no" };
    [entry.endpoint.clone(), entry.name.clone(), entry.address.to_string(), expires, in_policy.to_owned()]
}

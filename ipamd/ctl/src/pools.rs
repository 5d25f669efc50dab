//! `cambricctl ipam`.

use std::net::IpAddr;

use anyhow::bail;
use ipamd_api::{
    Reply, Request,
    wire::{Endpoint, Pool},
};
use serde::Serialize;

use super::{
    daemon::Daemon,
    endpoints,
    output::{Output, table},
};

/// The pools and who has what of them.
#[derive(Serialize)]
struct Listing {
    pools: Vec<Pool>,
    addresses: Vec<Holder>,
}

/// An address in use.
#[derive(Serialize)]
struct Holder {
    address: IpAddr,
    network: String,
    container_id: String,
    ifname: String,
}

pub(super) fn list(daemon: &mut Daemon, output: &Output) -> anyhow::Result<()> {
    let pools = daemon.ask(Request::Pools, |reply| match reply {
        Reply::Pools(pools) => Some(pools),
        _ => None,
    })?;
    let mut addresses = endpoints::all(daemon)?.iter().flat_map(holders).collect::<Vec<_>>();
    addresses.sort_by_key(|holder| holder.address);
    output.print(&Listing { pools, addresses }, |listing| {
        let pools = table(["POOL", "CIDR", "GATEWAY", "USED", "CAPACITY"], listing.pools.iter().map(pool));
        let rows = listing.addresses.iter().map(|holder| {
            [
                holder.address.to_string(),
                holder.network.clone(),
                holder.container_id.clone(),
                holder.ifname.clone(),
            ]
        });
        pools + "\n" + &table(["ADDRESS", "NETWORK", "CONTAINER", "INTERFACE"], rows)
    })
}

pub(super) fn show(daemon: &mut Daemon, address: IpAddr, output: &Output) -> anyhow::Result<()> {
    let holder = daemon.ask(Request::Address { address }, |reply| match reply {
        Reply::Endpoints(endpoints) => Some(endpoints.into_iter().next()),
        _ => None,
    })?;
    match holder {
        Some(endpoint) => output.print(&endpoint, endpoints::text),
        None => bail!("address {address} is not in use"),
    }
}

pub(super) fn release(
    daemon: &mut Daemon,
    address: IpAddr,
    force: bool,
    output: &Output,
) -> anyhow::Result<()> {
    daemon.ask(Request::ReleaseAddress { address, force }, |reply| {
        matches!(reply, Reply::Done).then_some(())
    })?;
    output.print(&serde_json::json!({ "released": address }), |_| format!("{address} is released\n"))
}

fn holders(endpoint: &Endpoint) -> Vec<Holder> {
    let holder = |address| Holder {
        address,
        network: endpoint.key.network.clone(),
        container_id: endpoint.key.container_id.clone(),
        ifname: endpoint.key.ifname.clone(),
    };
    endpoint.addresses.iter().map(|assigned| holder(assigned.address)).collect()
}

fn pool(pool: &Pool) -> [String; 5] {
    let capacity =
        if pool.capacity == u64::MAX { "2^64 or more".to_owned() } else { pool.capacity.to_string() };
    [pool.name.clone(), pool.cidr.clone(), pool.gateway.to_string(), pool.used.to_string(), capacity]
}

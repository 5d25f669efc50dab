//! CHECK: compares what is there with what ADD made and later plugins changed.

use std::time::Instant;

use ipamd_api::{AttachmentKey, Client, ClientError, Reply, Request, wire::Checked};
use ipamd_netlink::{Family, Socket};

use crate::{
    chained,
    config::{CheckConfig, Network},
    daemon::{patiently, unexpected},
    environment::Sandbox,
    error::{CniError, Failure},
    expectation::Expectation,
    invocation,
    netns::Netns,
    observe, programs, record,
};

/// Fails with every single thing that is not as it should be.
pub fn check(sandbox: &Sandbox, config: &CheckConfig) -> Result<(), Failure> {
    Ok(compare(sandbox, config)?)
}

/// What the daemon says. A failed CHECK may cost the container its life, so a daemon that is being restarted is waited for.
fn ask(network: &Network, key: &AttachmentKey) -> Result<Checked, ClientError> {
    patiently(&Instant::now(), || {
        let mut client = Client::connect(&network.socket)?;
        match client.call(Request::Check { key: key.clone() })? {
            Reply::Checked(checked) => Ok(*checked),
            other => Err(unexpected(&client, "a check", &other)),
        }
    })
}

fn compare(sandbox: &Sandbox, config: &CheckConfig) -> Result<(), CniError> {
    let key = invocation::key(&config.network.name, &sandbox.target);
    let netns = Netns::open(sandbox)?;
    let checked = ask(&config.network, &key)?;
    let reservation = checked.reservation.as_ref();
    let expected = Expectation::after_chain(&key, reservation, &config.prev_result, config.network.version);

    let host = observe::end(&mut Socket::open(Family::Route)?, &expected.host_ifname)?;
    let container = netns.inside(|| observe::end(&mut Socket::open(Family::Route)?, &key.ifname))?;
    if reservation.is_none() && host.is_none() && container.is_none() {
        return Err(CniError::ContainerUnknown { attachment: key.to_string() });
    }

    let chained = reservation.filter(|reservation| reservation.chained);
    let mut faults = match chained {
        Some(record) => chained::faults(record, &key.ifname, host.as_ref(), container.as_ref()),
        None => expected.faults(host.as_ref(), container.as_ref()),
    };
    if let (Some(reservation), Some(host)) = (reservation, &host) {
        faults.extend(programs::faults(reservation, host.index));
    }
    if chained.is_none() {
        faults.extend(record::faults(&key, reservation, &config.prev_result));
    }
    faults.extend(record::port_faults(reservation, &config.port_mappings));
    faults.extend(checked.faults);
    if faults.is_empty() {
        return Ok(());
    }
    tracing::warn!(%key, ?faults, "check failed");
    Err(CniError::Differs { attachment: key.to_string(), faults })
}

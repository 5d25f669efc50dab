//! What the kernel has said to be done and does a little later.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use ipamd_api::{AttachmentKey, wire::Reservation};
use ipamd_netlink::{NetlinkError, Socket};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, State},
    route::{RouteAttribute, RouteMessage, RouteType},
};
use rtnetlink::LinkUnspec;

use crate::interface::{family, host_prefix};

/// How long it may take in all. Then the attachment is whole, but its first packets may be lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first pause between two looks; each is twice as long as the one before, up to the last.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LAST_PAUSE: Duration = Duration::from_millis(10);

/// Waits until packets pass both ends. Two things the kernel leaves to workers of its own, which stand in line for the lock of all
/// interfaces behind whoever makes or deletes some: that an IPv6 address is the container's (its local route), and that the
/// host's end, which came up before there was another, sends. Until then it drops what comes, and the answer to ADD is no promise.
/// What is waited for in vain is a warning: the attachment is whole.
pub fn settle(
    key: &AttachmentKey,
    host: &mut Socket,
    host_ifindex: u32,
    container: &mut Socket,
    reservation: &Reservation,
) {
    if let Err(waited) = wait(host, host_ifindex, container, reservation) {
        tracing::warn!(%key, "the first packets may be lost: {waited}");
    }
}

/// Returns what it waited for in vain.
fn wait(
    host: &mut Socket,
    host_ifindex: u32,
    container: &mut Socket,
    reservation: &Reservation,
) -> Result<(), String> {
    let began = Instant::now();
    let mut left = || PATIENCE.saturating_sub(began.elapsed());
    for address in reservation.addresses.iter().map(|assigned| assigned.address).filter(IpAddr::is_ipv6) {
        until(&mut left, || is_local(container, address))
            .map_err(|why| format!("the container does not take packets for {address} yet{why}"))?;
    }
    until(&mut left, || sends(host, host_ifindex))
        .map_err(|why| format!("{} does not send yet{why}", reservation.host_ifname))
}

/// Looks until it is so, for as long as is left. The error: why it could not be seen at last, if that was it.
fn until(
    left: &mut dyn FnMut() -> Duration,
    mut is_so: impl FnMut() -> Result<bool, NetlinkError>,
) -> Result<(), String> {
    let mut pause = FIRST_PAUSE;
    loop {
        let seen = is_so();
        if matches!(seen, Ok(true)) {
            return Ok(());
        }
        let left = left();
        if left.is_zero() {
            return Err(seen.err().map(|error| format!(": {error}")).unwrap_or_default());
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Whether packets for the address are delivered in the socket's namespace.
fn is_local(netlink: &mut Socket, address: IpAddr) -> Result<bool, NetlinkError> {
    let mut request = RouteMessage::default();
    request.header.address_family = family(address);
    request.header.destination_prefix_length = host_prefix(address);
    request.attributes.push(RouteAttribute::Destination(address.into()));
    let what = format!("ask for the way to {address}");
    let way = netlink.get(&what, &RouteNetlinkMessage::GetRoute(request))?;
    Ok(matches!(way, Some(RouteNetlinkMessage::NewRoute(way)) if way.header.kind == RouteType::Local))
}

/// Whether the interface of that index sends what it is given.
fn sends(netlink: &mut Socket, index: u32) -> Result<bool, NetlinkError> {
    let what = format!("look at the interface of index {index}");
    let request = LinkUnspec::new_with_index(index).build();
    let link = netlink.get(&what, &RouteNetlinkMessage::GetLink(request))?;
    let Some(RouteNetlinkMessage::NewLink(link)) = link else { return Ok(false) };
    Ok(link.attributes.contains(&LinkAttribute::OperState(State::Up)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_at_until_it_is_so_or_no_time_is_left() {
        let mut looks = 0;
        let mut soon = || {
            looks += 1;
            Ok(looks == 3)
        };
        assert_eq!(until(&mut || Duration::from_micros(1), &mut soon), Ok(()));
        assert_eq!(looks, 3);
        let mut times = [Duration::from_micros(1), Duration::ZERO].into_iter();
        assert_eq!(until(&mut || times.next().unwrap(), || Ok(false)), Err(String::new()));
    }
}

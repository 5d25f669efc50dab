//! Strict filtering of packets by their way back (RFC 3704), which Calico's iptables mode asks for.
//!
//! Cambric bears it but in one case: a pod beyond this subnet is reached by the overlay, and what it sends to this node's
//! own address comes by the uplink. That has another node's address as its source, unless it is not masqueraded.

use super::network::Network;
use crate::preflight::{finding::Finding, subject::Subject};
use ipamd_kernel::sysctl;

const NAME: &str = "rp-filter";
/// The value for all interfaces; the larger of it and an interface's own counts.
const ALL: &str = "all";

pub(super) fn check(subject: &Subject, network: &Network) -> Finding {
    let read = |name: &str| {
        let value = sysctl::read(&format!("net/ipv4/conf/{name}/rp_filter"));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    let uplinks = network.uplinks(&subject.uplinks);
    let uplinks = uplinks.into_iter().map(|uplink| (read(&uplink), uplink)).collect::<Vec<_>>();
    judge(subject.overlay.is_some() && subject.keeps_sources, read(ALL), &uplinks)
}

/// `two_ways` is whether pods may send to this node another way than they are reached; `uplinks` have their own values.
fn judge(two_ways: bool, all: u8, uplinks: &[(u8, String)]) -> Finding {
    let strict = uplinks.iter().filter(|(own, _)| all.max(*own) == 1).collect::<Vec<_>>();
    let names = strict.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ");
    if !two_ways || strict.is_empty() {
        return Finding::ok(NAME, "nothing that Cambric sends is dropped for the way that it comes by");
    }
    Finding::warning(
        NAME,
        format!(
            "{names} takes packets only by the way that leads back to their source: what a pod beyond this subnet, which the \
             overlay leads to, sends to this node without being masqueraded is dropped"
        ),
        // Loose for all is looser than strict for one.
        "sysctl net.ipv4.conf.all.rp_filter=2, and so in /etc/sysctl.d; or leave the nodes out of no-masquerade",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::finding::Outcome;

    #[test]
    fn the_larger_value_counts_and_only_strict_is_in_the_way() {
        let judged = |two_ways, all, own| judge(two_ways, all, &[(own, "eth0".to_owned())]).outcome;
        for (all, own, outcome) in [
            (0, 0, Outcome::Ok),
            (0, 1, Outcome::Warning),
            (1, 0, Outcome::Warning),
            (2, 1, Outcome::Ok),
            (1, 2, Outcome::Ok),
        ] {
            assert_eq!(judged(true, all, own), outcome, "{all} {own}");
            assert_eq!(judged(false, all, own), Outcome::Ok);
        }
        assert_eq!(judge(true, 1, &[]).outcome, Outcome::Ok);
    }
}

//! Who was pinged may answer, and no more.

use std::net::IpAddr;

use anyhow::Result;
use etherparse::PacketBuilder;
use integration::{needs_root, testbed::Node};

use crate::scene::{Ends, MARK, is_dropped, of_pod, open, tap};

/// The pods `shop/quiet-*` may send nothing, and get echo requests only.
const QUIET: &str = "\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: { namespace: shop, name: quiet }
spec:
  selector: app == 'quiet'
  types: [Ingress, Egress]
  ingress:
  - { action: Allow, protocol: ICMP, icmp: { type: 8 } }
  - { action: Allow, protocol: ICMPv6, icmp: { type: 128 } }
";

/// A message of ICMP with the mark.
fn message(ends: Ends, from: IpAddr, to: IpAddr, kind: u8, id: u16) -> Result<Vec<u8>> {
    let [high, low] = id.to_be_bytes();
    let builder = PacketBuilder::ethernet2(ends.from, ends.to);
    let mut frame = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder
            .ipv4(from.octets(), to.octets(), 64)
            .icmpv4_raw(kind, 0, [high, low, 0, 1])
            .write(&mut frame, MARK.as_bytes())?,
        (IpAddr::V6(from), IpAddr::V6(to)) => builder
            .ipv6(from.octets(), to.octets(), 64)
            .icmpv6_raw(kind, 0, [high, low, 0, 1])
            .write(&mut frame, MARK.as_bytes())?,
        _ => anyhow::bail!("{from} and {to} are not of one family"),
    }
    Ok(frame)
}

#[test]
fn who_is_pinged_neither_pings_back_nor_is_asked_anything_else() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    node.apply("policy.yaml", QUIET)?;
    let quiet = node.add_pod_of("shop/quiet", &[("app", "quiet")])?;
    let other = open(&node, "b")?;
    let ((of_quiet, from_quiet), (of_other, from_other)) = (of_pod(&quiet)?, of_pod(&other)?);
    let (at_quiet, at_other) = (tap(&quiet)?, tap(&other)?);
    for (own, peer, question, others) in [
        (IpAddr::from(quiet.ipv4()), IpAddr::from(other.ipv4()), 8, &[13, 17, 42, 15, 10][..]),
        (quiet.ipv6().into(), other.ipv6().into(), 128, &[139, 160, 200][..]),
    ] {
        // The last is what conntrack has for the port of who is asked.
        for id in [200, 0, u16::from(question) << 8] {
            let ping = || of_other.send(&message(from_other, peer, own, question, id)?);
            let before = at_other.count();
            ping()?;
            anyhow::ensure!(
                integration::testbed::eventually(std::time::Duration::from_secs(3), || at_other.count()
                    > before),
                "{own} answers"
            );
            let back = message(from_quiet, own, peer, question, id)?;
            is_dropped(&node, "policy_egress", &at_other, || of_quiet.send(&back), ping)?;
            for kind in others {
                let asked = message(from_other, peer, own, *kind, id)?;
                is_dropped(&node, "policy_ingress", &at_quiet, || of_other.send(&asked), ping)?;
            }
        }
    }
    Ok(())
}

//! Who was pinged may answer, and no more.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use integration::{
    needs_root,
    testbed::{Node, eventually},
};

use crate::scene::{is_dropped, message, of_pod, open, tap};

/// The pods `shop/quiet-*` may send nothing, and get echo requests only. Nothing reaches the pods `shop/shy`.
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
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: shy }
spec: { podSelector: { matchLabels: { app: shy } }, policyTypes: [Ingress] }
";

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
                eventually(Duration::from_secs(10), || at_other.count() > before),
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

#[test]
fn an_answer_passes_an_ingress_policy_if_it_was_asked_for() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    node.apply("policy.yaml", QUIET)?;
    let shy = node.add_pod_of("shop/shy", &[("app", "shy")])?;
    let other = open(&node, "b")?;
    let ((of_shy, from_shy), (of_other, from_other)) = (of_pod(&shy)?, of_pod(&other)?);
    let at_shy = tap(&shy)?;
    for (own, peer, question, answer, others) in [
        (IpAddr::from(shy.ipv4()), IpAddr::from(other.ipv4()), 8, 0, &[14, 16, 18, 43][..]),
        (shy.ipv6().into(), other.ipv6().into(), 128, 129, &[140, 161][..]),
    ] {
        let send = |kind, id| of_other.send(&message(from_other, peer, own, kind, id)?);
        // What it asks is answered by the other's kernel.
        let asks = || of_shy.send(&message(from_shy, own, peer, question, 5)?);
        let before = at_shy.count();
        asks()?;
        let answered = || at_shy.count() > before;
        anyhow::ensure!(eventually(Duration::from_secs(10), answered), "{peer} answers");
        is_dropped(&node, "unasked_answer", &at_shy, || send(answer, 6), asks)?;
        for kind in others {
            is_dropped(&node, "unasked_answer", &at_shy, || send(*kind, 5), asks)?;
        }
    }
    Ok(())
}

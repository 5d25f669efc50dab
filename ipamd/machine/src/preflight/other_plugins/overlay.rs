//! VXLAN interfaces of others, as far as Cambric's overlay cannot be beside them.

use super::network::Network;
use crate::preflight::{finding::Finding, subject::OverlayPort};
use ipamd_kernel::netlink::VxlanPort;
use ipamd_plan::overlay::OVERLAY;

const NAME: &str = "vxlan-port";

pub(super) fn check(overlay: Option<OverlayPort>, network: &Network) -> Vec<Finding> {
    let Some(overlay) = overlay else { return vec![Finding::ok(NAME, "routing needs no VXLAN")] };
    let others = network.links.iter().filter(|link| link.name != OVERLAY);
    let others = others.filter_map(|link| Some((link.name.as_str(), link.up, link.vxlan_port.as_ref()?)));
    let same_port = others.filter(|(_, _, other)| other.port == overlay.port).collect::<Vec<_>>();
    let findings = same_port.iter().filter_map(|(name, up, other)| {
        let clash = clash(overlay, other, *up)?;
        Some(Finding::warning(
            NAME,
            format!("{name} {clash}"),
            format!(
                "ip link delete {name}, if nobody needs it; or give all nodes another vxlan-port or vxlan-id by Cambric's \
                 configuration"
            ),
        ))
    });
    let findings = findings.collect::<Vec<_>>();
    if !findings.is_empty() {
        return findings;
    }
    let port = overlay.port;
    vec![Finding::ok(
        NAME,
        match &same_port[..] {
            [] => format!("no other VXLAN interface has the UDP port {port}"),
            [(name, ..), ..] => format!("{name} has the UDP port {port} too, which both can share"),
        },
    )]
}

/// Why the overlay cannot be beside another interface of its port, if it cannot. The kernel refuses to make two of one
/// number, and to set two up that treat packets differently, each in its family.
fn clash(overlay: OverlayPort, other: &VxlanPort, up: bool) -> Option<String> {
    let OverlayPort { port, id } = overlay;
    if other.id == Some(id) {
        return Some(format!(
            "has the number {id} and the UDP port {port} of Cambric's overlay, which cannot be made beside it"
        ));
    }
    // Cambric's own takes packets without a checksum over IPv6, and has no other peculiarity.
    let own: &[&str] = if other.ipv6 { &[VxlanPort::ZERO_SUMS] } else { &[] };
    if !up || other.treatment == own {
        return None;
    }
    // One for packets of any number listens in both families.
    let family = match (other.id, other.ipv6) {
        (None, _) => "",
        (Some(_), true) => " over IPv6",
        (Some(_), false) => " over IPv4",
    };
    let differs = if other.treatment.is_empty() {
        format!("without {}", VxlanPort::ZERO_SUMS)
    } else {
        format!("as {}", other.treatment.join(", "))
    };
    Some(format!(
        "has the UDP port {port} of Cambric's overlay {differs}; the kernel gives the port{family} to no other then, and the \
         overlay cannot be set up"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::finding::Outcome;
    use ipamd_kernel::netlink::Link;

    const OURS: OverlayPort = OverlayPort { port: 4789, id: 51_770 };

    fn found(other: VxlanPort, up: bool) -> (Outcome, String) {
        let link = |name: &str, vxlan_port| Link { name: name.into(), up, vxlan_port, ..Link::default() };
        let own = VxlanPort { port: 4789, id: Some(51_770), ..VxlanPort::default() };
        let links = vec![link("eth0", None), link(OVERLAY, Some(own)), link("other", Some(other))];
        let findings = check(Some(OURS), &Network { links, ..Network::default() });
        assert_eq!(findings.len(), 1);
        (findings[0].outcome, findings[0].detail.clone())
    }

    fn calicos() -> VxlanPort {
        VxlanPort { port: 4789, id: Some(4096), ..VxlanPort::default() }
    }

    #[test]
    fn calicos_default_shares_the_port() {
        assert_eq!(
            found(calicos(), true),
            (Outcome::Ok, "other has the UDP port 4789 too, which both can share".to_owned())
        );
        let flannels = VxlanPort { port: 8472, ..calicos() };
        assert_eq!(found(flannels, true).1, "no other VXLAN interface has the UDP port 4789");
        let over_ipv6 = VxlanPort { ipv6: true, treatment: vec![VxlanPort::ZERO_SUMS], ..calicos() };
        assert_eq!(found(over_ipv6, true).0, Outcome::Ok);
    }

    #[test]
    fn one_number_and_port_cannot_be_twice() {
        let (outcome, detail) = found(VxlanPort { id: Some(51_770), ..calicos() }, false);
        assert_eq!(outcome, Outcome::Warning);
        assert!(detail.starts_with("other has the number 51770 and the UDP port 4789"), "{detail}");
    }

    #[test]
    fn one_that_treats_packets_otherwise_keeps_the_port_once_it_is_up() {
        let ciliums = VxlanPort { id: None, treatment: vec!["external"], ..calicos() };
        assert_eq!(found(ciliums.clone(), false).0, Outcome::Ok);
        let (outcome, detail) = found(ciliums, true);
        assert_eq!(outcome, Outcome::Warning);
        assert!(detail.contains("overlay as external; the kernel gives the port to no other"), "{detail}");
        let with_groups = VxlanPort { treatment: vec!["gbp"], ..calicos() };
        assert!(
            found(with_groups, true).1.contains("overlay as gbp; the kernel gives the port over IPv4 to")
        );
        let with_sums = VxlanPort { ipv6: true, ..calicos() };
        assert!(
            found(with_sums, true)
                .1
                .contains("overlay without udp6zerocsumrx; the kernel gives the port over IPv6")
        );
    }

    #[test]
    fn without_an_overlay_nothing_is_in_its_way() {
        assert_eq!(check(None, &Network::default())[0].outcome, Outcome::Ok);
    }
}

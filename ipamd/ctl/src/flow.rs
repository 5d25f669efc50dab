//! Flows and their sides, for people.

use std::net::SocketAddr;

use ipamd_api::policy::{DecidingRule, IcmpMessage, Party};

use super::output::clean;

/// A protocol, with what of ICMP it is: `icmp/8/0`.
pub(super) fn protocol(name: &str, icmp: Option<IcmpMessage>) -> String {
    let message = icmp.map(|IcmpMessage { kind, code }| format!("/{kind}/{code}")).unwrap_or_default();
    clean(name) + &message
}

/// A side's address and its port, if the protocol has any: `10.0.0.2:80`.
pub(super) fn address(party: &Party, protocol: &str) -> String {
    if party.port == 0 || protocol.starts_with("icmp") {
        party.address.to_string()
    } else {
        SocketAddr::new(party.address, party.port).to_string()
    }
}

/// What else a side is called: its pod, or the node or network sets that the address belongs to.
pub(super) fn names(party: &Party) -> String {
    let names: Vec<_> = party.pod.iter().chain(&party.others).map(|name| clean(name)).collect();
    names.join(", ")
}

/// A side with what it is called behind: `10.0.0.2:80 (shop/web)`.
pub(super) fn address_and_names(party: &Party, protocol: &str) -> String {
    let (address, names) = (address(party, protocol), names(party));
    if names.is_empty() { address } else { format!("{address} ({names})") }
}

/// A side as people know it: its pod and port, or else as [`address_and_names`].
pub(super) fn pod_or_address(party: &Party, protocol: &str) -> String {
    match &party.pod {
        Some(pod) if party.port == 0 => clean(pod),
        Some(pod) => format!("{}:{}", clean(pod), party.port),
        None => address_and_names(party, protocol),
    }
}

/// What took a decision: ` by ` and the rule; nothing if no rule did.
pub(super) fn by(rule: Option<&DecidingRule>) -> String {
    rule.map_or_else(String::new, |rule| format!(" by {}", clean(&rule.text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_shown_with_its_port_and_names() {
        let side = |address: &str, port, pod: Option<&str>| Party {
            address: address.parse().unwrap(),
            port,
            pod: pod.map(str::to_owned),
            others: Vec::new(),
        };
        let web = side("10.0.0.2", 80, Some("shop/web"));
        assert_eq!(address_and_names(&web, "tcp"), "10.0.0.2:80 (shop/web)");
        assert_eq!(address_and_names(&web, "icmp"), "10.0.0.2 (shop/web)");
        assert_eq!(pod_or_address(&web, "tcp"), "shop/web:80");
        assert_eq!(pod_or_address(&Party { port: 0, ..web.clone() }, "tcp"), "shop/web");
        assert_eq!(pod_or_address(&side("fd00::1", 80, None), "tcp"), "[fd00::1]:80");
        assert_eq!(protocol("icmp", Some(IcmpMessage { kind: 8, code: 0 })), "icmp/8/0");
        assert_eq!(protocol("tcp", None), "tcp");
        assert_eq!(address_and_names(&side("fd00::1", 80, None), "tcp"), "[fd00::1]:80");
        assert_eq!(address_and_names(&side("fd00::1", 0, None), "47"), "fd00::1");
        let node = Party { others: vec!["node a".into(), "GlobalNetworkSet\n".into()], ..web };
        assert_eq!(names(&node), "shop/web, node a, GlobalNetworkSet\\n");
    }
}

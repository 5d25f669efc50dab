//! Rules in the form that kube-proxy's iptables mode gives them, as `iptables-restore` reads them.
//!
//! `KUBE-SERVICES` has a rule for each service, which every new connection walks through until one fits; a chain for each
//! service chooses an endpoint by probabilities; a chain for each endpoint translates.

use std::{
    fmt::{self, Write},
    net::Ipv4Addr,
};

use super::population::{Backend, PORT, Population, SERVICE_PORT, digest};

/// The mark of connections that are to be masqueraded.
const MARK: &str = "0x4000";

/// All rules for a population, where pods are of this prefix.
pub fn rules(population: &Population, pods: &str) -> Result<String, fmt::Error> {
    let mut text = String::new();
    filter(&mut text)?;
    nat(&mut text, population, pods)?;
    Ok(text)
}

fn service_chain(service: u32) -> String {
    format!("KUBE-SVC-{}", digest(u64::from(service)))
}

fn endpoint_chain(backend: &Backend) -> String {
    format!("KUBE-SEP-{}", digest(1 << 32 | u64::from(backend.service) << 8 | u64::from(backend.number)))
}

/// What forwarded and local packets pass, whatever services there are.
fn filter(text: &mut String) -> fmt::Result {
    let chains = [
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-FIREWALL",
        "KUBE-FORWARD",
        "KUBE-NODEPORTS",
        "KUBE-PROXY-FIREWALL",
        "KUBE-SERVICES",
    ];
    writeln!(text, "*filter")?;
    for chain in chains {
        writeln!(text, ":{chain} - [0:0]")?;
    }
    for (from, new, comment, to) in [
        ("INPUT", true, "load balancer firewall", "KUBE-PROXY-FIREWALL"),
        ("INPUT", false, "health check service ports", "KUBE-NODEPORTS"),
        ("INPUT", true, "externally-visible service portals", "KUBE-EXTERNAL-SERVICES"),
        ("INPUT", false, "firewall", "KUBE-FIREWALL"),
        ("FORWARD", true, "load balancer firewall", "KUBE-PROXY-FIREWALL"),
        ("FORWARD", false, "forwarding rules", "KUBE-FORWARD"),
        ("FORWARD", true, "service portals", "KUBE-SERVICES"),
        ("FORWARD", true, "externally-visible service portals", "KUBE-EXTERNAL-SERVICES"),
        ("OUTPUT", true, "load balancer firewall", "KUBE-PROXY-FIREWALL"),
        ("OUTPUT", true, "service portals", "KUBE-SERVICES"),
        ("OUTPUT", false, "firewall", "KUBE-FIREWALL"),
    ] {
        let new = if new { "-m conntrack --ctstate NEW " } else { "" };
        writeln!(text, "-A {from} {new}-m comment --comment \"kubernetes {comment}\" -j {to}")?;
    }
    writeln!(text, "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP")?;
    writeln!(text, "-A KUBE-FORWARD -m mark --mark {MARK}/{MARK} -j ACCEPT")?;
    writeln!(text, "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")?;
    writeln!(text, "COMMIT")
}

fn nat(text: &mut String, population: &Population, pods: &str) -> fmt::Result {
    writeln!(text, "*nat")?;
    for chain in ["KUBE-MARK-MASQ", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-SERVICES"] {
        writeln!(text, ":{chain} - [0:0]")?;
    }
    for service in 0..population.services {
        writeln!(text, ":{} - [0:0]", service_chain(service))?;
        for endpoint in population.endpoints(service) {
            writeln!(text, ":{} - [0:0]", endpoint_chain(&endpoint))?;
        }
    }
    for from in ["PREROUTING", "OUTPUT"] {
        writeln!(text, "-A {from} -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES")?;
    }
    writeln!(
        text,
        "-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING"
    )?;
    writeln!(text, "-A KUBE-MARK-MASQ -j MARK --or-mark {MARK}")?;
    writeln!(text, "-A KUBE-POSTROUTING -m mark ! --mark {MARK}/{MARK} -j RETURN")?;
    writeln!(text, "-A KUBE-POSTROUTING -j MARK --xor-mark {MARK}")?;
    writeln!(text, "-A KUBE-POSTROUTING -j MASQUERADE --random-fully")?;
    for service in 0..population.services {
        nat_of_service(text, service, &population.endpoints(service), pods)?;
    }
    writeln!(
        text,
        "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports\" -m addrtype --dst-type LOCAL \
         -j KUBE-NODEPORTS"
    )?;
    writeln!(text, "COMMIT")
}

fn nat_of_service(text: &mut String, service: u32, endpoints: &[Backend], pods: &str) -> fmt::Result {
    let name = format!("{}/{}:http", Population::namespace(service), Population::name(service));
    let address: Ipv4Addr = Population::cluster_ip(service);
    let chain = service_chain(service);
    let reached = format!(
        "-d {address}/32 -p tcp -m comment --comment \"{name} cluster IP\" -m tcp --dport {SERVICE_PORT}"
    );
    writeln!(text, "-A KUBE-SERVICES {reached} -j {chain}")?;
    writeln!(text, "-A {chain} ! -s {pods} {reached} -j KUBE-MARK-MASQ")?;
    for (endpoint, left) in endpoints.iter().zip((1..=endpoints.len()).rev()) {
        let to = endpoint_chain(endpoint);
        let at = endpoint.address;
        // Each takes its share of what those before it have left; the last takes the rest.
        let share = if left == 1 {
            String::new()
        } else {
            format!("-m statistic --mode random --probability 0.{:010} ", 10_000_000_000 / left)
        };
        writeln!(text, "-A {chain} -m comment --comment \"{name} -> {at}:{PORT}\" {share}-j {to}")?;
        writeln!(text, "-A {to} -s {at}/32 -m comment --comment \"{name}\" -j KUBE-MARK-MASQ")?;
        writeln!(
            text,
            "-A {to} -p tcp -m comment --comment \"{name}\" -m tcp -j DNAT --to-destination {at}:{PORT}"
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_connection_walks_the_services_before_its_own() {
        let population =
            Population { services: 9, backends: vec![Ipv4Addr::new(10, 88, 0, 2)], node: String::new() };
        let text = rules(&population, "10.88.0.0/16").unwrap_or_default();
        let portals: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("cluster IP") && line.starts_with("-A KUBE-SERVICES"))
            .collect();
        assert_eq!(portals.len(), 9);
        assert!(
            portals[4].contains("-d 10.96.1.4/32") && portals[4].contains("--dport 80"),
            "{}",
            portals[4]
        );
        assert!(text.contains("--to-destination 10.88.0.2:8080"));
        // Ten endpoints choose nine times; one endpoint not at all.
        assert_eq!(text.matches("--probability").count(), 8 * 9);
        assert!(text.contains("--probability 0.1000000000 ") && text.contains("--probability 0.5000000000 "));
    }
}

//! A table in the form that kube-proxy's nftables mode gives it, as `nft -f` reads it.
//!
//! `service-ips` leads from address, protocol and port to the chain of a service in one look-up; that chain leads by a
//! random number to the chain of an endpoint, which translates.

use std::fmt::{self, Write};

use super::population::{Backend, PORT, Population, SERVICE_PORT, digest};

/// The chains and maps that there are whatever services there are, but for the address family's words.
const FRAME: &str = "\
set cluster-ips { type ipv4_addr; }
set nodeport-ips { type ipv4_addr; }
map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
map service-nodeports { type inet_proto . inet_service : verdict; }
chain mark-for-masquerade { mark set mark or 0x4000; }
chain reject-chain { reject; }
chain masquerading {
    mark and 0x4000 == 0 return
    mark set mark xor 0x4000
    masquerade fully-random
}
chain cluster-ips-check { ip daddr @cluster-ips reject; }
chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
chain nodeport-endpoints-check {
    ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
}
chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
chain services {
    ip daddr . meta l4proto . th dport vmap @service-ips
    ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
}
chain filter-prerouting-pre-dnat {
    type filter hook prerouting priority -110;
    ct state new jump firewall-check
}
chain filter-output-pre-dnat {
    type filter hook output priority -110;
    ct state new jump firewall-check
}
chain filter-input {
    type filter hook input priority -110;
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
}
chain filter-forward {
    type filter hook forward priority -110;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
}
chain filter-output {
    type filter hook output priority -90;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
}
chain nat-prerouting {
    type nat hook prerouting priority -100;
    jump services
}
chain nat-output {
    type nat hook output priority -100;
    jump services
}
chain nat-postrouting {
    type nat hook postrouting priority 100;
    jump masquerading
}
";

/// Services of one transaction: the kernel walks through all that a transaction has made for each thing that it makes.
const TOGETHER: usize = 500;

/// The table for a population, where pods are of this prefix; to be loaded one after another.
pub fn rules(population: &Population, pods: &str) -> Result<Vec<String>, fmt::Error> {
    let mut transactions = vec![format!("table ip kube-proxy {{\n{FRAME}}}\n")];
    let all: Vec<u32> = (0..population.services).collect();
    for services in all.chunks(TOGETHER) {
        let mut text = String::new();
        let (mut portals, mut addresses) = (Vec::new(), Vec::new());
        writeln!(text, "table ip kube-proxy {{")?;
        for &service in services {
            let address = Population::cluster_ip(service);
            let name = named(service);
            addresses.push(address.to_string());
            portals
                .push(format!("{address} . tcp . {SERVICE_PORT} : goto {}", service_chain(service, &name)));
            of_service(&mut text, service, &name, &population.endpoints(service), pods)?;
        }
        writeln!(text, "}}")?;
        writeln!(text, "add element ip kube-proxy cluster-ips {{ {} }}", addresses.join(", "))?;
        writeln!(text, "add element ip kube-proxy service-ips {{ {} }}", portals.join(", "))?;
        transactions.push(text);
    }
    Ok(transactions)
}

fn named(service: u32) -> String {
    format!("{}/{}/tcp/http", Population::namespace(service), Population::name(service))
}

fn service_chain(service: u32, name: &str) -> String {
    format!("service-{}-{name}", &digest(u64::from(service))[..8])
}

fn endpoint_chain(backend: &Backend, name: &str) -> String {
    let number = 1 << 32 | u64::from(backend.service) << 8 | u64::from(backend.number);
    format!("endpoint-{}-{name}__{}/{PORT}", &digest(number)[..8], backend.address)
}

fn of_service(text: &mut String, service: u32, name: &str, endpoints: &[Backend], pods: &str) -> fmt::Result {
    let mut choice = Vec::new();
    // Chains before those that go to them.
    for endpoint in endpoints {
        let (chain, at) = (endpoint_chain(endpoint, name), endpoint.address);
        writeln!(
            text,
            "chain {chain} {{\n    ip saddr {at} jump mark-for-masquerade\n    meta l4proto tcp dnat to {at}:{PORT}\n}}"
        )?;
        choice.push(format!("{} : goto {chain}", endpoint.number));
    }
    writeln!(
        text,
        "chain {} {{\n    ip daddr {} ip saddr != {pods} jump mark-for-masquerade\n    numgen random mod {} vmap {{ {} }}\n}}",
        service_chain(service, name),
        Population::cluster_ip(service),
        endpoints.len(),
        choice.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn each_service_is_an_element_of_one_map() {
        let backends = vec![Ipv4Addr::new(10, 88, 0, 2), Ipv4Addr::new(10, 88, 0, 3)];
        let population = Population { services: 3, backends, node: String::new() };
        let text = rules(&population, "10.88.0.0/16").unwrap_or_default().concat();
        assert_eq!(text.matches(" . tcp . 80 : goto service-").count(), 3);
        assert_eq!(text.matches("chain endpoint-").count(), 2 * 10 + 2);
        assert!(text.contains("numgen random mod 2 vmap { 0 : goto endpoint-"));
        assert!(text.contains("dnat to 10.88.0.3:8080"));
    }
}

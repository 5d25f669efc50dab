//! Services.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use ipnetwork::IpNetwork;

use super::{ip_address::ip_address, metadata, refused::Refused, traffic};
use crate::field::{Field, shown};
use ipamd_model::{
    field::FieldError,
    objects::{Kind, Object},
    services::{Role, Service, ServicePort},
    special,
};

/// Labels that say that a Service is not balanced here.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";
/// As [`HEADLESS`]: somebody else balances it.
pub(super) const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// The annotation that `spec.loadBalancerSourceRanges` replaced.
pub const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// Seconds that affinity holds unless the Service says otherwise, and at most.
const AFFINITY: u32 = 10_800;
const AFFINITY_MOST: i64 = 86_400;
/// Most ports of a Service, and most addresses of each sort.
const MOST: usize = 4096;

pub(super) fn read(root: &Field<'_>) -> Result<Object, FieldError> {
    let id = metadata::id(Kind::Service, root)?;
    let mut service = Service {
        namespace: id.namespace.unwrap_or_default(),
        name: id.name,
        role: Role::Balanced,
        cluster_ips: Box::default(),
        external_ips: Box::default(),
        load_balancer_ips: Box::default(),
        source_ranges: Box::default(),
        ports: Box::default(),
        affinity: None,
        internal_local: false,
        external_local: false,
        health_check_port: None,
        refused: Box::default(),
    };
    let mut refused = Refused::default();
    let labels = metadata::labels(root)?.unwrap_or_default();
    if let Some(spec) = root.get("spec")? {
        let sort = Sort::of(&spec)?;
        service.role = match sort {
            Sort::ExternalName => Role::ExternalName,
            _ if labels.get(OTHER_PROXY).is_some() => Role::OtherProxy,
            _ if labels.get(HEADLESS).is_some() => Role::Headless,
            _ => Role::Balanced,
        };
        (service.cluster_ips, service.role) = cluster_ips(&spec, service.role, &mut refused)?;
        service.external_ips = addresses(&spec, "externalIPs", &mut refused)?.into();
        service.ports = ports(&spec, sort)?.into();
        service.affinity = affinity(&spec)?;
        service.internal_local = is_local(&spec, "internalTrafficPolicy")?;
        let is_external = sort != Sort::ClusterIp || !service.external_ips.is_empty();
        service.external_local = is_external && is_local(&spec, "externalTrafficPolicy")?;
        if sort == Sort::LoadBalancer {
            service.source_ranges = source_ranges(root, &spec)?.into();
            service.load_balancer_ips = load_balancer_ips(root, &mut refused)?.into();
            if service.external_local {
                service.health_check_port = traffic::optional_port(&spec, "healthCheckNodePort")?;
            }
        }
    }
    service.refused = refused.into();
    Ok(Object::Service(Arc::new(service)))
}

/// An address that a service can have; `None`, and the reason told, if none can.
fn address(field: &Field<'_>, refused: &mut Refused) -> Result<Option<IpAddr>, FieldError> {
    let address = ip_address(field)?;
    let fault = special::fault(address);
    if let Some(fault) = fault {
        refused.add(field, address, fault);
    }
    Ok(fault.is_none().then_some(address))
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

impl Sort {
    fn of(spec: &Field<'_>) -> Result<Self, FieldError> {
        let Some(sort) = spec.get("type")? else { return Ok(Self::ClusterIp) };
        Ok(match sort.text()? {
            "" | "ClusterIP" => Self::ClusterIp,
            "NodePort" => Self::NodePort,
            "LoadBalancer" => Self::LoadBalancer,
            "ExternalName" => Self::ExternalName,
            other => {
                return Err(sort.refuse(format!(
                    "{} is not one of ClusterIP, NodePort, LoadBalancer and ExternalName",
                    shown(other)
                )));
            }
        })
    }
}

/// The addresses, and what the Service is by them: `None` stands for a headless one.
fn cluster_ips(
    spec: &Field<'_>,
    role: Role,
    refused: &mut Refused,
) -> Result<(Box<[IpAddr]>, Role), FieldError> {
    let mut found = Vec::new();
    let mut headless = false;
    let mut take = |field: &Field<'_>| {
        match field.text()? {
            "" => {}
            "None" => headless = true,
            _ if found.len() < MOST => found.extend(address(field, refused)?),
            _ => return Err(field.refuse(format!("there are more than {MOST} addresses"))),
        }
        Ok::<_, FieldError>(())
    };
    match spec.get("clusterIPs")? {
        Some(list) => list.items()?.try_for_each(|it| take(&it))?,
        None => {
            if let Some(one) = spec.get("clusterIP")? {
                take(&one)?;
            }
        }
    }
    let role = if headless && role == Role::Balanced { Role::Headless } else { role };
    Ok((found.into(), role))
}

fn addresses(spec: &Field<'_>, key: &str, refused: &mut Refused) -> Result<Vec<IpAddr>, FieldError> {
    let Some(list) = spec.get(key)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for item in list.items()? {
        if found.len() == MOST {
            return Err(list.refuse(format!("there are more than {MOST} addresses")));
        }
        found.extend(address(&item, refused)?);
    }
    Ok(found)
}

fn ports(spec: &Field<'_>, sort: Sort) -> Result<Vec<ServicePort>, FieldError> {
    let Some(list) = spec.get("ports")? else { return Ok(Vec::new()) };
    let mut ports = Vec::new();
    let mut seen = HashSet::new();
    for item in list.items()? {
        if ports.len() == MOST {
            return Err(list.refuse(format!("there are more than {MOST} ports")));
        }
        let number = item.need("port")?;
        let port = ServicePort {
            name: traffic::port_name(&item)?,
            protocol: traffic::protocol(&item)?,
            port: traffic::port(&number)?,
            node_port: match sort {
                Sort::NodePort | Sort::LoadBalancer => traffic::optional_port(&item, "nodePort")?,
                Sort::ClusterIp | Sort::ExternalName => None,
            },
        };
        if !seen.insert((port.port, port.protocol)) {
            return Err(number.refuse(format!("{} is there twice for the same protocol", port.port)));
        }
        ports.push(port);
    }
    Ok(ports)
}

fn affinity(spec: &Field<'_>) -> Result<Option<u32>, FieldError> {
    let Some(affinity) = spec.get("sessionAffinity")? else { return Ok(None) };
    match affinity.text()? {
        "" | "None" => return Ok(None),
        "ClientIP" => {}
        other => return Err(affinity.refuse(format!("{} is neither None nor ClientIP", shown(other)))),
    }
    if let Some(config) = spec.get("sessionAffinityConfig")?
        && let Some(client) = config.get("clientIP")?
        && let Some(seconds) = client.get("timeoutSeconds")?
    {
        let number = u32::try_from(seconds.integer()?).ok();
        let number = number.filter(|it| (1..=AFFINITY_MOST).contains(&i64::from(*it)));
        return number.map(Some).ok_or_else(|| seconds.is_not("a number of seconds, from 1 to 86400"));
    }
    Ok(Some(AFFINITY))
}

fn is_local(spec: &Field<'_>, key: &str) -> Result<bool, FieldError> {
    let Some(policy) = spec.get(key)? else { return Ok(false) };
    match policy.text()? {
        "" | "Cluster" => Ok(false),
        "Local" => Ok(true),
        other => Err(policy.refuse(format!("{} is neither Cluster nor Local", shown(other)))),
    }
}

fn source_ranges(root: &Field<'_>, spec: &Field<'_>) -> Result<Vec<IpNetwork>, FieldError> {
    if let Some(list) = spec.get("loadBalancerSourceRanges")? {
        let mut ranges = Vec::new();
        for item in list.items()? {
            if ranges.len() == MOST {
                return Err(list.refuse(format!("there are more than {MOST} ranges")));
            }
            ranges.push(range(item.text()?).ok_or_else(|| item.is_not("a prefix such as 10.0.0.0/8"))?);
        }
        if !ranges.is_empty() {
            return Ok(ranges);
        }
    }
    let metadata = root.need("metadata")?;
    let Some(annotations) = metadata.get("annotations")? else { return Ok(Vec::new()) };
    let Some(list) = annotations.get(SOURCE_RANGES)? else { return Ok(Vec::new()) };
    let parts = list.text()?.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| range(part).ok_or_else(|| list.is_not("a list of prefixes such as 10.0.0.0/8")))
        .collect()
}

/// A prefix, whose host bits do not count.
fn range(text: &str) -> Option<IpNetwork> {
    let text = text.trim();
    let net: IpNetwork = text.contains('/').then(|| text.parse().ok()).flatten()?;
    IpNetwork::new(net.network(), net.prefix()).ok()
}

fn load_balancer_ips(root: &Field<'_>, refused: &mut Refused) -> Result<Vec<IpAddr>, FieldError> {
    let Some(status) = root.get("status")? else { return Ok(Vec::new()) };
    let Some(balancer) = status.get("loadBalancer")? else { return Ok(Vec::new()) };
    let Some(list) = balancer.get("ingress")? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for item in list.items()? {
        // One of mode Proxy takes connections itself and opens its own.
        if item.get("ipMode")?.is_some_and(|mode| mode.value() == "Proxy") {
            continue;
        }
        if let Some(ip) = item.get("ip")?
            && ip.value() != ""
            && found.len() < MOST
        {
            found.extend(address(&ip, refused)?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(document: &Value) -> Result<Service, FieldError> {
        match read(&Field::root(document))? {
            Object::Service(service) => Ok(Arc::unwrap_or_clone(service)),
            other => panic!("{other:?}"),
        }
    }

    fn of(spec: &Value) -> Result<Service, FieldError> {
        service(&json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec}))
    }

    fn ips(texts: &[&str]) -> Box<[IpAddr]> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_service_of_every_sort_of_address() {
        let document = json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00:96::7"],
                "externalIPs": ["192.0.2.80"], "loadBalancerSourceRanges": [" 198.51.100.7/24 "],
                "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000,
                "ports": [
                    {"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080},
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353},
                ],
            },
            "status": {"loadBalancer": {"ingress": [
                {"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}, {"hostname": "lb.example"},
            ]}},
        });
        let port = |name: &str, protocol, port, node_port| ServicePort {
            name: name.into(),
            protocol,
            port,
            node_port,
        };
        assert_eq!(
            service(&document).unwrap(),
            Service {
                namespace: "shop".into(),
                name: "web".into(),
                role: Role::Balanced,
                cluster_ips: ips(&["10.96.0.7", "fd00:96::7"]),
                external_ips: ips(&["192.0.2.80"]),
                load_balancer_ips: ips(&["203.0.113.1"]),
                source_ranges: Box::new(["198.51.100.0/24".parse().unwrap()]),
                ports: Box::new([port("http", 6, 80, Some(30_080)), port("dns", 17, 53, None)]),
                affinity: Some(10_800),
                internal_local: false,
                external_local: true,
                health_check_port: Some(32_000),
                refused: Box::default(),
            }
        );
    }

    #[test]
    fn addresses_that_no_service_can_have_are_left_out_by_name() {
        let document = json!({
            "metadata": {"name": "web"},
            "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.7", "fe80::1"],
                "externalIPs": ["127.0.0.1", "192.0.2.80", "::ffff:169.254.169.254", "::"]},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"ip": "255.255.255.255"}, {"ip": "ff0e::1"}]}},
        });
        let read = service(&document).unwrap();
        assert_eq!(read.cluster_ips, ips(&["10.96.0.7"]));
        assert_eq!(read.external_ips, ips(&["192.0.2.80"]));
        assert_eq!(read.load_balancer_ips, ips(&["203.0.113.1"]));
        assert_eq!(
            read.refused.iter().map(|it| &**it).collect::<Vec<_>>(),
            [
                "spec.clusterIPs[1]: fe80::1 is a link-local address; it is left out",
                "spec.externalIPs[0]: 127.0.0.1 is a loopback address; it is left out",
                "spec.externalIPs[2]: 169.254.169.254 is a link-local address; it is left out",
                "spec.externalIPs[3]: :: is unspecified; it is left out",
                "status.loadBalancer.ingress[1].ip: 255.255.255.255 is the broadcast address; it is left out",
                "status.loadBalancer.ingress[2].ip: ff0e::1 is a multicast address; it is left out",
            ]
        );
    }

    #[test]
    fn what_a_type_does_not_have_is_not_read() {
        let spec = json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80, "nodePort": 30080}],
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000, "loadBalancerSourceRanges": ["10.0.0.0/8"]});
        let read = of(&spec).unwrap();
        assert_eq!(
            (read.ports[0].node_port, read.external_local, read.health_check_port),
            (None, false, None)
        );
        assert!(read.source_ranges.is_empty());
    }

    #[test]
    fn services_that_are_not_balanced_here_are_told_apart() {
        let role = |labels: Value, spec: Value| {
            service(&json!({"metadata": {"name": "a", "labels": labels}, "spec": spec})).unwrap().role
        };
        assert_eq!(role(json!({}), json!({"clusterIP": "None"})), Role::Headless);
        assert_eq!(role(json!({}), json!({"clusterIPs": ["None"]})), Role::Headless);
        assert_eq!(role(json!({HEADLESS: ""}), json!({"clusterIP": "10.96.0.1"})), Role::Headless);
        assert_eq!(role(json!({OTHER_PROXY: "x"}), json!({"clusterIP": "10.96.0.1"})), Role::OtherProxy);
        assert_eq!(role(json!({}), json!({"type": "ExternalName", "externalName": "x"})), Role::ExternalName);
        assert_eq!(role(json!({}), json!({"clusterIP": ""})), Role::Balanced);
    }

    #[test]
    fn source_ranges_may_stand_in_the_annotation() {
        let document = json!({
            "metadata": {"name": "a", "annotations": {SOURCE_RANGES: "10.0.0.0/8, 192.0.2.0/24"}},
            "spec": {"type": "LoadBalancer"},
        });
        assert_eq!(service(&document).unwrap().source_ranges.len(), 2);
    }

    #[test]
    fn what_cannot_be_a_service_is_refused_by_its_field() {
        for (spec, said) in [
            (json!([]), "spec: is a list, not a mapping"),
            (
                json!({"type": "Nodeport"}),
                "spec.type: \"Nodeport\" is not one of ClusterIP, NodePort, LoadBalancer and ExternalName",
            ),
            (json!({"clusterIP": "10.96.0"}), "spec.clusterIP: \"10.96.0\" is not an IP address"),
            (json!({"clusterIPs": ["x"]}), "spec.clusterIPs[0]: \"x\" is not an IP address"),
            (json!({"ports": [{}]}), "spec.ports[0].port: is missing"),
            (json!({"ports": [{"port": 0}]}), "spec.ports[0].port: 0 is not a port, from 1 to 65535"),
            (
                json!({"ports": [{"port": 1, "protocol": "ICMP"}]}),
                "spec.ports[0].protocol: \"ICMP\" is not one of TCP, UDP and SCTP",
            ),
            (
                json!({"ports": [{"port": 1}, {"port": 1}]}),
                "spec.ports[1].port: 1 is there twice for the same protocol",
            ),
            (
                json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 65536}]}),
                "spec.ports[0].nodePort: 65536 is not a port, from 1 to 65535",
            ),
            (
                json!({"sessionAffinity": "Cookie"}),
                "spec.sessionAffinity: \"Cookie\" is neither None nor ClientIP",
            ),
            (
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 is not a number of seconds, from 1 to 86400",
            ),
            (
                json!({"internalTrafficPolicy": "Near"}),
                "spec.internalTrafficPolicy: \"Near\" is neither Cluster nor Local",
            ),
            (
                json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.1"]}),
                "spec.loadBalancerSourceRanges[0]: \"10.0.0.1\" is not a prefix such as 10.0.0.0/8",
            ),
        ] {
            assert_eq!(of(&spec).unwrap_err().to_string(), said);
        }
    }
}

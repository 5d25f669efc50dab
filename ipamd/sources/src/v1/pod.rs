//! Pods.

use std::{net::IpAddr, sync::Arc};

use super::{ip_address::ip_address, metadata};
use crate::field::{Field, shown};
use ipamd_model::{
    field::FieldError,
    objects::{Kind, NamedPort, Object, Pod},
    policy::protocol,
};

/// The service account of a pod that names none.
const DEFAULT_ACCOUNT: &str = "default";

pub(super) fn read(root: &Field<'_>) -> Result<Object, FieldError> {
    let id = metadata::id(Kind::Pod, root)?;
    let mut pod = Pod {
        namespace: id.namespace.unwrap_or_default(),
        name: id.name,
        labels: metadata::labels(root)?,
        service_account: DEFAULT_ACCOUNT.into(),
        addresses: Vec::new(),
        ports: Arc::new([]),
    };
    let mut shares_the_hosts_network = false;
    if let Some(spec) = root.get("spec")? {
        if let Some(account) = spec.get("serviceAccountName")?
            && account.value() != ""
        {
            pod.service_account = account.text()?.into();
        }
        if let Some(host) = spec.get("hostNetwork")? {
            shares_the_hosts_network = host.truth()?;
        }
        pod.ports = ports(&spec)?;
    }
    if let Some(status) = root.get("status")?
        && !shares_the_hosts_network
    {
        pod.addresses = addresses(&status)?;
    }
    Ok(Object::Pod(pod))
}

/// The addresses of a pod that runs, or is about to.
fn addresses(status: &Field<'_>) -> Result<Vec<IpAddr>, FieldError> {
    let phase = status.get("phase")?;
    if let Some(phase) = phase
        && matches!(phase.text()?, "Succeeded" | "Failed")
    {
        return Ok(Vec::new());
    }
    let mut addresses = Vec::new();
    if let Some(list) = status.get("podIPs")? {
        for item in list.items()? {
            addresses.push(ip_address(&item.need("ip")?)?);
        }
    }
    // One that only fills in the older field.
    if let Some(ip) = status.get("podIP")?
        && addresses.is_empty()
        && ip.value() != ""
    {
        addresses.push(ip_address(&ip)?);
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses.shrink_to_fit();
    Ok(addresses)
}

/// The named ports of the containers that run as long as the pod does.
fn ports(spec: &Field<'_>) -> Result<Arc<[NamedPort]>, FieldError> {
    let mut ports = Vec::new();
    for (list, are_init) in [("initContainers", true), ("containers", false)] {
        let Some(containers) = spec.get(list)? else { continue };
        for container in containers.items()? {
            if are_init && container.get("restartPolicy")?.is_none_or(|policy| policy.value() != "Always") {
                continue;
            }
            let Some(list) = container.get("ports")? else { continue };
            for port in list.items()? {
                ports.extend(named_port(&port)?);
            }
        }
    }
    // Of a name that is there twice, the first container's counts.
    let mut seen = std::collections::HashSet::new();
    ports.retain(|port| seen.insert((Arc::clone(&port.name), port.protocol)));
    ports.sort_unstable();
    Ok(ports.into())
}

fn named_port(port: &Field<'_>) -> Result<Option<NamedPort>, FieldError> {
    let Some(name) = port.get("name")? else { return Ok(None) };
    let name = name.text()?;
    let number = port.need("containerPort")?;
    let protocol = match port.get("protocol")? {
        None => protocol::TCP,
        Some(it) => match it.text()? {
            "TCP" | "" => protocol::TCP,
            "UDP" => protocol::UDP,
            "SCTP" => protocol::SCTP,
            other => {
                return Err(it.refuse(format!("{} is not one of TCP, UDP and SCTP", shown(other))));
            }
        },
    };
    let port = u16::try_from(number.integer()?).ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| number.is_not("a port, from 1 to 65535"))?;
    Ok((!name.is_empty()).then(|| NamedPort { name: name.into(), protocol, port }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: &Value, status: &Value) -> Result<Pod, FieldError> {
        let document = json!({"metadata": {"name": "a", "namespace": "ns", "labels": {"k": "v"}}, "spec": spec, "status": status});
        match read(&Field::root(&document))? {
            Object::Pod(pod) => Ok(pod),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pod_is_its_labels_account_addresses_and_named_ports() {
        let spec = json!({
            "serviceAccountName": "robot", "nodeName": "n", "restartPolicy": "Always",
            "initContainers": [
                {"name": "i", "ports": [{"name": "once", "containerPort": 1}]},
                {"name": "s", "restartPolicy": "Always", "ports": [{"name": "sidecar", "containerPort": 2}]},
            ],
            "containers": [{"name": "c", "ports": [
                {"name": "web", "containerPort": 80}, {"containerPort": 81},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                {"name": "web", "containerPort": 8080},
            ]}],
        });
        let status = json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]});
        let port = |name: &str, protocol, port| NamedPort { name: name.into(), protocol, port };
        assert_eq!(
            pod(&spec, &status),
            Ok(Pod {
                namespace: "ns".into(),
                name: "a".into(),
                labels: Some([("k", "v")].into_iter().collect()),
                service_account: "robot".into(),
                addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
                ports: [port("dns", 17, 53), port("sidecar", 6, 2), port("web", 6, 80)].into(),
            })
        );
    }

    #[test]
    fn a_pod_that_has_ended_or_is_the_hosts_has_no_address() {
        let ips = |phase: &str| json!({"phase": phase, "podIP": "10.0.0.1"});
        assert_eq!(pod(&json!({}), &ips("Pending")).unwrap().addresses.len(), 1);
        for (spec, status) in [
            (json!({}), ips("Succeeded")),
            (json!({}), ips("Failed")),
            (json!({"hostNetwork": true}), ips("Running")),
            (json!({}), json!({"podIP": ""})),
            (Value::Null, Value::Null),
        ] {
            assert!(pod(&spec, &status).unwrap().addresses.is_empty(), "{spec}");
        }
        assert_eq!(&*pod(&Value::Null, &Value::Null).unwrap().service_account, "default");
    }

    #[test]
    fn what_cannot_be_a_pod_is_refused_by_its_field() {
        let port = |port: Value| json!({"containers": [{"ports": [port]}]});
        for (spec, status, field) in [
            (json!([]), json!({}), "spec"),
            (json!({"hostNetwork": "yes"}), json!({}), "spec.hostNetwork"),
            (json!({"serviceAccountName": 1}), json!({}), "spec.serviceAccountName"),
            (port(json!({"name": "a"})), json!({}), "spec.containers[0].ports[0].containerPort"),
            (
                port(json!({"name": "a", "containerPort": 65536})),
                json!({}),
                "spec.containers[0].ports[0].containerPort",
            ),
            (
                port(json!({"name": "a", "containerPort": 0})),
                json!({}),
                "spec.containers[0].ports[0].containerPort",
            ),
            (
                port(json!({"name": "a", "containerPort": 1, "protocol": "ICMP"})),
                json!({}),
                "spec.containers[0].ports[0].protocol",
            ),
            (json!({}), json!({"podIPs": [{"ip": "x"}]}), "status.podIPs[0].ip"),
            (json!({}), json!({"podIPs": [{}]}), "status.podIPs[0].ip"),
            (json!({}), json!({"podIP": "10.0.0.0/8"}), "status.podIP"),
        ] {
            assert_eq!(pod(&spec, &status).unwrap_err().field, field);
        }
    }
}

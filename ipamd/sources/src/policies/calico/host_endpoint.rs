//! HostEndpoint: an interface of a node that policies apply to.

use std::{net::IpAddr, sync::Arc};

use crate::{
    field::{Field, shown},
    v1,
};
use ipamd_model::{
    field::FieldError,
    host::{DEFAULT_ALLOW_PROFILE, HostEndpoint, HostInterface},
    objects::{Kind, NamedPort, Object},
    policy::protocol,
};

/// The longest name of an interface (IFNAMSIZ without its end).
const LONGEST_NAME: usize = 15;

/// Reads a HostEndpoint. A profile other than the one that allows by default says nothing: what no policy allows is then
/// denied.
pub(super) fn read(root: &Field<'_>) -> Result<Object, FieldError> {
    let id = v1::id(Kind::HostEndpoint, root)?;
    let labels = v1::labels(root)?.unwrap_or_default();
    let spec = root.need("spec")?;
    spec.only(&["node", "interfaceName", "expectedIPs", "profiles", "ports"])?;
    let node = spec.need("node")?;
    if node.text()?.is_empty() {
        return Err(node.is_not("the name of a node"));
    }
    let addresses = match spec.get("expectedIPs")? {
        Some(list) => list.items()?.map(|it| address(&it)).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let interface = match spec.optional_text("interfaceName")?.unwrap_or_default() {
        "" if addresses.is_empty() => {
            return Err(spec.refuse("needs interfaceName, or expectedIPs that tell which interface is meant"));
        }
        "" => HostInterface::ByAddress,
        "*" => HostInterface::All,
        name if name.len() > LONGEST_NAME || name.contains(['/', ' ', '*']) => {
            return Err(spec.need("interfaceName")?.is_not("the name of an interface, nor \"*\""));
        }
        name => HostInterface::Named(name.into()),
    };
    let mut allows_by_default = false;
    if let Some(profiles) = spec.get("profiles")? {
        for profile in profiles.items()? {
            allows_by_default |= profile.text()? == DEFAULT_ALLOW_PROFILE;
        }
    }
    let mut ports = match spec.get("ports")? {
        Some(ports) => ports.items()?.map(|it| port(&it)).collect::<Result<Vec<_>, _>>()?,
        None => Vec::new(),
    };
    ports.sort_unstable();
    ports.dedup();
    Ok(Object::HostEndpoint(Arc::new(HostEndpoint {
        name: id.name,
        labels,
        node: node.text()?.into(),
        interface,
        addresses,
        ports: ports.into(),
        allows_by_default,
    })))
}

fn address(field: &Field<'_>) -> Result<IpAddr, FieldError> {
    let text = field.text()?;
    let address: IpAddr = text.parse().map_err(|_| field.is_not("an address"))?;
    if address.to_canonical() != address {
        return Err(field.refuse(format!("{} is of IPv4 in the form of IPv6", shown(text))));
    }
    Ok(address)
}

fn port(field: &Field<'_>) -> Result<NamedPort, FieldError> {
    field.only(&["name", "port", "protocol"])?;
    let (name, number, of) = (field.need("name")?, field.need("port")?, field.need("protocol")?);
    let protocol = match of.value().as_str() {
        Some("TCP") => protocol::TCP,
        Some("UDP") => protocol::UDP,
        Some("SCTP") => protocol::SCTP,
        Some("UDPLite") => protocol::UDPLITE,
        _ => match u8::try_from(of.integer()?) {
            Ok(number) if protocol::has_ports(number) => number,
            _ => return Err(of.is_not("a protocol that has ports")),
        },
    };
    let port = u16::try_from(number.integer()?).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| number.is_not("a port, from 1 to 65535"))?;
    Ok(NamedPort { name: name.text()?.into(), protocol, port })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn host(spec: &Value) -> Result<Arc<HostEndpoint>, String> {
        let document = json!({"metadata": {"name": "eth0", "labels": {"role": "node"}}, "spec": spec});
        match read(&Field::root(&document)).map_err(|error| error.to_string())? {
            Object::HostEndpoint(host) => Ok(host),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_host_endpoint_names_its_interface_or_tells_it_by_its_addresses() {
        let named = host(&json!({
            "node": "a", "interfaceName": "eth0", "expectedIPs": ["192.0.2.2", "2001:db8::2"],
            "profiles": ["projectcalico-default-allow"],
            "ports": [{"name": "web", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": 17}],
        }))
        .unwrap();
        assert_eq!(named.interface, HostInterface::Named("eth0".into()));
        assert_eq!((&*named.node, named.addresses.len(), named.ports.len()), ("a", 2, 2));
        assert!(named.allows_by_default);
        let star = host(&json!({"node": "a", "interfaceName": "*", "profiles": ["kns.default"]})).unwrap();
        assert_eq!((&star.interface, star.allows_by_default), (&HostInterface::All, false));
        let by_address = host(&json!({"node": "a", "expectedIPs": ["192.0.2.2"]})).unwrap();
        assert_eq!(by_address.interface, HostInterface::ByAddress);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_field() {
        for (spec, wrong) in [
            (json!({"interfaceName": "eth0"}), "spec.node: is missing"),
            (json!({"node": "", "interfaceName": "eth0"}), "spec.node: \"\" is not the name of a node"),
            (
                json!({"node": "a"}),
                "spec: needs interfaceName, or expectedIPs that tell which interface is meant",
            ),
            (
                json!({"node": "a", "interfaceName": "eth*"}),
                "spec.interfaceName: \"eth*\" is not the name of an interface, nor \"*\"",
            ),
            (
                json!({"node": "a", "expectedIPs": ["192.0.2.0/24"]}),
                "spec.expectedIPs[0]: \"192.0.2.0/24\" is not an address",
            ),
            (
                json!({"node": "a", "interfaceName": "eth0", "ports": [{"name": "a", "port": 0, "protocol": "TCP"}]}),
                "spec.ports[0].port: 0 is not a port, from 1 to 65535",
            ),
            (
                json!({"node": "a", "interfaceName": "eth0", "ports": [{"name": "a", "port": 1, "protocol": 1}]}),
                "spec.ports[0].protocol: 1 is not a protocol that has ports",
            ),
            (json!({"node": "a", "interface": "eth0"}), "spec.interface: is not known"),
        ] {
            assert_eq!(host(&spec).unwrap_err(), wrong);
        }
    }
}

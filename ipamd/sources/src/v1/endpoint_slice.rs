//! EndpointSlices (`discovery.k8s.io/v1`).

use std::{net::IpAddr, sync::Arc};

use super::{
    ip_address::ip_address,
    metadata,
    refused::Refused,
    service::{HEADLESS, OTHER_PROXY},
    traffic,
};
use crate::field::{Field, shown};
use ipamd_model::{
    field::FieldError,
    objects::{Kind, Object},
    services::{EndpointSlice, Hints, SliceEndpoint, SlicePort},
    special,
};

/// The label that names the Service.
const SERVICE: &str = "kubernetes.io/service-name";
/// Most endpoints, ports and hints of one slice. The API server takes a thousand endpoints.
const MOST: usize = 16_384;

pub(super) fn read(root: &Field<'_>) -> Result<Object, FieldError> {
    let id = metadata::id(Kind::EndpointSlice, root)?;
    let labels = metadata::labels(root)?.unwrap_or_default();
    let service = labels.get(SERVICE).filter(|name| !name.is_empty());
    let mut slice = EndpointSlice {
        namespace: id.namespace.unwrap_or_default(),
        name: id.name,
        service: service.map(Arc::from),
        balanced: labels.get(HEADLESS).is_none() && labels.get(OTHER_PROXY).is_none(),
        ports: Box::default(),
        endpoints: Box::default(),
        refused: Box::default(),
    };
    let sort = root.need("addressType")?;
    let family = match sort.text()? {
        "IPv4" => Some(true),
        "IPv6" => Some(false),
        "FQDN" => None,
        other => return Err(sort.refuse(format!("{} is not one of IPv4, IPv6 and FQDN", shown(other)))),
    };
    if let Some(list) = root.get("ports")? {
        let mut ports = Vec::new();
        for item in bounded(&list)? {
            if let Some(port) = traffic::optional_port(&item, "port")? {
                ports.push(SlicePort {
                    name: traffic::port_name(&item)?,
                    protocol: traffic::protocol(&item)?,
                    port,
                });
            }
        }
        slice.ports = ports.into();
    }
    if let Some(list) = root.get("endpoints")?
        && let Some(is_v4) = family
    {
        let mut endpoints = Vec::new();
        let mut refused = Refused::default();
        for item in bounded(&list)? {
            endpoints.extend(endpoint(&item, is_v4, &mut refused)?);
        }
        slice.endpoints = endpoints.into();
        slice.refused = refused.into();
    }
    Ok(Object::EndpointSlice(Arc::new(slice)))
}

fn endpoint(
    item: &Field<'_>,
    is_v4: bool,
    refused: &mut Refused,
) -> Result<Option<SliceEndpoint>, FieldError> {
    let addresses = item.need("addresses")?;
    // By the API all addresses of one endpoint mean the same.
    let Some(first) = addresses.items()?.next() else { return Ok(None) };
    let address: IpAddr = ip_address(&first)?;
    let of_other = (address.is_ipv4() != is_v4).then_some("is not of the slice's addressType");
    // The others of the slice stay: it is one of many, and a service without endpoints is down.
    if let Some(fault) = special::fault(address).or(of_other) {
        refused.add(&first, address, fault);
        return Ok(None);
    }
    let condition = |name: &str| -> Result<Option<bool>, FieldError> {
        let Some(conditions) = item.get("conditions")? else { return Ok(None) };
        let Some(condition) = conditions.get(name)? else { return Ok(None) };
        condition.truth().map(Some)
    };
    let ready = condition("ready")?.unwrap_or(true);
    Ok(Some(SliceEndpoint {
        address,
        ready,
        serving: condition("serving")?.unwrap_or(ready),
        terminating: condition("terminating")?.unwrap_or(false),
        node: match item.get("nodeName")? {
            Some(node) => Some(node.text()?).filter(|node| !node.is_empty()).map(Arc::from),
            None => None,
        },
        hints: hints(item)?,
    }))
}

fn hints(item: &Field<'_>) -> Result<Option<Arc<Hints>>, FieldError> {
    let Some(hints) = item.get("hints")? else { return Ok(None) };
    let names = |key: &str| -> Result<Box<[Arc<str>]>, FieldError> {
        let Some(list) = hints.get(key)? else { return Ok(Box::default()) };
        let mut names = Vec::new();
        for item in bounded(&list)? {
            names.push(item.need("name")?.text()?.into());
        }
        Ok(names.into())
    };
    let hints = Hints { zones: names("forZones")?, nodes: names("forNodes")? };
    Ok((hints != Hints::default()).then(|| hints.into()))
}

fn bounded<'a>(list: &'a Field<'a>) -> Result<impl Iterator<Item = Field<'a>>, FieldError> {
    let items = list.items()?;
    if list.value().as_array().is_some_and(|items| items.len() > MOST) {
        return Err(list.refuse(format!("there are more than {MOST} items")));
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(labels: &Value, rest: &Value) -> Result<EndpointSlice, FieldError> {
        let mut document = json!({"metadata": {"name": "web-1", "namespace": "shop", "labels": labels}, "addressType": "IPv4"});
        for (key, value) in rest.as_object().unwrap() {
            document[key] = value.clone();
        }
        match read(&Field::root(&document))? {
            Object::EndpointSlice(slice) => Ok(Arc::unwrap_or_clone(slice)),
            other => panic!("{other:?}"),
        }
    }

    fn endpoint(rest: &Value) -> SliceEndpoint {
        let mut endpoint = json!({"addresses": ["10.88.0.5"]});
        for (key, value) in rest.as_object().unwrap() {
            endpoint[key] = value.clone();
        }
        slice(&json!({}), &json!({"endpoints": [endpoint]})).unwrap().endpoints[0].clone()
    }

    #[test]
    fn a_slice_is_its_service_its_ports_and_its_endpoints() {
        let read = slice(
            &json!({SERVICE: "web"}),
            &json!({
                "ports": [{"name": "http", "port": 8080}, {"name": "all"}, {"port": 53, "protocol": "UDP"}],
                "endpoints": [{"addresses": ["10.88.0.5", "10.88.0.6"], "nodeName": "n1"}, {"addresses": []}],
            }),
        )
        .unwrap();
        let port = |name: &str, protocol, port| SlicePort { name: name.into(), protocol, port };
        assert_eq!(read.service.as_deref(), Some("web"));
        assert_eq!(*read.ports, [port("http", 6, 8080), port("", 17, 53)]);
        let only = SliceEndpoint {
            address: [10, 88, 0, 5].into(),
            ready: true,
            serving: true,
            terminating: false,
            node: Some("n1".into()),
            hints: None,
        };
        assert_eq!(*read.endpoints, [only]);
    }

    #[test]
    fn conditions_that_are_not_given_follow_from_the_others() {
        let states = |conditions: Value| {
            let it = endpoint(&json!({"conditions": conditions}));
            (it.ready, it.serving, it.terminating)
        };
        assert_eq!(states(json!({})), (true, true, false));
        assert_eq!(states(json!({"ready": null})), (true, true, false));
        assert_eq!(states(json!({"ready": false})), (false, false, false));
        assert_eq!(
            states(json!({"ready": false, "serving": true, "terminating": true})),
            (false, true, true)
        );
    }

    #[test]
    fn hints_name_zones_and_nodes() {
        let hints = endpoint(&json!({"hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "n"}]}}))
            .hints
            .unwrap();
        assert_eq!((&*hints.zones[0], &*hints.nodes[0]), ("a", "n"));
        assert_eq!(endpoint(&json!({"hints": {"forZones": []}})).hints, None);
    }

    #[test]
    fn slices_of_others_are_not_balanced() {
        let of_web = |labels: Value| {
            let slice = slice(&labels, &json!({})).unwrap();
            assert_eq!(slice.service.as_deref(), Some("web"));
            slice.balanced
        };
        assert!(of_web(json!({SERVICE: "web"})));
        for label in [HEADLESS, OTHER_PROXY] {
            assert!(!of_web(json!({SERVICE: "web", label: ""})));
        }
        assert_eq!(slice(&json!({}), &json!({})).unwrap().service, None);
        let names = json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.org"]}]});
        assert!(slice(&json!({SERVICE: "web"}), &names).unwrap().endpoints.is_empty());
    }

    #[test]
    fn endpoints_that_none_can_be_are_left_out_by_name_and_the_others_stay() {
        let read = |family: &str, addresses: &[&str]| {
            let endpoints: Vec<_> = addresses.iter().map(|it| json!({"addresses": [it]})).collect();
            let read =
                slice(&json!({SERVICE: "web"}), &json!({"addressType": family, "endpoints": endpoints}));
            let read = read.unwrap();
            let kept: Vec<_> = read.endpoints.iter().map(|it| it.address.to_string()).collect();
            (kept, read.refused.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let (kept, refused) =
            read("IPv4", &["127.0.0.1", "10.88.0.1", "169.254.169.254", "0.0.0.0", "fd00::1", "10.88.0.2"]);
        assert_eq!(kept, ["10.88.0.1", "10.88.0.2"]);
        assert_eq!(
            refused,
            [
                "endpoints[0].addresses[0]: 127.0.0.1 is a loopback address; it is left out",
                "endpoints[2].addresses[0]: 169.254.169.254 is a link-local address; it is left out",
                "endpoints[3].addresses[0]: 0.0.0.0 is unspecified; it is left out",
                "endpoints[4].addresses[0]: fd00::1 is not of the slice's addressType; it is left out",
            ]
        );
        let special = ["::1", "::", "fe80::1", "ff02::1", "ff0e::5", "::ffff:127.0.0.1", "::ffff:10.88.0.1"];
        let (kept, refused) = read("IPv6", &special);
        assert_eq!((kept.len(), refused.len()), (0, special.len()), "{refused:?}");
        let (kept, refused) = read("IPv4", &["224.0.0.1"; 100]);
        assert_eq!((kept.len(), refused.len()), (0, 16), "there is no end of them");
    }

    #[test]
    fn what_cannot_be_a_slice_is_refused_by_its_field() {
        for (rest, said) in [
            (json!({"addressType": null}), "addressType: is missing"),
            (json!({"addressType": "IPv5"}), "addressType: \"IPv5\" is not one of IPv4, IPv6 and FQDN"),
            (json!({"endpoints": [{}]}), "endpoints[0].addresses: is missing"),
            (
                json!({"endpoints": [{"addresses": ["x"]}]}),
                "endpoints[0].addresses[0]: \"x\" is not an IP address",
            ),
            (
                json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": "yes"}}]}),
                "endpoints[0].conditions.ready: \"yes\" is not true or false",
            ),
            (json!({"ports": [{"port": 70000}]}), "ports[0].port: 70000 is not a port, from 1 to 65535"),
        ] {
            assert_eq!(slice(&json!({}), &rest).unwrap_err().to_string(), said);
        }
    }
}

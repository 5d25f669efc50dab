//! `CNI_ARGS`: pairs such as `IgnoreUnknown=1;K8S_POD_NAME=web-0`.

use std::net::IpAddr;

use ipamd_api::{MacAddr, wire::Pod};

use ipnetwork::IpNetwork;

/// What the pairs say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniArgs {
    /// `K8S_POD_NAMESPACE`, `K8S_POD_NAME` and `K8S_POD_UID`: the pod is known when its namespace and its name are.
    pub pod: Option<Pod>,
    /// `IP` and `MAC`.
    pub requested: Requested,
}

/// What the container is to have, by the names that the reference plugins gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requested {
    /// `IP`: addresses joined by ',', each with or without a prefix length.
    pub addresses: Vec<IpAddr>,
    /// `MAC`.
    pub mac: Option<MacAddr>,
}

/// Reads the pairs; whatever is wrong is added to `faults`.
pub fn parse(args: &str, faults: &mut Vec<String>) -> CniArgs {
    let (mut namespace, mut name, mut uid) = ("", "", "");
    let mut requested = Requested::default();
    let mut ignore_unknown = false;
    let mut unknown = Vec::new();
    for pair in args.split(';').filter(|_| !args.is_empty()) {
        let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            faults.push(format!("CNI_ARGS must be KEY=VALUE pairs joined by ';', and {pair:?} is none"));
            continue;
        };
        match key {
            "IgnoreUnknown" => match truth(value) {
                Some(truth) => ignore_unknown = truth,
                None => faults.push(format!("CNI_ARGS: IgnoreUnknown must be true or false, not {value:?}")),
            },
            "K8S_POD_NAMESPACE" => namespace = value,
            "K8S_POD_NAME" => name = value,
            "K8S_POD_UID" => uid = value,
            // Kubernetes' runtimes send it; the container id says the same.
            "K8S_POD_INFRA_CONTAINER_ID" => {}
            "IP" => match addresses(value) {
                Some(addresses) => requested.addresses = addresses,
                None => faults.push(format!(
                    "CNI_ARGS: IP must be an IP address that a container can have, or one of each family joined by ',', not {value:?}"
                )),
            },
            "MAC" if value.is_empty() => {}
            "MAC" => match value.parse::<MacAddr>().ok().filter(|mac| mac.is_unicast()) {
                Some(mac) => requested.mac = Some(mac),
                None => faults.push(format!(
                    "CNI_ARGS: MAC must be a unicast Ethernet address such as 02:00:00:00:00:01, not {value:?}"
                )),
            },
            _ => unknown.push(pair),
        }
    }
    if !ignore_unknown {
        faults.extend(unknown.into_iter().map(|pair| {
            format!("CNI_ARGS: {pair:?} is not known to Cambric (IgnoreUnknown=1 makes it pass over such)")
        }));
    }
    let pod = (!namespace.is_empty() && !name.is_empty()).then(|| Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
    });
    CniArgs { pod, requested }
}

/// At most one address of each family.
fn addresses(text: &str) -> Option<Vec<IpAddr>> {
    let texts = text.split(',').filter(|_| !text.is_empty());
    let addresses = texts.map(|text| container_address(text.trim())).collect::<Option<Vec<_>>>()?;
    let of_family = |v4| addresses.iter().filter(|address| address.is_ipv4() == v4).count();
    (of_family(true) <= 1 && of_family(false) <= 1).then_some(addresses)
}

fn truth(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" => Some(true),
        "0" | "false" | "no" => Some(false),
        _ => None,
    }
}

/// The address that is written so, with or without a prefix length, if a container can have it.
pub fn container_address(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpNetwork>().ok()?.ip();
    let fits = !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
    fits.then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &str) -> (Option<Pod>, Vec<String>) {
        let mut faults = Vec::new();
        let args = parse(args, &mut faults);
        (args.pod, faults)
    }

    #[test]
    fn a_runtimes_pairs_name_the_pod() {
        let (pod, faults) =
            read("K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID=x;K8S_POD_UID=u=1");
        assert_eq!(pod, Some(Pod { namespace: "ns".into(), name: "p".into(), uid: "u=1".into() }));
        assert!(faults.is_empty());
        assert_eq!(read(""), (None, vec![]));
        assert_eq!(read("K8S_POD_NAME=p"), (None, vec![]), "a name alone is no pod");
    }

    #[test]
    fn unknown_keys_pass_only_where_that_is_asked_for() {
        for args in ["FOO=1;IgnoreUnknown=1", "IgnoreUnknown=true;FOO=1", "IgnoreUnknown=yes;FOO=1"] {
            assert_eq!(read(args).1, Vec::<String>::new(), "{args}");
        }
        for args in ["FOO=1", "IgnoreUnknown=0;FOO=1", "FOO=1;IgnoreUnknown=false"] {
            assert!(read(args).1[0].contains("\"FOO=1\""), "{args}");
        }
    }

    #[test]
    fn malformed_pairs_are_quoted() {
        for (args, quoted) in [
            ("FOO", "\"FOO\""),
            ("=1", "\"=1\""),
            ("K8S_POD_NAME=a;;", "\"\""),
            ("IgnoreUnknown=maybe", "\"maybe\""),
        ] {
            assert!(read(args).1[0].contains(quoted), "{args}: {:?}", read(args).1);
        }
    }

    #[test]
    fn an_address_and_an_ethernet_address_can_be_asked_for() {
        let asked = |args: &str| {
            let mut faults = Vec::new();
            (parse(args, &mut faults).requested, faults)
        };
        let (requested, faults) = asked("IP=10.0.0.5/24,fd00::5;MAC=02:00:00:00:00:05");
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!(requested.addresses, ["10.0.0.5".parse::<IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
        assert_eq!(requested.mac, Some(MacAddr([2, 0, 0, 0, 0, 5])));
        assert_eq!(asked("IP=;MAC="), (Requested::default(), vec![]));
        for (args, key) in [
            ("IP=x", "IP"),
            ("IP=10.0.0.1,10.0.0.2", "IP"),
            ("IP=127.0.0.1", "IP"),
            ("IP=10.0.0.1,", "IP"),
            ("IgnoreUnknown=1;MAC=01:00:00:00:00:00", "MAC"),
            ("MAC=x", "MAC"),
        ] {
            let (_, faults) = asked(args);
            assert!(faults[0].contains(&format!("CNI_ARGS: {key} must be ")), "{args}: {faults:?}");
        }
    }
}

//! `CNI_ARGS`: pairs such as `IgnoreUnknown=1;K8S_POD_NAME=web-0`.

use ipamd_api::wire::Pod;

/// Reads the pairs. The pod is known when its namespace and its name are; whatever is wrong is added to `faults`.
pub fn parse(args: &str, faults: &mut Vec<String>) -> Option<Pod> {
    let (mut namespace, mut name, mut uid) = ("", "", "");
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
            _ => unknown.push(pair),
        }
    }
    if !ignore_unknown {
        faults.extend(unknown.into_iter().map(|pair| {
            format!("CNI_ARGS: {pair:?} is not known to Cambric (IgnoreUnknown=1 makes it pass over such)")
        }));
    }
    (!namespace.is_empty() && !name.is_empty()).then(|| Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
    })
}

fn truth(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" => Some(true),
        "0" | "false" | "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &str) -> (Option<Pod>, Vec<String>) {
        let mut faults = Vec::new();
        let pod = parse(args, &mut faults);
        (pod, faults)
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
}

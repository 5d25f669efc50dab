//! `cambricctl policy diff --flows`: compares on flows that were recorded, without a daemon.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::{self, BufRead, BufReader, Read},
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use ipamd_api::{
    AttachmentKey,
    policy::{DiffPage, Event, EventKind, Party, RefusedObject},
    wire,
};

use super::sources;
use crate::connections::protocol;
use ipamd_model::{
    objects::{Batch, Change, Object, Pod},
    policy::protocol::is_icmp,
};
use ipamd_policy::{
    enforce::{Enforcer, LocalEndpoint, SeenFlow, memory::Memory},
    tables::Limits,
};
use ipamd_sources::directory::read_once::Once;

/// How many flows are compared.
const MOST: usize = 1_000_000;
/// How an event says a DNS name of its destination.
const DNS_NAME: &str = "DNS name ";

/// A cluster of any size fits: what a node has room for is not asked here.
const ROOM: Limits = Limits {
    slots: 1 << 20,
    maps: 1 << 20,
    entries: 1 << 20,
    addresses: 1 << 24,
    prefixes: 1 << 24,
    rules: 1 << 24,
    domains: 4096,
    domains_of_name: 8,
};

/// What is compared with what.
pub(super) struct Comparison<'a> {
    /// The recorded flows: a file of lines as `monitor -o json` prints them, or `-`.
    pub flows: &'a Path,
    /// The cluster as it is.
    pub cluster: &'a [PathBuf],
    /// What would be applied.
    pub files: &'a [PathBuf],
    /// Whether staged policies are taken to be in force.
    pub staged: bool,
}

/// Compares. Every pod of the cluster is one whose policies are asked.
pub(super) fn compare(comparison: &Comparison<'_>) -> anyhow::Result<DiffPage> {
    let cluster = read(comparison.cluster)?;
    let files = read(comparison.files)?;
    let refused: Vec<_> =
        [&cluster, &files].into_iter().flat_map(|it| it.refusals.iter().flatten()).collect();
    if !refused.is_empty() {
        let refused = refused.into_iter().map(RefusedObject::from).collect();
        return Ok(DiffPage { refused, last: true, ..DiffPage::default() });
    }
    let pods = pods(&cluster);
    if pods.is_empty() {
        bail!(
            "--cluster names no pod that has an address, as when the program that lists the cluster has failed: no flow can be judged"
        );
    }
    let recorded = if comparison.flows == Path::new("-") {
        flows(io::stdin(), &pods)
    } else {
        File::open(comparison.flows).map_err(Into::into).and_then(|file| flows(file, &pods))
    };
    let shown = comparison.flows.display();
    let recorded = recorded.with_context(|| shown.to_string())?;
    if recorded.is_empty() {
        bail!("{shown}: there is no flow in it, so nothing can be compared");
    }
    let enforcer = Enforcer::new(Box::new(Memory::new(ROOM)));
    let endpoints = pods.values().map(|pod| (endpoint(pod), None)).collect::<Vec<_>>();
    enforcer
        .start(endpoints, BTreeSet::new(), cluster)
        .map_err(|error| anyhow!("the policies of the cluster cannot be compiled: {error}"))?;
    let objects = files.changes.into_iter().filter_map(|change| match change {
        Change::Put(object) => Some(object),
        Change::Remove(_) => None,
    });
    let seen: Vec<_> = recorded.keys().copied().collect();
    let names = |flow: &SeenFlow| recorded.get(flow).cloned().unwrap_or_default();
    let page = enforcer.diff(objects.collect(), comparison.staged, &seen, names);
    if page.examined == 0 {
        bail!("{shown}: no flow is of a pod that --cluster has, so nothing can be compared");
    }
    Ok(page)
}

/// What manifests say together.
fn read(paths: &[PathBuf]) -> anyhow::Result<Batch> {
    let mut together = Once::default();
    sources::each(paths, |file, text| {
        match text {
            Ok(text) => together.put(file, &text),
            Err(reason) => together.put_unread(file, reason),
        }
        Ok(())
    })?;
    Ok(together.finish())
}

/// The pods that have an address, as NAMESPACE/NAME.
fn pods(cluster: &Batch) -> BTreeMap<String, Pod> {
    let pods = cluster.changes.iter().filter_map(|change| match change {
        Change::Put(Object::Pod(pod)) if !pod.addresses.is_empty() => {
            Some((format!("{}/{}", pod.namespace, pod.name), pod.clone()))
        }
        _ => None,
    });
    pods.collect()
}

fn endpoint(pod: &Pod) -> LocalEndpoint {
    LocalEndpoint {
        host: None,
        key: AttachmentKey {
            network: "recorded".into(),
            container_id: format!("{}/{}", pod.namespace, pod.name),
            ifname: "eth0".into(),
        },
        pod: Some(wire::Pod {
            namespace: pod.namespace.to_string(),
            name: pod.name.to_string(),
            uid: String::new(),
        }),
        labels: BTreeMap::new(),
        addresses: pod.addresses.clone(),
    }
}

/// The flows of a record, each with the DNS names that its opener was told for the destination. What else the record tells of is passed
/// over.
fn flows(record: impl Read, pods: &BTreeMap<String, Pod>) -> anyhow::Result<HashMap<SeenFlow, Vec<String>>> {
    let mut flows = HashMap::new();
    for (at, line) in BufReader::new(record).lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let event: Event = serde_json::from_str(&line)
            .with_context(|| format!("line {} is no event as monitor -o json prints it", at + 1))?;
        if !matches!(event.kind, EventKind::Flow | EventKind::Drop) || event.source.address.is_unspecified() {
            continue;
        }
        let flow = flow(&event, pods).with_context(|| format!("line {}", at + 1))?;
        let names = event.destination.others.iter().filter_map(|it| it.strip_prefix(DNS_NAME));
        flows.insert(flow, names.map(str::to_owned).collect());
        if flows.len() > MOST {
            bail!("there are more than {MOST} flows");
        }
    }
    Ok(flows)
}

fn flow(event: &Event, pods: &BTreeMap<String, Pod>) -> anyhow::Result<SeenFlow> {
    let protocol = protocol(&event.protocol).map_err(|error| anyhow!(error))?;
    let destination_port = match event.icmp {
        Some(icmp) if is_icmp(protocol) => u16::from_be_bytes([icmp.kind, icmp.code]),
        _ => event.destination.port,
    };
    Ok(SeenFlow {
        protocol,
        source: address(&event.source, pods),
        source_port: event.source.port,
        destination: address(&event.destination, pods),
        destination_port,
    })
}

/// The address of a side: that which its pod has in this cluster, if it is there; else the recorded one.
fn address(party: &Party, pods: &BTreeMap<String, Pod>) -> IpAddr {
    let addresses = party.pod.as_ref().and_then(|name| pods.get(name)).map(|pod| &*pod.addresses);
    let addresses = addresses.unwrap_or_default();
    if addresses.contains(&party.address) {
        return party.address;
    }
    let alike = addresses.iter().find(|it| it.is_ipv4() == party.address.is_ipv4());
    alike.copied().unwrap_or(party.address)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ipamd_api::policy::Verdict;

    use super::*;

    const CLUSTER: &str = "\
apiVersion: v1
kind: Pod
metadata: { namespace: shop, name: web, labels: { app: web } }
status: { podIPs: [ { ip: 10.0.0.2 } ] }
---
apiVersion: v1
kind: Pod
metadata: { namespace: shop, name: friend, labels: { app: friend } }
status: { podIPs: [ { ip: 10.0.0.3 } ] }
---
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: { namespace: shop, name: shut }
spec: { selector: app == 'friend', types: [Egress] }
";

    const GUARD: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: guard }
spec: { podSelector: { matchLabels: { app: web } }, ingress: [ { ports: [ { port: 80 } ] } ] }
";

    /// A line of a record: from `friend`, which had another address then.
    fn line(kind: &str, port: u16) -> String {
        format!(
            "{{\"time\": 1, \"kind\": \"{kind}\", \"verdict\": \"allow\", \"protocol\": \"tcp\", \"source\": {{\"address\": \
             \"10.9.9.9\", \"port\": 4242, \"pod\": \"shop/friend\"}}, \"destination\": {{\"address\": \"10.0.0.2\", \"port\": \
             {port}, \"pod\": \"shop/web\", \"others\": []}}, \"reason\": null, \"rule\": null}}\n"
        )
    }

    #[test]
    fn recorded_flows_are_judged_by_manifests_alone() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let cluster = [put("cluster.yaml", CLUSTER)];
        let files = [put("new.yaml", GUARD)];
        let record = [line("flow", 80), line("flow", 81), line("end", 82), line("drop", 83), "\n".to_owned()];
        let flows = put("flows.json", &record.concat());
        let comparison = Comparison { flows: &flows, cluster: &cluster, files: &files, staged: false };
        let page = compare(&comparison).unwrap();
        assert_eq!((page.examined, page.changed, page.refused.len()), (3, 2, 0));
        let change = &page.changes[0];
        assert_eq!(
            (change.before, change.after, change.destination.port),
            (Verdict::Allow, Verdict::Deny, 81)
        );
        assert_eq!(change.source.pod.as_deref(), Some("shop/friend"));
        let staged = compare(&Comparison { files: &[], staged: true, ..comparison }).unwrap();
        assert_eq!((staged.changed, staged.examined), (3, 3));
        assert!(
            staged.changes[0].after_rule.as_ref().unwrap().text.contains("StagedNetworkPolicy shop/shut")
        );

        let none =
            compare(&Comparison { flows: &flows, cluster: &cluster, files: &[], staged: false }).unwrap();
        assert_eq!((none.changed, none.examined), (0, 3));
        let odd = [put("odd.yaml", &GUARD.replace("ingress", "ingres"))];
        let refused =
            compare(&Comparison { flows: &flows, cluster: &cluster, files: &odd, staged: false }).unwrap();
        assert_eq!(refused.refused.len(), 1);
        let fails = |comparison: &Comparison<'_>| format!("{:#}", compare(comparison).unwrap_err());
        let tier =
            "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: { name: a }\nspec: { order: 1 }\n";
        for text in ["", tier] {
            let without = [put("without.yaml", text)];
            let error = fails(&Comparison { flows: &flows, cluster: &without, files: &files, staged: false });
            assert!(error.contains("no pod that has an address"), "{error}");
        }
        let strange = line("flow", 80).replace("10.0.0.2", "10.7.7.7").replace("shop/", "other/");
        for (record, why) in [("\n", "there is no flow"), (&*strange, "no flow is of a pod")] {
            let flows = put("useless.json", record);
            let error = fails(&Comparison { flows: &flows, cluster: &cluster, files: &files, staged: false });
            assert!(error.contains(why), "{error}");
        }
        let twice = [put("a.yaml", GUARD), put("b.yaml", GUARD)];
        let page =
            compare(&Comparison { flows: &flows, cluster: &cluster, files: &twice, staged: false }).unwrap();
        assert_eq!(page.refused.len(), 1);
        let broken = put("broken.json", &(line("flow", 80) + "{\"kind\": 1}\n"));
        let error = compare(&Comparison { flows: &broken, cluster: &cluster, files: &files, staged: false });
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("broken.json: line 2 is no event"), "{error}");
    }
}

//! What a pod belongs to, by the labels that the controllers of Kubernetes give their pods and by how they make its name. Owner
//! references say it too; they are not read, which spares their room for every pod of the cluster.

use ipamd_model::labels::Labels;

use crate::proto::flow::Workload;

/// The workload of a pod, if it has one that is known.
pub fn of(pod: &str, labels: &Labels) -> Option<Workload> {
    let workload = |kind: &str, name: &str| Some(Workload { kind: kind.to_owned(), name: name.to_owned() });
    if let Some(job) = labels.get("batch.kubernetes.io/job-name").or_else(|| labels.get("job-name")) {
        return workload("Job", job);
    }
    let without_last = |name: &'_ str| name.rsplit_once('-').map(|(rest, _)| rest.to_owned());
    if let Some(hash) = labels.get("pod-template-hash") {
        // NAME-HASH-RANDOM; a name that is too long is cut, and then it has no hash.
        let replica_set = without_last(pod)?;
        return match replica_set.strip_suffix(hash).and_then(|rest| rest.strip_suffix('-')) {
            Some(deployment) => workload("Deployment", deployment),
            None => workload("ReplicaSet", &replica_set),
        };
    }
    if labels.get("statefulset.kubernetes.io/pod-name").is_some() {
        return workload("StatefulSet", &without_last(pod)?);
    }
    if labels.get("controller-revision-hash").is_some() && labels.get("pod-template-generation").is_some() {
        return workload("DaemonSet", &without_last(pod)?);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_known_by_what_its_controller_writes() {
        for (pod, labels, expected) in [
            ("web-7d9f-abcde", vec![("pod-template-hash", "7d9f")], Some(("Deployment", "web"))),
            ("my-web-7d9f-abcde", vec![("pod-template-hash", "7d9f")], Some(("Deployment", "my-web"))),
            ("rs-abcde", vec![("pod-template-hash", "7d9f")], Some(("ReplicaSet", "rs"))),
            ("db-0", vec![("statefulset.kubernetes.io/pod-name", "db-0")], Some(("StatefulSet", "db"))),
            (
                "agent-x2x4z",
                vec![("controller-revision-hash", "1"), ("pod-template-generation", "1")],
                Some(("DaemonSet", "agent")),
            ),
            ("backup-28-x", vec![("batch.kubernetes.io/job-name", "backup-28")], Some(("Job", "backup-28"))),
            ("old-x", vec![("job-name", "old")], Some(("Job", "old"))),
            ("alone", vec![("app", "alone")], None),
            ("alone", vec![("pod-template-hash", "1")], None),
        ] {
            let found = of(pod, &labels.into_iter().collect());
            let found = found.as_ref().map(|it| (it.kind.as_str(), it.name.as_str()));
            assert_eq!(found, expected, "{pod}");
        }
    }
}

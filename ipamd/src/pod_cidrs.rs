//! Watches the pod CIDRs of this node's Node. A running daemon cannot change its pools, so it restarts when they
//! change. Before that it checks that a new daemon could use them, for a restart into an error would take the node
//! away.

use std::{collections::BTreeSet, time::Duration};

use ipnetwork::IpNetwork;
use tokio::time::timeout;

use crate::remote_nodes::RemoteNodes;
use ipamd_model::objects;

/// How long new pod CIDRs must stay the same before they count. While two controllers overwrite each other, neither is
/// followed.
pub const STABLE_FOR: Duration = Duration::from_secs(2);

/// The problem while the Node is gone or has no pod CIDRs.
const SILENT: &str = "this node's Node is gone or has no pod CIDRs; the current ones stay in use, and the next start of the daemon waits \
                      for pod CIDRs";

fn cidrs(node: &objects::Node) -> BTreeSet<IpNetwork> {
    node.pod_cidrs.iter().copied().collect()
}

/// Returns when the Node has other pod CIDRs than those in use, they have stayed for a while, and `objection` has
/// nothing against them. Until then `tell` gets the current problem: the objection, or that the Node has no pod CIDRs
/// or is gone; `None` when there is no problem any more.
pub async fn wait_for_change(
    remote_nodes: &RemoteNodes,
    in_use: BTreeSet<IpNetwork>,
    stable_for: Duration,
    mut objection: impl FnMut(&objects::Node) -> Option<String>,
    mut tell: impl FnMut(Option<String>),
) {
    let mut known = in_use.clone();
    loop {
        let own = remote_nodes.own_pod_cidrs_differ(&known).await;
        let named = own.as_deref().map(cidrs).unwrap_or_default();
        if named == in_use {
            tell(None);
            known = named;
            continue;
        }
        if timeout(stable_for, remote_nodes.own_pod_cidrs_differ(&named)).await.is_ok() {
            continue;
        }
        let problem = if let Some(own) = own.filter(|_| !named.is_empty()) {
            let Some(objection) = objection(&own) else { return };
            objection
        } else {
            tracing::warn!("{SILENT}");
            SILENT.to_owned()
        };
        tell(Some(problem));
        known = named;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_model::objects::{Change, Kind, Object, ObjectId};
    use ipamd_waiting::time_passes_async;

    const MOMENT: Duration = Duration::from_millis(30);
    const STAYS: &str = "what a node says must stay for a while to count";

    fn node(cidr: &str) -> Change {
        Change::Put(Object::Node(objects::Node {
            name: "a".into(),
            labels: [("l", "x")].into_iter().collect(),
            addresses: Vec::new(),
            internal: Vec::new(),
            pod_cidrs: vec![cidr.parse().unwrap()],
        }))
    }

    #[tokio::test]
    async fn prefixes_that_cannot_be_used_end_nothing_and_are_told_of_until_others_come() {
        let remote_nodes = RemoteNodes::new("a").unwrap();
        let (now, bad, good) = ("10.1.0.0/24", "127.0.0.0/24", "10.2.0.0/24");
        let mut told = Vec::new();
        let objection =
            |node: &objects::Node| node.pod_cidrs[0].ip().is_loopback().then(|| "it is loopback".to_owned());
        let followed = wait_for_change(
            &remote_nodes,
            BTreeSet::from([now.parse().unwrap()]),
            MOMENT,
            objection,
            |problem| {
                told.push(problem);
            },
        );
        let acts = async {
            for cidr in [now, bad, now, bad, good] {
                remote_nodes.apply(&[node(cidr)]);
                time_passes_async(4 * MOMENT, STAYS).await;
            }
        };
        let both = async { tokio::join!(followed, acts) };
        timeout(Duration::from_secs(20), both).await.unwrap();
        let problem = Some("it is loopback".to_owned());
        assert_eq!(told, [problem.clone(), None, problem]);
    }

    #[tokio::test]
    async fn a_node_that_is_gone_or_names_none_is_told_of_until_it_names_some() {
        let remote_nodes = RemoteNodes::new("a").unwrap();
        let cidr = "10.1.0.0/24";
        remote_nodes.apply(&[node(cidr)]);
        let mut emptied = node(cidr);
        if let Change::Put(Object::Node(node)) = &mut emptied {
            node.pod_cidrs.clear();
        }
        let gone = Change::Remove(ObjectId::global(Kind::Node, "a"));
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let in_use = BTreeSet::from([cidr.parse().unwrap()]);
        let followed =
            wait_for_change(&remote_nodes, in_use, MOMENT, |_| None, |problem| tell.send(problem).unwrap());
        let acts = async {
            for silent in [emptied, gone] {
                remote_nodes.apply(&[silent]);
                assert_eq!(told.recv().await.unwrap().as_deref(), Some(SILENT));
                remote_nodes.apply(&[node(cidr)]);
                assert_eq!(told.recv().await.unwrap(), None);
            }
        };
        tokio::select! {
            () = followed => panic!("these prefixes are in use"),
            told = timeout(Duration::from_mins(1), acts) => told.unwrap(),
        }
    }

    #[tokio::test]
    async fn what_does_not_stay_is_not_followed() {
        let remote_nodes = RemoteNodes::new("a").unwrap();
        let now = BTreeSet::from(["10.1.0.0/24".parse().unwrap()]);
        let followed = wait_for_change(&remote_nodes, now, 20 * MOMENT, |_| None, |_| {});
        let fight = async {
            for round in 0..20 {
                remote_nodes.apply(&[node(if round % 2 == 0 { "10.2.0.0/24" } else { "10.3.0.0/24" })]);
                time_passes_async(MOMENT, STAYS).await;
            }
        };
        tokio::select! {
            () = followed => panic!("one of the two was followed"),
            () = fight => {}
        }
    }
}

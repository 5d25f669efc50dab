//! When this node's Node names other prefixes for its pods than those in use: only a daemon that starts takes them, so the one that
//! runs sees first that it could.

use std::{collections::BTreeSet, time::Duration};

use ipnetwork::IpNetwork;
use tokio::time::timeout;

use crate::peers::Peers;
use ipamd_model::objects;

/// How long a Node says the same before that counts: of two controllers that disagree about it none is followed.
pub const SETTLES: Duration = Duration::from_secs(2);

/// What is told when the Node is gone, or names none.
const SILENT: &str = "the cluster has no Node of this node any more that names pod CIDRs; those before stay in use, and a daemon that starts will \
                      wait for some";

fn cidrs(node: &objects::Node) -> BTreeSet<IpNetwork> {
    node.pod_cidrs.iter().copied().collect()
}

/// Waits until the Node names other prefixes than those in use, for a while, and `objection` has none to them; `tell` is told what
/// the objection is, or that the Node names none or is gone, and when that no longer matters.
pub async fn others(
    peers: &Peers,
    in_use: BTreeSet<IpNetwork>,
    settles: Duration,
    mut objection: impl FnMut(&objects::Node) -> Option<String>,
    mut tell: impl FnMut(Option<String>),
) {
    let mut known = in_use.clone();
    loop {
        let own = peers.own_cidrs_differ(&known).await;
        let said = own.as_deref().map(cidrs).unwrap_or_default();
        if said == in_use {
            tell(None);
            known = said;
            continue;
        }
        if timeout(settles, peers.own_cidrs_differ(&said)).await.is_ok() {
            continue;
        }
        let problem = if let Some(own) = own.filter(|_| !said.is_empty()) {
            let Some(objection) = objection(&own) else { return };
            objection
        } else {
            tracing::warn!("{SILENT}");
            SILENT.to_owned()
        };
        tell(Some(problem));
        known = said;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_model::objects::{Change, Kind, Object, ObjectId};

    const MOMENT: Duration = Duration::from_millis(30);

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
        let peers = Peers::new("a").unwrap();
        let (now, bad, good) = ("10.1.0.0/24", "127.0.0.0/24", "10.2.0.0/24");
        let mut told = Vec::new();
        let objection =
            |node: &objects::Node| node.pod_cidrs[0].ip().is_loopback().then(|| "it is loopback".to_owned());
        let followed = others(&peers, BTreeSet::from([now.parse().unwrap()]), MOMENT, objection, |problem| {
            told.push(problem);
        });
        let acts = async {
            for cidr in [now, bad, now, bad, good] {
                peers.apply(&[node(cidr)]);
                tokio::time::sleep(4 * MOMENT).await;
            }
        };
        let both = async { tokio::join!(followed, acts) };
        timeout(Duration::from_secs(20), both).await.unwrap();
        let problem = Some("it is loopback".to_owned());
        assert_eq!(told, [problem.clone(), None, problem]);
    }

    #[tokio::test]
    async fn a_node_that_is_gone_or_names_none_is_told_of_until_it_names_some() {
        let peers = Peers::new("a").unwrap();
        let cidr = "10.1.0.0/24";
        peers.apply(&[node(cidr)]);
        let mut emptied = node(cidr);
        if let Change::Put(Object::Node(node)) = &mut emptied {
            node.pod_cidrs.clear();
        }
        let gone = Change::Remove(ObjectId::global(Kind::Node, "a"));
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let in_use = BTreeSet::from([cidr.parse().unwrap()]);
        let followed = others(&peers, in_use, MOMENT, |_| None, |problem| tell.send(problem).unwrap());
        let acts = async {
            for silent in [emptied, gone] {
                peers.apply(&[silent]);
                assert_eq!(told.recv().await.unwrap().as_deref(), Some(SILENT));
                peers.apply(&[node(cidr)]);
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
        let peers = Peers::new("a").unwrap();
        let now = BTreeSet::from(["10.1.0.0/24".parse().unwrap()]);
        let followed = others(&peers, now, 20 * MOMENT, |_| None, |_| {});
        let fight = async {
            for round in 0..20 {
                peers.apply(&[node(if round % 2 == 0 { "10.2.0.0/24" } else { "10.3.0.0/24" })]);
                tokio::time::sleep(MOMENT).await;
            }
        };
        tokio::select! {
            () = followed => panic!("one of the two was followed"),
            () = fight => {}
        }
    }
}

//! Connections whose backend is gone, and flows whose endpoint is.

use std::{io::ErrorKind, net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Asking, Conversation, FAR4, Machine, NODE4, NODE6, Node, eventually},
};
use serde_json::{Value, json};

use crate::{
    manifests::{endpoint, file, service, slice},
    shop::{CLUSTER4, CLUSTER6, NODE_PORT, at, shop},
};

/// Speaks until the connection ends, which must be by a reset.
fn is_reset(talk: &mut Conversation) -> Result<()> {
    talk.socket().set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut end = None;
    eventually(Duration::from_secs(10), || {
        end = talk.goes_on().err();
        end.is_some()
    });
    let error = end.context("it goes on")?;
    ensure!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "silence: {error}");
    Ok(())
}

#[test]
fn a_connection_from_outside_is_reset_when_no_backend_is_left() -> Result<()> {
    needs_root!();
    let remote = json!({"nodeName": "other"});
    for (policy, left) in [("Cluster", None), ("Local", None), ("Local", Some(remote))] {
        let node = Node::in_cluster()?;
        let shop = shop(&node)?;
        let spec = json!({
            "type": "NodePort", "clusterIP": CLUSTER4, "clusterIPs": [CLUSTER4, CLUSTER6],
            "externalTrafficPolicy": policy,
            "ports": [{"name": "tcp", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT}],
        });
        let serve = |v4: &[IpAddr], v6: &[IpAddr], rest: &Value| {
            let endpoints = |list: &[IpAddr]| list.iter().map(|ip| endpoint(*ip, rest)).collect::<Vec<_>>();
            let slices = [slice("web", "IPv4", &endpoints(v4)), slice("web", "IPv6", &endpoints(v6))];
            node.apply("web.yaml", &file(&[&[service("web", &spec)][..], &slices].concat()))
        };
        let pod = &shop.backends[0];
        serve(&[pod.ipv4().into()], &[pod.ipv6().into()], &json!({}))?;
        let mut talks = [NODE4.into(), IpAddr::from(NODE6)]
            .map(|to| node.neighbour.converse(at(to, NODE_PORT)))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        for talk in &mut talks {
            talk.goes_on()?;
        }
        match &left {
            None => serve(&[], &[], &json!({}))?,
            Some(rest) => serve(&["10.99.0.9".parse()?], &["fd00:99::9".parse()?], rest)?,
        };
        for talk in &mut talks {
            is_reset(talk).with_context(|| format!("{policy}, left: {left:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn the_flows_of_a_pod_that_is_gone_are_forgotten() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let _server = node.neighbour.serve_tcp((FAR4, 8080))?;
    let pod = node.add_pod("gone")?;
    let address = pod.ipv4().to_string();
    let connection = Machine::connect(&pod, (FAR4, 8080))?;
    connection.exchange(100)?;
    let known = || Ok::<_, anyhow::Error>(node.ctl(&["ct", "list"])?.to_string().contains(&address));
    ensure!(known()?);
    pod.del()?;
    ensure!(eventually(Duration::from_secs(15), || known().is_ok_and(|known| !known)), "it lives on");
    drop(connection);
    Ok(())
}

//! Which endpoints of a service take new connections: by readiness, traffic policy and topology hints, as in
//! kube-proxy.

use ipamd_model::services::{Hints, SliceEndpoint};

use super::site::Site;

/// How close endpoints must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closeness {
    Any,
    SameNode,
    SameZone,
}

/// The connections that an endpoint takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Takes {
    pub cluster: bool,
    pub local: bool,
}

/// Returns for each endpoint the connections that it takes. Ready endpoints take new ones; if there is none, those that
/// are serving while they terminate. For local traffic the same holds among the endpoints of this node.
pub(super) fn takes(site: &Site, endpoints: &[&SliceEndpoint]) -> Vec<Takes> {
    let closeness = closeness(site, endpoints);
    let serves_on = |endpoint: &SliceEndpoint| endpoint.serving && endpoint.terminating;
    let any_ready = endpoints.iter().any(|it| it.ready && is_close(site, closeness, it));
    let any_local = endpoints.iter().any(|it| it.ready && site.is_local(it));
    let each = endpoints.iter().map(|it| Takes {
        cluster: if any_ready { it.ready && is_close(site, closeness, it) } else { serves_on(it) },
        local: site.is_local(it) && if any_local { it.ready } else { serves_on(it) },
    });
    each.collect()
}

/// Hints count only if every ready endpoint has one, and some are for this node or its zone.
fn closeness(site: &Site, endpoints: &[&SliceEndpoint]) -> Closeness {
    let all_and_ours = |of: &dyn Fn(&Hints) -> (bool, bool)| {
        let mut ours = false;
        let mut all = true;
        for endpoint in endpoints.iter().filter(|it| it.ready) {
            let (has, is_ours) = endpoint.hints.as_deref().map_or((false, false), of);
            all &= has;
            ours |= is_ours;
        }
        all && ours
    };
    if all_and_ours(&|hints| (!hints.nodes.is_empty(), names_node(site, hints))) {
        return Closeness::SameNode;
    }
    if all_and_ours(&|hints| (!hints.zones.is_empty(), names_zone(site, hints))) {
        return Closeness::SameZone;
    }
    Closeness::Any
}

fn names_node(site: &Site, hints: &Hints) -> bool {
    hints.nodes.iter().any(|node| **node == *site.node)
}

fn names_zone(site: &Site, hints: &Hints) -> bool {
    site.zone.as_ref().is_some_and(|zone| hints.zones.iter().any(|it| it == zone))
}

fn is_close(site: &Site, closeness: Closeness, endpoint: &SliceEndpoint) -> bool {
    let hints = endpoint.hints.as_deref();
    match closeness {
        Closeness::Any => true,
        Closeness::SameNode => hints.is_some_and(|hints| names_node(site, hints)),
        Closeness::SameZone => hints.is_some_and(|hints| names_zone(site, hints)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn endpoint(node: &str) -> SliceEndpoint {
        SliceEndpoint {
            address: [10, 88, 0, 1].into(),
            ready: true,
            serving: true,
            terminating: false,
            node: Some(node.into()),
            hints: None,
        }
    }

    fn hinted(zones: &[&str], nodes: &[&str]) -> SliceEndpoint {
        let list = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        let hints = Hints { zones: list(zones), nodes: list(nodes) };
        SliceEndpoint { hints: Some(hints.into()), ..endpoint("n2") }
    }

    /// `c` where an endpoint is in the cluster's set, `l` where in the local one.
    fn said(endpoints: &[SliceEndpoint]) -> Vec<&'static str> {
        let site = Site { node: "n1".into(), zone: Some("a".into()), ..Site::default() };
        let each = takes(&site, &endpoints.iter().collect::<Vec<_>>()).into_iter();
        each.map(|it| match (it.cluster, it.local) {
            (true, true) => "cl",
            (true, false) => "c",
            (false, true) => "l",
            (false, false) => "",
        })
        .collect()
    }

    fn terminating(node: &str, serving: bool) -> SliceEndpoint {
        SliceEndpoint { ready: false, serving, terminating: true, ..endpoint(node) }
    }

    #[test]
    fn the_ready_take_connections_and_the_local_ones_locally() {
        let unready = SliceEndpoint { ready: false, serving: false, ..endpoint("n1") };
        assert_eq!(said(&[endpoint("n1"), endpoint("n2"), unready]), ["cl", "c", ""]);
    }

    #[test]
    fn those_that_terminate_take_them_only_if_nobody_else_does() {
        assert_eq!(said(&[endpoint("n2"), terminating("n1", true)]), ["c", "l"]);
        assert_eq!(said(&[terminating("n2", true), terminating("n1", false)]), ["c", ""]);
        assert_eq!(said(&[endpoint("n1"), terminating("n1", true)]), ["cl", ""]);
    }

    #[test]
    fn hints_keep_connections_close_if_all_have_them_and_some_is_ours() {
        assert_eq!(said(&[hinted(&["a"], &[]), hinted(&["b"], &[])]), ["c", ""]);
        assert_eq!(said(&[hinted(&["a"], &[]), endpoint("n2")]), ["c", "c"]);
        assert_eq!(said(&[hinted(&["b"], &[]), hinted(&["c"], &[])]), ["c", "c"]);
        assert_eq!(said(&[hinted(&["a"], &["n2"]), hinted(&["a"], &["n1"])]), ["", "c"]);
        assert_eq!(said(&[hinted(&["a"], &["n2"]), hinted(&["b"], &["n3"])]), ["c", ""]);
        let unready = SliceEndpoint { ready: false, ..endpoint("n2") };
        assert_eq!(said(&[hinted(&["a"], &[]), hinted(&["b"], &[]), unready]), ["c", "", ""]);
    }
}

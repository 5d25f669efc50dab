//! What becomes of packets that are denied: what the policy says, else the namespace, else the node.

use super::*;
use ipamd_model::policy::Denied;

/// The namespace of all pods, which says that of denied packets.
fn space(denied: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: n, annotations: {{ cambric.io/denied: {denied} }} }}\n"
    )
}

/// [`guard`], which says that of denied packets.
fn saying(name: &str, denied: &str) -> String {
    let name = format!("name: {name}");
    guard(name.trim_start_matches("name: "), "80")
        .replace(&name, &format!("{name}, annotations: {{ cambric.io/denied: {denied} }}"))
}

/// Whether a stranger is told that the pod denies its packets.
fn is_told(bench: &Bench) -> bool {
    let trace = bench.trace("10.0.1.1", "n/p1", 80);
    assert_eq!(trace.verdict, TraceVerdict::Deny);
    let notes = trace.paths.iter().flat_map(|path| &path.steps).filter_map(|step| step.note.as_deref());
    notes.into_iter().any(|note| note == "rejected: the sender is told")
}

#[test]
fn the_policy_says_it_else_the_namespace_else_the_node() {
    for (node, namespace, policy, told) in [
        (Denied::Drop, None, None, false),
        (Denied::Reject, None, None, true),
        (Denied::Drop, Some("reject"), None, true),
        (Denied::Reject, Some("drop"), None, false),
        (Denied::Drop, Some("drop"), Some("reject"), true),
        (Denied::Reject, Some("reject"), Some("drop"), false),
    ] {
        let tables = Memory::new(ROOM);
        let enforcer = Enforcer::new(Box::new(tables.clone())).with_denied(node);
        let bench = Bench { tables, enforcer };
        let policy = policy.map_or_else(|| guard("g", "80"), |denied| saying("g", denied));
        bench.start(&[local(1, "guarded")], &(namespace.map(space).unwrap_or_default() + &policy));
        assert_eq!(is_told(&bench), told, "{node} {namespace:?} {policy}");
        // A pod of the same workload that comes later has the same rules.
        bench.enforcer.admit(local(2, "guarded")).unwrap();
        assert_eq!(bench.tables.maps().len(), 1);
    }
}

#[test]
fn of_several_policies_one_that_tells_is_enough() {
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &(saying("a", "drop") + &saying("b", "reject")));
    assert!(is_told(&bench));
    bench.remove(Kind::NetworkPolicy, "b");
    assert!(!is_told(&bench));
}

#[test]
fn a_namespace_that_changes_its_mind_is_followed() {
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &guard("g", "80"));
    assert!(!is_told(&bench));
    bench.apply(&space("reject"));
    assert!(is_told(&bench));
    bench.apply(&space("drop"));
    assert!(!is_told(&bench));
    bench.apply(&space("reject"));
    bench.remove(Kind::Namespace, "n");
    assert!(!is_told(&bench));
}

#[test]
fn a_rule_that_denies_says_it_too() {
    let deny = "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n\
        metadata: { name: no, annotations: { cambric.io/denied: reject } }\n\
        spec: { selector: \"app == 'guarded'\", types: [Ingress], ingress: [ { action: Deny } ] }\n";
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &(deny.to_owned() + &saying("g", "drop")));
    assert!(is_told(&bench));
}

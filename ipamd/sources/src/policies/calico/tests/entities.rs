//! The source and the destination of a rule.

use super::*;

fn source(kind: Kind, source: &Value) -> Result<Entity, FieldError> {
    let spec = json!({"ingress": [{"action": "Deny", "source": source}]});
    Ok(policy(kind, &spec)?.ingress.unwrap().remove(0).sources.remove(0))
}

fn accounts(items: ItemSelector, names: &[&str], labels: Option<&str>) -> Entity {
    let names: Vec<Arc<str>> = names.iter().map(|it| Arc::from(*it)).collect();
    let items = ItemSelector {
        service_account_names: (!names.is_empty()).then_some(names),
        service_accounts: labels.map(selector),
        ..items
    };
    Entity { items: Some(items), ..Entity::ANY }
}

fn without(entity: Entity, labels: &str) -> Entity {
    Entity { not_items: Some(found(Scope::Any, labels)), ..entity }
}

#[test]
fn a_policy_in_a_namespace_means_its_own_unless_it_says_otherwise() {
    for (it, entity) in [
        (json!({}), Entity::ANY),
        (json!({"selector": ""}), Entity::ANY),
        (json!({"selector": "a == 'b'"}), selected(within("ns"), "a == 'b'")),
        (json!({"selector": "all()"}), selected(within("ns"), "all()")),
        (
            json!({"selector": "a == 'b'", "namespaceSelector": "has(x)"}),
            selected(matching("has(x)"), "a == 'b'"),
        ),
        (json!({"namespaceSelector": "has(x)"}), selected(matching("has(x)"), "all()")),
        (json!({"namespaceSelector": "all()"}), selected(matching("all()"), "all()")),
        (
            json!({"namespaceSelector": "global()", "selector": "a == 'b'"}),
            selected(matching("global()"), "a == 'b'"),
        ),
        // What is excluded is excluded wherever it is, but from the namespace's own.
        (json!({"notSelector": "a == 'b'"}), without(selected(within("ns"), "all()"), "a == 'b'")),
        (
            json!({"notSelector": "a == 'b'", "namespaceSelector": "has(x)"}),
            without(selected(matching("has(x)"), "all()"), "a == 'b'"),
        ),
        (json!({"serviceAccounts": {}}), Entity::ANY),
        (json!({"serviceAccounts": {"names": [], "selector": ""}}), Entity::ANY),
        (
            json!({"serviceAccounts": {"names": ["y", "x", "y"]}}),
            accounts(found(within("ns"), "all()"), &["x", "y"], None),
        ),
        (
            json!({"serviceAccounts": {"selector": "c == 'd'"}, "selector": "a == 'b'"}),
            accounts(found(within("ns"), "a == 'b'"), &[], Some("c == 'd'")),
        ),
    ] {
        assert_eq!(source(Kind::CalicoNetworkPolicy, &it), Ok(entity), "{it}");
    }
}

#[test]
fn a_global_policy_means_everything_unless_it_says_otherwise() {
    for (it, entity) in [
        (json!({}), Entity::ANY),
        (json!({"selector": "a == 'b'"}), selected(Scope::Any, "a == 'b'")),
        (json!({"selector": "all()"}), selected(Scope::Any, "all()")),
        (json!({"namespaceSelector": "has(x)"}), selected(matching("has(x)"), "all()")),
        (json!({"namespaceSelector": " global() "}), selected(matching("global()"), "all()")),
        // All addresses but these, those of nobody that Cambric knows among them.
        (json!({"notSelector": "a == 'b'"}), without(Entity::ANY, "a == 'b'")),
        (
            json!({"selector": "has(a)", "notSelector": "a == 'b'"}),
            without(selected(Scope::Any, "has(a)"), "a == 'b'"),
        ),
        (
            json!({"serviceAccounts": {"names": ["x"], "selector": "c == 'd'"}, "namespaceSelector": "has(x)"}),
            accounts(found(matching("has(x)"), "all()"), &["x"], Some("c == 'd'")),
        ),
    ] {
        assert_eq!(source(Kind::GlobalNetworkPolicy, &it), Ok(entity), "{it}");
    }
}

#[test]
fn networks_are_cidrs_or_addresses_and_hold_together_with_selectors() {
    let nets = |nets: &[&str]| nets.iter().map(|it| it.parse().unwrap()).collect::<Vec<_>>();
    for (it, entity) in [
        (json!({"nets": [], "notNets": null}), Entity::ANY),
        (
            json!({"nets": ["10.0.0.0/8", "192.0.2.7"]}),
            Entity { nets: Some(nets(&["10.0.0.0/8", "192.0.2.7/32"])), ..Entity::ANY },
        ),
        (
            json!({"notNets": ["fd00::/8", "2001:db8::1"]}),
            Entity { not_nets: nets(&["fd00::/8", "2001:db8::1/128"]), ..Entity::ANY },
        ),
        (
            json!({"nets": ["10.1.2.3/8"], "notNets": ["10.1.0.0/16"], "selector": "has(a)"}),
            Entity {
                nets: Some(nets(&["10.0.0.0/8"])),
                not_nets: nets(&["10.1.0.0/16"]),
                ..selected(Scope::Any, "has(a)")
            },
        ),
    ] {
        assert_eq!(source(Kind::GlobalNetworkPolicy, &it), Ok(entity), "{it}");
    }
}

#[test]
fn both_sides_are_read_in_both_directions() {
    let rule =
        json!({"action": "Allow", "source": {"selector": "has(a)"}, "destination": {"selector": "has(b)"}});
    let policy = namespaced(&json!({"ingress": [rule], "egress": [rule]})).unwrap();
    for rules in [policy.ingress, policy.egress] {
        let rule = rules.unwrap().remove(0);
        assert_eq!(rule.sources, [selected(within("ns"), "has(a)")]);
        assert_eq!(rule.destinations, [selected(within("ns"), "has(b)")]);
    }
}

#[test]
fn services_are_their_endpoints_and_in_a_destination_the_ports_of_these() {
    let db = |namespace: &str| ServiceName { namespace: namespace.into(), name: "db".into() };
    let egress =
        json!({"action": "Allow", "destination": {"services": {"name": "db"}}, "source": {"ports": [7]}});
    let ingress = json!({"action": "Allow", "source": {"services": {"name": "db", "namespace": "shop"}, "ports": [5432], "nets": []}});
    let policy = namespaced(&json!({"ingress": [ingress], "egress": [egress]})).unwrap();
    let (ingress, egress) = (&policy.ingress.as_ref().unwrap()[0], &policy.egress.as_ref().unwrap()[0]);
    assert_eq!(ingress.sources, [db("shop").endpoints()]);
    assert_eq!(ingress.traffic[0].destination_ports, None);
    assert_eq!(egress.destinations, [db("ns").endpoints()]);
    assert_eq!(egress.traffic[0].destination_ports, Some(db("ns").ports()));
    assert!(egress.traffic[0].source_ports.is_some());
    assert_eq!(ServiceName::named_by(&policy).collect::<Vec<_>>(), [db("shop"), db("ns")]);
}

#[test]
fn services_stand_alone_and_on_the_side_of_the_peer() {
    let services = json!({"name": "a", "namespace": "b"});
    for (key, value) in [
        ("selector", json!("all()")),
        ("notSelector", json!("has(a)")),
        ("namespaceSelector", json!("global()")),
        ("serviceAccounts", json!({})),
        ("nets", json!(["10.0.0.0/8"])),
        ("notNets", json!(["10.0.0.0/8"])),
        ("ports", json!([80])),
        ("notPorts", json!([80])),
    ] {
        let spec = json!({"egress": [{"action": "Deny", "destination": {"services": services, key: value}}]});
        let wrong = format!("spec.egress[0].destination.{key}: is not possible together with services");
        assert_eq!(said(Kind::GlobalNetworkPolicy, &spec), wrong);
    }
    let side = "can be in the source of an ingress rule and in the destination of an egress rule";
    for (direction, side_of, services, wrong) in [
        ("ingress", "destination", services.clone(), side),
        ("egress", "source", services, side),
        ("ingress", "source", json!({}), "names no Service"),
        ("egress", "destination", json!({"namespace": "a"}), "names no Service"),
        ("egress", "destination", json!({"name": "a"}), "needs a namespace, because the policy is in none"),
    ] {
        let spec = json!({direction: [{"action": "Deny", side_of: {"services": services}}]});
        let wrong = format!("spec.{direction}[0].{side_of}.services: {wrong}");
        assert_eq!(said(Kind::GlobalNetworkPolicy, &spec), wrong);
    }
}

#[test]
fn dns_names_stand_alone_in_the_destination_of_what_is_allowed_to_be_sent() {
    let rule = |direction: &str, action: &str, side: &str, entity: &Value| {
        let policy = global(&json!({direction: [{"action": action, side: entity}]}))?;
        let rules = if direction == "egress" { policy.egress } else { policy.ingress };
        Ok::<_, FieldError>(rules.unwrap().remove(0))
    };
    let entity = json!({"domains": ["API.Example.com.", "*.internal.cluster"], "ports": [443], "nets": []});
    assert_eq!(
        rule("egress", "Allow", "destination", &entity).unwrap().destinations,
        [names(&["api.example.com", "*.internal.cluster"])]
    );
    for (direction, action, side) in [
        ("egress", "Allow", "source"),
        ("egress", "Deny", "destination"),
        ("egress", "Pass", "destination"),
        ("egress", "Log", "destination"),
        ("ingress", "Allow", "destination"),
        ("ingress", "Allow", "source"),
    ] {
        assert_eq!(
            rule(direction, action, side, &entity).unwrap_err().to_string(),
            format!(
                "spec.{direction}[0].{side}.domains: DNS names are for the destinations of egress rules with the action Allow only"
            )
        );
        // No names are none.
        let none = json!({"domains": [], "selector": "has(a)"});
        assert!(rule(direction, action, side, &none).is_ok());
    }
    for (other, value) in [
        ("selector", json!("has(a)")),
        ("notSelector", json!("has(a)")),
        ("namespaceSelector", json!("has(a)")),
        ("serviceAccounts", json!({"names": ["a"]})),
        ("nets", json!(["10.0.0.0/8"])),
        ("notNets", json!(["10.0.0.0/8"])),
    ] {
        let entity = json!({"domains": ["a.b"], other: value});
        assert_eq!(
            rule("egress", "Allow", "destination", &entity).unwrap_err().to_string(),
            format!("spec.egress[0].destination.domains: is not possible together with {other}")
        );
    }
    for (wrong, path) in
        [(json!("a.b"), "domains"), (json!([5]), "domains[0]"), (json!(["a.b", "*"]), "domains[1]")]
    {
        let refused = rule("egress", "Allow", "destination", &json!({"domains": wrong})).unwrap_err();
        assert_eq!(refused.field, format!("spec.egress[0].destination.{path}"));
    }
}

#[test]
fn a_side_that_cannot_be_understood_is_refused_by_field() {
    for (it, wrong) in [
        (json!({"selectors": "all()"}), "selectors: is not known"),
        (
            json!({"domains": ["*.internal.cluster"]}),
            "domains: DNS names are for the destinations of egress rules with the action Allow only",
        ),
        (json!({"selector": 5}), "selector: 5 is not a string; quotes make it one"),
        (
            json!({"selector": "global()"}),
            "selector: global() is for the namespaceSelector of a source or a destination only",
        ),
        (
            json!({"notSelector": "has(a) || global()"}),
            "notSelector: global() is for the namespaceSelector of a source or a destination only",
        ),
        (json!({"namespaceSelector": "!global()"}), "namespaceSelector: global() must stand alone"),
        (json!({"namespaceSelector": "global() || has(a)"}), "namespaceSelector: global() must stand alone"),
        (json!({"services": {"name": "a", "port": 80}}), "services.port: is not known"),
        (json!({"services": "a"}), "services: \"a\" is not a mapping"),
        (json!({"serviceAccounts": {"name": "a"}}), "serviceAccounts.name: is not known"),
        (json!({"serviceAccounts": {"names": [""]}}), "serviceAccounts.names[0]: a name must not be empty"),
        (json!({"serviceAccounts": {"names": "a"}}), "serviceAccounts.names: \"a\" is not a list"),
        (
            json!({"serviceAccounts": {"selector": "global()"}}),
            "serviceAccounts.selector: global() is for the namespaceSelector of a source or a destination only",
        ),
        (json!({"nets": "10.0.0.0/8"}), "nets: \"10.0.0.0/8\" is not a list"),
        (
            json!({"nets": ["10.0.0.0/8", "ten"]}),
            "nets[1]: \"ten\" is neither a CIDR such as 10.0.0.0/8 nor an address",
        ),
        (json!({"notNets": ["10.0.0.0/33"]}), "notNets[0]: \"10.0.0.0/33\" is not a CIDR such as 10.0.0.0/8"),
        (json!({"nets": ["::ffff:10.0.0.1"]}), "nets[0]: \"::ffff:10.0.0.1\" is of IPv4 in the form of IPv6"),
        (json!({"nets": [10]}), "nets[0]: 10 is not a string; quotes make it one"),
    ] {
        let spec = json!({"egress": [{"action": "Deny", "destination": it}]});
        let wrong = format!("spec.egress[0].destination.{wrong}");
        assert_eq!(said(Kind::CalicoNetworkPolicy, &spec), wrong);
        assert_eq!(said(Kind::GlobalNetworkPolicy, &spec), wrong);
    }
}

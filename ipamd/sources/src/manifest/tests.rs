use std::fmt::Write as _;

use super::*;

fn manifest(text: &str) -> Manifest {
    read(Path::new("a.yaml"), text)
}

/// What is read, and what is refused.
fn told(text: &str) -> (Vec<String>, Vec<String>) {
    let manifest = manifest(text);
    (
        manifest.objects.iter().map(|it| format!("{}: {}", it.line, it.object.id())).collect(),
        manifest.refusals.iter().map(ToString::to_string).collect(),
    )
}

fn refused(text: &str) -> String {
    told(text).1.join("\n")
}

#[test]
fn documents_are_read_one_by_one_with_their_lines() {
    let text = "\
# A comment
---
apiVersion: v1
kind: Namespace
metadata: { name: a }
---
---
# nothing
---
{\"apiVersion\": \"v1\", \"kind\": \"ServiceAccount\", \"metadata\": {\"name\": \"s\"}}
...
---
kind: ConfigMap
apiVersion: v1
";
    let (objects, refusals) = told(text);
    assert_eq!(objects, ["3: Namespace a", "10: ServiceAccount default/s"]);
    assert!(refusals.is_empty() && manifest(text).complete);
    for empty in ["", "\n", "---\n", "# x\n", "---\n---\n", "\u{feff}", "null"] {
        assert_eq!(manifest(empty), Manifest { complete: true, ..Manifest::default() }, "{empty:?}");
    }
}

#[test]
fn lists_are_unpacked() {
    let text = "\
apiVersion: v1
items:
- apiVersion: v1
  kind: Namespace
  metadata: {name: a}
- apiVersion: v1
  kind: List
  items:
  - {apiVersion: v1, kind: Namespace, metadata: {name: b}}
kind: List
---
apiVersion: v1
kind: PodList
items:
- metadata:
    name: c
---
apiVersion: example.org/v1
kind: AllowList
items: {}
";
    assert_eq!(
        told(text),
        (vec!["3: Namespace a".into(), "9: Namespace b".into(), "15: Pod default/c".into()], vec![])
    );
    assert_eq!(refused("{apiVersion: v1, kind: List, items: 1}"), "a.yaml:1: items: is not a list");
}

/// It is not known what the file has, so nothing may be taken to be gone.
#[test]
fn a_list_that_does_not_say_what_it_lists_is_refused_and_an_empty_one_is_not() {
    for kind in [
        "apiVersion: v1, kind: List",
        "apiVersion: v1, kind: PodList",
        "apiVersion: networking.k8s.io/v1, kind: NetworkPolicyList",
        "apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicyList",
        "apiVersion: cilium.io/v2, kind: CiliumNetworkPolicyList",
        "kind: List",
    ] {
        for items in ["", ", items: null", ", items: ", ", items: {}", ", items: [null]"] {
            let text = format!("{{{kind}{items}}}");
            let told = manifest(&text);
            assert!(
                !told.complete && told.refusals.len() == 1 && told.objects.is_empty(),
                "{text}: {told:?}"
            );
        }
        let empty = manifest(&format!("{{{kind}, items: []}}"));
        assert_eq!(empty, Manifest { complete: true, ..Manifest::default() }, "{kind}");
    }
    for foreign in
        ["{apiVersion: example.org/v1, kind: AllowList}", "{apiVersion: apps/v1, kind: DeploymentList}"]
    {
        assert_eq!(manifest(foreign), Manifest { complete: true, ..Manifest::default() }, "{foreign}");
    }
}

#[test]
fn a_field_that_is_wrong_is_named_with_its_line_and_the_rest_is_read() {
    let text = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: p
spec:
  podSelector: {}
  ingress:
  - from:
    - podSelector: {}
    ports:
    - port: 80
    - protocol: TCP
      port: 70000
---
apiVersion: v1
kind: Pod
metadata:
  name: a
  labels:
    enabled: true
---
{apiVersion: v1, kind: Namespace, metadata: {name: a}}
";
    let (objects, refusals) = told(text);
    assert_eq!(objects, ["22: Namespace a"]);
    assert_eq!(
        refusals,
        [
            "a.yaml:13: NetworkPolicy default/p: spec.ingress[0].ports[1].port: 70000 is not a port, from 1 to 65535",
            "a.yaml:20: Pod default/a: metadata.labels.enabled: true is not a string; quotes make it one",
        ]
    );
    assert!(manifest(text).complete);
}

#[test]
fn what_has_no_id_leaves_the_file_incomplete() {
    for (text, refusal) in [
        ("kind: Pod", "a.yaml:1: apiVersion: this is no object: it has no apiVersion"),
        ("apiVersion: v1", "a.yaml:1: kind: this is no object: it has no kind"),
        ("- a", "a.yaml:1: this is no object: it is not a mapping"),
        ("{apiVersion: v1,\n kind: Pod}", "a.yaml:1: metadata: is missing"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: 5\n",
            "a.yaml:4: metadata.name: 5 is not a string; quotes make it one",
        ),
        (
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolcy\nmetadata: {name: a}",
            "a.yaml:2: kind: there is no \"NetworkPolcy\" in \"networking.k8s.io/v1\"",
        ),
        ("a: 1\nb: 2\na: 3", "a.yaml:3: the key \"a\" is there twice"),
        ("a: &x {b: *x}", "a.yaml:1: this alias is of nothing that this document has before it"),
        ("<<: {a: b}", "a.yaml:1: merge keys (<<) are not understood: repeat what is meant"),
        ("? [a]\n: b", "a.yaml:1: a key must be a string"),
        ("a: !!binary aGVsbG8=", "a.yaml:1: the tag \"tag:yaml.org,2002:binary\" is not understood"),
        ("a: !secret x", "a.yaml:1: the tag \"!secret\" is not understood"),
        ("a: b\n\0", "a.yaml:2: there is a NUL character"),
    ] {
        assert_eq!(refused(text), refusal);
        assert!(!manifest(text).complete, "{text}");
    }
}

#[test]
fn other_versions_and_kinds_of_policy_are_refused() {
    let meta = "metadata: {name: a}";
    for (of, refusal) in [
        (
            "apiVersion: networking.k8s.io/v1beta1\nkind: NetworkPolicy",
            "a.yaml:1: NetworkPolicy default/a: apiVersion: \"networking.k8s.io/v1beta1\" is not understood, v1 is",
        ),
        (
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy",
            "a.yaml:2: kind: \"CiliumNetworkPolicy\" of \"cilium.io/v2\" is not understood",
        ),
    ] {
        let text = format!("{of}\n{meta}\n");
        assert_eq!(refused(&text), refusal);
        assert!(manifest(&text).complete);
    }
}

#[test]
fn the_examples_of_policies_are_understood() {
    const EXAMPLES: [(&str, usize); 6] = [
        (include_str!("../../../../conf/policies/block-crypto-mining.yaml"), 1),
        (include_str!("../../../../conf/policies/cluster-baseline.yaml"), 2),
        (include_str!("../../../../conf/policies/default-deny.yaml"), 1),
        (include_str!("../../../../conf/policies/dns-names.yaml"), 2),
        (include_str!("../../../../conf/policies/tiers.yaml"), 3),
        (include_str!("../../../../conf/policies/web-from-frontend.yaml"), 1),
    ];
    for (text, count) in EXAMPLES {
        let (objects, refusals) = told(text);
        assert_eq!((objects.len(), refusals), (count, Vec::new()), "{text}");
    }
}

#[test]
fn a_policy_is_refused_by_the_line_of_its_field() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: allow-dns-only }
spec:
  selector: app == 'restricted'
  egress:
    - { action: Allow, protocol: TCP }
    - { action: Deny, protocol: UDP, destination: { domains: ['*.internal.cluster'] } }
    - { action: Deny, destination: {} }
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: { name: p }
spec:
  tier: Admin
  priority: 1
  subject: { namespaces: {} }
  ingress:
  - action: Deny
    from: []
";
    assert_eq!(
        told(text).1,
        [
            "a.yaml:8: GlobalNetworkPolicy allow-dns-only: spec.egress[1].destination.domains: DNS names are for the \
             destinations of egress rules with the action Allow only",
            "a.yaml:20: ClusterNetworkPolicy p: spec.ingress[0].from: there is none",
        ]
    );
}

#[test]
fn a_file_that_is_not_yaml_throughout_says_nothing() {
    let text = "{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n---\na: [1\nb: 2\n";
    let manifest = manifest(text);
    assert!(manifest.objects.is_empty() && !manifest.complete);
    assert_eq!(manifest.refusals.len(), 1);
    assert!((3..=5).contains(&manifest.refusals[0].line), "{}", manifest.refusals[0]);
}

#[test]
fn an_object_that_is_there_twice_counts_once() {
    let object = "{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n---\n";
    let (objects, refusals) = told(&object.repeat(2));
    assert_eq!(objects, ["1: Namespace a"]);
    assert_eq!(refusals, ["a.yaml:3: Namespace a: this object is on line 1 already"]);
}

#[test]
fn quotes_tags_and_aliases_say_what_they_say_in_yaml() {
    let labels = |text: &str| {
        let text = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: a, labels: {{{text}}}}}\n");
        let manifest = manifest(&text);
        assert!(manifest.refusals.is_empty(), "{:?}", manifest.refusals);
        match &manifest.objects[0].object {
            Object::Namespace(it) => it.labels.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        labels("a: 'true', b: \"1\", c: yes, d: !!str 5, e: ! 6, 7: x"),
        "7=x,a=true,b=1,c=yes,d=5,e=6"
    );
    assert_eq!(labels("a: &x value, b: *x"), "a=value,b=value");
    assert_eq!(labels("a: &x b, *x : c"), "a=b,b=c");
}

#[test]
fn what_is_too_deep_too_large_or_repeated_without_end_is_refused() {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(refused(&deep(documents::DEPTH)).contains("it is not a mapping"));
    for depth in [documents::DEPTH + 1, 200] {
        assert!(refused(&deep(depth)).contains("in each other"));
    }
    assert!(!refused(&deep(100_000)).is_empty());
    assert!(!refused(&"- ".repeat(100_000)).is_empty());
    assert!(!refused(&"? ".repeat(100_000)).is_empty());
    assert!(!refused(&"{a: ".repeat(100_000)).is_empty());

    let mut bomb = "a0: &a0 [x]\n".to_owned();
    for at in 1..40 {
        let before = at - 1;
        let _ = writeln!(bomb, "a{at}: &a{at} [*a{before}, *a{before}, *a{before}, *a{before}]");
    }
    assert!(refused(&bomb).contains("aliases"), "{}", refused(&bomb));
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(1000));
    assert!(refused(&long).contains("aliases"));
    let flow = format!("[{}]", "x, ".repeat(bounded_chars::AHEAD));
    assert!(refused(&flow).contains("commas"));
    let block = format!("kind: x\napiVersion: x\na:\n{}", "- x, y\n".repeat(bounded_chars::AHEAD));
    assert_eq!(refused(&block), "");
}

//! What may be sent to by DNS names.

use std::sync::atomic::Ordering;

use super::{
    watched::{NEVER, Watched},
    *,
};
use crate::tables::{DomainList, EntryOf, Tables};
use ipamd_model::domain::{DomainId, DomainPattern};

/// A policy for `app: guarded` that allows TCP to these names on a port, and denies all else.
fn named(name: &str, order: u32, port: u16, names: &[&str]) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{ name: {name} }}\n\
         spec:\n  order: {order}\n  selector: app == 'guarded'\n  egress:\n  \
         - {{ action: Allow, protocol: TCP, destination: {{ ports: [ {port} ], domains: [ {} ] }} }}\n",
        quoted(names)
    )
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}

/// A set of these names with a label, of no namespace or of one.
fn set(name: &str, namespace: Option<&str>, label: &str, names: &[&str]) -> String {
    let (kind, namespace) = match namespace {
        Some(namespace) => ("NetworkSet", format!("namespace: {namespace}, ")),
        None => ("GlobalNetworkSet", String::new()),
    };
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{ {namespace}name: {name}, labels: {{ set: {label} }} }}\n\
         spec: {{ nets: [ 203.0.113.0/24 ], allowedEgressDomains: [ {} ] }}\n",
        quoted(names)
    )
}

/// A policy for `app: guarded` with one egress rule, by its text.
fn rule(text: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{ name: rule }}\n\
         spec: {{ order: 1, selector: app == 'guarded', egress: [ {text} ] }}\n"
    )
}

const WEB: &str = "192.0.2.1";

impl Bench {
    /// Has the pod `n/p1` be told that a name has an address.
    fn tell(&self, name: &str, address: &str) {
        self.tables.tell(self.slot(&local(1, "guarded").key), name, address.parse().unwrap());
    }

    /// The patterns in the tables, in order.
    fn patterns(&self) -> Vec<String> {
        let mut patterns: Vec<_> =
            self.tables.domains().unwrap().into_iter().map(|(pattern, _)| pattern.to_string()).collect();
        patterns.sort();
        patterns
    }

    fn number(&self, pattern: &str) -> Option<DomainId> {
        let pattern: DomainPattern = pattern.parse().unwrap();
        let known = self.tables.domains().unwrap();
        known.into_iter().find(|(known, _)| *known == pattern).map(|(_, id)| id)
    }

    /// What a trace says of a step that decides: the verdict, the rule and the note.
    fn why(&self, to: &str, port: u16) -> (Verdict, String, String) {
        let trace = self.trace("n/p1", to, port);
        let step = trace.paths[0].steps.last().unwrap().clone();
        (step.verdict, step.rule.map(|rule| rule.text).unwrap_or_default(), step.note.unwrap_or_default())
    }
}

#[test]
fn an_address_is_allowed_by_the_name_that_the_endpoint_was_told() {
    let bench = Bench::started(
        ROOM,
        &[local(1, "guarded"), local(2, "guarded")],
        &named("web", 1, 443, &["api.example.com", "*.example.org"]),
    );
    assert!(!bench.passes("n/p1", WEB, 443));
    bench.tell("api.example.com", WEB);
    assert!(bench.passes("n/p1", WEB, 443));
    // Neither on another port, nor by a name that is not meant, nor for another endpoint.
    assert!(!bench.passes("n/p1", WEB, 80));
    assert!(!bench.passes("n/p2", WEB, 443));
    bench.tell("www.api.example.com", "192.0.2.2");
    bench.tell("example.org", "192.0.2.2");
    assert!(!bench.passes("n/p1", "192.0.2.2", 443));
    bench.tell("b.a.example.org", "192.0.2.2");
    assert!(bench.passes("n/p1", "192.0.2.2", 443));
    assert_eq!(bench.patterns(), ["*.example.org", "api.example.com"]);
}

#[test]
fn a_trace_says_by_which_name_and_which_names_would_do() {
    let six: Vec<_> = (1..=6).map(|at| format!("n{at}.example.com")).collect();
    let six: Vec<_> = six.iter().map(String::as_str).collect();
    let cluster = named("six", 1, 443, &six) + &named("one", 2, 443, &["one.example.com"]);
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &cluster);
    let default =
        "default deny of tier default (egress), because of GlobalNetworkPolicy six, GlobalNetworkPolicy one";
    assert_eq!(
        bench.why(WEB, 443),
        (
            Verdict::Deny,
            default.to_owned(),
            "it would be allowed by GlobalNetworkPolicy six egress[0] if its DNS name is one of n1.example.com, \
             n2.example.com, n3.example.com, n4.example.com, n5.example.com and 1 more, or by GlobalNetworkPolicy one \
             egress[0] if its DNS name is one.example.com"
                .to_owned()
        )
    );
    assert_eq!(bench.why(WEB, 80), (Verdict::Deny, default.to_owned(), String::new()));
    bench.tell("one.example.com", WEB);
    let by_name = "by the DNS name one.example.com".to_owned();
    assert_eq!(
        bench.why(WEB, 443),
        (Verdict::Allow, "GlobalNetworkPolicy one egress[0]".to_owned(), by_name)
    );
}

#[test]
fn only_rules_before_the_one_that_denies_allow_by_name() {
    let deny = rule("{ action: Deny, destination: { nets: [ 192.0.2.0/25 ] } }");
    for (order, near) in [(0, true), (2, false)] {
        let cluster = deny.clone() + &named("web", order, 443, &["a.example.com"]);
        let bench = Bench::started(ROOM, &[local(1, "guarded")], &cluster);
        for address in [WEB, "192.0.2.200"] {
            bench.tell("a.example.com", address);
        }
        assert_eq!(bench.passes("n/p1", WEB, 443), near);
        assert!(bench.passes("n/p1", "192.0.2.200", 443) && !bench.passes("n/p1", "192.0.2.200", 80));
    }
}

#[test]
fn a_name_of_an_earlier_tier_allows_whatever_a_later_one_denies() {
    let tier = "---\napiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: { name: security }\nspec: { order: 1 }\n";
    let early = named("security.web", 1, 443, &["a.example.com"])
        .replace("order: 1\n", "order: 1\n  tier: security\n")
        + "  - { action: Pass }\n";
    let late = named("web", 1, 443, &["b.example.com"]);
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &(tier.to_owned() + &early + &late));
    for (name, address) in
        [("a.example.com", WEB), ("b.example.com", "192.0.2.2"), ("c.example.com", "192.0.2.3")]
    {
        bench.tell(name, address);
    }
    let rules = [WEB, "192.0.2.2", "192.0.2.3"].map(|address| bench.why(address, 443).1);
    assert_eq!(
        rules,
        [
            "GlobalNetworkPolicy security.web egress[0]",
            "GlobalNetworkPolicy web egress[0]",
            "default deny of tier default (egress), because of GlobalNetworkPolicy web"
        ]
    );
}

#[test]
fn a_rule_for_one_family_means_names_of_that_family() {
    let policy = rule("{ action: Allow, ipVersion: 6, destination: { domains: [ a.example.com ] } }");
    let mut pod = local(1, "guarded");
    pod.addresses.push("fd00::1".parse().unwrap());
    let bench = Bench::started(ROOM, &[pod], &policy);
    for address in [WEB, "2001:db8::1"] {
        bench.tell("a.example.com", address);
    }
    assert!(bench.passes("n/p1", "2001:db8::1", 443));
    assert!(!bench.passes("n/p1", WEB, 443));
}

#[test]
fn a_set_lends_its_names_to_what_allows_to_send_to_it() {
    let selects = "destination: { selector: set == 'web', notNets: [ 192.0.2.128/25 ] }";
    let bench = Bench::started(
        ROOM,
        &[local(1, "guarded")],
        &(rule(&format!("{{ action: Allow, {selects} }}")) + &set("global", None, "web", &["a.example.com"])),
    );
    bench.tell("a.example.com", WEB);
    bench.tell("a.example.com", "192.0.2.200");
    bench.tell("b.example.com", "192.0.2.2");
    let passes = |address| bench.passes("n/p1", address, 443);
    assert!(passes("203.0.113.1") && passes(WEB) && !passes("192.0.2.2"));
    assert!(!passes("192.0.2.200"), "what the rule says of the address holds, too");
    // Other names, other labels, another set, one that goes.
    bench.apply(&set("global", None, "web", &["b.example.com"]));
    assert!(!passes(WEB) && passes("192.0.2.2"));
    bench.apply(&set("own", Some("n"), "web", &["a.example.com"]));
    assert!(passes(WEB) && passes("192.0.2.2"));
    bench.apply(&set("global", None, "other", &["b.example.com"]));
    assert!(passes(WEB) && !passes("192.0.2.2"));
    bench.remove(Kind::NetworkSet, "own");
    assert!(!passes(WEB));
    assert_eq!(bench.patterns(), [""; 0]);
    // Nothing is denied, and nobody let in, by names.
    bench.apply(&set("global", None, "web", &["a.example.com"]));
    assert!(passes(WEB));
    bench.apply(&rule("{ action: Deny, destination: { selector: set == 'web' } }, { action: Allow }"));
    assert!(passes(WEB) && !passes("203.0.113.1"));
    assert_eq!(bench.patterns(), [""; 0]);
}

#[test]
fn the_labels_of_a_namespace_say_which_sets_of_it_are_meant() {
    let namespace = |team: &str| {
        format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: other, labels: {{ team: {team} }} }}\n"
        )
    };
    let policy = rule("{ action: Allow, destination: { selector: all(), namespaceSelector: team == 'a' } }");
    let bench = Bench::started(
        ROOM,
        &[local(1, "guarded")],
        &(policy + &namespace("b") + &set("s", Some("other"), "x", &["a.example.com"])),
    );
    bench.tell("a.example.com", WEB);
    assert!(!bench.passes("n/p1", WEB, 443));
    bench.apply(&namespace("a"));
    assert!(bench.passes("n/p1", WEB, 443));
    bench.apply(&namespace("b"));
    assert!(!bench.passes("n/p1", WEB, 443));
}

#[test]
fn maps_without_names_have_nothing_of_them() {
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &guard("g", "80"));
    bench.apply(&rule("{ action: Deny, destination: { nets: [ 192.0.2.0/24 ] } }, { action: Allow }"));
    for map in bench.tables.maps() {
        for (key, value) in bench.tables.entries(map) {
            assert!(value.domains.is_none() && !matches!(key.of, EntryOf::Domain(..)), "{key:?}");
        }
    }
    // With names, equal lists are there once, and an empty one has no entries.
    bench.apply(&named("web", 0, 443, &["a.example.com", "b.example.com"]));
    let map = bench.tables.postures().values().find_map(|posture| posture.map).unwrap();
    let lists = bench.tables.entries(map).into_keys().filter_map(|key| match key.of {
        EntryOf::Domain(list, domain) => Some((list, domain)),
        _ => None,
    });
    let [a, b] = ["a.example.com", "b.example.com"].map(|it| bench.number(it).unwrap());
    let lists = lists.collect::<BTreeSet<_>>();
    let of = |list| lists.iter().filter(|it| it.0 == list).map(|it| it.1).collect::<Vec<_>>();
    assert_eq!((of(DomainList::ALL), lists.len()), (vec![a, b], 4), "{lists:?}");
}

#[test]
fn numbers_outlast_a_restart_and_go_with_the_last_policy() {
    let cluster = named("web", 1, 443, &["a.example.com", "b.example.com"]);
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &cluster);
    let number = bench.number("b.example.com");
    bench.apply(&named("web", 1, 443, &["b.example.com", "c.example.com"]));
    assert_eq!(bench.patterns(), ["b.example.com", "c.example.com"]);
    assert_eq!(bench.number("b.example.com"), number);
    assert_ne!(bench.number("c.example.com"), Some(DomainId(1)), "the number rests");
    let before = bench.tables.domains().unwrap();
    let again = Bench::new(bench.tables.clone());
    again.start(&[local(1, "guarded")], &named("web", 1, 443, &["c.example.com", "b.example.com"]));
    let mut after = again.tables.domains().unwrap();
    after.sort();
    assert_eq!(after, before);
    again.tell("b.example.com", WEB);
    assert!(again.passes("n/p1", WEB, 443));
    // Without an endpoint that has it, a pattern is in nobody's map.
    again.enforcer.dismiss(&local(1, "guarded").key);
    assert_eq!(again.patterns(), [""; 0]);
    again.enforcer.admit(local(3, "guarded")).unwrap();
    assert_eq!(again.patterns().len(), 2);
    again.remove(Kind::GlobalNetworkPolicy, "web");
    assert_eq!(again.patterns(), [""; 0]);
}

#[test]
fn more_names_than_fit_leave_their_policy_out() {
    let bench =
        Bench::started(ROOM, &[local(1, "guarded")], &named("web", 1, 443, &["a.example.com", "*.com"]));
    let many: Vec<_> = (0..19).map(|at| format!("n{at}.example.com")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    bench.apply(&named("many", 2, 443, &many));
    assert_eq!(
        bench.enforcer.problems(),
        [
            "GlobalNetworkPolicy many is not enforced: it needs 21 patterns of DNS names, and there is room for 20"
        ]
    );
    assert_eq!(bench.patterns().len(), 2);
    bench.apply(&named("many", 2, 443, &many[1..]));
    assert_eq!((bench.enforcer.problems(), bench.patterns().len()), (Vec::new(), 20));
    bench.remove(Kind::GlobalNetworkPolicy, "many");
    // The third that means the same name fits, and not the fourth.
    bench.apply(&named("deep", 2, 443, &["*.example.com", "x.y.example.com"]));
    assert_eq!(bench.enforcer.problems(), Vec::<String>::new());
    bench.apply(&named("deeper", 3, 443, &["*.y.example.com"]));
    assert_eq!(
        bench.enforcer.problems(),
        [
            "GlobalNetworkPolicy deeper is not enforced: it needs 4 patterns of DNS names that mean the same name, and there \
             is room for 3"
        ]
    );
    bench.tell("b.example.com", WEB);
    assert!(bench.passes("n/p1", WEB, 443));
    // It is tried again once others are gone.
    bench.remove(Kind::GlobalNetworkPolicy, "web");
    bench.enforcer.retry();
    assert_eq!(bench.enforcer.problems(), Vec::<String>::new());
    assert_eq!(bench.patterns(), ["*.example.com", "*.y.example.com", "x.y.example.com"]);
}

#[test]
fn names_count_as_entries() {
    // 60 names are in the list of all and in that of one port.
    let names: Vec<_> = (0..60).map(|at| format!("n{at}.example.com")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let room = |entries| Limits { entries, domains: 100, ..ROOM };
    let fits = Bench::started(room(130), &[local(1, "guarded")], &named("web", 1, 443, &names));
    assert_eq!(fits.enforcer.problems(), Vec::<String>::new());
    let counted = fits.enforcer.counts().entries;
    let map = *fits.tables.maps().first().unwrap();
    assert_eq!(counted, fits.tables.entries(map).len());
    let does_not = Bench::started(room(119), &[local(1, "guarded")], &named("web", 1, 443, &names));
    let problems = does_not.enforcer.problems();
    assert!(
        problems[0].ends_with(" entries in one policy map (--policy-entries), and there is room for 119"),
        "{problems:?}"
    );
}

#[test]
fn a_change_of_names_that_fails_at_any_write_is_made_up_for() {
    let (before, after) = (&["a.example.com", "b.example.com"], &["b.example.com", "c.example.com"]);
    let mut failed = 0;
    for (writes, half_done) in (0..20).flat_map(|writes| [(writes, false), (writes, true)]) {
        let tables = Memory::new(ROOM);
        let watched = Watched { half_done, ..Watched::new(&tables) };
        let fails_after = std::sync::Arc::clone(&watched.fails_after);
        let bench = Bench { tables, enforcer: Enforcer::new(Box::new(watched)) };
        bench.start(&[local(1, "guarded")], &named("web", 1, 443, before));
        fails_after.store(writes, Ordering::Relaxed);
        bench.apply(&named("web", 1, 443, after));
        fails_after.store(NEVER, Ordering::Relaxed);
        failed += usize::from(!bench.enforcer.problems().is_empty());
        bench.enforcer.retry();
        assert_eq!(bench.enforcer.problems(), Vec::<String>::new());
        assert_eq!(bench.patterns(), *after, "after {writes} writes, half done: {half_done}");
        for (at, name) in ["a.example.com", "b.example.com", "c.example.com"].into_iter().enumerate() {
            let address = format!("192.0.2.{at}");
            bench.tell(name, &address);
            assert_eq!(bench.passes("n/p1", &address, 443), at > 0, "{name}");
        }
    }
    assert!(failed > 5, "{failed}");
}

#[test]
fn labels_are_inherited_for_selectors_of_calico_only() {
    let namespace =
        "---\napiVersion: v1\nkind: Namespace\nmetadata: { name: n, labels: { team: red } }\n".to_owned();
    let kubernetes = guard("k", "80").replace("app: friend", "pcns.team: red");
    let calico = "---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: { namespace: n, name: c }\n\
                  spec:\n  selector: app == 'guarded'\n  ingress: [ { action: Allow, protocol: TCP, \
                  source: { selector: pcns.team == 'red' }, destination: { ports: [ 81 ] } } ]\n";
    let subject = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { namespace: n, name: s }\n\
                   spec: { podSelector: { matchLabels: { pcns.team: red } } }\n";
    let cluster = namespace + &kubernetes + calico + subject + &remote(1, "x");
    let labelled = remote(2, "x").replace("app: x", "pcns.team: red");
    let bench = Bench::started(ROOM, &[local(1, "guarded"), local(2, "free")], &(cluster + &labelled));
    assert!(!bench.passes("n/r1", "n/p1", 80) && bench.passes("n/r1", "n/p1", 81));
    assert!(bench.passes("n/r2", "n/p1", 80), "it is written on the pod");
    assert!(bench.passes("n/r1", "n/p2", 80), "the policy does not select it");
}

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::*;

#[test]
fn a_pod_of_a_known_class_costs_one_write() {
    let cluster = guard("g", "80") + &remote(1, "friend");
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &cluster);
    assert!(bench.passes("10.0.1.1", "n/p1", 80));
    assert!(!bench.passes("10.0.1.2", "n/p1", 80));
    let writes = bench.apply(&remote(2, "friend")).writes;
    assert_eq!(writes, Writes { peers: 1, ..Writes::default() });
    assert!(bench.passes("10.0.1.2", "n/p1", 80));
    // Nothing is said about this one.
    assert_eq!(bench.apply(&remote(3, "stranger")).writes, Writes::default());
    // A label that no policy asks for.
    let other = remote(2, "friend").replace("app: friend", "app: friend, color: red");
    assert_eq!(bench.apply(&other).writes, Writes::default());
}

#[test]
fn a_pod_that_comes_later_inherits_the_labels_of_its_namespace_and_its_account() {
    let space = |team: &str| {
        format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: n, labels: {{ team: {team} }} }}\n")
    };
    let guard = |selector: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{ name: g }}\n\
             spec: {{ selector: app == 'guarded', types: [Ingress], ingress: [ {{ action: Allow, source: {{ selector: \"{selector}\" }} }} ] }}\n"
        )
    };
    let cluster = guard("pcns.team == 'a'") + &space("a");
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &cluster);
    bench.apply(&remote(1, "any"));
    assert!(bench.passes("10.0.1.1", "n/p1", 80));
    bench.apply(&space("b"));
    assert!(!bench.passes("10.0.1.1", "n/p1", 80));
    bench.apply(&guard("pcsa.projectcalico.org/name == 'default'"));
    bench.apply(&remote(2, "any"));
    assert!(bench.passes("10.0.1.2", "n/p1", 80));
    // What a pod says itself counts before what it inherits.
    bench.apply(&guard("pcns.team == 'b'"));
    bench.apply(&remote(3, "any, pcns.team: c"));
    assert!(bench.passes("10.0.1.2", "n/p1", 80) && !bench.passes("10.0.1.3", "n/p1", 80));
}

#[test]
fn endpoints_with_equal_rules_share_a_map() {
    let bench = Bench::started(ROOM, &[local(1, "guarded"), local(2, "guarded"), local(3, "free")], "");
    assert!(bench.tables.maps().is_empty());
    let writes = bench.apply(&guard("g", "80")).writes;
    assert_eq!((writes.maps, writes.postures), (1, 2));
    assert_eq!(bench.tables.maps().len(), 1);
    let writes = bench.remove(Kind::NetworkPolicy, "g").writes;
    assert_eq!((writes.maps, writes.postures), (0, 2));
    assert!(bench.tables.maps().is_empty());
}

#[test]
fn a_policy_that_concerns_nobody_here_writes_nothing() {
    let bench = Bench::started(ROOM, &[local(1, "free")], &remote(1, "friend"));
    let before = bench.tables.epoch();
    assert_eq!(bench.apply(&guard("g", "80")).writes, Writes::default());
    assert_eq!(bench.tables.epoch(), before);
}

#[test]
fn an_endpoint_is_enforced_once_it_is_admitted_and_forgotten_once_it_is_gone() {
    let bench = Bench::started(ROOM, &[], &guard("g", "80"));
    let slot = bench.enforcer.admit(local(1, "guarded")).unwrap();
    assert!(bench.tables.posture(slot).unwrap().is_some_and(|posture| posture.ingress && !posture.egress));
    assert!(!bench.passes("10.0.1.1", "n/p1", 80));
    bench.enforcer.dismiss(&local(1, "guarded").key);
    assert_eq!(bench.tables.posture(slot).unwrap(), None);
    assert!(bench.tables.maps().is_empty());
    // A slot rests before it is given again.
    assert_ne!(bench.enforcer.admit(local(2, "guarded")).unwrap(), slot);
}

#[test]
fn an_endpoint_may_come_again_with_other_labels() {
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &guard("g", "80"));
    let slot = bench.enforcer.admit(local(1, "free")).unwrap();
    assert!(bench.passes("10.0.1.1", "n/p1", 80));
    assert_eq!(bench.enforcer.admit(local(1, "guarded")).unwrap(), slot);
    assert!(!bench.passes("10.0.1.1", "n/p1", 80));
}

#[test]
fn labels_of_the_pod_take_the_place_of_those_of_the_endpoint() {
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &guard("g", "80"));
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: { namespace: n, name: p1, labels: { app: free } }\n";
    bench.apply(pod);
    assert!(bench.passes("10.0.1.1", "n/p1", 80));
    // An object without labels leaves the endpoint its own.
    bench.apply("apiVersion: v1\nkind: Pod\nmetadata: { namespace: n, name: p1 }\n");
    assert!(!bench.passes("10.0.1.1", "n/p1", 80));
    bench.apply(pod);
    bench.remove(Kind::Pod, "p1");
    assert!(!bench.passes("10.0.1.1", "n/p1", 80));
}

#[test]
fn the_labels_of_a_namespace_decide_too() {
    let policy = guard("g", "80").replace("- podSelector: { matchLabels: { app: friend } }", "").replace(
        "{ podSelector: { matchLabels: { app: friend } } }",
        "{ namespaceSelector: { matchLabels: { team: a } } }",
    );
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &(policy + &remote(1, "friend")));
    assert!(!bench.passes("10.0.1.1", "n/p1", 80));
    bench.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: n, labels: { team: a } }\n");
    assert!(bench.passes("10.0.1.1", "n/p1", 80));
    bench.remove(Kind::Namespace, "n");
    assert!(!bench.passes("10.0.1.1", "n/p1", 80));
}

#[test]
fn a_port_by_name_follows_the_pods_that_have_it() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { namespace: n, name: out }\n\
                  spec: { podSelector: {}, policyTypes: [Egress], egress: [ { ports: [ { port: web } ] } ] }\n";
    let bench = Bench::started(ROOM, &[local(1, "any")], policy);
    assert!(!bench.passes("n/p1", "10.0.1.1", 8001));
    bench.apply(&remote(1, "any"));
    assert!(bench.passes("n/p1", "n/r1", 8001));
    assert!(!bench.passes("n/p1", "n/r1", 8002));
    bench.apply(&remote(2, "any"));
    assert!(bench.passes("n/p1", "n/r2", 8002));
    assert!(!bench.passes("n/p1", "n/r2", 8001));
    // Another pod, another number.
    bench.apply(&remote(1, "any").replace("8001", "9001"));
    assert!(bench.passes("n/p1", "n/r1", 9001));
    assert!(!bench.passes("n/p1", "n/r1", 8001));
    bench.remove(Kind::Pod, "r2");
    assert!(!bench.passes("n/p1", "10.0.1.2", 8002));
}

#[test]
fn the_node_always_reaches_its_endpoints() {
    let deny = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { namespace: n, name: none }\n\
                spec: { podSelector: {}, policyTypes: [Ingress, Egress] }\n";
    let bench = Bench::started(ROOM, &[local(1, "any")], deny);
    assert!(bench.passes("10.0.0.254", "n/p1", 80));
    assert!(!bench.passes("10.0.0.253", "n/p1", 80));
    assert!(!bench.passes("n/p1", "10.0.0.254", 80));
    bench.enforcer.set_node_addresses(BTreeSet::from([[10, 0, 0, 253].into()]));
    assert!(!bench.passes("10.0.0.254", "n/p1", 80));
    assert!(bench.passes("10.0.0.253", "n/p1", 80));
}

#[test]
fn what_policies_no_longer_ask_for_is_cleared_away() {
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &remote(1, "friend"));
    let friend = |n: usize| guard("g", "80").replace("app: friend", &format!("app: friend-{n}"));
    for n in 0..3000 {
        bench.apply(&friend(n));
        bench.apply(&remote(1, &format!("friend-{n}")));
        if n % 100 == 0 {
            bench.enforcer.retry();
            assert!(bench.passes("10.0.1.1", "n/p1", 80));
        }
    }
    bench.enforcer.retry();
    assert!(bench.enforcer.counts().classes < 2000, "{:?}", bench.enforcer.counts());
    assert!(bench.passes("10.0.1.1", "n/p1", 80));
    assert!(!bench.passes("10.0.1.2", "n/p1", 80));
    assert!(bench.enforcer.counts().rules < 10);
}

/// Policies for `app: guarded`, each with so many single ports, no two beside each other.
fn scattered(policies: usize, ports: usize) -> String {
    let policy = |at: usize| {
        let ports = (0..ports).map(|n| format!("{{ port: {} }}", 2 + 2 * (at * ports + n)));
        guard(&format!("s{at}"), "80").replace("{ port: 80 }", &ports.collect::<Vec<_>>().join(", "))
    };
    (0..policies).map(policy).collect()
}

/// Of the processor, for this thread alone: others may be busy.
fn processor_time() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap())
}

#[test]
fn a_namespace_whose_policies_do_not_fit_keeps_nobody_from_others() {
    let most = Limits { entries: 2_000, rules: 20_000, ..ROOM };
    let other = LocalEndpoint { key: local(2, "x").key, ..local(2, "guarded") };
    let other =
        LocalEndpoint { pod: other.pod.map(|pod| wire::Pod { namespace: "other".into(), ..pod }), ..other };
    let bench = Bench::started(most, &[local(1, "guarded"), other], &remote(1, "friend"));
    let theirs = guard("fits", "80").replace("namespace: n", "namespace: other");
    let mut cluster = puts(&scattered(600, 50));
    cluster.extend(puts(&theirs));
    let began = processor_time();
    bench.enforcer.apply(Batch { changes: cluster, refusals: None });
    let took = processor_time().saturating_sub(began);
    println!("600 policies of which some 40 fit: {took:?}");
    let in_force = |namespace: &str| {
        let (policies, _) = bench.enforcer.policies();
        policies.iter().filter(|it| it.policy.namespace.as_deref() == Some(namespace)).count()
    };
    assert_eq!(in_force("other"), 1, "the other namespace's policy is in force");
    let fit = in_force("n");
    assert!((30..=40).contains(&fit), "{fit}");
    let (_, refused) = bench.enforcer.policies();
    assert_eq!(refused.len(), 600 - fit);
    assert!(refused.iter().any(|it| it.reason.contains("room for 2000")), "{:?}", refused[0]);
    // What is tried again and again is bounded, too.
    let began = processor_time();
    for _ in 0..5 {
        bench.enforcer.retry();
    }
    let again = processor_time().saturating_sub(began);
    println!("five looks for room: {again:?}");
    assert!(took < Duration::from_secs(20) && again < Duration::from_secs(10), "{took:?}, {again:?}");
}

#[test]
fn many_single_ports_cost_little_more_than_each_of_them() {
    let most = Limits { entries: 20_000, rules: 20_000, ..ROOM };
    let pods = [local(1, "guarded")];
    let time = |ports: usize| {
        let cluster = puts(&scattered(4, ports / 4));
        let least = (0..3).map(|_| {
            let bench = Bench::started(most, &pods, &remote(1, "friend"));
            let began = processor_time();
            bench.enforcer.apply(Batch { changes: cluster.clone(), refusals: None });
            let took = processor_time().saturating_sub(began);
            assert!(bench.passes("n/r1", "n/p1", 2) && !bench.passes("n/r1", "n/p1", 3));
            assert!(bench.enforcer.problems().is_empty(), "{:?}", bench.enforcer.problems());
            took
        });
        least.min().unwrap()
    };
    // Eight times as many: if each were compared with each it would take 64 times as long.
    let (few, many) = (time(1_000), time(8_000));
    println!("1,000 single ports {few:?}, 8,000 {many:?}");
    assert!(many < few * 24, "{few:?} and {many:?}");
}

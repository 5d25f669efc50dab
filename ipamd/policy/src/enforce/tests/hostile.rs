//! Who may make policies can make very many, and very odd ones. What they cost grows as they do and no faster, and what cannot fit
//! is known before it is worked out.

use std::{fmt::Write as _, time::Instant};

use super::*;
use ipamd_runtime::work;

/// As much as the programs' tables have by default.
const PROGRAMS: Limits = Limits {
    slots: 4_095,
    maps: 4_096,
    entries: 16_384,
    addresses: 131_072,
    prefixes: 65_536,
    rules: 16_384,
    domains: 4_096,
    domains_of_name: 8,
};

/// A pod of this node in a namespace.
fn local_in(namespace: &str, last: u8) -> LocalEndpoint {
    let pod = Some(wire::Pod { namespace: namespace.into(), name: format!("p{last}"), uid: String::new() });
    LocalEndpoint { pod, ..local(last, "guarded") }
}

/// A policy of a namespace for its pods `app: guarded`, with these peers and these ports.
fn policy(namespace: &str, name: &str, peers: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ namespace: {namespace}, name: {name} }}\n\
         spec:\n  podSelector: {{ matchLabels: {{ app: guarded }} }}\n  ingress: [ {{ from: [ {peers} ], ports: [ {ports} ] }} ]\n"
    )
}

fn block(number: usize) -> String {
    format!("{{ ipBlock: {{ cidr: 11.{}.{}.0/24 }} }}", number / 256, number % 256)
}

/// How many steps it takes to apply this on a node with a pod of the namespace `n` and one of `other`.
fn steps(limits: Limits, cluster: &str) -> (usize, Bench) {
    let bench = Bench::started(limits, &[local_in("n", 1), local_in("other", 2)], &remote(1, "friend"));
    let batch = batch(cluster);
    let began = Instant::now();
    let steps = work::of(|| {
        bench.enforcer.apply(batch);
    });
    println!("{steps} steps in {:?}", began.elapsed());
    (steps, bench)
}

/// That twice as much takes about twice as many steps.
fn grows_in_proportion(what: &str, cluster: impl Fn(usize) -> String) {
    let (once, bench) = steps(PROGRAMS, &cluster(1));
    assert_eq!(bench.enforcer.problems(), Vec::<String>::new(), "{what}");
    let (twice, bench) = steps(PROGRAMS, &cluster(2));
    assert_eq!(bench.enforcer.problems(), Vec::<String>::new(), "{what}");
    assert!(twice <= once * 5 / 2, "{what}: {once} steps, and {twice} for twice as much");
}

#[test]
fn what_policies_cost_grows_as_they_do() {
    let many = |count: usize, of_each: &dyn Fn(usize) -> String| (0..count).map(of_each).collect::<String>();
    grows_in_proportion("policies that select one pod", |by| {
        many(1_000 * by, &|at| policy("n", &format!("p{at}"), &block(at), "{ port: 80 }"))
    });
    grows_in_proportion("policies that say the same", |by| {
        many(1_000 * by, &|at| {
            policy(
                "n",
                &format!("p{at}"),
                "{ podSelector: { matchLabels: { app: friend } } }",
                "{ port: 80 }",
            )
        })
    });
    grows_in_proportion("prefixes of one rule", |by| {
        let blocks: Vec<_> = (0..1_000 * by).map(block).collect();
        policy("n", "p", &blocks.join(", "), "{ port: 80 }")
    });
    grows_in_proportion("exceptions of one prefix", |by| {
        let except: Vec<_> = (0..1_000 * by).map(|at| format!("11.{}.{}.0/24", at / 256, at % 256)).collect();
        policy(
            "n",
            "p",
            &format!("{{ ipBlock: {{ cidr: 11.0.0.0/8, except: [ {} ] }} }}", except.join(", ")),
            "{ port: 80 }",
        )
    });
    grows_in_proportion("values of one expression", |by| {
        let values: Vec<_> = (0..5_000 * by).map(|at| format!("v{at}")).collect();
        let peers = format!(
            "{{ podSelector: {{ matchExpressions: [ {{ key: app, operator: In, values: [ friend, {} ] }} ] }} }}",
            values.join(", ")
        );
        policy("n", "p", &peers, "{ port: 80 }")
    });
    grows_in_proportion("labels of one pod", |by| {
        let labels: Vec<_> = (0..1_000 * by).map(|at| format!("l{at}: x")).collect();
        let pod = remote(2, &format!("friend, {}", labels.join(", ")));
        policy("n", "p", "{ podSelector: { matchLabels: { app: friend } } }", "{ port: 80 }") + &pod
    });
}

/// A policy of the namespace `n` for its pods `app: guarded` that allows these to send to DNS names: rules, each by its port or ports and
/// its names.
fn names(rules: impl Iterator<Item = (String, String)>) -> String {
    let rules = rules.map(|(ports, names)| {
        format!(
            "{{ action: Allow, protocol: TCP, destination: {{ ports: [ '{ports}' ], domains: [ {names} ] }} }}"
        )
    });
    let rules: Vec<_> = rules.collect();
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{ namespace: n, name: names }}\n\
         spec: {{ selector: app == 'guarded', egress: [ {} ] }}\n",
        rules.join(", ")
    )
}

#[test]
fn what_names_cost_grows_as_they_do() {
    grows_in_proportion("DNS names of one rule", |by| {
        let many: Vec<_> = (0..1_000 * by).map(|at| format!("n{at}.example.com")).collect();
        names(std::iter::once(("443".to_owned(), many.join(", "))))
    });
    grows_in_proportion("rules with a DNS name", |by| {
        names((0..1_000 * by).map(|at| ((1_000 + 2 * at).to_string(), format!("n{at}.example.com"))))
    });
    grows_in_proportion("rules with the same DNS names", |by| {
        names((0..1_000 * by).map(|at| ((1_000 + 2 * at).to_string(), "a.example.com".to_owned())))
    });
}

#[test]
fn lists_of_names_that_cannot_fit_are_not_worked_out() {
    // The names of each of 300 rules may be reached on another number of ports: 45,000 times 20 names.
    let rules = (0..300).map(|rule| {
        let of_it: Vec<_> = (0..20).map(|at| format!("n{at}.r{rule}.example.com")).collect();
        (format!("1:{}", 1_000 + rule), of_it.join(", "))
    });
    let (steps, bench) = steps(PROGRAMS, &names(rules));
    let problems = bench.enforcer.problems();
    assert!(problems[0].ends_with("(--policy-entries), and there is room for 16384"), "{problems:?}");
    assert!(steps < 100_000, "{steps} steps: 900,000 would be all of it");
}

#[test]
fn selectors_of_a_namespace_do_not_look_at_the_pods_of_others() {
    // 200 selectors, none of which any pod but one has; and 1,000 pods elsewhere, each with labels of its own.
    let mut cluster = String::new();
    for at in 0..1_000 {
        let _ = write!(
            cluster,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{ namespace: n{}, name: r{at}, labels: {{ own: v{at} }} }}\n\
             status: {{ podIPs: [ {{ ip: 10.1.{}.{} }} ] }}\n",
            at % 100,
            at / 250,
            at % 250 + 1
        );
    }
    let bench = Bench::started(PROGRAMS, &[local_in("n", 1)], &cluster);
    let selectors: String = (0..200)
        .map(|at| {
            policy(
                "n",
                &format!("p{at}"),
                &format!("{{ podSelector: {{ matchLabels: {{ own: v{at} }} }} }}"),
                "{ port: 80 }",
            )
        })
        .collect();
    let steps = work::of(|| {
        bench.apply(&selectors);
    });
    assert!(steps < 20_000, "{steps} steps: 200,000 would be each selector on each pod");
    // And a namespace that gets other labels has its own looked at.
    let mut labels = String::new();
    for at in 0..100 {
        let _ = writeln!(
            labels,
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: n{at}, labels: {{ team: t }} }}"
        );
    }
    let steps = work::of(|| {
        bench.apply(&labels);
    });
    assert!(steps < 5_000, "{steps} steps: 100,000 would be each pod for each namespace");
}

#[test]
fn what_cannot_fit_is_not_worked_out() {
    // Each of 1,000 prefixes may reach ports of its own beside 300 that all may: half a million entries.
    let ports: Vec<_> = (0..300).map(|at| format!("{{ port: {} }}", 1 + 2 * at)).collect();
    let mut cluster = policy("n", "all", "{ ipBlock: { cidr: 0.0.0.0/0 } }", &ports.join(", "));
    for at in 0..1_000 {
        cluster += &policy("n", &format!("p{at}"), &block(at), &format!("{{ port: {} }}", 2_001 + 2 * at));
    }
    let bench = Bench::started(PROGRAMS, &[local_in("n", 1), local_in("other", 2)], &remote(1, "friend"));
    let changes = puts(&cluster);
    let mut state = bench.enforcer.lock();
    let mut concerned = BTreeSet::new();
    let steps = work::of(|| {
        for change in changes {
            state.cluster.apply(change, &mut concerned);
        }
        let refused = state.write_tables(&std::mem::take(&mut concerned)).unwrap_err().to_string();
        assert!(refused.starts_with("it needs at least 16"), "{refused}");
        assert!(refused.ends_with("(--policy-entries), and there is room for 16384"), "{refused}");
    });
    println!("{steps} steps until it is known");
    assert!(steps < 100_000, "{steps} steps: 600,000 would be all of it");
}

/// Pods of one workload have the same rules: these are made once.
#[test]
fn pods_of_one_workload_share_what_is_worked_out() {
    let cluster: String =
        (0..500).map(|at| policy("n", &format!("p{at}"), &block(at), "{ port: 80 }")).collect();
    let steps = |pods: u8| {
        let pods: Vec<_> = (1..=pods).map(|last| local_in("n", last)).collect();
        let bench = Bench::started(PROGRAMS, &pods, &remote(1, "friend"));
        let changes = batch(&cluster);
        work::of(|| {
            bench.enforcer.apply(changes);
        })
    };
    assert!(steps(100) <= steps(1) * 2);
}

/// A pod that comes waits for its own policy, and others wait for that: what another pod of its workload has is not worked out again.
#[test]
fn a_pod_that_comes_to_a_workload_costs_little_whatever_its_policies_cost() {
    let come = |policies: usize| {
        let cluster: String =
            (0..policies).map(|at| policy("n", &format!("p{at}"), &block(at), "{ port: 80 }")).collect();
        let bench = Bench::started(PROGRAMS, &[local_in("n", 1)], &cluster);
        let steps = work::of(|| {
            bench.enforcer.admit(local_in("n", 2)).unwrap();
        });
        let postures = bench.tables.postures();
        assert!(
            postures.len() == 2 && postures.values().all(|it| it.map == postures[&Slot(1)].map),
            "{postures:?}"
        );
        steps
    };
    assert_eq!(come(2_000), come(20), "steps for 2,000 policies and for 20");
}

/// Others wait for a try, also for one that comes to nothing: what stays in force is not worked out again after it.
#[test]
fn a_try_that_does_not_fit_costs_no_more_than_one_that_does() {
    let cluster: String =
        (0..1_000).map(|at| policy("n", &format!("p{at}"), &block(at), "{ port: 80 }")).collect();
    let bench =
        Bench::started(Limits { entries: 2_100, ..PROGRAMS }, &[local_in("n", 1)], &remote(1, "friend"));
    bench.apply(&cluster);
    let steps = |ports: u16| {
        let ports: Vec<_> = (0..ports).map(|at| format!("{{ port: {} }}", 1 + 2 * at)).collect();
        let one_more = batch(&policy("n", "more", &block(2_000), &ports.join(", ")));
        work::of(|| {
            bench.enforcer.apply(one_more);
        })
    };
    let fits = steps(2);
    assert_eq!(bench.enforcer.problems(), Vec::<String>::new());
    let does_not = steps(300);
    assert_eq!(bench.enforcer.problems().len(), 1);
    assert!(does_not <= fits * 3 / 2, "{fits} steps where it fits, {does_not} where it does not");
}

/// The rules of another pod are its own where they say something of the port or the address of whom they are for.
#[test]
fn a_pod_whose_policies_say_something_of_its_own_side_has_its_own_rules() {
    let named = "{ podSelector: { matchLabels: { app: friend } } }";
    let bench = Bench::started(PROGRAMS, &[local_in("n", 1)], &policy("n", "p", named, "{ port: web }"));
    let ports = "---\napiVersion: v1\nkind: Pod\nmetadata: { namespace: n, name: p2, labels: { app: guarded } }\n\
                 spec: { containers: [ { name: c, ports: [ { name: web, containerPort: 8080 } ] } ] }\n";
    bench.apply(ports);
    bench.enforcer.admit(local_in("n", 2)).unwrap();
    let postures = bench.tables.postures();
    assert_ne!(postures[&Slot(1)].map, postures[&Slot(2)].map);
}

//! What one tenant can make of policies, and what it costs: itself, and another tenant whose policy comes behind it. On tables in
//! memory, so the kernel's share is not in it.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use ipamd_api::{AttachmentKey, wire};
use ipamd_model::objects::{Batch, Change};
use ipamd_policy::{
    enforce::{Enforcer, LocalEndpoint, memory::Memory},
    tables::Limits,
};
use ipamd_sources::manifest;

use crate::figures::{millis, percentile};

/// As the programs' tables are by default.
const LIMITS: Limits = Limits {
    domains: 65_535,
    domains_of_name: 8,
    slots: 4_095,
    maps: 4_096,
    entries: 16_384,
    addresses: 131_072,
    prefixes: 65_536,
    rules: 16_384,
};
const ROUNDS: usize = 5;

/// A pod of this node that policies of its namespace select.
fn pod(namespace: &str, last: u8) -> LocalEndpoint {
    LocalEndpoint {
        host: None,
        key: AttachmentKey {
            network: "bench".into(),
            container_id: format!("{namespace}-{last}"),
            ifname: "eth0".into(),
        },
        pod: Some(wire::Pod { namespace: namespace.into(), name: format!("p{last}"), uid: String::new() }),
        labels: [("app".to_owned(), "guarded".to_owned())].into(),
        addresses: vec![[10, 0, u8::from(namespace == "other"), last].into()],
    }
}

fn policy(namespace: &str, name: usize, peers: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ namespace: {namespace}, name: p{name} }}\n\
         spec:\n  podSelector: {{ matchLabels: {{ app: guarded }} }}\n  ingress: [ {{ from: [ {peers} ], ports: [ {ports} ] }} ]\n"
    )
}

const FRIENDS: &str = "{ podSelector: { matchLabels: { app: friend } } }";

/// Single ports, no two beside each other.
fn ports(count: usize) -> String {
    (0..count).map(|at| format!("{{ port: {} }}", 2 + 2 * at)).collect::<Vec<_>>().join(", ")
}

fn block(number: usize) -> String {
    format!("{{ ipBlock: {{ cidr: 11.{}.{}.0/24 }} }}", number / 256, number % 256)
}

fn blocks(count: usize) -> String {
    (0..count).map(block).collect::<Vec<_>>().join(", ")
}

fn many(count: usize, of_each: impl Fn(usize) -> String) -> String {
    (0..count).map(of_each).collect()
}

fn changes(text: &str) -> Result<Vec<Change>> {
    let manifest = manifest::read(Path::new("bench.yaml"), text);
    ensure!(manifest.refusals.is_empty(), "{:?}", manifest.refusals);
    Ok(manifest.objects.into_iter().map(|located| Change::Put(located.object)).collect())
}

fn batch(changes: Vec<Change>) -> Batch {
    Batch { changes, refusals: None }
}

/// Prints what each case costs.
pub fn measure() -> Result<()> {
    println!(
        "| what a tenant makes for one of its pods | ms until it is settled, p50 | max | not in force | another's policy then, ms |"
    );
    println!("| --- | ---: | ---: | ---: | ---: |");
    let cases: [(&str, String); 8] = [
        ("1,000 single ports", policy("n", 0, FRIENDS, &ports(1_000))),
        ("8,000 single ports", policy("n", 0, FRIENDS, &ports(8_000))),
        (
            "5,000 policies",
            many(5_000, |at| policy("n", at, FRIENDS, &format!("{{ port: {} }}", 1 + 2 * at))),
        ),
        (
            "10,000 policies",
            many(10_000, |at| policy("n", at, FRIENDS, &format!("{{ port: {} }}", 1 + 2 * at))),
        ),
        ("5,000 policies, each with a prefix", many(5_000, |at| policy("n", at, &block(at), "{ port: 80 }"))),
        ("a rule with 7,000 prefixes", policy("n", 0, &blocks(7_000), "{ port: 80 }")),
        (
            "20,000 policies, which do not fit",
            many(20_000, |at| policy("n", at, FRIENDS, &format!("{{ port: {} }}", 1 + at))),
        ),
        (
            "1,000 policies with a prefix and 300 ports each, which do not fit",
            many(1_000, |at| policy("n", at, &block(at), &ports(300))),
        ),
    ];
    for (name, text) in cases {
        let (tenant, other) = (changes(&text)?, changes(&policy("other", 0, FRIENDS, "{ port: 80 }"))?);
        let (mut own, mut others) = (Vec::new(), Vec::new());
        let mut left_out = 0;
        for _ in 0..ROUNDS {
            let enforcer = Enforcer::new(Box::new(Memory::new(LIMITS)));
            let pods = [pod("n", 1), pod("other", 2)].map(|pod| (pod, None));
            enforcer.start(pods, BTreeSet::new(), Batch::default())?;
            own.push(took(&enforcer, tenant.clone()));
            others.push(took(&enforcer, other.clone()));
            left_out = enforcer.counts().unfit;
        }
        let (p50, max) = (percentile(&mut own, 50), percentile(&mut own, 100));
        let another = percentile(&mut others, 50);
        println!(
            "| {name} | {:.1} | {:.1} | {left_out} | {:.2} |",
            millis(p50),
            millis(max),
            millis(another)
        );
    }
    Ok(())
}

fn took(enforcer: &Enforcer, changes: Vec<Change>) -> Duration {
    let began = Instant::now();
    enforcer.apply(batch(changes));
    began.elapsed()
}

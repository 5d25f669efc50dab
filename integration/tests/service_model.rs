//! Random services: what the API says of every client and address, and what the tables that the programs look into lead
//! to, are the same; at start, after each change, and for a daemon that takes over.

use std::{collections::BTreeSet, net::IpAddr};

use integration::oracle::services::{
    Client, Documents, Here, Served,
    asked::{changes, here, objects_of, questions},
    generate::{NODES, Scene, scene},
};
use ipamd_model::objects::Change;
use ipamd_services::{
    Balancer, NodeAddresses, Site,
    memory::{Destination, From, Memory},
    tables::FrontendKey,
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{TestCaseResult, TestRunner},
};

fn balancer(tables: &Memory, scene: &Scene) -> Balancer {
    start(tables, scene, &here())
}

fn start(tables: &Memory, scene: &Scene, here: &Here) -> Balancer {
    let site = Site { node: NODES[0].into(), zone: None, pools: Vec::new() };
    let balancer = Balancer::new(Box::new(tables.clone()), site);
    balancer.serve_cluster_ips_outside(here.cluster_ips_outside);
    let all: BTreeSet<IpAddr> = here.addresses.iter().copied().collect();
    let changes: Vec<_> = objects_of(scene).into_iter().map(Change::Put).collect();
    balancer.start(NodeAddresses::new(all, &[]), [], &changes).expect("tables in memory take everything");
    balancer
}

fn clients() -> Vec<(Client, From)> {
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let mut clients = vec![(Client::Node, From::Node)];
    for address in ["10.88.0.9", "fd00:88::9"].map(ip) {
        clients.push((Client::Pod(address), From::Endpoint(address)));
    }
    for address in ["198.51.100.1", "203.0.113.200", "2001:db8:9::9"].map(ip) {
        clients.push((Client::Outside(address), From::Outside(address)));
    }
    clients
}

/// What was answered, so that a test that always hears the same is seen.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    nothing: u64,
    served: u64,
    refused: u64,
    dropped: u64,
}

fn agree(tables: &Memory, scene: &Scene, heard: &mut Heard) -> TestCaseResult {
    agree_at(&here(), tables, scene, heard)
}

fn agree_at(here: &Here, tables: &Memory, scene: &Scene, heard: &mut Heard) -> TestCaseResult {
    let documents = Documents(scene);
    for (address, port) in questions() {
        for (client, from) in clients() {
            // Addresses of one family are met from that family.
            let own = match client {
                Client::Pod(own) | Client::Outside(own) => Some(own),
                Client::Node => None,
            };
            if own.is_some_and(|own| own.is_ipv4() != address.is_ipv4()) {
                continue;
            }
            for protocol in [6, 17] {
                let expected = documents.serve(here, client, address, port, protocol);
                *match &expected {
                    Served::Nothing => &mut heard.nothing,
                    Served::By(_) => &mut heard.served,
                    Served::Refused => &mut heard.refused,
                    Served::Dropped => &mut heard.dropped,
                } += 1;
                let found = match tables.connect(from, FrontendKey { address, port, protocol }) {
                    Destination::NotAService => Served::Nothing,
                    Destination::Refused => Served::Refused,
                    Destination::Dropped => Served::Dropped,
                    Destination::Backends(backends) => {
                        Served::By(backends.into_iter().map(|it| (it.address, it.port)).collect())
                    }
                };
                prop_assert_eq!(found, expected, "{:?} to {} port {} by {}", client, address, port, protocol);
            }
        }
    }
    Ok(())
}

fn run(cases: u32, test: impl Fn(Vec<Scene>, &mut Heard) -> TestCaseResult, scenes: usize) {
    let heard = std::cell::RefCell::new(Heard::default());
    let mut runner =
        TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    runner
        .run(&vec(scene(), 1..=scenes), |scenes| test(scenes, &mut heard.borrow_mut()))
        .unwrap_or_else(|error| panic!("{error}"));
    let heard = heard.into_inner();
    assert!(
        heard.nothing > 0 && heard.served > 0 && heard.refused > 0 && heard.dropped > 0,
        "not everything was heard: {heard:?}"
    );
}

#[test]
fn the_tables_serve_whom_the_api_says() {
    run(
        300,
        |scenes, heard| {
            let tables = Memory::default();
            balancer(&tables, &scenes[0]);
            agree(&tables, &scenes[0], heard)
        },
        1,
    );
}

#[test]
fn cluster_addresses_are_served_outside_if_it_is_asked_for() {
    let here = Here { cluster_ips_outside: true, ..here() };
    run(
        150,
        |scenes, heard| {
            let tables = Memory::default();
            start(&tables, &scenes[0], &here);
            agree_at(&here, &tables, &scenes[0], heard)?;
            // And by the next daemon no more.
            balancer(&tables, &scenes[0]);
            agree(&tables, &scenes[0], heard)
        },
        1,
    );
}

#[test]
fn changes_lead_where_a_start_does() {
    run(
        150,
        |scenes, heard| {
            let tables = Memory::default();
            let running = balancer(&tables, &scenes[0]);
            for pair in scenes.windows(2) {
                running.apply(&changes(&pair[0], &pair[1]));
                agree(&tables, &pair[1], heard)?;
            }
            let last = scenes.last().expect("one at least");
            // Nothing is left behind but what is on its way out.
            let fresh = Memory::default();
            balancer(&fresh, last);
            prop_assert_eq!(tables.all_frontends(), fresh.all_frontends());
            prop_assert!(tables.all_members().is_superset(&fresh.all_members()));
            // Another daemon takes over: first as it was, then by another cluster.
            drop(running);
            let epoch = tables.epoch();
            let taken_over = balancer(&tables, last);
            agree(&tables, last, heard)?;
            prop_assert_eq!(tables.epoch(), epoch, "nothing was diverted");
            drop(taken_over);
            balancer(&tables, &scenes[0]);
            agree(&tables, &scenes[0], heard)?;
            let first = Memory::default();
            balancer(&first, &scenes[0]);
            prop_assert_eq!(tables.all_frontends(), first.all_frontends());
            Ok(())
        },
        5,
    );
}

#[test]
fn what_could_not_be_written_is_made_up_for() {
    run(
        60,
        |scenes, heard| {
            let tables = Memory::default();
            let running = balancer(&tables, &scenes[0]);
            let last = scenes.last().expect("one at least");
            tables.fail(true);
            for pair in scenes.windows(2) {
                running.apply(&changes(&pair[0], &pair[1]));
            }
            tables.fail(false);
            running.retry();
            agree(&tables, last, heard)
        },
        4,
    );
}

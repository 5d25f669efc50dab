//! Random clusters: the specifications, read naively, and the tables that the programs look policy up in say the same of
//! every endpoint, peer and flow.

use std::{cell::RefCell, net::IpAddr};

use integration::oracle::{
    Cluster, Direction, Flow, Local,
    generate::{Questions, Scene, Step, Told, Trial, scene, story, trial},
    product::Product,
};
use proptest::{
    prelude::*,
    test_runner::{TestCaseResult, TestRunner},
};
use serde_json::Value;

/// What was asked, so that a test that always hears the same is seen.
#[derive(Clone, Copy, Debug, Default)]
struct Answers {
    passed: u64,
    dropped: u64,
    /// Of what passed, what was dropped without its names.
    by_name: u64,
    /// How often the staged policies were asked.
    tried: u64,
}

/// Compares everything that can be asked of the endpoints.
fn agree(
    product: &Product,
    documents: &[&Value],
    locals: &[&Local],
    questions: &Questions,
    told: Told,
    answers: &mut Answers,
) -> TestCaseResult {
    let cluster = Cluster::new(documents.iter().copied(), locals.iter().copied());
    for local in locals {
        for direction in Direction::BOTH {
            for (own, peer) in questions.pairs(local) {
                let names = told.names(local, peer);
                let nameless = cluster.verdicts(&local.identity(), direction, own, peer);
                let expected = cluster.verdicts_by_names(&local.identity(), direction, own, peer, &names);
                for &flow in &questions.flows {
                    let (expected, nameless) = (expected(flow), nameless(flow));
                    *(if expected { &mut answers.passed } else { &mut answers.dropped }) += 1;
                    answers.by_name += u64::from(expected && !nameless);
                    same(product, local, direction, (peer, &names), flow, expected)?;
                    same(product, local, direction, (peer, &[]), flow, nameless)?;
                }
            }
        }
    }
    Ok(())
}

fn same(
    product: &Product,
    local: &Local,
    direction: Direction,
    (peer, names): (IpAddr, &[String]),
    flow: Flow,
    expected: bool,
) -> TestCaseResult {
    let verdict = product.verdict(local, direction, peer, names, flow);
    let (passes, rule) = verdict.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
    prop_assert_eq!(
        passes,
        expected,
        "{:?} of {} with {} {:?}: {}; decided by {:?}",
        direction,
        local.container,
        peer,
        names,
        flow,
        rule
    );
    Ok(())
}

fn of_scene(scene: &Scene, answers: &mut Answers) -> TestCaseResult {
    let product = Product::start(&scene.documents, &scene.locals, &scene.node_addresses)
        .map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
    let documents = scene.documents.iter().collect::<Vec<_>>();
    let locals = scene.locals.iter().collect::<Vec<_>>();
    let questions = Questions::of(documents.iter().copied(), locals.iter().copied());
    agree(&product, &documents, &locals, &questions, scene.told, answers)
}

/// A cluster that changes, as it is told step by step.
fn of_story(scene: &Scene, steps: &[Step], answers: &mut Answers) -> TestCaseResult {
    let failed = |error: anyhow::Error| TestCaseError::fail(format!("{error:#}"));
    let mut product =
        Product::start(&scene.documents, &scene.locals, &scene.node_addresses).map_err(failed)?;
    let mut now = scene.clone();
    for (at, step) in steps.iter().enumerate() {
        let before = now.clone();
        now.take(step);
        product.take(step, &before).map_err(failed)?;
        if at % 3 == 2 || at + 1 == steps.len() {
            let (documents, locals) =
                (now.documents.iter().collect::<Vec<_>>(), now.locals.iter().collect::<Vec<_>>());
            // What was there before may have left something behind.
            let questions = Questions::of(
                scene.documents.iter().chain(&before.documents).chain(documents.iter().copied()),
                scene.locals.iter().chain(locals.iter().copied()),
            );
            agree(&product, &documents, &locals, &questions, scene.told, answers)?;
        }
    }
    Ok(())
}

/// Staged policies change nothing of what is in force, and say what the cluster would with them applied.
fn of_trial(trial: &Trial, answers: &mut Answers) -> TestCaseResult {
    let failed = |error: anyhow::Error| TestCaseError::fail(format!("{error:#}"));
    let Trial { in_force, staged, applied } = trial;
    let documents = in_force.documents.iter().chain(staged);
    let product = Product::start(documents, &in_force.locals, &in_force.node_addresses).map_err(failed)?;
    let locals = in_force.locals.iter().collect::<Vec<_>>();
    let each = in_force.documents.iter().chain(applied);
    let questions = Questions::of(each, locals.iter().copied());
    let documents = in_force.documents.iter().collect::<Vec<_>>();
    agree(&product, &documents, &locals, &questions, in_force.told, answers)?;
    let cluster = Cluster::new(applied.iter(), locals.iter().copied());
    for local in &locals {
        for direction in Direction::BOTH {
            for (own, peer) in questions.pairs(local) {
                let names = in_force.told.names(local, peer);
                // The node always reaches its endpoints, which is said outside of the tables.
                let of_node = direction == Direction::Ingress && in_force.node_addresses.contains(&peer);
                let expected = cluster.verdicts_by_names(&local.identity(), direction, own, peer, &names);
                for &flow in &questions.flows {
                    let would = product.would_pass(local, direction, (own, peer), &names, flow);
                    prop_assert!(
                        would.is_none_or(|would| would == (of_node || expected(flow))),
                        "{:?} of {} with {} {:?}: {:?}",
                        direction,
                        local.container,
                        peer,
                        flow,
                        would
                    );
                    answers.tried += u64::from(would.is_some());
                }
            }
        }
    }
    Ok(())
}

/// So many random cases, or as many as `PROPTEST_CASES` says.
fn cases(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|it| it.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(cases),
        max_shrink_iters: 4096,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Runs random cases, and sees to it that they are worth it: where nearly everything passes, or nothing, little was asked.
fn check<S: Strategy>(most: u32, strategy: &S, test: impl Fn(S::Value, &mut Answers) -> TestCaseResult) {
    let answers = RefCell::new(Answers::default());
    let result = TestRunner::new(cases(most)).run(strategy, |value| test(value, &mut answers.borrow_mut()));
    result.unwrap_or_else(|error| panic!("{error}"));
    let answers = answers.into_inner();
    println!("{answers:?}");
    assert!(answers.passed > answers.dropped / 5 && answers.dropped > answers.passed / 5, "{answers:?}");
    assert!(answers.by_name > 0, "{answers:?}");
}

#[test]
fn the_tables_say_what_the_specifications_say() {
    check(128, &scene(8), |scene, answers| of_scene(&scene, answers));
}

#[test]
fn a_cluster_that_changed_is_enforced_as_if_it_had_been_so_from_the_start() {
    check(96, &story(), |(scene, steps), answers| of_story(&scene, &steps, answers));
}

#[test]
fn staged_policies_say_what_they_would_and_change_nothing() {
    let tried = RefCell::new(0);
    check(96, &trial(8), |trial, answers| {
        of_trial(&trial, answers)?;
        *tried.borrow_mut() = answers.tried;
        Ok(())
    });
    assert!(tried.into_inner() > 10_000);
}

use ipamd_api::policy::{DiffPage, PolicyQuery, StagedTally};
use ipamd_model::objects::Refusal;

use super::{failing::wide, *};
use crate::enforce::{Otherwise, Passed};

/// A StagedKubernetesNetworkPolicy that stands for [`guard`] with another port.
fn staged_guard(name: &str, action: &str, port: &str) -> String {
    staged(&guard(name, port), action)
}

/// The staged kind of a NetworkPolicy.
fn staged(policy: &str, action: &str) -> String {
    let set = policy.replace("networking.k8s.io/v1", "projectcalico.org/v3");
    set.replace("NetworkPolicy", "StagedKubernetesNetworkPolicy")
        .replace("spec:\n", &format!("spec:\n  stagedAction: {action}\n"))
}

const SECURITY: &str =
    "---\napiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: { name: security }\nspec: { order: 1 }\n";

/// Denies what `app: guarded` sends to a port, in the tier `security`.
fn out(kind: &str, action: &str, port: u16) -> String {
    let action = if action.is_empty() { String::new() } else { format!("  stagedAction: {action}\n") };
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{ name: security.out }}\nspec:\n{action}  tier: \
         security\n  selector: app == 'guarded'\n  types: [Egress]\n  egress:\n  - {{ action: Deny, protocol: TCP, \
         destination: {{ ports: [{port}] }} }}\n  - {{ action: Pass }}\n"
    )
}

/// A flow from 10.0.1.1 to the pod `p1`.
fn to_guarded(port: u16) -> SeenFlow {
    SeenFlow {
        protocol: protocol::TCP,
        source: [10, 0, 1, 1].into(),
        source_port: 40_000,
        destination: address(1),
        destination_port: port,
    }
}

/// A flow from the pod `p1` to elsewhere.
fn from_guarded(port: u16) -> SeenFlow {
    SeenFlow { source: address(1), destination: [192, 0, 2, 1].into(), ..to_guarded(port) }
}

impl Bench {
    /// What the staged set judges otherwise of flows that were judged as they would be now.
    fn judge(&self, flows: &[SeenFlow]) -> Vec<Otherwise> {
        let passed = flows.iter().map(|flow| {
            let passes =
                self.passes(&flow.source.to_string(), &flow.destination.to_string(), flow.destination_port);
            Passed { flow: *flow, verdict: if passes { Verdict::Allow } else { Verdict::Deny } }
        });
        self.enforcer.judge_new(&passed.collect::<Vec<_>>(), |_| Vec::new())
    }

    /// What would become of the flows, as the rule says it; and the policies because of which.
    fn told(&self, flows: &[SeenFlow]) -> Vec<(Verdict, String, Vec<String>)> {
        let told = self.judge(flows).into_iter().map(|it| {
            let rule = it.change.after_rule.map(|rule| rule.text).unwrap_or_default();
            (it.change.after, rule, it.policies.iter().map(ToString::to_string).collect())
        });
        told.collect()
    }

    /// The counts of the staged policies, by name.
    fn tallies(&self) -> Vec<(String, StagedTally)> {
        let (staged, left_out) = self.enforcer.staged_policies();
        assert_eq!(left_out, []);
        staged.into_iter().map(|it| (it.policy.to_string(), it.staged.unwrap().tally)).collect()
    }
}

#[test]
fn a_staged_policy_enforces_nothing_and_says_what_it_would() {
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &remote(1, "friend"));
    assert_eq!(bench.enforcer.stage(), None);
    assert!(bench.judge(&[to_guarded(81)]).is_empty());
    let (epoch, maps) = (bench.tables.epoch(), bench.tables.maps());
    bench.apply(&staged_guard("g", "Set", "80"));
    assert!(bench.enforcer.stage().is_some());
    assert_eq!((bench.tables.epoch(), bench.tables.maps()), (epoch, maps), "nothing is written");
    assert!(bench.passes("n/r1", "n/p1", 81));
    let name = "StagedKubernetesNetworkPolicy n/g".to_owned();
    let because = format!("default deny of tier default (ingress), because of {name}");
    assert_eq!(
        bench.told(&[to_guarded(80), to_guarded(81), from_guarded(81)]),
        [(Verdict::Deny, because.clone(), vec![name.clone()])]
    );
    let tally = StagedTally { would_deny: 1, ..StagedTally::default() };
    assert_eq!(bench.tallies(), [(name.clone(), tally)]);
    let counts = bench.enforcer.trial_counts();
    assert_eq!((counts.judged, counts.would_deny, counts.would_allow), (3, 1, 0));
    // It is in no list of what is in force.
    assert_eq!(bench.enforcer.policies().0, []);
    let query = PolicyQuery { name: "g".into(), ..PolicyQuery::default() };
    assert_eq!(bench.enforcer.policy(&query), []);
    let [shown] = &bench.enforcer.staged_policy(&query)[..] else { panic!("one") };
    let trial = shown.trial.as_ref().unwrap();
    assert_eq!((&*trial.rules[0].rule, trial.rules[0].tally), (&*because, tally));
    assert_eq!((trial.flows.len(), trial.flows[0].flows, trial.flows[0].destination.port), (1, 1, 81));
    assert_eq!(trial.flows[0].source.pod.as_deref(), Some("n/r1"));
    assert_eq!((shown.rules.len(), &*shown.selects), (1, &["n/p1".to_owned()][..]));
    // Trace says it, too.
    let staged = bench.trace("n/r1", "n/p1", 81).paths[0].staged.clone().unwrap();
    assert_eq!((staged.verdict, staged.rule.unwrap().text), (Verdict::Deny, because));
    assert_eq!(bench.trace("n/r1", "n/p1", 80).paths[0].staged, None);
    // With the last of them all of it is gone.
    bench.remove(Kind::StagedKubernetesNetworkPolicy, "g");
    assert_eq!(bench.enforcer.stage(), None);
    assert_eq!(bench.tallies(), []);
}

#[test]
fn a_staged_update_takes_the_place_of_the_policy_and_gives_it_back() {
    let cluster = format!("{}{}", guard("g", "80"), remote(1, "friend"));
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &cluster);
    bench.apply(&staged_guard("g", "Set", "81"));
    let flows = [to_guarded(80), to_guarded(81)];
    let name = "StagedKubernetesNetworkPolicy n/g".to_owned();
    let denied = format!("default deny of tier default (ingress), because of {name}");
    let allowed = format!("{name} ingress[0]");
    let expected =
        [(Verdict::Deny, denied, vec![name.clone()]), (Verdict::Allow, allowed, vec![name.clone()])];
    assert_eq!(bench.told(&flows), expected);
    let (staged, _) = bench.enforcer.staged_policies();
    assert!(staged[0].staged.as_ref().unwrap().replaces);
    // A change of the policy in force does not show through.
    bench.apply(&guard("g", "90"));
    assert_eq!(bench.told(&[to_guarded(80), to_guarded(81)]), expected[1..]);
    assert_eq!(bench.told(&[to_guarded(90)])[0].0, Verdict::Deny);
    // What does nothing gives it back as it is now.
    bench.apply(&staged_guard("g", "Learn", "81"));
    assert_eq!(bench.enforcer.stage(), None);
    bench.apply(&out("StagedGlobalNetworkPolicy", "Ignore", 25));
    bench.apply(&format!("{SECURITY}{}", out("StagedGlobalNetworkPolicy", "Set", 25)));
    assert_eq!(bench.told(&[to_guarded(80), to_guarded(81), to_guarded(90)]), []);
    bench.apply(&staged_guard("g", "Set", "81"));
    assert_eq!(bench.told(&[to_guarded(81)]), expected[1..]);
    bench.remove(Kind::StagedKubernetesNetworkPolicy, "g");
    assert_eq!(bench.told(&[to_guarded(80), to_guarded(81), to_guarded(90)]), []);
    bench.apply(&staged_guard("g", "Set", "81"));
    bench.remove(Kind::NetworkPolicy, "g");
    assert_eq!(bench.told(&[to_guarded(81), to_guarded(90)])[0].0, Verdict::Deny);
    bench.remove(Kind::StagedKubernetesNetworkPolicy, "g");
    assert_eq!(bench.told(&[to_guarded(90)]), []);
}

#[test]
fn a_staged_deletion_says_what_would_pass_and_because_of_what() {
    let cluster = format!("{}{}", guard("g", "80"), remote(1, "friend"));
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &cluster);
    bench.apply(&staged_guard("g", "Delete", "80"));
    let name = "StagedKubernetesNetworkPolicy n/g".to_owned();
    let told = bench.judge(&[to_guarded(80), to_guarded(81)]);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].change.before, told[0].change.after), (Verdict::Deny, Verdict::Allow));
    assert_eq!(told[0].change.after_rule, None);
    let before = told[0].change.before_rule.as_ref().unwrap();
    assert_eq!(before.text, "default deny of tier default (ingress), because of NetworkPolicy n/g");
    assert_eq!((told[0].policies.len(), told[0].policies[0].to_string()), (1, name.clone()));
    assert_eq!(bench.tallies(), [(name, StagedTally { would_allow: 1, ..StagedTally::default() })]);
    let (staged, _) = bench.enforcer.staged_policies();
    assert_eq!((&*staged[0].staged.as_ref().unwrap().action, staged[0].endpoints), ("delete", 1));
    // From a deletion to an update and back.
    bench.apply(&staged_guard("g", "Set", "81"));
    assert_eq!(bench.judge(&[to_guarded(80), to_guarded(81)]).len(), 2);
    bench.apply(&staged_guard("g", "Delete", "81"));
    assert_eq!(bench.judge(&[to_guarded(80), to_guarded(82)]).len(), 1);
}

#[test]
fn tiers_are_asked_in_their_order_and_one_that_is_not_known_is_said() {
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &remote(1, "friend"));
    bench.apply(&out("StagedGlobalNetworkPolicy", "", 25));
    let (_, left_out) = bench.enforcer.staged_policies();
    assert_eq!(left_out[0].reason, "it would not be in force: the tier security is not known");
    assert_eq!(bench.told(&[from_guarded(25)]), []);
    bench.apply(SECURITY);
    let name = "StagedGlobalNetworkPolicy security.out".to_owned();
    let expected = (Verdict::Deny, format!("{name} egress[0]"), vec![name]);
    assert_eq!(bench.told(&[from_guarded(25), from_guarded(26)]), [expected]);
    // One in force of the same name, of another kind, is another policy.
    let namespaced =
        out("NetworkPolicy", "", 26).replace("name: security.out", "name: security.out, namespace: n");
    bench.apply(&namespaced);
    // The staged one comes first, and passes on to the next tier what the other denies.
    let told: Vec<_> = bench.told(&[from_guarded(25), from_guarded(26)]).into_iter().map(|it| it.0).collect();
    assert_eq!(told, [Verdict::Deny, Verdict::Allow]);
    bench.remove(Kind::StagedGlobalNetworkPolicy, "security.out");
    let staged =
        namespaced.replace("kind: NetworkPolicy", "kind: StagedNetworkPolicy").replace("[26]", "[27]");
    bench.apply(&staged);
    let told: Vec<_> = bench.told(&[from_guarded(26), from_guarded(27)]).into_iter().map(|it| it.0).collect();
    assert_eq!(told, [Verdict::Allow, Verdict::Deny]);
}

#[test]
fn pods_that_come_and_go_are_tried_with_the_labels_that_they_have() {
    let bench = Bench::started(ROOM, &[local(2, "other")], &remote(1, "friend"));
    bench.apply(&staged_guard("g", "Set", "80"));
    assert!(bench.enforcer.stage().is_some());
    bench.enforcer.admit(local(1, "guarded")).unwrap();
    assert_eq!(bench.judge(&[to_guarded(81)]).len(), 1);
    bench.enforcer.admit(local(1, "other")).unwrap();
    assert_eq!(bench.judge(&[to_guarded(81)]).len(), 0);
    bench.enforcer.admit(local(1, "guarded")).unwrap();
    assert_eq!(bench.judge(&[to_guarded(80)]).len(), 0);
    bench.apply(&remote(1, "stranger"));
    assert_eq!(bench.judge(&[to_guarded(80)]).len(), 1);
    bench.enforcer.dismiss(&local(1, "guarded").key);
    let passed = Passed { flow: to_guarded(80), verdict: Verdict::Allow };
    assert_eq!(bench.enforcer.judge_new(&[passed], |_| Vec::new()), []);
    // The node reaches its pods, with each of its addresses.
    bench.enforcer.admit(local(1, "guarded")).unwrap();
    let node = SeenFlow { source: [10, 0, 0, 253].into(), ..to_guarded(81) };
    assert_eq!(bench.judge(&[node]).len(), 1);
    bench.enforcer.set_node_addresses([node.source].into());
    assert_eq!(bench.judge(&[node]).len(), 0);
}

#[test]
fn what_lives_is_counted_apart_and_anew_with_each_version() {
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &remote(1, "friend"));
    bench.apply(&staged_guard("g", "Set", "80"));
    let first = bench.enforcer.stage();
    assert_eq!(bench.enforcer.judge_living(&[to_guarded(80), to_guarded(81)], |_| Vec::new()).len(), 1);
    assert_eq!(bench.tallies()[0].1, StagedTally { live_would_deny: 1, ..StagedTally::default() });
    bench.apply(&guard("other", "9"));
    assert_eq!(bench.enforcer.stage(), first, "what is in force has changed, and not what is tried");
    bench.apply(&format!("{SECURITY}{}", out("StagedGlobalNetworkPolicy", "Set", 25)));
    assert_ne!(bench.enforcer.stage(), first);
    assert_eq!(bench.tallies().iter().map(|it| it.1.live_would_deny).sum::<u64>(), 0);
    assert_eq!(bench.enforcer.trial_counts().judged, 0);
}

/// What the files would change of these flows.
fn diff(bench: &Bench, text: &str, staged: bool, flows: &[SeenFlow]) -> DiffPage {
    let objects = puts(text).into_iter().map(|it| match it {
        Change::Put(object) => object,
        Change::Remove(_) => panic!("nothing is removed"),
    });
    bench.enforcer.diff(objects.collect(), staged, flows, |_| Vec::new())
}

#[test]
fn what_does_not_fit_is_not_tried_and_replaces_nothing() {
    let cluster = format!("{}{}", guard("g", "80"), remote(1, "friend"));
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &cluster);
    let flows = [to_guarded(80), to_guarded(81), to_guarded(1000)];
    let too_wide = staged(&wide("g"), "Set");
    // Whether it is there when the set is made, or comes later.
    for first in [&*too_wide, &*staged_guard("g", "Set", "80")] {
        bench.apply(first);
        bench.apply(&too_wide);
        assert_eq!(bench.told(&flows), []);
        let (_, left_out) = bench.enforcer.staged_policies();
        assert!(left_out[0].reason.starts_with("it would not be in force: it needs "), "{left_out:?}");
        let page = diff(&bench, "", true, &flows);
        assert_eq!((page.changed, page.refused.len()), (0, 1));
        // The policy in force shows through, as it would stay.
        bench.apply(&guard("g", "81"));
        assert_eq!(bench.told(&flows), []);
        bench.apply(&staged_guard("g", "Set", "80"));
        let told: Vec<_> = bench.told(&flows).into_iter().map(|it| it.0).collect();
        assert_eq!(told, [Verdict::Allow, Verdict::Deny]);
        bench.apply(&too_wide);
        bench.apply(&guard("g", "80"));
        bench.remove(Kind::StagedKubernetesNetworkPolicy, "g");
        assert_eq!(bench.told(&flows), []);
    }
    bench.apply(&too_wide);
    bench.remove(Kind::NetworkPolicy, "g");
    assert_eq!(bench.told(&flows), []);
    bench.apply(&guard("g", "80"));
    assert_eq!(bench.told(&flows), []);
    let page = diff(&bench, &wide("g"), false, &flows);
    assert_eq!((page.changed, page.refused.len(), page.refused[0].in_force), (0, 1, true));
    assert_eq!(page.examined, 3);
    let elsewhere = SeenFlow { destination: [192, 0, 2, 9].into(), ..to_guarded(80) };
    assert_eq!(diff(&bench, "", false, &[elsewhere]).examined, 0, "no pod of this node is asked");
}

#[test]
fn a_diff_of_what_is_staged_is_no_answer_while_some_of_it_is_refused() {
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &remote(1, "friend"));
    let refused = |kind, name| Refusal {
        file: "cluster".into(),
        line: 0,
        object: Some(ObjectId::namespaced(kind, "n", name)),
        field: "spec.ingress[0].action".into(),
        reason: "is not known".into(),
    };
    bench.apply(&staged_guard("g", "Set", "80"));
    let refusals = vec![
        refused(Kind::StagedKubernetesNetworkPolicy, "g"),
        refused(Kind::StagedKubernetesNetworkPolicy, "h"),
        refused(Kind::NetworkPolicy, "i"),
    ];
    bench.enforcer.apply(Batch { changes: Vec::new(), refusals: Some(refusals) });
    let page = diff(&bench, "", true, &[to_guarded(81)]);
    let reasons: Vec<_> = page.refused.iter().map(|it| &*it.reason).collect();
    assert_eq!(reasons, ["is not known; the version before is tried", "is not known"]);
    assert_eq!(page.changed, 1);
    assert_eq!(diff(&bench, "", false, &[to_guarded(81)]).refused, []);
    // The files correct one of them.
    assert_eq!(diff(&bench, &staged_guard("h", "Set", "80"), true, &[]).refused.len(), 1);
}

#[test]
fn only_what_is_tried_counts_as_staged() {
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &remote(1, "friend"));
    bench.apply(&(staged_guard("g", "Set", "80") + &staged_guard("h", "Ignore", "80")));
    assert_eq!(bench.enforcer.counts().staged, 1);
}

#[test]
fn a_diff_tries_the_staged_policies_of_the_cluster_and_of_the_files() {
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &remote(1, "friend"));
    let flows = [to_guarded(80), to_guarded(81)];
    let diff = |text: &str, staged| diff(&bench, text, staged, &flows);
    assert_eq!(diff(&staged_guard("g", "Set", "80"), false).changed, 0);
    assert_eq!(diff(&staged_guard("g", "Set", "80"), true).changed, 1);
    bench.apply(&staged_guard("g", "Set", "81"));
    assert_eq!(diff("", false).changed, 0);
    let page = diff("", true);
    assert_eq!((page.changed, page.changes[0].destination.port), (1, 80));
    assert_eq!(diff(&staged_guard("g", "Set", "1"), true).changed, 2);
    // A policy that is not known to have a tier is no answer.
    assert_eq!(diff(&out("StagedGlobalNetworkPolicy", "Set", 25), true).refused.len(), 1);
}

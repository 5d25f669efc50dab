use ipamd_api::policy::{IcmpMessage, PolicyQuery};

use super::*;
use ipamd_model::objects::Refusal;
use ipamd_model::services::ServiceTarget;

const TIERED: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: security.out }
spec:
  tier: security
  selector: app == 'guarded'
  types: [Egress]
  egress:
  - { action: Deny, protocol: TCP, destination: { ports: [25] } }
  - { action: Pass }
";

const SECURITY: &str =
    "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: { name: security }\nspec: { order: 1 }\n";

#[test]
fn a_policy_of_an_unknown_tier_is_not_enforced_and_that_is_said() {
    let bench = Bench::started(ROOM, &[local(1, "guarded")], TIERED);
    assert!(bench.passes("n/p1", "192.0.2.1", 25));
    let (policies, refused) = bench.enforcer.policies();
    assert!(policies.is_empty());
    let [refused] = refused.as_slice() else { panic!("{refused:?}") };
    assert_eq!(
        (refused.field.as_str(), refused.reason.as_str()),
        ("spec.tier", "the tier security is not known")
    );
    assert_eq!(
        bench.enforcer.problems(),
        ["GlobalNetworkPolicy security.out is not enforced: the tier security is not known"]
    );
    bench.apply(SECURITY);
    assert!(!bench.passes("n/p1", "192.0.2.1", 25));
    assert_eq!(bench.enforcer.policies().0.len(), 1);
    assert!(bench.enforcer.problems().is_empty());
    bench.remove(Kind::Tier, "security");
    assert!(bench.passes("n/p1", "192.0.2.1", 25));
}

#[test]
fn a_trace_names_the_rule_or_why_there_is_none() {
    let cluster = format!("{TIERED}---\n{SECURITY}{}{}", guard("g", "80"), remote(1, "friend"));
    let bench = Bench::started(ROOM, &[local(1, "guarded"), local(2, "stranger")], &cluster);
    let why = |from: &str, to: &str, port| {
        let trace = bench.trace(from, to, port);
        let step = trace.paths[0].steps.last().cloned().unwrap();
        (trace.paths[0].verdict, step.rule.map(|rule| rule.text).or(step.note).unwrap_or_default())
    };
    let said = |verdict, text: &str| (verdict, text.to_owned());
    assert_eq!(why("n/r1", "n/p1", 80), said(Verdict::Allow, "NetworkPolicy n/g ingress[0]"));
    assert_eq!(
        why("n/r1", "n/p1", 81),
        said(Verdict::Deny, "default deny of tier default (ingress), because of NetworkPolicy n/g")
    );
    assert_eq!(why("n/p1", "n/p2", 25), said(Verdict::Deny, "GlobalNetworkPolicy security.out egress[0]"));
    assert_eq!(
        why("n/p1", "192.0.2.1", 26),
        said(Verdict::Allow, "the policies that select it leave it open")
    );
    assert_eq!(why("n/p2", "192.0.2.1", 25), said(Verdict::Allow, "no policy selects it for egress"));
    assert_eq!(why("10.0.0.254", "n/p1", 81), said(Verdict::Allow, "the node always reaches its endpoints"));
    let trace = bench.trace("n/p2", "n/p1", 80);
    assert_eq!(trace.paths[0].steps.len(), 2);
    assert_eq!(trace.paths[0].source.pod.as_deref(), Some("n/p2"));
    let ask = |from: &str, to: &str| {
        let query = TraceQuery { from: from.into(), to: to.into(), protocol: 6, port: 1, source_port: None };
        bench.enforcer.trace(&query, |_, _| None, |_| Vec::new())
    };
    assert_eq!(
        ask("n/nobody", "n/p1").unwrap_err(),
        "from: \"n/nobody\" is neither an address nor a pod that is known (NAMESPACE/NAME)"
    );
    assert_eq!(
        ask("n/p1", "2001:db8::1").unwrap_err(),
        "n/p1 and 2001:db8::1 have no family of addresses in common"
    );
    assert_eq!(
        ask("192.0.2.1", "192.0.2.2").unwrap_err(),
        "neither 192.0.2.1 nor 192.0.2.2 is an endpoint of this node"
    );
}

#[test]
fn a_trace_to_a_service_has_an_answer_for_each_backend() {
    let pods = [local(1, "guarded"), local(2, "open"), local(3, "client")];
    let bench = Bench::started(ROOM, &pods, &guard("g", "80"));
    let vip: std::net::SocketAddr = "10.96.0.1:81".parse().unwrap();
    let led = |backends: &'static [&str]| {
        move |flow: &SeenFlow, inside: bool| {
            assert!(inside, "pods know services from inside");
            ((flow.destination, flow.destination_port) == (vip.ip(), vip.port())).then(|| ServiceTarget {
                service: "n/web".into(),
                backends: backends.iter().map(|it| it.parse().unwrap()).collect(),
                refusal: None,
            })
        }
    };
    let query = |to: &str, protocol, port| TraceQuery {
        from: "n/p3".into(),
        to: to.into(),
        protocol,
        port,
        source_port: None,
    };
    let trace =
        |backends| bench.enforcer.trace(&query("10.96.0.1", 6, 81), led(backends), |_| Vec::new()).unwrap();
    let both = trace(&["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(both.verdict, TraceVerdict::Mixed);
    let each = both.paths.iter().map(|it| (it.destination.pod.as_deref(), it.destination.port, it.verdict));
    assert_eq!(
        each.collect::<Vec<_>>(),
        [(Some("n/p1"), 8080, Verdict::Deny), (Some("n/p2"), 8080, Verdict::Allow)]
    );
    assert!(both.paths.iter().all(|path| path.service.as_deref() == Some("n/web")));
    assert_eq!(trace(&["10.0.0.2:80"]).verdict, TraceVerdict::Allow);
    // Nobody is there: it is not policy that refuses.
    let nobody = trace(&[]);
    assert_eq!((nobody.verdict, nobody.paths[0].steps.len()), (TraceVerdict::Deny, 0));
    assert!(nobody.paths[0].note.as_ref().unwrap().contains("no backend"), "{nobody:?}");
    // Through a service, a pod may come back to itself.
    let itself = trace(&["10.0.0.3:8080"]);
    assert!(itself.paths[0].note.as_ref().unwrap().contains("whatever its policies say"), "{itself:?}");
    // An answer is no flow, whoever would be let through.
    for (protocol, kind, question) in [(1, 0, "icmp/8"), (1, 14, "icmp/13")] {
        let answer =
            bench.enforcer.trace(&query("n/p2", protocol, kind << 8), |_, _| None, |_| Vec::new()).unwrap();
        assert_eq!((answer.verdict, answer.paths[0].steps.len()), (TraceVerdict::Deny, 0));
        assert!(answer.paths[0].note.as_ref().unwrap().ends_with(question), "{answer:?}");
    }
    // A ping of the address is no connection to the service.
    let ping =
        bench.enforcer.trace(&query("10.96.0.1", 1, 0x0800), led(&["10.0.0.1:80"]), |_| Vec::new()).unwrap();
    assert_eq!(ping.paths[0].service, None);
    let elsewhere = TraceQuery { from: "192.0.2.1".into(), ..query("10.96.0.1", 6, 81) };
    let outside = bench.enforcer.trace(
        &elsewhere,
        |_, inside| {
            assert!(!inside);
            Some(ServiceTarget {
                service: "n/web".into(),
                backends: vec!["192.0.2.9:80".parse().unwrap()],
                refusal: None,
            })
        },
        |_| Vec::new(),
    );
    assert_eq!(
        outside.unwrap_err(),
        "neither 192.0.2.1 nor a backend of the service n/web is an endpoint of this node"
    );
}

#[test]
fn a_flow_to_itself_and_one_of_icmp_are_told_as_what_they_are() {
    let bench = Bench::started(ROOM, &[local(1, "guarded"), local(2, "a")], &guard("g", "80"));
    let itself = bench.trace("n/p1", "n/p1", 81);
    assert_eq!((itself.verdict, itself.paths[0].steps.len()), (TraceVerdict::Allow, 0));
    assert!(itself.paths[0].note.as_ref().unwrap().contains("does not leave it"), "{itself:?}");
    let ping = TraceQuery {
        from: "n/p2".into(),
        to: "n/p1".into(),
        protocol: protocol::ICMP,
        port: 0x0304,
        source_port: None,
    };
    let ping = bench.enforcer.trace(&ping, |_, _| None, |_| Vec::new()).unwrap();
    let path = &ping.paths[0];
    assert_eq!((path.source.port, path.destination.port), (0, 0));
    assert_eq!(path.icmp, Some(IcmpMessage { kind: 3, code: 4 }));
}

#[test]
fn what_is_refused_says_whether_anything_of_its_name_is_in_force() {
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &guard("known", "80"));
    let refusal = |name: &str| Refusal {
        file: "a.yaml".into(),
        line: 0,
        object: Some(ObjectId::namespaced(Kind::NetworkPolicy, "n", name)),
        field: "spec".into(),
        reason: "is not known".into(),
    };
    bench
        .enforcer
        .apply(Batch { changes: Vec::new(), refusals: Some(vec![refusal("known"), refusal("new")]) });
    let (_, refused) = bench.enforcer.policies();
    let told = refused.iter().map(|it| (it.object.as_ref().unwrap().name.as_str(), it.line, it.in_force));
    assert_eq!(told.collect::<Vec<_>>(), [("known", None, true), ("new", None, false)]);
}

#[test]
fn policies_are_listed_in_the_order_in_which_they_are_asked() {
    let cluster = format!("{TIERED}---\n{SECURITY}{}{}", guard("b", "80"), guard("a", "80"));
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &cluster);
    let (policies, _) = bench.enforcer.policies();
    let names = policies.iter().map(|it| it.policy.to_string()).collect::<Vec<_>>();
    assert_eq!(names, ["GlobalNetworkPolicy security.out", "NetworkPolicy n/a", "NetworkPolicy n/b"]);
    let query = |name: &str, kind: Option<&str>| PolicyQuery {
        name: name.into(),
        kind: kind.map(Into::into),
        namespace: None,
    };
    let [shown] = &bench.enforcer.policy(&query("security.out", None))[..] else { panic!("one") };
    assert_eq!(shown.subject, "pods and host endpoints where app == 'guarded'");
    assert_eq!(shown.selects, ["n/p1"]);
    assert_eq!(shown.rules[0].matches, "tcp port 25 to anybody");
    assert!(bench.enforcer.policy(&query("security.out", Some("NetworkPolicy"))).is_empty());
}

#[test]
fn a_trial_names_the_flows_that_would_be_judged_otherwise_and_changes_nothing() {
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &remote(1, "friend"));
    let flow = |last: u8, port| SeenFlow {
        protocol: protocol::TCP,
        source: [10, 0, 1, last].into(),
        source_port: 40_000,
        destination: address(1),
        destination_port: port,
    };
    let files = |text: String| {
        let manifest = manifest::read(Path::new("new.yaml"), &text);
        manifest.objects.into_iter().map(|located| located.object).collect::<Vec<_>>()
    };
    let page =
        bench
            .enforcer
            .diff(files(guard("g", "80")), false, &[flow(1, 80), flow(1, 81), flow(2, 80)], |_| Vec::new());
    let changed = page.changes.iter().map(|it| (it.source.address, it.destination.port, it.before, it.after));
    assert_eq!(
        changed.collect::<Vec<_>>(),
        [
            (flow(1, 81).source, 81, Verdict::Allow, Verdict::Deny),
            (flow(2, 80).source, 80, Verdict::Allow, Verdict::Deny)
        ]
    );
    assert_eq!(page.changes[0].source.pod.as_deref(), Some("n/r1"));
    // Flows that differ in the port they are opened from are told once.
    let again = SeenFlow { source_port: 40_001, ..flow(1, 81) };
    let ping = SeenFlow { protocol: protocol::ICMP, destination_port: 0x0800, ..flow(2, 0) };
    let grouped =
        bench
            .enforcer
            .diff(files(guard("g", "80")), false, &[flow(1, 81), again, again, ping], |_| Vec::new());
    let told = grouped.changes.iter().map(|it| (&*it.protocol, it.flows, it.destination.port, it.icmp));
    let echo = IcmpMessage { kind: 8, code: 0 };
    assert_eq!(told.collect::<Vec<_>>(), [("icmp", 1, 0, Some(echo)), ("tcp", 2, 81, None)]);
    assert_eq!((grouped.changed, grouped.examined), (3, 3));
    assert_eq!((page.examined, page.refused.len()), (3, 0));
    assert!(bench.passes("10.0.1.2", "n/p1", 80));
}

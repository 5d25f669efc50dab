use super::*;
use crate::enforce::{FlowFacts, SideFacts};
use ipamd_model::policy::Direction;

const OUT: &str = "
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: { name: security }
spec: { order: 1 }
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: security.out }
spec:
  tier: security
  selector: app == 'friend'
  types: [Egress]
  egress: [ { action: Deny, protocol: TCP, destination: { ports: [25] } }, { action: Allow } ]
---
apiVersion: v1
kind: Node
metadata: { name: other }
status: { addresses: [ { type: InternalIP, address: 192.0.2.7 } ] }
";

fn bench() -> Bench {
    let cluster = format!("{}{OUT}{}", guard("g", "80"), remote(1, "friend"));
    Bench::started(ROOM, &[local(1, "guarded"), local(2, "friend")], &cluster)
}

fn facts(bench: &Bench, from: [u8; 4], to: [u8; 4], port: u16) -> FlowFacts {
    let flow = SeenFlow {
        protocol: protocol::TCP,
        source: from.into(),
        source_port: 40_000,
        destination: to.into(),
        destination_port: port,
    };
    bench.enforcer.flow_facts(flow, Vec::new())
}

/// Direction, verdict, tier and rule of each decision.
fn decided(facts: &FlowFacts) -> Vec<(Direction, Verdict, String, String)> {
    let text = |rule: &Option<ipamd_api::policy::DecidingRule>| {
        rule.as_ref().map(|it| it.text.clone()).unwrap_or_default()
    };
    let of = facts.decisions.iter();
    of.map(|it| (it.direction, it.verdict, it.tier.as_deref().unwrap_or_default().to_owned(), text(&it.rule)))
        .collect()
}

#[test]
fn both_endpoints_say_by_which_rule_and_tier_and_who_denies_is_the_last() {
    let bench = bench();
    let egress = |verdict, index| {
        let rule = format!("GlobalNetworkPolicy security.out egress[{index}]");
        (Direction::Egress, verdict, "security".to_owned(), rule)
    };
    let ingress = |verdict, rule: &str| (Direction::Ingress, verdict, "default".to_owned(), rule.to_owned());
    let both = facts(&bench, [10, 0, 0, 2], [10, 0, 0, 1], 80);
    let expected = [egress(Verdict::Allow, 1), ingress(Verdict::Allow, "NetworkPolicy n/g ingress[0]")];
    assert_eq!(decided(&both), expected);
    let denied = facts(&bench, [10, 0, 0, 2], [10, 0, 0, 1], 81);
    let by_default = "default deny of tier default (ingress), because of NetworkPolicy n/g";
    assert_eq!(decided(&denied), [egress(Verdict::Allow, 1), ingress(Verdict::Deny, by_default)]);
    let at_once = facts(&bench, [10, 0, 0, 2], [10, 0, 0, 1], 25);
    assert_eq!(decided(&at_once), [egress(Verdict::Deny, 0)]);
    let of_others = facts(&bench, [10, 0, 1, 1], [192, 0, 2, 1], 80);
    assert_eq!(of_others.decisions, []);
}

#[test]
fn sides_are_pods_nodes_or_nobody_that_is_known() {
    let bench = bench();
    let flow = facts(&bench, [10, 0, 1, 1], [10, 0, 0, 1], 80);
    let (source, destination) = (flow.source, flow.destination);
    assert_eq!(source.pod, Some(("n".into(), "r1".into())));
    assert_eq!((source.labels.get("app"), source.is_local), (Some("friend"), false));
    assert_eq!(source.service_account.as_deref(), Some("default"));
    assert_eq!((destination.labels.get("app"), destination.is_local), (Some("guarded"), true));

    let flow = facts(&bench, [10, 0, 0, 254], [192, 0, 2, 7], 80);
    assert!(flow.source.is_this_node && flow.source.pod.is_none());
    assert_eq!(flow.destination.node.as_deref(), Some("other"));
    assert_eq!(facts(&bench, [192, 0, 2, 1], [192, 0, 2, 2], 80).source, SideFacts::default());
}

//! Staged policies, as Calico's documentation spells them.

use std::path::Path;

use super::*;
use crate::manifest;
use ipamd_model::{
    policy::{Direction, Order},
    staged::{StagedAction, StagedPolicy},
};

/// The staged policies of a file.
fn staged(text: &str) -> Vec<Arc<StagedPolicy>> {
    let manifest = manifest::read(Path::new("a.yaml"), text);
    assert_eq!(manifest.refusals, []);
    let objects = manifest.objects.into_iter().map(|it| match it.object {
        Object::Staged(staged) => staged,
        other => panic!("{other:?}"),
    });
    objects.collect()
}

const OF_NAMESPACE: &str = "
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata:
  name: internal-access.allow-tcp-6379
  namespace: production
spec:
  tier: internal-access
  selector: role == 'database'
  types:
    - Ingress
    - Egress
  ingress:
    - action: Allow
      metadata:
        annotations:
          from: frontend
          to: database
      protocol: TCP
      source:
        selector: role == 'frontend'
      destination:
        ports:
          - 6379
  egress:
    - action: Allow
";

const OF_KUBERNETES: &str = "
apiVersion: projectcalico.org/v3
kind: StagedKubernetesNetworkPolicy
metadata:
  name: test-network-policy
  namespace: default
spec:
  podSelector:
    matchLabels:
      role: db
  policyTypes:
    - Ingress
    - Egress
  ingress:
    - from:
        - ipBlock:
            cidr: 172.17.0.0/16
            except:
              - 172.17.1.0/24
        - namespaceSelector:
            matchLabels:
              project: myproject
        - podSelector:
            matchLabels:
              role: frontend
      ports:
        - protocol: TCP
          port: 6379
  egress:
    - to:
        - ipBlock:
            cidr: 10.0.0.0/24
      ports:
        - protocol: TCP
          port: 5978
";

#[test]
fn each_kind_is_read_as_the_policy_that_it_stands_for() {
    let whole = OF_NAMESPACE.replace("StagedNetworkPolicy", "StagedGlobalNetworkPolicy");
    let whole = whole
        .replace("  namespace: production\n", "")
        .replace("  tier: int", "  stagedAction: Set\n  tier: int");
    let stored = OF_NAMESPACE
        .replace("projectcalico.org/v3", "crd.projectcalico.org/v1")
        .replace("name: int", "name: other-int");
    let all = staged(&[OF_NAMESPACE, &whole, &stored, OF_KUBERNETES].join("---\n"));
    let kinds: Vec<_> = all.iter().map(|it| (it.id.kind, it.id.enforced().kind)).collect();
    assert_eq!(
        kinds,
        [
            (Kind::StagedNetworkPolicy, Kind::CalicoNetworkPolicy),
            (Kind::StagedGlobalNetworkPolicy, Kind::GlobalNetworkPolicy),
            (Kind::StagedNetworkPolicy, Kind::CalicoNetworkPolicy),
            (Kind::StagedKubernetesNetworkPolicy, Kind::NetworkPolicy),
        ]
    );
    for (text, staged) in [(OF_NAMESPACE, &all[0]), (&*whole, &all[1]), (OF_KUBERNETES, &all[3])] {
        let real = text
            .replace("kind: Staged", "kind: ")
            .replace("kind: KubernetesN", "kind: N")
            .replace("  stagedAction: Set\n", "");
        let real = if text == OF_KUBERNETES {
            real.replace("projectcalico.org/v3", "networking.k8s.io/v1")
        } else {
            real
        };
        let manifest = manifest::read(Path::new("a.yaml"), &real);
        let Some(Object::Policy(real)) = manifest.objects.into_iter().next().map(|it| it.object) else {
            panic!("{:?}", manifest.refusals)
        };
        let policy = Arc::unwrap_or_clone(Arc::clone(staged.policy().unwrap()));
        assert_eq!(policy.id, staged.id, "its rules are known to be staged");
        let origin = real.origin.clone();
        assert_eq!(Policy { id: real.id.clone(), origin, ..policy }, *real);
    }
    assert_eq!(
        (&*all[0].policy().unwrap().tier, all[0].policy().unwrap().order),
        ("internal-access", Order(None))
    );
    assert_eq!(all[3].policy().unwrap().rules(Direction::Ingress).unwrap()[0].sources.len(), 3);
}

#[test]
fn of_a_deletion_and_of_what_does_nothing_no_rule_is_read() {
    for (text, action) in
        [("Delete", StagedAction::Delete), ("Ignore", StagedAction::Ignore), ("Learn", StagedAction::Learn)]
    {
        let text = OF_KUBERNETES.replace("spec:\n", &format!("spec:\n  stagedAction: {text}\n  novel: 1\n"));
        let [staged] = &staged(&text)[..] else { panic!("one") };
        assert_eq!((&staged.action, staged.origin.as_ref().unwrap().line), (&action, 2));
        assert_eq!(staged.is_tried(), action == StagedAction::Delete);
    }
}

#[test]
fn what_a_policy_may_not_say_a_staged_one_may_not_either() {
    let refused = |text: String| {
        let manifest = manifest::read(Path::new("a.yaml"), &text);
        assert!(manifest.complete && manifest.objects.is_empty());
        let refusal = &manifest.refusals[0];
        (refusal.object.clone().unwrap().kind, refusal.field.clone())
    };
    let of = |text: &str, from: &str, to: &str| refused(text.replace(from, to));
    assert_eq!(
        of(OF_NAMESPACE, "  tier:", "  stagedAction: set\n  tier:"),
        (Kind::StagedNetworkPolicy, "spec.stagedAction".to_owned())
    );
    assert_eq!(
        of(OF_NAMESPACE, "action: Allow", "action: Maybe"),
        (Kind::StagedNetworkPolicy, "spec.ingress[0].action".to_owned())
    );
    assert_eq!(
        of(OF_NAMESPACE, "  tier:", "  preDNAT: true\n  tier:"),
        (Kind::StagedNetworkPolicy, "spec.preDNAT".to_owned())
    );
    assert_eq!(
        of(OF_KUBERNETES, "policyTypes", "types"),
        (Kind::StagedKubernetesNetworkPolicy, "spec.types".to_owned())
    );
    // None of those that are in force has an action.
    let real =
        OF_NAMESPACE.replace("kind: Staged", "kind: ").replace("  tier:", "  stagedAction: Set\n  tier:");
    assert_eq!(refused(real), (Kind::CalicoNetworkPolicy, "spec.stagedAction".to_owned()));
}

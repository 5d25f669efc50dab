//! `cambricctl policy check`: what is wrong with manifests, without a daemon.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use ipamd_api::policy::RefusedObject;
use serde::Serialize;

use super::{
    refusals::{complaint, place, refusal_line},
    sources,
};
use crate::output::{Output, counted};
use ipamd_model::{
    field::FieldError,
    objects::{Batch, Change, Kind, Object},
    policy::{Direction, Policy, Rule, Tier},
};
use ipamd_sources::directory::read_once::Once;

/// What is in manifests.
#[derive(Debug, Default, Serialize)]
struct Findings {
    /// How many objects are understood.
    objects: u64,
    /// What is refused.
    refused: Vec<RefusedObject>,
    /// What is understood and may still not be in force.
    warnings: Vec<RefusedObject>,
}

/// Returns whether nothing is refused.
pub(super) fn check(paths: &[PathBuf], tiers: &[String], output: &Output) -> anyhow::Result<bool> {
    let mut together = Once::default();
    sources::each(paths, |file, text| {
        match text {
            Ok(text) => together.put(file, &text),
            Err(reason) => together.put_unread(file, reason),
        }
        Ok(())
    })?;
    let findings = findings(together.finish(), tiers);
    output.print(&findings, text)?;
    Ok(findings.refused.is_empty())
}

/// What is to be said of manifests, where there are these tiers besides those in them.
fn findings(batch: Batch, elsewhere: &[String]) -> Findings {
    let mut findings = Findings::default();
    let mut tiers = BTreeSet::from(Tier::built_in().map(|tier| tier.name));
    tiers.extend(elsewhere.iter().map(|name| Arc::from(name.as_str())));
    let mut policies = Vec::new();
    for change in batch.changes {
        let Change::Put(object) = change else { continue };
        findings.objects += 1;
        match object {
            Object::Tier(tier) => {
                tiers.insert(tier.name);
            }
            Object::Policy(policy) => policies.push(policy),
            Object::Staged(staged) => policies.extend(staged.policy().cloned()),
            _ => {}
        }
    }
    findings.refused = batch.refusals.unwrap_or_default().iter().map(RefusedObject::from).collect();
    findings.refused.extend(policies.iter().filter_map(|policy| absent_tier(policy, &tiers)));
    findings.refused.sort_unstable();
    findings.warnings = policies.iter().flat_map(|policy| warnings(policy)).collect();
    findings.warnings.sort_unstable();
    findings
}

/// What is enforced, and perhaps not as it was meant.
fn warnings(policy: &Policy) -> Vec<RefusedObject> {
    let of = |field: String, reason: String| RefusedObject {
        file: policy.origin.as_ref().map(|it| it.file.to_string_lossy().into_owned().into()),
        line: policy.origin.as_ref().map(|it| it.line),
        object: Some((&policy.id).into()),
        field,
        reason,
        in_force: false,
    };
    let mut warnings: Vec<_> =
        policy.closed.iter().map(|FieldError { field, reason }| of(field.clone(), reason.clone())).collect();
    if matches!(policy.id.kind.enforced(), Kind::CalicoNetworkPolicy | Kind::GlobalNetworkPolicy) {
        for direction in Direction::BOTH {
            let rules = policy.rules(direction).unwrap_or_default().iter();
            let field = |rule: &Rule| format!("spec.{direction}[{}]", rule.index);
            let without =
                rules.filter(|rule| rule.traffic.iter().any(|it| it.protocol.is_none() && it.has_ports()));
            let reason =
                "ports without a protocol are those of TCP, UDP, SCTP and UDPLite; Calico refuses them";
            warnings.extend(without.map(|rule| of(field(rule), reason.to_owned())));
        }
    }
    warnings
}

/// What is to be said of a policy whose tier is none of these: the daemon would not enforce it.
fn absent_tier(policy: &Policy, tiers: &BTreeSet<Arc<str>>) -> Option<RefusedObject> {
    if tiers.contains(&policy.tier) {
        return None;
    }
    let origin = policy.origin.as_ref();
    Some(RefusedObject {
        file: origin.map(|it| it.file.to_string_lossy().into_owned().into()),
        line: origin.map(|it| it.line),
        object: Some((&policy.id).into()),
        field: "spec.tier".into(),
        reason: format!(
            "the tier {0} is not in these files; if it is elsewhere, say --tier {0}",
            policy.tier
        ),
        in_force: false,
    })
}

fn text(findings: &Findings) -> String {
    let mut text = String::new();
    text.extend(findings.refused.iter().map(refusal_line));
    text.extend(findings.warnings.iter().map(|it| format!("{}warning: {}\n", place(it), complaint(it))));
    text + &summary(findings)
}

fn summary(findings: &Findings) -> String {
    let are = if findings.objects == 1 { "is" } else { "are" };
    let understood = format!("{} {are} understood", counted(findings.objects, "object"));
    let refusals = findings.refused.len() as u64;
    if refusals == 0 {
        format!("{understood}, nothing is refused\n")
    } else {
        format!(
            "{understood}; there {} {}\n",
            if refusals == 1 { "is" } else { "are" },
            counted(refusals, "refusal")
        )
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use ipamd_model::{
        host::HostLayer,
        objects::{ObjectId, Origin},
        policy::{Dialect, ItemKinds, ItemSelector, Order, Scope},
    };

    const GOOD: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
                        metadata: {namespace: shop, name: guard}, spec: {podSelector: {}}}";

    fn check_texts(texts: &[(&str, &str)]) -> Findings {
        let mut together = Once::default();
        for (file, text) in texts {
            together.put(Path::new(file), text);
        }
        findings(together.finish(), &[])
    }

    #[test]
    fn what_is_good_is_counted() {
        let found = check_texts(&[("a.yaml", GOOD), ("b.yaml", "{apiVersion: apps/v1, kind: Deployment}")]);
        assert_eq!(text(&found), "1 object is understood, nothing is refused\n");
    }

    #[test]
    fn each_refusal_is_a_line() {
        let bad = GOOD.replace("guard", "gate").replace("spec: {", "spec: {ingres: [], ");
        let found = check_texts(&[("a.yaml", GOOD), ("b.yaml", &bad), ("c.yaml", GOOD)]);
        let text = text(&found);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("b.yaml:1: NetworkPolicy shop/gate: spec.ingres: "), "{text}");
        assert!(
            lines[1].starts_with("c.yaml:1: NetworkPolicy shop/guard: this object is in a.yaml:1"),
            "{text}"
        );
        assert_eq!(lines[2..], ["1 object is understood; there are 2 refusals"]);
    }

    #[test]
    fn what_may_not_be_meant_is_warned_of() {
        let calico = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: { name: a }\n\
                      spec:\n  ingress:\n  - { action: Allow, protocol: TCP, destination: { ports: [80] } }\n  \
                      - { action: Allow, destination: { ports: [80] } }\n";
        let cluster = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
                       metadata: { name: b }\nspec:\n  tier: Admin\n  priority: 1\n  \
                       subject: { namespaces: {} }\n  egress: [ { action: Deny, to: [ { planets: {} } ] } ]\n";
        let found = check_texts(&[("a.yaml", calico), ("b.yaml", cluster)]);
        assert_eq!(
            text(&found),
            "a.yaml:1: warning: GlobalNetworkPolicy a: spec.ingress[1]: ports without a protocol are those of TCP, \
             UDP, SCTP and UDPLite; Calico refuses them\n\
             b.yaml:1: warning: ClusterNetworkPolicy b: spec.egress[0].to[0].planets: is a peer of a kind that this \
             version does not know, so the rule denies everything\n\
             2 objects are understood, nothing is refused\n"
        );
    }

    #[test]
    fn a_tier_that_is_nowhere_is_a_refusal() {
        let policy = |tier: &str| {
            Change::Put(Object::Policy(Arc::new(Policy {
                id: ObjectId::global(Kind::GlobalNetworkPolicy, "block"),
                origin: Some(Origin { file: Path::new("a.yaml").into(), line: 3 }),
                tier: tier.into(),
                order: Order(None),
                subject: ItemSelector {
                    kinds: ItemKinds::Pods,
                    scope: Scope::Any,
                    labels: "all()".parse().unwrap(),
                    dialect: Dialect::Calico,
                    service_account_names: None,
                    service_accounts: None,
                },
                ingress: None,
                egress: None,
                denied: None,
                layer: HostLayer::Local,
                closed: Vec::new(),
            })))
        };
        let found = |changes: Vec<Change>| findings(Batch { changes, refusals: None }, &[]);
        assert!(found(vec![policy("default")]).refused.is_empty());
        let tier = Tier { name: "security".into(), ..Tier::built_in()[1].clone() };
        assert!(found(vec![policy("security"), Change::Put(Object::Tier(tier))]).refused.is_empty());
        let absent = Batch { changes: vec![policy("security")], refusals: None };
        assert!(findings(absent.clone(), &["security".into()]).refused.is_empty());
        let text = text(&findings(absent, &["another".into()]));
        assert_eq!(
            text,
            "a.yaml:3: GlobalNetworkPolicy block: spec.tier: the tier security is not in these files; if it is \
             elsewhere, say --tier security\n1 object is understood; there is 1 refusal\n"
        );
    }
}

//! `cambricctl policy check`: what is wrong with manifests, without a daemon.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use ipamd_api::policy::RefusedObject;
use serde::Serialize;

use super::{complaint, counted, place, refusal_line, sources};
use crate::{
    cluster::{
        directory::once::Once,
        objects::{Batch, Change, Object},
    },
    ctl::output::Output,
    policy::model::{Policy, Tier},
};

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
pub(super) fn check(paths: &[PathBuf], output: &Output) -> anyhow::Result<bool> {
    let mut together = Once::default();
    sources::each(paths, |file, text| {
        match text {
            Ok(text) => together.put(file, &text),
            Err(reason) => together.put_unread(file, reason),
        }
        Ok(())
    })?;
    let findings = findings(together.finish());
    output.print(&findings, text)?;
    Ok(findings.refused.is_empty())
}

fn findings(batch: Batch) -> Findings {
    let mut findings = Findings::default();
    let mut tiers = BTreeSet::from(Tier::built_in().map(|tier| tier.name));
    let mut policies = Vec::new();
    for change in batch.changes {
        let Change::Put(object) = change else { continue };
        findings.objects += 1;
        match object {
            Object::Tier(tier) => {
                tiers.insert(tier.name);
            }
            Object::Policy(policy) => policies.push(policy),
            _ => {}
        }
    }
    findings.refused = batch.refusals.unwrap_or_default().iter().map(RefusedObject::from).collect();
    let mut warnings: Vec<_> = policies.iter().filter_map(|policy| tier_elsewhere(policy, &tiers)).collect();
    warnings.sort_unstable();
    findings.warnings = warnings;
    findings
}

/// What is to be said of a policy whose tier is none of these.
fn tier_elsewhere(policy: &Policy, tiers: &BTreeSet<Arc<str>>) -> Option<RefusedObject> {
    if tiers.contains(&policy.tier) {
        return None;
    }
    let origin = policy.origin.as_ref();
    Some(RefusedObject {
        file: origin.map(|it| it.file.to_string_lossy().into_owned().into()).unwrap_or_default(),
        line: origin.map_or(1, |it| it.line),
        object: Some((&policy.id).into()),
        field: "spec.tier".into(),
        reason: format!("tier {} is not in these files; without it this policy is refused", policy.tier),
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
    use crate::{
        cluster::objects::{ObjectId, Origin},
        policy::model::{ItemKinds, ItemSelector, Order, Scope},
    };

    const GOOD: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
                        metadata: {namespace: shop, name: guard}, spec: {podSelector: {}}}";

    fn check_texts(texts: &[(&str, &str)]) -> Findings {
        let mut together = Once::default();
        for (file, text) in texts {
            together.put(Path::new(file), text);
        }
        findings(together.finish())
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
    fn a_tier_that_is_nowhere_is_warned_of() {
        let policy = |tier: &str| {
            Change::Put(Object::Policy(Arc::new(Policy {
                id: ObjectId::global(crate::cluster::objects::Kind::GlobalNetworkPolicy, "block"),
                origin: Some(Origin { file: Path::new("a.yaml").into(), line: 3 }),
                tier: tier.into(),
                order: Order(None),
                subject: ItemSelector {
                    kinds: ItemKinds::Pods,
                    scope: Scope::Any,
                    labels: "all()".parse().unwrap(),
                    service_account_names: None,
                    service_accounts: None,
                },
                ingress: None,
                egress: None,
            })))
        };
        let warned = |changes: Vec<Change>| findings(Batch { changes, refusals: None });
        assert!(warned(vec![policy("default")]).warnings.is_empty());
        let tier = Tier { name: "security".into(), ..Tier::built_in()[1].clone() };
        assert!(warned(vec![policy("security"), Change::Put(Object::Tier(tier))]).warnings.is_empty());
        let found = warned(vec![policy("security")]);
        assert!(found.refused.is_empty());
        let text = text(&found);
        assert!(
            text.starts_with(
                "a.yaml:3: warning: GlobalNetworkPolicy block: spec.tier: tier security is not in these files"
            ),
            "{text}"
        );
    }
}

//! `cambricctl policy show`.

use anyhow::bail;
use ipamd_api::{
    Reply, Request,
    policy::{PolicyDetail, PolicyQuery, PolicyRule},
};

use super::list::{directions, order};
use crate::{
    cluster::objects::Kind,
    ctl::{
        Daemon,
        output::{Output, clean, fields, table},
    },
};

/// The kinds of policies.
const KINDS: [Kind; 4] =
    [Kind::NetworkPolicy, Kind::CalicoNetworkPolicy, Kind::GlobalNetworkPolicy, Kind::ClusterNetworkPolicy];

/// A policy's name as it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ctl) struct Name {
    namespace: Option<String>,
    name: String,
}

pub(super) fn kind(text: &str) -> Result<String, String> {
    let known = KINDS.map(Kind::name);
    match known.iter().find(|name| name.eq_ignore_ascii_case(text)) {
        Some(name) => Ok((*name).to_owned()),
        None => Err(format!("kinds of policies are {}", known.join(", "))),
    }
}

pub(super) fn name(text: &str) -> Result<Name, &'static str> {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    if namespace == Some("") || name.is_empty() || name.contains('/') {
        return Err("a policy is named by NAMESPACE/NAME or NAME");
    }
    Ok(Name { namespace: namespace.map(str::to_owned), name: name.to_owned() })
}

pub(super) fn show(
    daemon: &mut Daemon,
    kind: Option<String>,
    Name { namespace, name }: Name,
    output: &Output,
) -> anyhow::Result<()> {
    let which = namespace.iter().chain([&name]).cloned().collect::<Vec<_>>().join("/");
    let client = &mut daemon.client;
    client.send(Request::Policy(PolicyQuery { kind, namespace, name }))?;
    let mut found = Vec::new();
    loop {
        match client.receive()? {
            Reply::Policy(detail) => found.push(*detail),
            Reply::Done => break,
            _ => return Err(client.confused("the answer is of another sort".into()).into()),
        }
    }
    match &found[..] {
        [] => bail!("there is no policy {which} in force; cambricctl policy list names those that are"),
        [detail] => output.print(detail, text),
        several => bail!("{}", choice(&which, several)),
    }
}

/// What several policies of a name are told apart by.
fn choice(which: &str, several: &[PolicyDetail]) -> String {
    let names: Vec<_> = several.iter().map(|it| clean(&it.summary.policy.to_string())).collect();
    let apart_by_kind = several.iter().enumerate().all(|(at, it)| {
        several[..at].iter().all(|other| other.summary.policy.kind != it.summary.policy.kind)
    });
    let how = if apart_by_kind { "say which with --kind" } else { "say which as NAMESPACE/NAME" };
    format!("{which} can be {}; {how}", names.join(" or "))
}

fn text(detail: &PolicyDetail) -> String {
    let PolicyDetail { summary, subject, selects, rules } = detail;
    let selects = if selects.is_empty() { "none on this node".to_owned() } else { selects.join("\n") };
    let about = fields([
        ("Policy", summary.policy.to_string()),
        ("Tier", summary.tier.clone()),
        ("Order", order(summary)),
        ("Directions", directions(summary)),
        ("For", subject.clone()),
        ("Endpoints", selects),
        ("Origin", summary.origin.clone().unwrap_or_default()),
    ]);
    if rules.is_empty() {
        return about + "\nNo rules.\n";
    }
    about + "\n" + &table(["RULE", "NAME", "ACTION", "HITS", "MATCHES"], rules.iter().map(row))
}

fn row(rule: &PolicyRule) -> [String; 5] {
    [
        format!("{}[{}]", rule.direction, rule.index),
        rule.name.clone().unwrap_or_else(|| "-".to_owned()),
        rule.action.clone(),
        rule.hits.to_string(),
        rule.matches.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use ipamd_api::policy::{ObjectName, PolicySummary};

    use super::*;

    fn guard(kind: &str, namespace: &str) -> PolicyDetail {
        let policy =
            ObjectName { kind: kind.into(), namespace: Some(namespace.into()), name: "guard".into() };
        PolicyDetail {
            summary: PolicySummary {
                policy,
                tier: "default".into(),
                order: Some(1000.0),
                directions: vec!["ingress".into()],
                rules: 1,
                endpoints: 1,
                origin: Some("a.yaml:1".into()),
            },
            subject: "pods of shop with app = web".into(),
            selects: vec!["shop/web".into()],
            rules: vec![PolicyRule {
                direction: "ingress".into(),
                index: 0,
                name: None,
                action: "allow".into(),
                matches: "tcp to port 80".into(),
                hits: 7,
            }],
        }
    }

    #[test]
    fn policies_are_named_with_or_without_their_namespace() {
        let named = |namespace: Option<&str>, name: &str| Name {
            namespace: namespace.map(str::to_owned),
            name: name.into(),
        };
        assert_eq!(name("shop/guard"), Ok(named(Some("shop"), "guard")));
        assert_eq!(name("tier.guard"), Ok(named(None, "tier.guard")));
        for bad in ["", "/guard", "shop/", "a/b/c"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn kinds_are_those_of_policies_in_any_case() {
        assert_eq!(kind("networkpolicy").unwrap(), "NetworkPolicy");
        assert!(KINDS.iter().all(|kind| kind.is_policy()));
        assert!(kind("Pod").unwrap_err().contains("ClusterNetworkPolicy"));
    }

    #[test]
    fn all_of_a_policy_is_shown_with_the_hits_of_its_rules() {
        let text = text(&guard("NetworkPolicy", "shop"));
        for part in ["NetworkPolicy shop/guard", "shop/web", "a.yaml:1", "ingress[0]  -     allow   7"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn several_of_a_name_are_told_apart_by_what_differs() {
        let kinds = [guard("NetworkPolicy", "shop"), guard("CalicoNetworkPolicy", "shop")];
        assert_eq!(
            choice("shop/guard", &kinds),
            "shop/guard can be NetworkPolicy shop/guard or CalicoNetworkPolicy shop/guard; say which with --kind"
        );
        let namespaces = [guard("NetworkPolicy", "a"), guard("NetworkPolicy", "b")];
        assert!(choice("guard", &namespaces).ends_with("say which as NAMESPACE/NAME"));
    }
}

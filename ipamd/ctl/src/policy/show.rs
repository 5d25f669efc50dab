//! `cambricctl policy show`.

use anyhow::bail;
use ipamd_api::{
    Reply, Request,
    policy::{PolicyDetail, PolicyQuery, PolicyRule, StagedDetail, StagedRule},
};

use super::{
    diff,
    list::{action, directions, order},
};
use crate::{
    daemon::Daemon,
    output::{Output, clean, fields, table},
};
use ipamd_model::objects::Kind;

/// The kinds of policies.
const KINDS: [Kind; 7] = [
    Kind::NetworkPolicy,
    Kind::CalicoNetworkPolicy,
    Kind::GlobalNetworkPolicy,
    Kind::ClusterNetworkPolicy,
    Kind::StagedNetworkPolicy,
    Kind::StagedGlobalNetworkPolicy,
    Kind::StagedKubernetesNetworkPolicy,
];

/// A policy's name as it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
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
    let query = PolicyQuery { kind, namespace, name };
    let found = ask(daemon, query.clone())?;
    match &found[..] {
        [] => {
            let of_any_kind = if query.kind.is_some() {
                ask(daemon, PolicyQuery { kind: None, ..query.clone() })?
            } else {
                Vec::new()
            };
            bail!("{}", absent(&which, query.kind.as_deref(), &of_any_kind))
        }
        [detail] => output.print(detail, text),
        several => bail!("{}", choice(&which, several)),
    }
}

fn ask(daemon: &mut Daemon, query: PolicyQuery) -> anyhow::Result<Vec<PolicyDetail>> {
    let client = &mut daemon.client;
    client.send(Request::Policy(query))?;
    let mut found = Vec::new();
    loop {
        match client.receive()? {
            Reply::Policy(detail) => found.push(*detail),
            Reply::Done => return Ok(found),
            _ => return Err(client.confused("the answer is of another sort".into()).into()),
        }
    }
}

fn names(policies: &[PolicyDetail]) -> Vec<String> {
    policies.iter().map(|it| clean(&it.summary.policy.to_string())).collect()
}

/// That there is no policy of a name and kind; of other kinds there are these.
fn absent(which: &str, kind: Option<&str>, others: &[PolicyDetail]) -> String {
    let kind = kind.unwrap_or("policy");
    let there_is = if others.is_empty() {
        "cambricctl policy list names the policies that are".to_owned()
    } else {
        format!("there is {}", names(others).join(" and "))
    };
    format!("there is no {kind} {which} in force; {there_is}")
}

/// What several policies of a name are told apart by.
fn choice(which: &str, several: &[PolicyDetail]) -> String {
    let names = names(several);
    let apart_by_kind = several.iter().enumerate().all(|(at, it)| {
        several[..at].iter().all(|other| other.summary.policy.kind != it.summary.policy.kind)
    });
    let how = if apart_by_kind { "say which with --kind" } else { "say which as NAMESPACE/NAME" };
    format!("{which} can be {}; {how}", names.join(" or "))
}

fn text(detail: &PolicyDetail) -> String {
    let PolicyDetail { summary, subject, selects, rules, trial } = detail;
    let selects = if selects.is_empty() { "none on this node".to_owned() } else { selects.join("\n") };
    let staged = summary.staged.as_ref();
    let about = fields([
        ("Policy", summary.policy.to_string()),
        ("Staged", staged.map(|it| format!("{}; it is not in force", action(it))).unwrap_or_default()),
        ("Tier", summary.tier.clone()),
        ("Order", order(summary)),
        ("Directions", directions(summary)),
        ("For", subject.clone()),
        ("Endpoints", selects),
        ("Origin", summary.origin.clone().unwrap_or_default()),
    ]);
    let rules = if rules.is_empty() {
        "No rules.\n".to_owned()
    } else if staged.is_some() {
        table(["RULE", "NAME", "ACTION", "MATCHES"], rules.iter().map(row_without_hits))
    } else {
        table(["RULE", "NAME", "ACTION", "HITS", "MATCHES"], rules.iter().map(row))
    };
    let trial = trial.as_ref().map(self::trial).unwrap_or_default();
    about + "\n" + &rules + &trial
}

/// What has come of a staged policy.
fn trial(trial: &StagedDetail) -> String {
    if trial.rules.is_empty() {
        return "\nNo flow would be judged otherwise because of it.\n".to_owned();
    }
    let titles = ["WOULD DENY", "WOULD ALLOW", "LIVE", "BY"];
    let rows = trial.rules.iter().map(|StagedRule { rule, tally }| {
        let live = tally.live_would_deny + tally.live_would_allow;
        [tally.would_deny.to_string(), tally.would_allow.to_string(), live.to_string(), rule.clone()]
    });
    let flows: String = trial.flows.iter().map(|flow| diff::line(flow) + "\n").collect();
    format!("\n{}\n{flows}", table(titles, rows))
}

fn row_without_hits(rule: &PolicyRule) -> [String; 4] {
    let [rule, name, action, _, matches] = row(rule);
    [rule, name, action, matches]
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
                staged: None,
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
            trial: None,
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
        assert_eq!(kind("networkpolicy.projectcalico.org").unwrap(), Kind::CalicoNetworkPolicy.name());
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
    fn a_name_of_another_kind_is_not_denied() {
        assert_eq!(
            absent("guard", Some("GlobalNetworkPolicy"), &[guard("NetworkPolicy", "shop")]),
            "there is no GlobalNetworkPolicy guard in force; there is NetworkPolicy shop/guard"
        );
        assert_eq!(
            absent("guard", None, &[]),
            "there is no policy guard in force; cambricctl policy list names the policies that are"
        );
    }

    #[test]
    fn several_of_a_name_are_told_apart_by_what_differs() {
        let kinds = [guard("NetworkPolicy", "shop"), guard(Kind::CalicoNetworkPolicy.name(), "shop")];
        assert_eq!(
            choice("shop/guard", &kinds),
            "shop/guard can be NetworkPolicy shop/guard or NetworkPolicy.projectcalico.org shop/guard; \
             say which with --kind"
        );
        let namespaces = [guard("NetworkPolicy", "a"), guard("NetworkPolicy", "b")];
        assert!(choice("guard", &namespaces).ends_with("say which as NAMESPACE/NAME"));
    }
}

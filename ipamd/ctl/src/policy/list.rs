//! `cambricctl policy list`.

use ipamd_api::{
    Reply, Request,
    policy::{PolicySummary, RefusedObject, StagedSummary},
};
use serde::Serialize;

use super::refusals::refusal_line;
use crate::{
    daemon::Daemon,
    output::{Output, table},
};

/// The policies in force, and what is refused.
#[derive(Default, Serialize)]
struct Listing {
    policies: Vec<PolicySummary>,
    staged: Vec<PolicySummary>,
    refused: Vec<RefusedObject>,
}

pub(super) fn list(daemon: &mut Daemon, output: &Output) -> anyhow::Result<()> {
    let client = &mut daemon.client;
    client.send(Request::Policies)?;
    let mut listing = Listing::default();
    loop {
        let Reply::Policies(page) = client.receive()? else {
            return Err(client.confused("the answer is of another sort".into()).into());
        };
        listing.policies.extend(page.policies);
        listing.staged.extend(page.staged);
        listing.refused.extend(page.refused);
        if page.last {
            break;
        }
    }
    output.print(&listing, text)
}

fn text(listing: &Listing) -> String {
    let titles = ["POLICY", "TIER", "ORDER", "DIRECTIONS", "RULES", "ENDPOINTS", "ORIGIN"];
    let mut text = table(titles, listing.policies.iter().map(row));
    if !listing.staged.is_empty() {
        let titles = [
            "STAGED",
            "ACTION",
            "TIER",
            "ORDER",
            "RULES",
            "ENDPOINTS",
            "WOULD DENY",
            "WOULD ALLOW",
            "LIVE",
            "ORIGIN",
        ];
        text.push('\n');
        text.push_str(&table(titles, listing.staged.iter().map(staged_row)));
    }
    if !listing.refused.is_empty() {
        text.push_str("\nREFUSED\n");
        text.extend(listing.refused.iter().map(refusal_line));
    }
    text
}

fn row(policy: &PolicySummary) -> [String; 7] {
    [
        policy.policy.to_string(),
        policy.tier.clone(),
        order(policy),
        directions(policy),
        policy.rules.to_string(),
        policy.endpoints.to_string(),
        policy.origin.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

/// A staged policy: what it would do with new flows, and with those that live.
fn staged_row(policy: &PolicySummary) -> [String; 10] {
    let staged = policy.staged.clone().unwrap_or_default();
    let tier = if policy.tier.is_empty() { "-".to_owned() } else { policy.tier.clone() };
    [
        policy.policy.to_string(),
        action(&staged),
        tier,
        order(policy),
        policy.rules.to_string(),
        policy.endpoints.to_string(),
        staged.tally.would_deny.to_string(),
        staged.tally.would_allow.to_string(),
        (staged.tally.live_would_deny + staged.tally.live_would_allow).to_string(),
        policy.origin.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

/// What is tried out: a policy that is new, or takes the place of one; or that one is gone.
pub(super) fn action(staged: &StagedSummary) -> String {
    match (&*staged.action, staged.replaces) {
        ("set", false) => "add".to_owned(),
        ("set", true) => "replace".to_owned(),
        ("delete", false) => "delete (there is none)".to_owned(),
        (action, _) => action.to_owned(),
    }
}

/// Its place in its tier.
pub(super) fn order(policy: &PolicySummary) -> String {
    policy.order.map_or_else(|| "last".to_owned(), |order| order.to_string())
}

/// The directions that it speaks of.
pub(super) fn directions(policy: &PolicySummary) -> String {
    if policy.directions.is_empty() { "none".to_owned() } else { policy.directions.join(",") }
}

#[cfg(test)]
mod tests {
    use ipamd_api::policy::{ObjectName, StagedTally};

    use super::*;

    #[test]
    fn the_list_ends_with_what_is_refused() {
        let guard =
            ObjectName { kind: "NetworkPolicy".into(), namespace: Some("shop".into()), name: "guard".into() };
        let policies = vec![
            PolicySummary {
                policy: guard.clone(),
                tier: "default".into(),
                order: Some(1000.0),
                directions: vec!["ingress".into(), "egress".into()],
                rules: 2,
                endpoints: 1,
                origin: Some("a.yaml:1".into()),
                staged: None,
            },
            PolicySummary {
                policy: ObjectName { kind: "GlobalNetworkPolicy".into(), namespace: None, name: "x".into() },
                tier: "t".into(),
                order: None,
                directions: Vec::new(),
                rules: 0,
                endpoints: 0,
                origin: None,
                staged: None,
            },
        ];
        let refused = vec![RefusedObject {
            file: Some("b.yaml".into()),
            line: Some(9),
            object: Some(guard),
            field: "spec.ingres".into(),
            reason: "is not known".into(),
            in_force: false,
        }];
        let text = text(&Listing { policies, staged: Vec::new(), refused });
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!(
            lines[1],
            ["NetworkPolicy", "shop/guard", "default", "1000", "ingress,egress", "2", "1", "a.yaml:1"]
        );
        assert_eq!(lines[2], ["GlobalNetworkPolicy", "x", "t", "last", "none", "0", "0", "-"]);
        assert!(
            text.ends_with("\nb.yaml:9: NetworkPolicy shop/guard: spec.ingres: is not known\n"),
            "{text}"
        );
    }

    #[test]
    fn what_is_staged_is_a_list_of_its_own_with_what_it_would_do() {
        let staged = PolicySummary {
            policy: ObjectName {
                kind: "StagedNetworkPolicy".into(),
                namespace: Some("shop".into()),
                name: "guard".into(),
            },
            tier: "default".into(),
            order: Some(1.0),
            directions: vec!["ingress".into()],
            rules: 2,
            endpoints: 1,
            origin: None,
            staged: Some(StagedSummary {
                action: "set".into(),
                replaces: true,
                tally: StagedTally { would_deny: 7, would_allow: 3, live_would_deny: 2, live_would_allow: 0 },
            }),
        };
        let text = text(&Listing { staged: vec![staged], ..Listing::default() });
        let last: Vec<_> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last[..2], ["StagedNetworkPolicy", "shop/guard"]);
        assert_eq!(last[2..], ["replace", "default", "1", "2", "1", "7", "3", "2", "-"]);
        let action = |action: &str, replaces| {
            super::action(&StagedSummary { action: action.into(), replaces, ..StagedSummary::default() })
        };
        assert_eq!(action("set", false), "add");
        assert_eq!(action("delete", true), "delete");
        assert_eq!(action("learn", true), "learn");
    }
}

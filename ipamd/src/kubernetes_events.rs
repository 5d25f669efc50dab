//! Kubernetes Events of this node: its problems, and the policies that it does not enforce as they are written.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crate::{metrics::Metrics, node::Node};
use ipamd_model::objects::Kind;
use ipamd_sources::kube::{Events, Notice};

/// The first Events come a little after the start, because many problems of a start pass by themselves.
const LOOK_FIRST: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Publishes Events about new problems, again and again.
pub async fn publish(mut events: Events, node: Arc<Node>, metrics: Arc<Metrics>) {
    let mut pause = LOOK_FIRST;
    loop {
        tokio::time::sleep(pause).await;
        pause = LOOK_EVERY;
        let looked = Arc::clone(&node);
        // This reads from the kernel, so it may block.
        let Ok(notices) = tokio::task::spawn_blocking(move || collect_notices(&looked)).await else {
            continue;
        };
        metrics.kubernetes_event_failures(events.tell(notices).await);
    }
}

fn collect_notices(node: &Node) -> BTreeSet<Notice> {
    let status = node.status();
    let policy_problems = node.policy().problems();
    // Problems of a policy are Events of that policy, not of the Node.
    let of_node = status.problems.into_iter().filter(|problem| !policy_problems.contains(problem));
    let of_node = of_node.map(|problem| Notice {
        kind: Kind::Node.name().to_owned(),
        namespace: None,
        name: status.node_name.clone(),
        reason: "NetworkProblem",
        note: problem,
    });
    // While a large change of policies is under way this is unknown; the next round publishes it.
    let not_enforced = node.policy().not_enforced().unwrap_or_default();
    let of_objects = not_enforced.into_iter().filter_map(|(refused, reason)| {
        let object = refused.object?;
        let field = if refused.field.is_empty() { String::new() } else { format!("{}: ", refused.field) };
        let instead = if refused.in_force { "what was in force before stays" } else { "it is not in force" };
        let text = format!("{field}{}; {instead}", refused.reason);
        Some(Notice { kind: object.kind, namespace: object.namespace, name: object.name, reason, note: text })
    });
    of_node.chain(of_objects).collect()
}

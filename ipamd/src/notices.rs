//! What a node has to tell the people of its cluster: its problems, and the policies that it does not enforce as they are written.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crate::{metrics::Metrics, node::Node};
use ipamd_model::objects::Kind;
use ipamd_sources::kube::{Events, Notice};

/// When is looked first, for a start has much to say that passes, and how often then.
const LOOK_FIRST: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Tells what there is to tell, again and again.
pub async fn tell(mut events: Events, node: Arc<Node>, metrics: Arc<Metrics>) {
    let mut pause = LOOK_FIRST;
    loop {
        tokio::time::sleep(pause).await;
        pause = LOOK_EVERY;
        let looked = Arc::clone(&node);
        // It reads what the kernel has.
        let Ok(notices) = tokio::task::spawn_blocking(move || all_of(&looked)).await else { continue };
        metrics.kubernetes_event_failures(events.tell(notices).await);
    }
}

fn all_of(node: &Node) -> BTreeSet<Notice> {
    let status = node.status();
    let policy_problems = node.policy().problems();
    // Those of policy are told of at the policies themselves.
    let of_node = status.problems.into_iter().filter(|problem| !policy_problems.contains(problem));
    let of_node = of_node.map(|problem| Notice {
        kind: Kind::Node.name().to_owned(),
        namespace: None,
        name: status.node_name.clone(),
        reason: "NetworkProblem",
        note: problem,
    });
    // What a large change of policies is about to do is told of after it.
    let not_enforced = node.policy().not_enforced().unwrap_or_default();
    let of_objects = not_enforced.into_iter().filter_map(|(refused, reason)| {
        let object = refused.object?;
        let field = if refused.field.is_empty() { String::new() } else { format!("{}: ", refused.field) };
        let instead = if refused.in_force { "what was in force before stays" } else { "it is not in force" };
        let said = format!("{field}{}; {instead}", refused.reason);
        Some(Notice { kind: object.kind, namespace: object.namespace, name: object.name, reason, note: said })
    });
    of_node.chain(of_objects).collect()
}

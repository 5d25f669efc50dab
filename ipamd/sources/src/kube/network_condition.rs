//! Clears the node's condition `NetworkUnavailable`. Cloud controllers set it on new nodes, and nothing is scheduled on
//! a node while it is set.

use std::time::Duration;

use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{sleep, timeout};

use ipamd_runtime::backoff::Backoff;

use super::{client::client, events::Events, failure::message_of};

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long is waited after the first attempt that fails; twice as long each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// The condition of one node.
#[derive(Clone, Debug)]
pub struct NetworkCondition {
    config: kube::Config,
    node: String,
}

impl NetworkCondition {
    pub(super) fn new(config: kube::Config, node: &str) -> Self {
        Self { config, node: node.into() }
    }

    /// What else is told of the same node.
    pub fn events(&self) -> Events {
        Events::new(self.config.clone(), &self.node)
    }

    /// Says that the network is available, again and again until the server has taken it in.
    pub async fn clear(&self) {
        let mut backoff = Backoff::new(FIRST_PAUSE);
        let mut is_first = true;
        while let Err(why) = self.try_to_clear().await {
            if std::mem::take(&mut is_first) {
                tracing::warn!(
                    node = self.node,
                    why,
                    "cannot clear the node's condition NetworkUnavailable; trying again"
                );
            }
            sleep(backoff.next(LONGEST_PAUSE)).await;
        }
        tracing::info!(node = self.node, "cleared the node's condition NetworkUnavailable");
    }

    async fn try_to_clear(&self) -> Result<(), String> {
        let client = client(&self.config).map_err(|error| error.to_string())?;
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        // Merged by the condition's type: others stay.
        let patch = Patch::Strategic(json!({"status": {"conditions": [{
            "type": "NetworkUnavailable",
            "status": "False",
            "reason": "CambricIsReady",
            "message": "Cambric serves this node",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }]}}));
        let nodes = Api::<Node>::all(client);
        let params = PatchParams::default();
        let patching = nodes.patch_status(&self.node, &params, &patch);
        match timeout(PATIENCE, patching).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(message_of(&error)),
            Err(_) => Err(format!("the server did not answer within {PATIENCE:?}")),
        }
    }
}

//! Staged policies for a random cluster.

use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::{
    documents::scene,
    scene::{Scene, id},
};
use crate::oracle::document::text;

/// A cluster with staged policies.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What is in force.
    pub in_force: Scene,
    /// The staged policies.
    pub staged: Vec<Value>,
    /// The documents with these applied.
    pub applied: Vec<Value>,
}

/// The staged policy that stands for a policy; `None` if there is no such kind.
fn staged(document: &Value, action: &Value) -> Option<Value> {
    let kind = match (text(document, "apiVersion"), text(document, "kind")) {
        ("networking.k8s.io/v1", "NetworkPolicy") => "StagedKubernetesNetworkPolicy",
        ("projectcalico.org/v3", "NetworkPolicy") => "StagedNetworkPolicy",
        ("projectcalico.org/v3", "GlobalNetworkPolicy") => "StagedGlobalNetworkPolicy",
        _ => return None,
    };
    let mut staged = document.clone();
    staged["apiVersion"] = json!("projectcalico.org/v3");
    staged["kind"] = json!(kind);
    if !staged["spec"].is_object() {
        staged["spec"] = json!({});
    }
    if !action.is_null() {
        staged["spec"]["stagedAction"] = action.clone();
    }
    Some(staged)
}

/// A random cluster with up to so many policies, some of them staged.
pub fn trial(policies: usize) -> BoxedStrategy<Trial> {
    (scene(policies), vec(0..6_u8, policies)).prop_map(|(scene, dice)| Trial::of(&scene, &dice)).boxed()
}

impl Trial {
    fn of(scene: &Scene, dice: &[u8]) -> Self {
        let mut trial = Self { in_force: scene.clone(), staged: Vec::new(), applied: Vec::new() };
        trial.in_force.documents.clear();
        let mut dice = dice.iter().cycle();
        for document in &scene.documents {
            let is_policy = staged(document, &Value::Null).is_some();
            let thrown = if is_policy { dice.next().copied().unwrap_or(0) } else { 0 };
            let (is_in_force, is_applied, action) = match thrown {
                // It is new.
                1 => (false, true, json!("Set")),
                2 => (false, true, Value::Null),
                3 => (true, false, json!("Delete")),
                4 => (true, true, json!("Learn")),
                5 => {
                    trial.replace(document, &scene.documents);
                    continue;
                }
                _ => {
                    trial.in_force.documents.push(document.clone());
                    trial.applied.push(document.clone());
                    continue;
                }
            };
            trial.staged.extend(staged(document, &action));
            trial.in_force.documents.extend(is_in_force.then(|| document.clone()));
            trial.applied.extend(is_applied.then(|| document.clone()));
        }
        trial
    }

    /// A policy in force takes what another of its kind says.
    fn replace(&mut self, document: &Value, documents: &[Value]) {
        let alike = |it: &&Value| {
            it["kind"] == document["kind"]
                && it["apiVersion"] == document["apiVersion"]
                && id(it) != id(document)
        };
        let mut update = document.clone();
        if let Some(other) = documents.iter().rfind(alike) {
            update["spec"] = other["spec"].clone();
        }
        self.in_force.documents.push(document.clone());
        self.staged.extend(staged(&update, &json!("Set")));
        self.applied.push(update);
    }
}

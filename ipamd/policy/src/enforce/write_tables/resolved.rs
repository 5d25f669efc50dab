//! The first phase: the rules of the endpoints that a change concerns.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipamd_api::AttachmentKey;
use ipnetwork::IpNetwork;

use crate::{
    compile::{rank::Selecting, resolve::Resolver, rules::SharedRules},
    enforce::{
        cluster::{Cluster, Endpoint},
        written::Written,
    },
};
use ipamd_model::policy::{Denied, Policy};
use ipamd_runtime::supervisor;

/// The most rounds of resolving. Resolving an endpoint's rules can add predicates that hold for addresses of other
/// endpoints, whose rules must then be resolved again. Each round has fewer of them.
const ROUNDS: usize = 8;

/// The rules of the endpoints that a change concerns. `Plan` is next.
#[derive(Debug)]
#[must_use]
pub(super) struct Resolved(pub(super) BTreeMap<AttachmentKey, SharedRules>);

impl Resolved {
    /// Resolves the rules of the concerned endpoints, and of those whose own addresses match new predicates.
    pub fn of(concerned: &BTreeSet<AttachmentKey>, cluster: &mut Cluster, written: &mut Written) -> Self {
        let mut resolved = BTreeMap::new();
        // Pods of a workload have the same policies, which mostly have the same meaning for all of them.
        let mut shared: HashMap<(Vec<*const Policy>, Denied), SharedRules> = HashMap::new();
        let mut round = concerned.clone();
        touch(cluster, written);
        round.extend(owners_of(cluster, &written.touched));
        for _ in 0..ROUNDS {
            for key in std::mem::take(&mut round) {
                supervisor::beat();
                let Some(endpoint) = cluster.endpoints.get(&key) else { continue };
                let key_of_all = same_for_all(&endpoint.selecting)
                    // A host endpoint has rules of its own around its policies.
                    .filter(|_| !endpoint.addresses.is_empty() && endpoint.host.is_none())
                    .map(|policies| (policies, cluster.denied_at(endpoint)));
                if let Some(policies) = &key_of_all
                    && let Some(rules) = shared
                        .get(policies)
                        .cloned()
                        .or_else(|| rules_of_like(endpoint, concerned, cluster, written))
                {
                    shared.extend(key_of_all.map(|policies| (policies, Arc::clone(&rules))));
                    resolved.insert(key, rules);
                    continue;
                }
                let own = cluster.own(endpoint);
                let (inputs, classes) = (&cluster.inputs, &mut cluster.classes);
                let (names, domains) = (&mut cluster.names, &mut cluster.domains);
                let rules = Resolver { inputs, classes, names, domains }.resolve(&endpoint.selecting, &own);
                let rules = SharedRules::new(rules.into());
                shared.extend(key_of_all.map(|policies| (policies, Arc::clone(&rules))));
                resolved.insert(key, rules);
            }
            let fresh = touch(cluster, written);
            round.extend(owners_of(cluster, &fresh));
            if round.is_empty() {
                break;
            }
        }
        Self(resolved)
    }
}

/// The rules of an endpoint that the same policies select, and that is not concerned: these are in force as they are. So a pod
/// that comes to a workload costs little, whatever its policies have cost.
fn rules_of_like(
    endpoint: &Endpoint,
    concerned: &BTreeSet<AttachmentKey>,
    cluster: &Cluster,
    written: &Written,
) -> Option<SharedRules> {
    let is_like = |other: &Endpoint| {
        let pairs = || other.selecting.values().zip(endpoint.selecting.values());
        other.selecting.len() == endpoint.selecting.len()
            && cluster.denied_at(other) == cluster.denied_at(endpoint)
            && !other.addresses.is_empty()
            && other.host.is_none()
            && pairs().all(|(theirs, own)| Arc::ptr_eq(theirs, own))
    };
    let mut others = cluster.endpoints.iter().filter(|(key, it)| is_like(it) && !concerned.contains(*key));
    others.find_map(|(key, _)| written.rules(key)).cloned()
}

/// Notes which addresses may have another class than the one in the tables. Returns those that have come since this was asked last.
fn touch(cluster: &mut Cluster, written: &mut Written) -> BTreeSet<IpNetwork> {
    let fresh = cluster.classes.take_touched();
    written.touched.extend(&fresh);
    fresh
}

/// The endpoints with policies that have one of these addresses.
fn owners_of(cluster: &Cluster, touched: &BTreeSet<IpNetwork>) -> Vec<AttachmentKey> {
    let has = |addresses: &[IpAddr]| addresses.iter().any(|ip| touched.contains(&IpNetwork::from(*ip)));
    let owners = cluster.endpoints.iter().filter(|(_, it)| !it.selecting.is_empty() && has(&it.addresses));
    owners.map(|(key, _)| key.clone()).collect()
}

/// The policies, if their meaning does not depend on the endpoint.
fn same_for_all(selecting: &Selecting) -> Option<Vec<*const Policy>> {
    let each = selecting.values().map(|policy| policy.says_the_same_to_all().then_some(Arc::as_ptr(policy)));
    each.collect()
}

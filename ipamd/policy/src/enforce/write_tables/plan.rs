//! The second phase: the writes that a change needs.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use ipamd_api::AttachmentKey;
use ipnetwork::IpNetwork;

use super::resolved::Resolved;
use crate::{
    compile::{
        nets::is_host,
        rules::{Hashed, SharedRules},
    },
    enforce::{
        cluster::Cluster,
        compiled::{Compiled, Entries, Extension},
        write_error::{Overflow, fits},
        written::Written,
    },
    tables::{ClassId, Limits, Peer},
};
use ipamd_runtime::supervisor;

/// The writes of a change. `CheckedPlan` is next.
#[derive(Debug, Default)]
#[must_use]
pub(super) struct Plan {
    /// What is added to maps that are there.
    pub extensions: Vec<(SharedRules, Extension)>,
    /// Peers whose class has changed. `None` stands for one that is removed.
    pub peers: Vec<(IpNetwork, Option<Peer>)>,
    /// Maps that are not there yet.
    pub maps: Vec<(Compiled, Entries)>,
    /// Endpoints with new rules.
    pub endpoints: Vec<(AttachmentKey, SharedRules)>,
}

impl Plan {
    /// Plans the writes that put these rules in force.
    ///
    /// # Errors
    /// That it needs more than fits, as far as that is known before all is compiled.
    pub fn of(
        Resolved(resolved): Resolved,
        cluster: &mut Cluster,
        written: &mut Written,
        limits: Limits,
    ) -> Result<Self, Overflow> {
        let most = limits.entries;
        // This is known before anything is compiled. Number 0 is no rule.
        fits("rules (--policy-rules)", cluster.names.highest() + 1, limits.rules)?;
        let missed = cluster.domains.take_missed();
        if missed > 0 {
            return Err(Overflow::of_domains(cluster.domains.count() + missed, limits.domains));
        }
        let mut plan = Self::default();
        let node = cluster.node_addresses.iter().map(|address| IpNetwork::from(*address));
        let nets = written.touched.iter().copied().chain(node).collect::<BTreeSet<_>>();
        for net in nets {
            let wanted = wanted_peer(cluster, net);
            if written.peers.get(net) != wanted {
                plan.peers.push((net, wanted));
            }
        }
        for (rules, compiled) in &mut written.maps {
            if let Some(extension) = compiled.extension(&cluster.classes, most)? {
                plan.extensions.push((Arc::clone(rules), extension));
            }
        }
        let mut made: HashSet<SharedRules> = HashSet::new();
        // Rules that many endpoints share are checked once.
        let mut seen: HashSet<*const Hashed> = HashSet::new();
        for (key, rules) in resolved {
            supervisor::beat();
            if !cluster.endpoints.contains_key(&key) || written.rules(&key) == Some(&rules) {
                continue;
            }
            let is_new = rules.is_policed()
                && seen.insert(Arc::as_ptr(&rules))
                && !written.maps.contains_key(&rules)
                && made.insert(Arc::clone(&rules));
            if is_new {
                plan.maps.push(Compiled::new(Arc::clone(&rules), &cluster.classes, most)?);
            }
            plan.endpoints.push((key, rules));
        }
        Ok(plan)
    }
}

/// What the tables should say of an address or a prefix.
fn wanted_peer(cluster: &mut Cluster, net: IpNetwork) -> Option<Peer> {
    let node = is_host(net) && cluster.node_addresses.contains(&net.ip());
    let known = node || cluster.classes.is_known(net);
    let class = known.then(|| cluster.classes.class(net));
    // An address of the class WORLD needs no entry, because no prefix that covers it has another class.
    class.filter(|class| node || *class != ClassId::WORLD).map(|class| Peer { class, node })
}

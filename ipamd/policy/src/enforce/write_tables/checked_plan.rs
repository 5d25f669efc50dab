//! The last phases: whether the planned writes fit, and the writes themselves.

use std::{cmp::Reverse, collections::BTreeSet};

use ipnetwork::IpNetwork;

use super::plan::Plan;
use crate::{
    compile::domains::Domains,
    enforce::{
        cluster::Cluster,
        compiled::{Compiled, Entries},
        put_domains::{announce_domains, put_domains},
        write_error::{DOMAINS, ENTRIES, Overflow, fits},
        writes::Writes,
        written::{InForce, Written},
    },
    tables::{Limits, Peer, Posture, TableError, Tables},
};
use ipamd_model::{concerned::Concerned, policy::Direction};
use ipamd_runtime::supervisor;

/// A plan that fits into the tables. Only [`CheckedPlan::of`] makes one, so nothing else is written.
#[derive(Debug)]
#[must_use]
pub(super) struct CheckedPlan(Plan);

impl CheckedPlan {
    /// Checks that everything fits, before anything is written.
    ///
    /// # Errors
    /// What does not fit.
    pub fn of(plan: Plan, cluster: &Cluster, written: &Written, limits: Limits) -> Result<Self, Overflow> {
        for (compiled, entries) in &plan.maps {
            fits(ENTRIES, entries.len(), limits.entries)?;
            debug_assert!(compiled.map.is_none(), "it is not made yet");
        }
        for (rules, extension) in &plan.extensions {
            let before = written.maps.get(rules).map_or(0, |compiled| compiled.entries);
            let entries = before + extension.entries.len();
            fits(ENTRIES, entries, limits.entries)?;
        }
        fits("policy maps", written.maps.len() + plan.maps.len(), limits.maps)?;
        check_peers(&plan.peers, written, limits)?;
        check_domains(&plan.maps, &cluster.domains, written, limits)?;
        Ok(Self(plan))
    }

    /// Makes the writes in an order in which no packet sees half of the change.
    ///
    /// # Errors
    /// Why a write failed. Those before it are made.
    pub fn write(
        self,
        cluster: &mut Cluster,
        written: &mut Written,
        tables: &mut dyn Tables,
    ) -> Result<Writes, TableError> {
        let Self(Plan { extensions, mut peers, maps, endpoints }) = self;
        let mut writes = Writes { peers: peers.len(), maps: maps.len(), ..Writes::default() };
        for rule in cluster.names.take_fresh() {
            tables.clear_hits(rule)?;
        }
        // No address has the new classes yet.
        for (rules, extension) in extensions {
            let Some(compiled) = written.maps.get_mut(&rules) else { continue };
            if let Some(map) = compiled.map {
                tables.extend_map(map, &extension.entries)?;
            }
            writes.entries += extension.entries.len();
            compiled.extended(extension);
        }
        // New entries are written with longer prefixes first, so that a shorter one never decides for an address of a
        // longer one. Removals have the reverse order.
        peers.sort_by_key(|(net, wanted)| match wanted {
            Some(_) => (0, Reverse(i16::from(net.prefix()))),
            None => (1, Reverse(-i16::from(net.prefix()))),
        });
        let reclassified: Concerned = peers.iter().map(|(net, _)| *net).collect();
        for (net, wanted) in peers {
            supervisor::beat();
            if let Some(peer) = wanted {
                tables.put_peer(net, peer)?;
                written.peers.insert(net, peer);
            } else {
                tables.remove_peer(net)?;
                written.peers.remove(net);
            }
        }
        written.touched.clear();
        for (mut compiled, entries) in maps {
            supervisor::beat();
            compiled.map = Some(tables.add_map(&entries)?);
            writes.entries += entries.len();
            written.add_map(compiled);
        }
        announce_domains(cluster, written, tables)?;
        let (mut release_rules, mut concerned) = (Vec::new(), Concerned::nothing());
        for (key, rules) in endpoints {
            let map = rules
                .is_policed()
                .then(|| written.maps.get(&rules).and_then(|compiled| compiled.map))
                .flatten();
            let posture = Posture {
                map,
                ingress: rules.of(Direction::Ingress).is_policed(),
                egress: rules.of(Direction::Egress).is_policed(),
            };
            let Some(endpoint) = cluster.endpoints.get(&key) else { continue };
            if written.endpoints.get(&key).is_none_or(|it| it.posture != posture) {
                endpoint.slot.put_posture(tables, posture)?;
                writes.postures += 1;
                // What a host endpoint is asked about may have any address.
                concerned.add(match &endpoint.host {
                    Some(_) => Concerned::everything(),
                    None => endpoint.addresses.iter().copied().collect(),
                });
            }
            if let Some(compiled) = written.maps.get_mut(&rules) {
                compiled.users += 1;
            }
            let before = written.endpoints.insert(key, InForce { rules, posture });
            release_rules.extend(before.map(|before| before.rules));
        }
        let policed = written.endpoints.values().any(|it| it.posture.map.is_some());
        // The epoch is raised for the addresses of endpoints whose posture changed, and for reclassified addresses of
        // other sides.
        if policed {
            concerned.add(reclassified);
        }
        for rules in release_rules {
            written.release_rules(&rules, tables);
        }
        // Patterns that no map asks for any more go.
        put_domains(cluster, written, tables)?;
        tables.raise_epoch(&concerned)?;
        Ok(writes)
    }
}

/// Checks the patterns of DNS names that new maps have, with those of the maps that are there.
fn check_domains(
    maps: &[(Compiled, Entries)],
    domains: &Domains,
    written: &Written,
    limits: Limits,
) -> Result<(), Overflow> {
    let new = maps.iter().flat_map(|(compiled, _)| &compiled.domains).copied().collect::<BTreeSet<_>>();
    if new.iter().all(|id| written.domains.contains_key(id)) {
        return Ok(());
    }
    let all = written.domains.keys().copied().chain(new).collect::<BTreeSet<_>>();
    fits(DOMAINS, all.len(), limits.domains)?;
    let deepest = domains.deepest(&all);
    fits("patterns of DNS names that mean the same name", deepest, limits.domains_of_name)
}

fn check_peers(
    peers: &[(IpNetwork, Option<Peer>)],
    written: &Written,
    limits: Limits,
) -> Result<(), Overflow> {
    if peers.iter().all(|(net, wanted)| wanted.is_none() || written.peers.get(*net).is_some()) {
        return Ok(());
    }
    let mut counts = written.peers.counts();
    for (net, wanted) in peers {
        counts.change(*net, written.peers.get(*net).is_some(), wanted.is_some());
    }
    for (addresses, prefixes) in counts.by_family() {
        fits("addresses that policies tell apart (--policy-addresses)", addresses, limits.addresses)?;
        fits("prefixes that policies tell apart (--policy-prefixes)", prefixes, limits.prefixes)?;
    }
    Ok(())
}

//! The node's status.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use ipamd_api::{
    AttachmentKey,
    policy::PolicyStatus,
    wire::{self, Endpoint, EndpointState, Status},
};

use super::{records::Record, this_node::Node};
use ipamd_datapath::nearly_full;
use ipamd_policy::enforce::{Counts, TrialCounts};
use ipamd_runtime::{queued_lock::locked, supervisor};

/// So long a batch of records may take to be written. Then the disk hangs, and an ADD that waits for it will fail.
const STORE_HANGS_AFTER: u64 = 5;

/// Whether the thread of the store is among those that do not get on.
fn store_hangs(busy: &[wire::Thread]) -> Option<String> {
    let store = busy.iter().find(|it| it.name == "store" && it.busy_seconds >= STORE_HANGS_AFTER)?;
    Some(format!(
        "the disk of the state directory has not answered for {} s; no ADD can be served until it does. The daemon ends at {} s",
        store.busy_seconds, store.deadline_seconds
    ))
}

impl Node {
    /// Why the store takes nothing more until the daemon starts anew, a sentence; `None`: it does.
    pub fn store_failure(&self) -> Option<String> {
        locked(&self.store_failure).clone()
    }

    /// Why no ADD can be served, a sentence; `None`: it can. This waits for nothing.
    pub fn unready(&self) -> Option<String> {
        self.store_failure().or_else(|| store_hangs(&supervisor::busy()))
    }

    /// The node's state as a whole.
    pub fn status(&self) -> Status {
        let findings = locked(&self.findings).clone();
        let mut problems = findings.problems;
        let (committed, pools, mut cannot_add) = {
            let state = self.state();
            let of =
                |(key, record): (&AttachmentKey, &Record)| Some((key.clone(), record.committed?.ifindex));
            let refusals = if self.is_chained { Vec::new() } else { state.allocator.refusals() };
            let refusals = refusals.iter().map(ToString::to_string).collect::<Vec<_>>();
            (state.records.iter().filter_map(of).collect::<Vec<_>>(), state.allocator.pools(), refusals)
        };
        let full = pools.iter().filter(|pool| pool.used >= pool.capacity);
        problems.extend(full.map(|pool| {
            let shown = if pool.name == pool.cidr {
                pool.cidr.clone()
            } else {
                format!("{} ({})", pool.name, pool.cidr)
            };
            format!("pool {shown} is exhausted: all {} addresses are in use", pool.capacity)
        }));
        let unpinned =
            ["from_endpoint", "to_endpoint"].into_iter().find(|name| !self.kernel.has_program(name));
        cannot_add.extend(
            unpinned.map(|name| {
                format!("the program {} is not pinned", self.kernel.program_path(name).display())
            }),
        );
        let limited = self.limited(&committed);
        problems.extend(limited.iter().cloned());
        let unready = self.unready();
        let ready = unready.is_none();
        problems.extend(unready);
        problems.extend(locked(&self.refused_prefixes).clone());
        problems.extend(self.files.problem());
        problems.extend(self.policy.problems());
        let flows = locked(&self.flows).clone();
        let of_family = |family: &str, map: &str| Some((family.to_owned(), *flows.get(map)?));
        let conntrack = [of_family("ipv4", "conntrack4"), of_family("ipv6", "conntrack6")];
        let conntrack = conntrack.into_iter().flatten().collect();
        let mut maps = locked(&self.maps).clone();
        maps.extend(flows);
        problems.extend(maps.iter().filter_map(|(name, used)| nearly_full(name, *used)));
        let drops = self.kernel.drops().unwrap_or_else(|error| {
            problems.push(error.to_string());
            BTreeMap::new()
        });
        let untracked = self.kernel.untracked().unwrap_or_else(|error| {
            problems.push(error.to_string());
            0
        });
        let (events_lost, events_suppressed) = self.kernel.events_missed().unwrap_or_else(|error| {
            problems.push(error.to_string());
            (0, 0)
        });
        let answers_suppressed = self.kernel.answers_suppressed().unwrap_or_else(|error| {
            problems.push(error.to_string());
            0
        });
        let deny = self.kernel.deny().unwrap_or_else(|error| {
            problems.push(error.to_string());
            wire::DenyStatus::default()
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_name: self.name.clone(),
            ready,
            problems,
            cannot_add,
            limited,
            endpoints: committed.len() as u64,
            attach_mode: self.kernel.attach_mode(),
            uplinks: findings.uplinks,
            host_endpoints: findings.host_endpoints,
            uptime_seconds: self.started.elapsed().as_secs(),
            conntrack,
            maps,
            drops,
            untracked,
            policy: policy_status(self.policy.counts(), self.policy.trial_counts()),
            events_lost,
            events_suppressed,
            answers_suppressed,
            deny,
            cluster: None,
            busy: supervisor::busy(),
        }
    }

    /// What the programs of endpoints lack that have an interface, a sentence each.
    fn limited(&self, committed: &[(AttachmentKey, u32)]) -> Vec<String> {
        let faults = |(key, ifindex): &(AttachmentKey, u32)| {
            let host_ifname = key.host_ifname();
            let stands = self.kernel.link_index(&host_ifname) == Some(*ifindex);
            let faults =
                if stands { self.kernel.attachment_faults(&host_ifname, *ifindex) } else { Vec::new() };
            (!faults.is_empty()).then(|| format!("{key}: {}", faults.join(", and ")))
        };
        committed.iter().filter_map(faults).collect()
    }

    /// The endpoints whose interface is gone although their container's namespace is not: a sentence each.
    pub fn broken(&self) -> Vec<String> {
        let unlinked = {
            let state = self.state();
            let is_broken = |(key, record): &(&AttachmentKey, &Record)| {
                record
                    .committed
                    .is_some_and(|at| self.kernel.link_index(&key.host_ifname()) != Some(at.ifindex))
            };
            let records = state.records.iter().filter(is_broken);
            let netns = |record: &Record| (record.attachment.netns.clone(), record.attachment.netns_id);
            records.map(|(key, record)| (key.clone(), netns(record))).collect::<Vec<_>>()
        };
        let lives = |path: &Path, id| self.kernel.netns_at(path) == Some(id);
        let broken = unlinked.into_iter().filter(|(_, (path, id))| lives(path, *id));
        broken
            .map(|(key, _)| {
                format!(
                    "{key} has lost its interface {}, but its container runs; restart its pod",
                    key.host_ifname()
                )
            })
            .collect()
    }

    /// All endpoints, by their keys.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.state().records.values().map(|record| self.endpoint(record)).collect()
    }

    /// The endpoint that has `address`.
    pub fn endpoint_of(&self, address: IpAddr) -> Option<Endpoint> {
        let state = self.state();
        let holder = state.allocator.holder(address)?;
        state.records.get(holder).map(|record| self.endpoint(record))
    }

    /// All pools in their order.
    pub fn pools(&self) -> Vec<wire::Pool> {
        self.state().allocator.pools()
    }

    fn endpoint(&self, record: &Record) -> Endpoint {
        let attachment = &record.attachment;
        let host_ifname = attachment.key.host_ifname();
        let present = record
            .committed
            .map(|at| at.ifindex)
            .filter(|at| self.kernel.link_index(&host_ifname) == Some(*at));
        Endpoint {
            key: attachment.key.clone(),
            addresses: attachment.addresses.clone(),
            host_ifname,
            host_ifindex: present,
            container_mac: attachment.container_mac,
            host_mac: attachment.host_mac,
            mtu: attachment.mtu,
            netns: attachment.netns.clone(),
            pod: attachment.pod.clone(),
            labels: attachment.labels.clone(),
            port_mappings: attachment.port_mappings.clone(),
            chained: attachment.chained,
            state: match (record.committed, present) {
                (None, _) => EndpointState::Reserved,
                (Some(_), Some(_)) => EndpointState::Ready,
                (Some(_), None) => EndpointState::Broken,
            },
            created: attachment.created,
        }
    }
}

fn policy_status(counts: Counts, trial: TrialCounts) -> PolicyStatus {
    let Counts { policies, staged, refused, unfit, classes, maps, entries, peers, rules, memory } = counts;
    PolicyStatus {
        policies: policies as u64,
        staged: staged as u64,
        staged_judged: trial.judged,
        staged_would_deny: trial.would_deny,
        staged_would_allow: trial.would_allow,
        staged_lost: trial.lost,
        refused: refused as u64,
        left_out: unfit as u64,
        classes: classes as u64,
        maps: maps as u64,
        entries: entries as u64,
        addresses: peers as u64,
        rules: rules as u64,
        bytes: memory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_does_not_get_on_is_why_no_add_is_served() {
        let thread = |name: &str, busy_seconds| wire::Thread {
            name: name.into(),
            busy_seconds,
            deadline_seconds: 120,
        };
        assert_eq!(store_hangs(&[thread("policy", 60), thread("store", 4)]), None);
        let why = store_hangs(&[thread("policy", 60), thread("store", 5)]).unwrap();
        assert!(why.contains("has not answered for 5 s") && why.contains("120 s"), "{why}");
    }
}

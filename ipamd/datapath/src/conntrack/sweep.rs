//! Forgets the conntrack entries that have expired, and those of endpoints that are gone.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
};

use bpf::{
    layout::{CT_NAT_REVERSE, CtEntry, CtKey, Lifetimes},
    states::is_kept,
};
use ipamd_api::wire::{Connection, MapUse};
use libbpf_rs::{MapCore, MapHandle};

use super::{
    age,
    entry::{connection, ends, expired, now, remaining},
};
use crate::{datapath::Datapath, error::DatapathError, load, maps::TypedMap};

/// What is in the conntrack maps after a sweep.
#[derive(Debug)]
pub struct Swept {
    /// How full the maps of flows are, and the maps of flows that wait, by their names.
    pub used: BTreeMap<String, MapUse>,
    /// The ports at which connections to services were made.
    pub service_ports: HashSet<u16>,
}

impl Datapath {
    /// Removes the conntrack entries that have expired, and the entries of endpoints that are gone. Calls `ended`, if there is one,
    /// with each connection that was removed.
    pub fn sweep_conntrack(
        &self,
        ended: Option<&mut dyn FnMut(&Connection)>,
    ) -> Result<Swept, DatapathError> {
        match self.programs.get(load::AGE) {
            Some(program) => self.age_conntrack(program.as_fd(), ended),
            None => self.sweep_by_hand(ended),
        }
    }

    /// Lets the program remove the entries. It looks at each entry in the kernel, so nothing is copied unless `ended` wants to know.
    fn age_conntrack(
        &self,
        program: BorrowedFd<'_>,
        ended: Option<&mut dyn FnMut(&Connection)>,
    ) -> Result<Swept, DatapathError> {
        if let Some(ended) = ended {
            let mut tell = |connection: Option<Connection>| {
                connection.iter().for_each(&mut *ended);
                true
            };
            let (now, lifetimes) = (now(), &self.lifetimes);
            self.conntrack4.each(|key, entry| tell(expired(&key, &entry, lifetimes, now)))?;
            self.conntrack6.each(|key, entry| tell(expired(&key, &entry, lifetimes, now)))?;
        }
        let aged = age::run(program)?;
        Ok(Swept {
            used: self.used(
                Left { entries: aged.left4.into(), waiting: aged.waiting4.into() },
                Left { entries: aged.left6.into(), waiting: aged.waiting6.into() },
            ),
            service_ports: age::held_ports(&self.held_ports)?.collect(),
        })
    }

    /// Reads the maps and removes the entries from here, for kernels that cannot run the program.
    fn sweep_by_hand(&self, mut ended: Option<&mut dyn FnMut(&Connection)>) -> Result<Swept, DatapathError> {
        let mut ports = HashSet::new();
        let known = self.endpoints()?;
        // The endpoint may have come after the list was read, so the map is asked again.
        let is_gone = |address: IpAddr, index: u32| {
            known.get(&address).is_none_or(|endpoint| endpoint.ifindex != index)
                && self.is_gone(address, index)
        };
        let lifetimes = &self.lifetimes;
        let ipv4 = sweep(&self.conntrack4, lifetimes, &is_gone, &mut ended, &mut ports)?;
        let ipv6 = sweep(&self.conntrack6, lifetimes, &is_gone, &mut ended, &mut ports)?;
        Ok(Swept { used: self.used(ipv4, ipv6), service_ports: ports })
    }

    fn used(&self, ipv4: Left, ipv6: Left) -> BTreeMap<String, MapUse> {
        let used = |name: &str, map: &MapHandle, entries| {
            (name.to_owned(), MapUse { entries, capacity: map.max_entries().into() })
        };
        let waiting = |name, entries| self.others.get(name).map(|map| used(name, map, entries));
        let kept = [
            used(self.conntrack4.name(), self.conntrack4.handle(), ipv4.entries),
            used(self.conntrack6.name(), self.conntrack6.handle(), ipv6.entries),
        ];
        let waiting = [waiting("waiting4", ipv4.waiting), waiting("waiting6", ipv6.waiting)];
        kept.into_iter().chain(waiting.into_iter().flatten()).collect()
    }
}

/// How many entries a conntrack map holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Left {
    /// All of them.
    entries: u64,
    /// The entries that wait in line.
    waiting: u64,
}

/// Removes the entries of one map that have expired, and the entries of endpoints that are gone. `is_gone` says whether an endpoint is
/// gone, by its address and the index of its host end. `ended` is called with each connection that was removed. The ports at which the
/// connections that stay have met services are added to `ports`. Returns how many entries stay.
fn sweep<K: CtKey, V: CtEntry>(
    map: &TypedMap<K, V>,
    lifetimes: &Lifetimes,
    is_gone: &dyn Fn(IpAddr, u32) -> bool,
    ended: &mut Option<&mut dyn FnMut(&Connection)>,
    ports: &mut HashSet<u16>,
) -> Result<Left, DatapathError> {
    let now = now();
    let mut left = Left::default();
    let mut failure = None;
    map.each(|key, entry| {
        let lives = remaining(lifetimes, key.protocol(), entry.flags(), entry.seen(), now) >= 0;
        if lives
            && !ends(&key, &entry).into_iter().any(|(address, index)| index != 0 && is_gone(address, index))
        {
            left.entries += 1;
            left.waiting += u64::from(!is_kept(entry.flags()));
            if entry.service() != 0 && entry.flags() & CT_NAT_REVERSE == 0 {
                let (_, port) = key.sides()[1 - entry.opener()];
                ports.insert(port);
            }
        } else if let Err(error) = map.remove(&key) {
            failure = Some(error);
        } else if let Some(ended) = ended
            && let Some(connection) = connection(&key, &entry, lifetimes, now)
        {
            ended(&connection);
        }
        failure.is_none()
    })?;
    failure.map_or(Ok(left), Err)
}

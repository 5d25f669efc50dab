//! Hands out addresses and takes them back.

use std::{
    collections::{BTreeMap, btree_map},
    net::IpAddr,
    sync::Arc,
};

use ipamd_api::{
    AttachmentKey,
    wire::{self, Assigned},
};

use super::{AllocationError, Family, Pool, PoolUse, family::number, runs::Runs};
use crate::attachment::Attachment;

/// A pool and what is taken of it.
#[derive(Debug)]
struct Filled {
    pool: Pool,
    used: Runs,
    /// The address that was handed out last, by turn; the next one follows it.
    cursor: Option<u128>,
}

impl Filled {
    /// The address whose turn it is: the first free one behind the cursor, around the end.
    fn next(&self) -> Option<u128> {
        let (first, last) = self.pool.assignable();
        let from = self.cursor.filter(|cursor| *cursor < last).map_or(first, |cursor| cursor + 1);
        [from, first].into_iter().map(|from| self.used.first_gap(from)).find(|free| *free <= last)
    }

    fn assigned(&self, number: u128) -> Assigned {
        Assigned { address: self.pool.family().address(number), gateway: self.pool.gateway() }
    }
}

/// The addresses of all pools: who holds which, and whose turn it is.
///
/// Each pool goes round: a freed address rests until the cursor has passed all others. Of several pools of one
/// family the first that has an address left is taken.
#[derive(Debug)]
pub struct Allocator {
    pools: Vec<Filled>,
    /// Every address in use, also those that lie in no pool (any more).
    holders: BTreeMap<IpAddr, Arc<AttachmentKey>>,
}

impl Allocator {
    /// An allocator over `pools` (checked to be disjoint) in which the addresses of `attachments` are taken, and
    /// each pool goes on behind its cursor.
    pub fn new<'a>(
        pools: impl IntoIterator<Item = Pool>,
        attachments: impl IntoIterator<Item = &'a Attachment>,
        cursors: &BTreeMap<String, IpAddr>,
    ) -> Self {
        let filled = |pool: Pool| {
            // A pool of the same name may have had another prefix.
            let cursor =
                cursors.get(pool.name()).copied().filter(|cursor| pool.contains(*cursor)).map(number);
            let (first, last) = pool.assignable();
            Filled {
                pool,
                used: Runs::default(),
                cursor: cursor.filter(|cursor| (first..=last).contains(cursor)),
            }
        };
        let mut allocator = Self { pools: pools.into_iter().map(filled).collect(), holders: BTreeMap::new() };
        for attachment in attachments {
            let key = Arc::new(attachment.key.clone());
            for address in attachment.ips() {
                allocator.take(address, &key);
            }
        }
        allocator
    }

    /// Takes one address of each family that has pools, for `key`: the requested one where there is one of the
    /// family, else the one whose turn it is. All or nothing. IPv4 comes first.
    ///
    /// The cursors that have moved are in [`Self::cursors`].
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn reserve(
        &mut self,
        key: &AttachmentKey,
        requested: &[IpAddr],
    ) -> Result<Vec<Assigned>, AllocationError> {
        if self.pools.is_empty() {
            return Err(AllocationError::NoPools);
        }
        let mut wanted = BTreeMap::new();
        for address in requested {
            let family = Family::of(*address);
            if let Some(first) = wanted.insert(family, *address) {
                return Err(AllocationError::TwoOfOneFamily { first, second: *address, family });
            }
        }
        // Decide all before taking any.
        let mut taken = Vec::with_capacity(2);
        let mut turned = Vec::with_capacity(2);
        for family in Family::ALL {
            if let Some(address) = wanted.get(&family) {
                taken.push(self.requested(*address)?);
            } else if let Some((at, next)) = self.turn(family)? {
                taken.push(self.pools[at].assigned(next));
                turned.push((at, next));
            }
        }
        let key = Arc::new(key.clone());
        for assigned in &taken {
            self.take(assigned.address, &key);
        }
        for (at, next) in turned {
            self.pools[at].cursor = Some(next);
        }
        Ok(taken)
    }

    /// Gives an address back; `false` if nobody had it.
    pub fn release(&mut self, address: IpAddr) -> bool {
        if self.holders.remove(&address).is_none() {
            return false;
        }
        if let Some(at) = self.pool_of(address) {
            self.pools[at].used.remove(number(address));
        }
        true
    }

    /// Takes the addresses of an attachment that has them already; none of them may have a holder.
    pub fn adopt(&mut self, attachment: &Attachment) {
        let key = Arc::new(attachment.key.clone());
        for address in attachment.ips() {
            self.take(address, &key);
        }
    }

    /// Who has an address.
    pub fn holder(&self, address: IpAddr) -> Option<&AttachmentKey> {
        self.holders.get(&address).map(AsRef::as_ref)
    }

    /// The address that each pool handed out last, by the pool's name: what [`Self::new`] takes to go on from there.
    pub fn cursors(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.pools.iter().filter_map(|filled| {
            filled.cursor.map(|cursor| (filled.pool.name(), filled.pool.family().address(cursor)))
        })
    }

    /// The pools in their order, and how full each is.
    pub fn pools(&self) -> Vec<wire::Pool> {
        let saturated = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
        let shown = |Filled { pool, used, .. }: &Filled| wire::Pool {
            name: pool.name().to_owned(),
            cidr: pool.cidr().to_string(),
            gateway: pool.gateway(),
            capacity: saturated(pool.capacity()),
            used: saturated(used.count()),
        };
        self.pools.iter().map(shown).collect()
    }

    /// Why an attachment that asks for no address of its own would get none now: an error for each family that is full.
    pub fn refusals(&self) -> Vec<AllocationError> {
        if self.pools.is_empty() {
            return vec![AllocationError::NoPools];
        }
        Family::ALL.into_iter().filter_map(|family| self.turn(family).err()).collect()
    }

    fn pool_of(&self, address: IpAddr) -> Option<usize> {
        self.pools.iter().position(|filled| filled.pool.contains(address))
    }

    fn take(&mut self, address: IpAddr, key: &Arc<AttachmentKey>) {
        let btree_map::Entry::Vacant(free) = self.holders.entry(address) else { return };
        free.insert(Arc::clone(key));
        if let Some(at) = self.pool_of(address) {
            let filled = &mut self.pools[at];
            // Under an older configuration a container may have got what is reserved now; it is no part of the count.
            if filled.pool.reserved(address).is_none() {
                filled.used.insert(number(address));
            }
        }
    }

    /// The requested address, if it can be had.
    fn requested(&self, address: IpAddr) -> Result<Assigned, AllocationError> {
        let Some(at) = self.pool_of(address) else {
            let pools =
                self.pools.iter().map(|filled| filled.pool.to_string()).collect::<Vec<_>>().join(", ");
            return Err(AllocationError::NotInAnyPool { address, pools });
        };
        let filled = &self.pools[at];
        if let Some(reserved) = filled.pool.reserved(address) {
            return Err(AllocationError::Reserved { address, reserved, pool: filled.pool.to_string() });
        }
        match self.holder(address) {
            Some(holder) => Err(AllocationError::InUse { address, holder: holder.clone() }),
            None => Ok(filled.assigned(number(address))),
        }
    }

    /// The address of a family whose turn it is, and the pool it is in; `None` if the family has no pools.
    fn turn(&self, family: Family) -> Result<Option<(usize, u128)>, AllocationError> {
        let mut full = Vec::new();
        for (at, filled) in self.pools.iter().enumerate().filter(|(_, filled)| filled.pool.family() == family)
        {
            if let Some(next) = filled.next() {
                return Ok(Some((at, next)));
            }
            full.push(PoolUse {
                pool: filled.pool.to_string(),
                used: filled.used.count(),
                capacity: filled.pool.capacity(),
            });
        }
        if full.is_empty() { Ok(None) } else { Err(AllocationError::Exhausted { family, pools: full }) }
    }
}

#[cfg(test)]
mod tests;

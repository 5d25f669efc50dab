//! Hands out addresses and takes them back.

use std::{
    collections::{BTreeMap, btree_map},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipamd_api::{
    AttachmentKey,
    wire::{self, Assigned},
};

use super::{
    error::{AllocationError, PoolUse},
    family::{Family, number},
    pool::Pool,
    resting::Resting,
    runs::Runs,
};
use crate::attachment::Attachment;

/// A pool and what is taken of it.
#[derive(Debug)]
struct PoolState {
    pool: Pool,
    used: Runs,
    /// Those, and what was given back and still rests.
    busy: Runs,
    resting: Resting,
    /// The address that was handed out last, by turn; the next one follows it.
    cursor: Option<u128>,
}

impl PoolState {
    /// The address whose turn it is: the first behind the cursor, around the end, that is free and has rested.
    fn next(&self) -> Option<u128> {
        let (first, last) = self.pool.assignable();
        let from = self.cursor.filter(|cursor| *cursor < last).map_or(first, |cursor| cursor + 1);
        [from, first].into_iter().map(|from| self.busy.first_gap(from)).find(|free| *free <= last)
    }

    fn assigned(&self, number: u128) -> Assigned {
        Assigned { address: self.pool.family().address(number), gateway: self.pool.gateway() }
    }
}

/// The addresses of all pools: who holds which, and whose turn it is.
///
/// Each pool goes round: a freed address comes again when the cursor has passed all others, and not before it has rested for a
/// while. Of several pools of one family the first that has such an address left is taken; if none has, the address that has
/// rested longest.
#[derive(Debug)]
pub struct Allocator {
    pools: Vec<PoolState>,
    /// Every address in use, also those that lie in no pool (any more).
    holders: BTreeMap<IpAddr, Arc<AttachmentKey>>,
    /// How long an address rests before it is given to another, while there are others.
    rest: Duration,
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
            PoolState {
                pool,
                used: Runs::default(),
                busy: Runs::default(),
                resting: Resting::default(),
                cursor: cursor.filter(|cursor| (first..=last).contains(cursor)),
            }
        };
        let mut allocator = Self {
            pools: pools.into_iter().map(filled).collect(),
            holders: BTreeMap::new(),
            rest: Duration::ZERO,
        };
        for attachment in attachments {
            let key = Arc::new(attachment.key.clone());
            for address in attachment.ips() {
                allocator.take(address, &key);
            }
        }
        allocator
    }

    /// Has addresses rest for so long.
    pub fn set_rest(&mut self, rest: Duration) {
        self.rest = rest;
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
        self.reserve_at(Instant::now(), key, requested)
    }

    fn reserve_at(
        &mut self,
        now: Instant,
        key: &AttachmentKey,
        requested: &[IpAddr],
    ) -> Result<Vec<Assigned>, AllocationError> {
        for filled in &mut self.pools {
            for rested in filled.resting.take_rested(now, self.rest) {
                filled.busy.remove(rested);
            }
        }
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
        self.release_at(Instant::now(), address)
    }

    fn release_at(&mut self, now: Instant, address: IpAddr) -> bool {
        if self.holders.remove(&address).is_none() {
            return false;
        }
        if let Some(at) = self.pool_of(address) {
            let filled = &mut self.pools[at];
            if filled.used.remove(number(address)) {
                filled.resting.put(number(address), now);
            }
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
        let shown = |PoolState { pool, used, .. }: &PoolState| wire::Pool {
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
                filled.busy.insert(number(address));
                filled.resting.remove(number(address));
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
        let of_family = || self.pools.iter().enumerate().filter(|(_, filled)| filled.pool.family() == family);
        let next = of_family().find_map(|(at, filled)| Some((at, filled.next()?)));
        let rested_longest = || {
            let resting = of_family().filter_map(|(at, filled)| Some((filled.resting.longest()?, at)));
            resting.min().map(|((_, number), at)| (at, number))
        };
        if let Some(found) = next.or_else(rested_longest) {
            return Ok(Some(found));
        }
        let full = of_family().map(|(_, filled)| PoolUse {
            pool: filled.pool.to_string(),
            used: filled.used.count(),
            capacity: filled.pool.capacity(),
        });
        let pools = full.collect::<Vec<_>>();
        if pools.is_empty() { Ok(None) } else { Err(AllocationError::Exhausted { family, pools }) }
    }
}

#[cfg(test)]
mod tests;

//! Allowances: how much of the tables each namespace uses. What does not fit is known before it is written, and is
//! refused. A namespace never gets a whole table, so nobody who may create services can keep others from theirs.

use std::{collections::HashMap, fmt, sync::Arc};

use super::tables::{Family, Limits};

/// A resource of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    /// Addresses and ports at which services are reached, and the addresses themselves.
    Frontends,
    /// Endpoints of ports.
    Members,
    /// Source ranges.
    Ranges,
    /// Sets of backends.
    Sets,
    /// Slots of backends in sets.
    Backends,
    /// Slots of Maglev tables.
    Lookups,
}

impl Resource {
    const COUNT: usize = 6;
    /// The resources that are counted here. For the others, [`super::backend_sets::TableSpace`] knows what is free.
    const COUNTED: [Self; 3] = [Self::Frontends, Self::Members, Self::Ranges];

    fn name(self) -> &'static str {
        match self {
            Self::Frontends => "addresses and ports at which services are reached",
            Self::Members => "endpoints of ports",
            Self::Ranges => "source ranges",
            Self::Sets => "sets of backends",
            Self::Backends => "places of backends",
            Self::Lookups => "places of look-up tables",
        }
    }

    fn limit(self, limits: &Limits) -> u32 {
        match self {
            Self::Frontends => limits.frontends,
            Self::Members => limits.members,
            Self::Ranges => limits.source_ranges,
            Self::Sets => limits.sets,
            Self::Backends => limits.backends,
            Self::Lookups => limits.lookups,
        }
    }

    /// The families share sets and Maglev tables, so these are counted once.
    fn family(self, family: Family) -> usize {
        match self {
            Self::Sets | Self::Lookups => 0,
            _ => family as usize,
        }
    }
}

/// A resource is exhausted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exceeded {
    what: Resource,
    wanted: usize,
    used: u32,
    limit: u32,
    /// The namespace whose limit it is; `None` for the whole table's.
    namespace: Option<Arc<str>>,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, wanted, used, limit, namespace } = self;
        let what = what.name();
        match namespace {
            Some(namespace) => {
                write!(
                    f,
                    "it needs {wanted} more {what}; the namespace {namespace} has {used}, and may have {limit}"
                )
            }
            None => {
                write!(f, "it needs {wanted} more {what}; {used} are in use, and there is room for {limit}")
            }
        }
    }
}

type Used = [[u32; Resource::COUNT]; 2];

/// The use of each resource: in all, and by each namespace.
#[derive(Debug)]
pub(super) struct Allowance {
    limits: Limits,
    all: Used,
    of: HashMap<Arc<str>, Used>,
}

/// Smaller tables occur in tests only, and are not divided.
const LEAST_DIVIDED: u32 = 1_024;

impl Allowance {
    /// Nothing is in use yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, all: Used::default(), of: HashMap::new() }
    }

    /// The most that a namespace may have. The last quarter of each table is for others.
    pub fn share(&self, what: Resource) -> u32 {
        let limit = what.limit(&self.limits);
        if limit < LEAST_DIVIDED { limit } else { limit - limit / 4 }
    }

    /// How much a namespace may still take (`None` for the node itself), and the limit that ends it.
    pub fn left(&self, namespace: Option<&Arc<str>>, family: Family, what: Resource) -> (u32, Exceeded) {
        let at = |used: &Used| used[what.family(family)][what as usize];
        let exceeded = |used, limit, namespace| Exceeded { what, wanted: 0, used, limit, namespace };
        let limit = what.limit(&self.limits);
        let of_all = if Resource::COUNTED.contains(&what) { at(&self.all) } else { 0 };
        let all = (limit.saturating_sub(of_all), exceeded(of_all, limit, None));
        let Some(namespace) = namespace else { return all };
        let (used, share) = (self.of.get(namespace).map_or(0, at), self.share(what));
        let own = (share.saturating_sub(used), exceeded(used, share, Some(Arc::clone(namespace))));
        if own.0 < all.0 { own } else { all }
    }

    /// Checks that a namespace may take this much more.
    pub fn ask(
        &self,
        namespace: Option<&Arc<str>>,
        family: Family,
        what: Resource,
        wanted: usize,
    ) -> Result<(), Exceeded> {
        let (left, exceeded) = self.left(namespace, family, what);
        if wanted <= left as usize { Ok(()) } else { Err(Exceeded { wanted, ..exceeded }) }
    }

    /// Adds to the use, without a check.
    pub fn take(&mut self, namespace: Option<&Arc<str>>, family: Family, what: Resource, count: usize) {
        self.change(namespace, family, what, count, u32::saturating_add);
    }

    /// Moves use from a namespace's account to nobody's: it is given up, but still in the tables.
    pub fn give_own(&mut self, namespace: Option<&Arc<str>>, family: Family, what: Resource, count: usize) {
        if namespace.is_some() {
            self.take(None, family, what, count);
            self.give(namespace, family, what, count);
        }
    }

    /// Subtracts from the use.
    pub fn give(&mut self, namespace: Option<&Arc<str>>, family: Family, what: Resource, count: usize) {
        self.change(namespace, family, what, count, u32::saturating_sub);
    }

    fn change(
        &mut self,
        namespace: Option<&Arc<str>>,
        family: Family,
        what: Resource,
        count: usize,
        change: impl Fn(u32, u32) -> u32,
    ) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count == 0 {
            return;
        }
        let at = (what.family(family), what as usize);
        self.all[at.0][at.1] = change(self.all[at.0][at.1], count);
        let Some(namespace) = namespace else { return };
        let of = self.of.entry(Arc::clone(namespace)).or_default();
        of[at.0][at.1] = change(of[at.0][at.1], count);
        if *of == Used::default() {
            self.of.remove(namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        sets: 4_000,
        backends: 4_000,
        lookups: 4_000,
        frontends: 4_000,
        members: 4_000,
        source_ranges: 100,
    };

    #[test]
    fn a_namespace_gets_three_quarters_and_hears_by_how_much_it_asks_for_more() {
        let mut allowance = Allowance::new(LIMITS);
        let (greedy, other): (Arc<str>, Arc<str>) = ("greedy".into(), "other".into());
        allowance.take(Some(&greedy), Family::V4, Resource::Members, 3_000);
        let why = allowance.ask(Some(&greedy), Family::V4, Resource::Members, 7).unwrap_err();
        assert_eq!(
            why.to_string(),
            "it needs 7 more endpoints of ports; the namespace greedy has 3000, and may have 3000"
        );
        assert_eq!(allowance.ask(Some(&greedy), Family::V6, Resource::Members, 3_000), Ok(()));
        assert_eq!(allowance.ask(Some(&other), Family::V4, Resource::Members, 1_000), Ok(()));
        let why = allowance.ask(Some(&other), Family::V4, Resource::Members, 1_001).unwrap_err();
        assert_eq!(
            why.to_string(),
            "it needs 1001 more endpoints of ports; 3000 are in use, and there is room for 4000"
        );
        allowance.give(Some(&greedy), Family::V4, Resource::Members, 3_000);
        assert_eq!((allowance.of.len(), allowance.all), (0, Used::default()), "nothing is left of it");
    }

    #[test]
    fn families_share_sets_and_small_tables_are_not_divided() {
        let mut allowance = Allowance::new(LIMITS);
        let one: Arc<str> = "one".into();
        allowance.take(Some(&one), Family::V4, Resource::Sets, 2_000);
        assert_eq!(allowance.ask(Some(&one), Family::V6, Resource::Sets, 1_000), Ok(()));
        assert!(allowance.ask(Some(&one), Family::V6, Resource::Sets, 1_001).is_err());
        assert_eq!(allowance.ask(Some(&one), Family::V4, Resource::Ranges, 100), Ok(()));
    }
}

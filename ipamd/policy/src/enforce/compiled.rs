//! A compiled policy map: its rules, its entries, and its extension to classes that are added later.
//!
//! A map whose egress rules mean DNS names also has lists of these, see [`DomainList`].

use std::{
    cell::OnceCell,
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::write_error::{Overflow, fits};
use crate::compile::{
    classes::Classes,
    decide::Allowing,
    function::{Function, Numbers, domain_entry},
    rules::{AtomId, EndpointRules, RuleIndex, SharedRules},
};
use crate::tables::{ClassId, DomainList, EntryKey, EntryOf, EntryValue, PolicyMap};
use ipamd_model::{domain::DomainId, policy::Direction};
use ipamd_runtime::supervisor;

/// Entries of a policy map.
pub type Entries = Vec<(EntryKey, EntryValue)>;

/// One direction of a map.
#[derive(Debug)]
struct Half {
    direction: Direction,
    /// The predicates that its rules depend on, ordered.
    mentions: Vec<AtomId>,
    /// What is said of classes, by those of their predicates that are mentioned.
    memo: HashMap<Box<[AtomId]>, Arc<Function>>,
    /// Each of these once.
    said: HashSet<Arc<Function>>,
    /// What is said of every class that is not listed.
    any: Arc<Function>,
}

/// A policy map in force, or about to be.
#[derive(Debug)]
pub struct Compiled {
    /// What it was made of.
    pub rules: SharedRules,
    /// Where it is.
    pub map: Option<PolicyMap>,
    /// How many endpoints have it.
    pub users: usize,
    /// How many entries it has.
    pub entries: usize,
    /// The patterns of DNS names that it has entries of.
    pub domains: Box<[DomainId]>,
    halves: [Half; 2],
    numbers: Numbers,
    /// Classes below this number have been considered.
    considered: usize,
}

/// What is to be added to a map for new classes.
#[derive(Debug)]
pub struct Extension {
    /// The entries.
    pub entries: Entries,
    numbers: Numbers,
    considered: usize,
}

impl Half {
    /// `index` is made when it is needed: most classes that come are told what others are told already, by each of a hundred maps.
    fn function(
        &mut self,
        rules: &EndpointRules,
        index: &OnceCell<RuleIndex>,
        atoms: &[AtomId],
        most: u32,
    ) -> Result<Arc<Function>, Overflow> {
        let mentioned = atoms.iter().copied().filter(|atom| self.mentions.binary_search(atom).is_ok());
        let mentioned = mentioned.collect::<Box<[AtomId]>>();
        if let Some(known) = self.memo.get(&mentioned) {
            return Ok(Arc::clone(known));
        }
        supervisor::beat();
        let rules = rules.of(self.direction);
        let index = index.get_or_init(|| RuleIndex::new(rules));
        let function = Function::of(&rules.about_by(index, &mentioned), most as usize)
            .map_err(|needed| Overflow::of_entries(needed, most))?;
        // Many classes are told the same.
        let same = self.said.get(&function).cloned();
        let function = same.unwrap_or_else(|| Arc::new(function));
        self.said.insert(Arc::clone(&function));
        self.memo.insert(mentioned, Arc::clone(&function));
        Ok(function)
    }

    fn of_class(&self, class: ClassId) -> EntryOf {
        EntryOf::Class(self.direction, class)
    }
}

impl Compiled {
    /// Makes the map of an endpoint's rules, and its entries.
    ///
    /// # Errors
    /// It needs more than `most` entries. What is beyond them is not worked out.
    pub fn new(rules: SharedRules, classes: &Classes, most: u32) -> Result<(Self, Entries), Overflow> {
        let mut numbers = Numbers::default();
        let domains = rules.egress.domains();
        let mut entries: Entries = domains
            .iter()
            .map(|(domain, rule)| domain_entry(DomainList::ALL, *domain, Allowing { rule: *rule, log: None }))
            .collect();
        let mut half = |direction| -> Result<Half, Overflow> {
            let mentions = rules.of(direction).mentions().collect::<BTreeSet<_>>();
            let any = Function::of(&rules.of(direction).about(&[]), most as usize);
            let any = Arc::new(any.map_err(|needed| Overflow::of_entries(needed, most))?);
            let mut half = Half {
                direction,
                mentions: mentions.into_iter().collect(),
                memo: HashMap::from([(Box::default(), Arc::clone(&any))]),
                said: HashSet::from([Arc::clone(&any)]),
                any,
            };
            half.fill(&rules, classes, &mut numbers, &mut entries, most)?;
            Ok(half)
        };
        let [ingress, egress] = Direction::BOTH;
        let halves = [half(ingress)?, half(egress)?];
        let considered = classes.count();
        let count = entries.len();
        within(count, &numbers, most)?;
        let domains = domains.into_keys().collect();
        Ok((
            Self { rules, map: None, users: 0, entries: count, domains, halves, numbers, considered },
            entries,
        ))
    }

    /// The entries for classes that have come since.
    ///
    /// # Errors
    /// With them it needs more than `most`.
    pub fn extension(&mut self, classes: &Classes, most: u32) -> Result<Option<Extension>, Overflow> {
        let considered = classes.count();
        if considered == self.considered {
            return Ok(None);
        }
        let indices = Direction::BOTH.map(|_| OnceCell::new());
        let mut numbers = self.numbers.clone();
        let mut entries = Vec::new();
        for number in self.considered..considered {
            let class = ClassId(u32::try_from(number).unwrap_or(u32::MAX));
            for (half, index) in self.halves.iter_mut().zip(&indices) {
                let function = half.function(&self.rules, index, &classes.set(class), most)?;
                if function != half.any {
                    entries.extend(function.entries(half.of_class(class), &mut numbers));
                }
            }
            within(self.entries + entries.len(), &numbers, most)?;
        }
        Ok(Some(Extension { entries, numbers, considered }))
    }

    /// Takes note that an extension was written.
    pub fn extended(&mut self, extension: Extension) {
        self.entries += extension.entries.len();
        self.numbers = extension.numbers;
        self.considered = extension.considered;
    }
}

/// So many are no more than there may be.
fn within(entries: usize, numbers: &Numbers, most: u32) -> Result<(), Overflow> {
    fits("lists of DNS names in one policy map", numbers.lists(), DomainList::LAST.0.into())?;
    if entries <= most as usize { Ok(()) } else { Err(Overflow::of_entries(entries, most)) }
}

impl Half {
    fn fill(
        &mut self,
        rules: &EndpointRules,
        classes: &Classes,
        numbers: &mut Numbers,
        entries: &mut Entries,
        most: u32,
    ) -> Result<(), Overflow> {
        let index = OnceCell::new();
        let concerned = self.mentions.iter().flat_map(|atom| classes.having(*atom)).copied();
        let concerned = concerned.collect::<BTreeSet<_>>();
        let mut said = Vec::with_capacity(concerned.len());
        // How many entries all of them take, and those that are told the same: of these, one set at most need not be there.
        let (mut all, mut alike, mut largest) = (0, HashMap::new(), 0);
        for class in &concerned {
            let function = self.function(rules, &index, &classes.set(*class), most)?;
            all += function.len();
            let of_it: &mut usize = alike.entry(Arc::as_ptr(&function)).or_default();
            *of_it += function.len();
            largest = largest.max(*of_it);
            said.push((*class, function));
            within(entries.len() + all - largest, numbers, most)?;
        }
        let unconcerned = Arc::clone(&self.any);

        // What most classes are told needs to be there once.
        let mut votes: HashMap<*const Function, (usize, Arc<Function>)> = HashMap::new();
        let mut vote = |function: &Arc<Function>, count: usize| {
            votes.entry(Arc::as_ptr(function)).or_insert_with(|| (0, Arc::clone(function))).0 += count;
        };
        for (_, function) in &said {
            vote(function, 1);
        }
        vote(&unconcerned, classes.count() - concerned.len());
        let commonest =
            votes.values().max_by_key(|(count, function)| (*count, Arc::ptr_eq(function, &unconcerned)));
        if let Some((_, commonest)) = commonest {
            self.any = Arc::clone(commonest);
        }

        entries.extend(self.any.entries(self.of_class(ClassId::ANY), numbers));
        for (class, function) in &said {
            if *function != self.any {
                entries.extend(function.entries(self.of_class(*class), numbers));
                within(entries.len(), numbers, most)?;
            }
        }
        if unconcerned != self.any {
            let all = (0..classes.count()).map(|number| ClassId(u32::try_from(number).unwrap_or(u32::MAX)));
            for class in all.filter(|class| !concerned.contains(class)) {
                entries.extend(unconcerned.entries(self.of_class(class), numbers));
                within(entries.len(), numbers, most)?;
            }
        }
        within(entries.len(), numbers, most)
    }
}

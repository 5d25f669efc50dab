//! One policy map: what it is made of, and what it says of classes that come later.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::tables::{ClassId, EntryKey, EntryOf, EntryValue, PolicyMap};
use crate::{
    policy::{
        compile::{
            classes::Classes,
            function::{Branches, Function},
            rules::{AtomId, EndpointRules},
        },
        model::Direction,
    },
    supervisor,
};

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
    pub rules: Arc<EndpointRules>,
    /// Where it is.
    pub map: Option<PolicyMap>,
    /// How many endpoints have it.
    pub users: usize,
    /// How many entries it has.
    pub entries: usize,
    halves: [Half; 2],
    branches: Branches,
    /// Classes below this number have been considered.
    considered: usize,
}

/// What is to be added to a map for new classes.
#[derive(Debug)]
pub struct Extension {
    /// The entries.
    pub entries: Entries,
    branches: Branches,
    considered: usize,
}

impl Half {
    fn function(&mut self, rules: &EndpointRules, atoms: &[AtomId]) -> Arc<Function> {
        let mentioned = atoms.iter().copied().filter(|atom| self.mentions.binary_search(atom).is_ok());
        let mentioned = mentioned.collect::<Box<[AtomId]>>();
        if let Some(known) = self.memo.get(&mentioned) {
            return Arc::clone(known);
        }
        supervisor::beat();
        let function = Function::of(&rules.of(self.direction).about(&mentioned));
        // Many classes are told the same.
        let same = self.said.get(&function).cloned();
        let function = same.unwrap_or_else(|| Arc::new(function));
        self.said.insert(Arc::clone(&function));
        self.memo.insert(mentioned, Arc::clone(&function));
        function
    }

    fn of_class(&self, class: ClassId) -> EntryOf {
        EntryOf::Class(self.direction, class)
    }
}

impl Compiled {
    /// Makes the map of an endpoint's rules, and its entries.
    pub fn new(rules: Arc<EndpointRules>, classes: &Classes) -> (Self, Entries) {
        let mut branches = Branches::default();
        let mut entries = Vec::new();
        let halves = Direction::BOTH.map(|direction| {
            let mentions = rules.of(direction).mentions().collect::<BTreeSet<_>>();
            let any = Arc::new(Function::of(&rules.of(direction).about(&[])));
            let mut half = Half {
                direction,
                mentions: mentions.into_iter().collect(),
                memo: HashMap::from([(Box::default(), Arc::clone(&any))]),
                said: HashSet::from([Arc::clone(&any)]),
                any,
            };
            half.fill(&rules, classes, &mut branches, &mut entries);
            half
        });
        let considered = classes.count();
        let count = entries.len();
        (Self { rules, map: None, users: 0, entries: count, halves, branches, considered }, entries)
    }

    /// The entries for classes that have come since.
    pub fn extension(&mut self, classes: &Classes) -> Option<Extension> {
        let considered = classes.count();
        if considered == self.considered {
            return None;
        }
        let mut branches = self.branches.clone();
        let mut entries = Vec::new();
        for number in self.considered..considered {
            let class = ClassId(u32::try_from(number).unwrap_or(u32::MAX));
            for half in &mut self.halves {
                let function = half.function(&self.rules, &classes.set(class));
                if function != half.any {
                    entries.extend(function.entries(half.of_class(class), &mut branches));
                }
            }
        }
        Some(Extension { entries, branches, considered })
    }

    /// Takes note that an extension was written.
    pub fn extended(&mut self, extension: Extension) {
        self.entries += extension.entries.len();
        self.branches = extension.branches;
        self.considered = extension.considered;
    }
}

impl Half {
    fn fill(
        &mut self,
        rules: &EndpointRules,
        classes: &Classes,
        branches: &mut Branches,
        entries: &mut Entries,
    ) {
        let concerned = self.mentions.iter().flat_map(|atom| classes.having(*atom)).copied();
        let concerned = concerned.collect::<BTreeSet<_>>();
        let said = concerned.iter().map(|class| (*class, self.function(rules, &classes.set(*class))));
        let said = said.collect::<Vec<_>>();
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
        let most =
            votes.values().max_by_key(|(count, function)| (*count, Arc::ptr_eq(function, &unconcerned)));
        if let Some((_, most)) = most {
            self.any = Arc::clone(most);
        }

        entries.extend(self.any.entries(self.of_class(ClassId::ANY), branches));
        for (class, function) in &said {
            if *function != self.any {
                entries.extend(function.entries(self.of_class(*class), branches));
            }
        }
        if unconcerned != self.any {
            let all = (0..classes.count()).map(|number| ClassId(u32::try_from(number).unwrap_or(u32::MAX)));
            for class in all.filter(|class| !concerned.contains(class)) {
                entries.extend(unconcerned.entries(self.of_class(class), branches));
            }
        }
    }
}

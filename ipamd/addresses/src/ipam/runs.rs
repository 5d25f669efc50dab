//! A set of numbers kept as runs, so that the first gap after any point is one look away however full the set is.

use std::collections::BTreeMap;

/// A set of numbers below `u128::MAX`, as maximal runs of neighbours: first number to last.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    runs: BTreeMap<u128, u128>,
    count: u128,
}

impl Runs {
    /// How many numbers are in the set.
    pub(super) fn count(&self) -> u128 {
        self.count
    }

    /// The run that `number` is part of.
    fn run_of(&self, number: u128) -> Option<(u128, u128)> {
        self.runs
            .range(..=number)
            .next_back()
            .map(|(first, last)| (*first, *last))
            .filter(|(_, last)| *last >= number)
    }

    /// Puts `number` in; false if it was in already.
    pub(super) fn insert(&mut self, number: u128) -> bool {
        if self.run_of(number).is_some() {
            return false;
        }
        let below = number.checked_sub(1).and_then(|neighbour| self.run_of(neighbour));
        let above = self.runs.remove(&(number + 1));
        let first = below.map_or(number, |(first, _)| first);
        self.runs.insert(first, above.unwrap_or(number));
        self.count += 1;
        true
    }

    /// Takes `number` out; false if it was not in.
    pub(super) fn remove(&mut self, number: u128) -> bool {
        let Some((first, last)) = self.run_of(number) else { return false };
        if first == number {
            self.runs.remove(&first);
        } else {
            self.runs.insert(first, number - 1);
        }
        if last > number {
            self.runs.insert(number + 1, last);
        }
        self.count -= 1;
        true
    }

    /// The first number from `from` on that is not in the set.
    pub(super) fn first_gap(&self, from: u128) -> u128 {
        // Runs are maximal, so what follows one is a gap.
        self.run_of(from).map_or(from, |(_, last)| last + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn runs_are_a_set(steps in prop::collection::vec((any::<bool>(), 0u128..40), 0..300)) {
            let mut runs = Runs::default();
            let mut model = BTreeSet::new();
            for (put, number) in steps {
                if put {
                    prop_assert_eq!(runs.insert(number), model.insert(number));
                } else {
                    prop_assert_eq!(runs.remove(number), model.remove(&number));
                }
                prop_assert_eq!(runs.count(), model.len() as u128);
                for from in 0..41 {
                    prop_assert_eq!(runs.first_gap(from), (from..=41).find(|n| !model.contains(n)).unwrap());
                }
                let edges: Vec<_> = runs.runs.iter().flat_map(|(first, last)| [*first, *last]).collect();
                prop_assert!(edges.windows(2).skip(1).step_by(2).all(|pair| pair[0] + 1 < pair[1]), "not maximal: {:?}", edges);
            }
        }
    }

    #[test]
    fn a_full_set_is_one_run() {
        let mut runs = Runs::default();
        for number in (0..1000).rev() {
            runs.insert(number);
        }
        assert_eq!(runs.runs.len(), 1);
        assert_eq!(runs.first_gap(0), 1000);
    }
}

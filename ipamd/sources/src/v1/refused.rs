//! What is left out of an object, for whoever asks why.

use std::{fmt::Display, sync::Arc};

use crate::place::Place;

/// Of so much is told; that there is more shows that there is something wrong.
const TOLD: usize = 16;

/// What was left out, a sentence each.
#[derive(Debug, Default)]
pub(super) struct Refused(Vec<Arc<str>>);

impl Refused {
    /// Takes note of a value and what is wrong with it.
    pub fn add(&mut self, place: &Place<'_>, value: impl Display, fault: &str) {
        if self.0.len() < TOLD {
            self.0.push(format!("{}: {value} {fault}; it is left out", place.path()).into());
        }
    }
}

impl From<Refused> for Box<[Arc<str>]> {
    fn from(refused: Refused) -> Self {
        refused.0.into()
    }
}

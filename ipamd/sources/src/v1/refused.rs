//! The parts of an object that were left out, for `status` and `list`.

use std::{fmt::Display, sync::Arc};

use crate::field::Field;

/// Of so much is told; that there is more shows that there is something wrong.
const TOLD: usize = 16;

/// What was left out, a sentence each.
#[derive(Debug, Default)]
pub(super) struct Refused(Vec<Arc<str>>);

impl Refused {
    /// Takes note of a value and what is wrong with it.
    pub fn add(&mut self, field: &Field<'_>, value: impl Display, fault: &str) {
        if self.0.len() < TOLD {
            self.0.push(format!("{}: {value} {fault}; it is left out", field.path()).into());
        }
    }
}

impl From<Refused> for Box<[Arc<str>]> {
    fn from(refused: Refused) -> Self {
        refused.0.into()
    }
}

//! The type of an object of the API: kind and apiVersion. An answer of another type than the requested one is refused.

use std::fmt;

use serde::Deserialize;

use super::failure::Failure;

/// The type of an object, in which one who reads it finds what they look for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Type {
    pub kind: String,
    pub api_version: String,
}

impl Type {
    pub fn new(kind: &str, api_version: &str) -> Self {
        Self { kind: kind.into(), api_version: api_version.into() }
    }

    /// The type of a list of such objects.
    pub fn list(&self) -> Self {
        Self { kind: format!("{}List", self.kind), api_version: self.api_version.clone() }
    }

    /// An object that stands by itself must say that it is of this type.
    pub fn check(&self, found: &Self) -> Result<(), Failure> {
        if self == found {
            return Ok(());
        }
        Err(Failure::Garbage(format!("it tells {found}, where {self} is asked for")))
    }

    /// One in a list need not say it, for the list does; what it says must be true.
    pub fn check_item(&self, found: &Self) -> Result<(), Failure> {
        let agrees = |said: &str, wanted: &str| said.is_empty() || said == wanted;
        if agrees(&found.kind, &self.kind) && agrees(&found.api_version, &self.api_version) {
            return Ok(());
        }
        self.check(found)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 80;
        let shown = |text: &str| text.chars().take(MOST).collect::<String>();
        write!(f, "the kind {:?} of {:?}", shown(&self.kind), shown(&self.api_version))
    }
}

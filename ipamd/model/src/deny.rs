//! Deny sets: prefixes whose packets are dropped before all else.

use std::str::FromStr;

/// The label of a GlobalNetworkSet that is a deny set, if its value is [`TRUE`].
pub const LABEL: &str = "cambric.io/deny";
/// See [`LABEL`].
pub const TRUE: &str = "true";
/// As without the label.
pub const FALSE: &str = "false";

/// Where the program of the deny sets runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DenyMode {
    /// In the driver where it can, else behind it.
    #[default]
    Auto,
    /// In the driver only.
    Native,
    /// Behind the driver.
    Generic,
}

impl DenyMode {
    /// Its name in configuration and status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

impl FromStr for DenyMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = [Self::Auto, Self::Native, Self::Generic].into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| "deny modes are auto, native and generic".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_told_by_their_names() {
        for mode in [DenyMode::Auto, DenyMode::Native, DenyMode::Generic] {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        assert_eq!("off".parse::<DenyMode>(), Err("deny modes are auto, native and generic".to_owned()));
    }
}

//! How a command ended.

/// How a command ended that could be carried out, as its exit status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All is well, or nothing changes.
    Well,
    /// Something is not as it should be, or changes.
    Otherwise,
    /// What was asked could not be answered; why is printed.
    Unanswered,
}

impl Ending {
    pub(crate) fn of(well: bool) -> Self {
        if well { Self::Well } else { Self::Otherwise }
    }

    /// The exit status.
    pub fn status(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Otherwise => 1,
            Self::Unanswered => 2,
        }
    }
}

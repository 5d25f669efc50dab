//! Decides which attachments have been left behind. It looks at nothing itself and frees nothing.

use std::fmt;

/// How old an attachment must be, in seconds, before it can count as left behind: longer than any ADD takes between
/// its reservation and its commit.
pub const GRACE: u64 = 60;

/// Whether a container that has just lost its interface and its namespace is given time for its DEL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// The container is given time.
    Kept,
    /// The container is given none: somebody else waits for what it has. An ADD that may be under way keeps its time all the
    /// same.
    Waived,
}

/// What is found at the path of an attachment's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetnsSeen {
    /// The namespace that the attachment was made in.
    Same,
    /// Another one.
    Another,
    /// Nothing.
    Gone,
}

/// What was seen of one attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Whether its host end exists.
    pub host_link: bool,
    /// Whether the programs know it, which they do from its commit on.
    pub committed: bool,
    /// What is at its namespace's path.
    pub netns: NetnsSeen,
}

/// What becomes of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is in use.
    InUse,
    /// Its ADD may still be at work.
    UnderWay,
    /// Its interface is gone, but its container is not known to be: it is kept, and CHECK says so.
    Broken,
    /// It has been left behind and can be freed.
    Leaked(LeakReason),
}

/// Why an attachment counts as left behind; reads on from "its interface is gone and".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeakReason {
    /// The container's namespace is gone.
    NetnsGone,
    /// Its path leads to another namespace.
    NetnsReplaced,
    /// The ADD never came to its end.
    NeverCommitted,
}

impl fmt::Display for LeakReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetnsGone => "its network namespace is gone",
            Self::NetnsReplaced => "the path of its network namespace leads to another one",
            Self::NeverCommitted => "its ADD was never completed",
        })
    }
}

/// Judges an attachment that was asked for so many seconds ago.
pub fn judge(age: u64, seen: Observation, grace: Grace) -> Verdict {
    let fresh = age < GRACE;
    match (seen.host_link, seen.netns, seen.committed) {
        (_, _, false) if fresh => Verdict::UnderWay,
        (true, _, _) => Verdict::InUse,
        (false, _, true) if fresh && grace == Grace::Kept => Verdict::Broken,
        (false, NetnsSeen::Gone, _) => Verdict::Leaked(LeakReason::NetnsGone),
        (false, NetnsSeen::Another, _) => Verdict::Leaked(LeakReason::NetnsReplaced),
        (false, NetnsSeen::Same, false) => Verdict::Leaked(LeakReason::NeverCommitted),
        (false, NetnsSeen::Same, true) => Verdict::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LeakReason::{NetnsGone, NetnsReplaced, NeverCommitted};
    use NetnsSeen::{Another, Gone, Same};
    use Verdict::{Broken, InUse, Leaked, UnderWay};

    #[test]
    fn every_case_has_its_verdict() {
        // host link, committed, namespace: verdict when young, verdict when old
        let table = [
            (true, true, Same, InUse, InUse),
            (true, true, Another, InUse, InUse),
            (true, true, Gone, InUse, InUse),
            (true, false, Same, UnderWay, InUse),
            (true, false, Another, UnderWay, InUse),
            (true, false, Gone, UnderWay, InUse),
            (false, true, Same, Broken, Broken),
            (false, true, Another, Broken, Leaked(NetnsReplaced)),
            (false, true, Gone, Broken, Leaked(NetnsGone)),
            (false, false, Same, UnderWay, Leaked(NeverCommitted)),
            (false, false, Another, UnderWay, Leaked(NetnsReplaced)),
            (false, false, Gone, UnderWay, Leaked(NetnsGone)),
        ];
        for (host_link, committed, netns, young, old) in table {
            let seen = Observation { host_link, committed, netns };
            for (age, expected) in [(0, young), (GRACE - 1, young), (GRACE, old), (1_000 * GRACE, old)] {
                assert_eq!(judge(age, seen, Grace::Kept), expected, "{seen:?} at {age}");
            }
            // Who waits for its place finds a committed one as if it were old.
            let waived = if committed { old } else { young };
            assert_eq!(judge(0, seen, Grace::Waived), waived, "{seen:?}");
        }
    }

    #[test]
    fn what_has_an_interface_is_never_leaked() {
        for committed in [false, true] {
            for netns in [Same, Another, Gone] {
                let seen = Observation { host_link: true, committed, netns };
                assert!(!matches!(judge(u64::MAX, seen, Grace::Waived), Leaked(_)), "{seen:?}");
            }
        }
    }
}

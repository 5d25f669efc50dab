//! The names of netfilter's objects in a network namespace: chains of iptables in both variants and families, tables of
//! nftables, sets of ipset.
//!
//! It asks the kernel directly, so it needs no program and takes milliseconds. Subsystems that this kernel lacks count
//! as empty.

mod legacy;

use std::{fmt, io, path::Path};

use crate::netlink::netfilter::{INET, IPV4, IPV6, Netfilter};

/// Where the kernel keeps rules of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// In tables of its own.
    Legacy,
    /// In tables of nftables.
    Nft,
}

/// Rules that one pair of programs reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ruleset {
    /// Where they are.
    pub variant: Variant,
    /// IPv6 or IPv4.
    pub ipv6: bool,
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.ipv6 { "ip6tables" } else { "iptables" };
        let variant = match self.variant {
            Variant::Legacy => "legacy",
            Variant::Nft => "nft",
        };
        write!(f, "{family}-{variant}")
    }
}

/// A family of nftables' tables. Shown as `nft` calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
}

impl Family {
    /// In netfilter's words.
    pub fn number(self) -> u8 {
        match self {
            Self::Ip => IPV4,
            Self::Ip6 => IPV6,
            Self::Inet => INET,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        })
    }
}

/// Something that somebody has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// A chain in a table of iptables. Those that are built in may be among them.
    Chain {
        /// Whose programs read it.
        ruleset: Ruleset,
        /// The table.
        table: &'a str,
        /// The chain.
        chain: &'a str,
    },
    /// A table of nftables. Those of iptables-nft may be among them.
    Table {
        /// Its family.
        family: Family,
        /// Its name.
        table: &'a str,
    },
    /// A set of ipset.
    Set(&'a str),
}

/// Gives all of it to `each`, in the network namespace of the caller.
///
/// # Errors
/// What the kernel did not tell.
pub fn names(mut each: impl FnMut(Name<'_>)) -> io::Result<()> {
    for (ipv6, family) in [(false, legacy::IPV4), (true, legacy::IPV6)] {
        let ruleset = Ruleset { variant: Variant::Legacy, ipv6 };
        legacy::chains(family, |table, chain| each(Name::Chain { ruleset, table, chain }))?;
    }
    // A kernel without its netlink has none of what is reached by it.
    let Some(mut netfilter) = absent_is_fine(Netfilter::open().map(Some))? else { return Ok(()) };
    for (ipv6, family) in [(false, IPV4), (true, IPV6)] {
        let ruleset = Ruleset { variant: Variant::Nft, ipv6 };
        absent_is_fine(netfilter.chains(family, |table, chain| {
            if is_of_iptables(table) {
                each(Name::Chain { ruleset, table, chain });
            }
        }))?;
    }
    for family in [Family::Ip, Family::Ip6, Family::Inet] {
        absent_is_fine(netfilter.tables(family.number(), |table| each(Name::Table { family, table })))?;
    }
    // Asking for sets would load the module.
    if Path::new("/sys/module/ip_set").exists() {
        for set in absent_is_fine(netfilter.sets())? {
            each(Name::Set(&set));
        }
    }
    Ok(())
}

/// Whether iptables-nft keeps its rules in a table of this name; others of nftables may have chains of the same names.
fn is_of_iptables(table: &str) -> bool {
    matches!(table, "nat" | "filter" | "mangle" | "raw" | "security")
}

/// A kernel without the subsystem has nothing of it. It says so in one of these ways, by its version.
fn absent_is_fine<T: Default>(result: io::Result<T>) -> io::Result<T> {
    use nix::libc::{EINVAL, ENOENT, EOPNOTSUPP, EPROTONOSUPPORT};
    match result {
        Err(error)
            if matches!(error.raw_os_error(), Some(EINVAL | ENOENT | EOPNOTSUPP | EPROTONOSUPPORT)) =>
        {
            Ok(T::default())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use nix::libc;

    use super::*;

    #[test]
    fn looking_needs_no_program_and_does_not_fail() {
        // Without privileges the kernel refuses; nothing else may go wrong.
        if let Err(error) = names(|_| {}) {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        }
    }

    #[test]
    fn what_the_kernel_does_not_have_is_not_there_and_other_errors_stay() {
        let failed = |number| absent_is_fine(Err::<usize, _>(io::Error::from_raw_os_error(number)));
        assert_eq!(failed(libc::EPROTONOSUPPORT).unwrap(), 0);
        assert_eq!(failed(libc::EPERM).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}

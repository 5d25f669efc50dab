//! Chains of iptables-legacy, asked of the kernel by the socket options that `iptables-legacy-save` uses.
//!
//! A table is a row of entries. In front of the rules of a chain that somebody made stands one whose target is named
//! `ERROR` and has the chain's name. Offsets are those of 64-bit kernels.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`, which have the same numbers for IPv6.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// `struct ipt_getinfo`: the table's name, then numbers, of which the last is the size of all entries.
const INFO: usize = 84;
const INFO_SIZE: usize = 80;
/// The name and the size in front of the entries.
const ENTRIES: usize = 40;
const NAME: usize = 32;
/// `struct xt_entry_target`, and where its name is.
const TARGET: usize = 32;
const TARGET_NAME: usize = 2;
const TARGET_NAME_LENGTH: usize = 29;
/// How often a table that changes while it is read is begun anew.
const ATTEMPTS: usize = 5;

/// How a family's tables are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    address: AddressFamily,
    level: libc::c_int,
    tables: &'static str,
    /// Where in an entry it is said where its target and the next entry begin.
    target_offset: usize,
}

pub(super) const IPV4: Family = Family {
    address: AddressFamily::Inet,
    level: libc::IPPROTO_IP,
    tables: "/proc/thread-self/net/ip_tables_names",
    target_offset: 88,
};

pub(super) const IPV6: Family = Family {
    address: AddressFamily::Inet6,
    level: libc::IPPROTO_IPV6,
    tables: "/proc/thread-self/net/ip6_tables_names",
    target_offset: 140,
};

/// Gives the table's and the chain's name of each chain that somebody made to `each`. A table that nobody has used is
/// not asked for, for that would make it.
pub(super) fn chains(family: Family, mut each: impl FnMut(&str, &str)) -> io::Result<()> {
    let tables = match fs::read_to_string(family.tables) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        tables => tables?,
    };
    if tables.trim().is_empty() {
        return Ok(());
    }
    // Any socket of the family will do.
    let socket = socket(family.address, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    for table in tables.lines() {
        if let Some(entries) = entries(&socket, family, table)? {
            names(&entries, family, |chain| each(table, chain));
        }
    }
    Ok(())
}

/// The entries of a table; None if it is gone.
fn entries(socket: &OwnedFd, family: Family, table: &str) -> io::Result<Option<Vec<u8>>> {
    if table.len() >= NAME {
        return Ok(None);
    }
    for _ in 0..ATTEMPTS {
        let mut info = vec![0; INFO];
        info[..table.len()].copy_from_slice(table.as_bytes());
        match get(socket, family.level, GET_INFO, &mut info) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            got => got?,
        }
        let size: [u8; 4] = info[INFO_SIZE..].try_into().map_err(io::Error::other)?;
        let mut answer = vec![0; ENTRIES + u32::from_ne_bytes(size) as usize];
        answer[..table.len()].copy_from_slice(table.as_bytes());
        answer[NAME..NAME + 4].copy_from_slice(&size);
        match get(socket, family.level, GET_ENTRIES, &mut answer) {
            // Its size has changed.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINVAL)) => {}
            got => {
                got?;
                answer.drain(..ENTRIES);
                return Ok(Some(answer));
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("the table {table} changes all the time")))
}

fn get(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, bytes: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(bytes.len()).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length are those of `bytes`, which outlives the call; the kernel writes at most that
    // many bytes and keeps no reference.
    let got = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, bytes.as_mut_ptr().cast(), &raw mut length)
    };
    if got == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the names of the chains to `each`. Stops where the entries make no sense.
fn names(mut entries: &[u8], family: Family, mut each: impl FnMut(&str)) {
    let number = |entry: &[u8], at: usize| {
        Some(usize::from(u16::from_ne_bytes([*entry.get(at)?, *entry.get(at + 1)?])))
    };
    while let (Some(target), Some(next)) =
        (number(entries, family.target_offset), number(entries, family.target_offset + 2))
    {
        let Some(target) = entries.get(target..next) else { return };
        if next == 0 {
            return;
        }
        entries = &entries[next..];
        let kind = target.get(TARGET_NAME..TARGET_NAME + TARGET_NAME_LENGTH).map(terminated);
        // The last entry of all says ERROR itself.
        if let (Some(Some("ERROR")), Some(Some(chain))) = (kind, target.get(TARGET..).map(terminated))
            && !entries.is_empty()
        {
            each(chain);
        }
    }
}

fn terminated(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(family: Family, target: &str, name: &str) -> Vec<u8> {
        let (begin, length) = (family.target_offset + 24, TARGET + 32);
        let mut entry = vec![0; begin + length];
        let number = |number: usize| u16::try_from(number).unwrap().to_ne_bytes();
        entry[family.target_offset..][..2].copy_from_slice(&number(begin));
        entry[family.target_offset + 2..][..2].copy_from_slice(&number(begin + length));
        entry[begin + TARGET_NAME..][..target.len()].copy_from_slice(target.as_bytes());
        entry[begin + TARGET..][..name.len()].copy_from_slice(name.as_bytes());
        entry
    }

    fn read(entries: &[u8], family: Family) -> Vec<String> {
        let mut found = Vec::new();
        names(entries, family, |chain| found.push(chain.to_owned()));
        found
    }

    #[test]
    fn chains_are_found_between_their_rules() {
        for family in [IPV4, IPV6] {
            let entries = [
                entry(family, "", "KUBE-SERVICES"),
                entry(family, "ERROR", "DOCKER"),
                entry(family, "DNAT", "KUBE-SERVICES"),
                entry(family, "ERROR", "KUBE-SERVICES"),
                entry(family, "", ""),
                entry(family, "ERROR", "ERROR"),
            ];
            assert_eq!(read(&entries.concat(), family), ["DOCKER", "KUBE-SERVICES"]);
        }
    }

    proptest! {
        #[test]
        fn no_entries_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), next in 0u16..400, target in 0u16..400) {
            let _ = read(&bytes, IPV4);
            if bytes.len() > 92 {
                bytes[88..90].copy_from_slice(&target.to_ne_bytes());
                bytes[90..92].copy_from_slice(&next.to_ne_bytes());
                let _ = read(&bytes, IPV4);
            }
        }
    }
}

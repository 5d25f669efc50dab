//! What identifies an attachment, and the names that follow from it.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::mac::MacAddr;

/// Every host-side interface of Cambric starts with this.
pub const HOST_IFNAME_PREFIX: &str = "cmb";

/// The most bytes that Linux takes for an interface's name, without the zero at its end.
pub const MAX_IFNAME: usize = 15;

/// The longest network name and container id that are recorded, in bytes.
pub const MAX_NAME: usize = 255;

/// One interface of one container in one network: what the CNI specification calls an attachment.
///
/// All three parts have been checked against the specification's character sets by whoever made the key; none
/// contains a `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// `name` of the network configuration.
    pub network: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`: the interface's name inside the container.
    pub ifname: String,
}

impl AttachmentKey {
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [&self.network, &self.container_id, &self.ifname] {
            hash.update(part.as_bytes());
            // No part contains a zero byte, so two different keys never feed the same bytes.
            hash.update([0]);
        }
        hash.finalize().into()
    }

    /// Why there can be no such attachment: the part that no ADD takes; `None` if there can.
    pub fn fault(&self) -> Option<String> {
        let parts = [
            ("network", &self.network, MAX_NAME),
            ("container id", &self.container_id, MAX_NAME),
            ("interface name", &self.ifname, MAX_IFNAME),
        ];
        let unfit = |c: char| c == '/' || c.is_whitespace() || c.is_control();
        let is_unfit =
            |value: &str, longest| value.is_empty() || value.len() > longest || value.contains(unfit);
        parts.into_iter().find(|(_, value, longest)| is_unfit(value, *longest)).map(|(what, value, longest)| {
            format!("the {what} {value:?} must have 1 to {longest} bytes, without '/', spaces and control characters")
        })
    }

    /// The name of the interface's end on the host: `cmb` and 60 bits of the key's hash, 15 characters, which is
    /// the longest that Linux takes. It follows from the key alone, so that DEL finds it without the daemon.
    pub fn host_ifname(&self) -> String {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let digest = self.digest();
        let bits = digest[..8].iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        let suffix = (0..12).map(|i| char::from(ALPHABET[(bits >> (5 * i) & 31) as usize]));
        HOST_IFNAME_PREFIX.chars().chain(suffix).collect()
    }

    /// The number of the routing table, in the container's namespace, by which what has the attachment's addresses leaves
    /// where the interface is not the container's first: above the kernel's own and those that people write down.
    pub fn route_table(&self) -> u32 {
        let digest = self.digest();
        u32::from_be_bytes([0xca, digest[20], digest[21], digest[22]])
    }

    /// The Ethernet addresses of the two ends, (host, container): locally administered, unicast, and the same
    /// each time for the same key.
    pub fn macs(&self) -> (MacAddr, MacAddr) {
        let digest = self.digest();
        let mac = |at: usize| {
            MacAddr([
                digest[at] & 0xfe | 2,
                digest[at + 1],
                digest[at + 2],
                digest[at + 3],
                digest[at + 4],
                digest[at + 5],
            ])
        };
        (mac(8), mac(14))
    }
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container_id, self.ifname)
    }
}

/// Whether `name` can be the host end of an attachment: the prefix and 12 characters of base32.
pub fn is_host_ifname(name: &str) -> bool {
    name.strip_prefix(HOST_IFNAME_PREFIX)
        .is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(network: &str, container_id: &str, ifname: &str) -> AttachmentKey {
        AttachmentKey { network: network.into(), container_id: container_id.into(), ifname: ifname.into() }
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(key("ab", "c", "eth0").host_ifname(), key("a", "bc", "eth0").host_ifname());
    }

    #[test]
    fn a_part_that_no_add_takes_is_named() {
        assert_eq!(key("net", &"c".repeat(255), "eth0").fault(), None);
        for (unfit, part) in [
            (key(&"n".repeat(256), "c", "eth0"), "network"),
            (key("net", &"c".repeat(256), "eth0"), "container id"),
            (key("net", "../x", "eth0"), "container id"),
            (key("net", "c", "sixteen-letters-"), "interface name"),
            (key("", "c", "eth0"), "network"),
        ] {
            let fault = unfit.fault().unwrap();
            assert!(fault.starts_with(&format!("the {part} ")), "{fault}");
        }
    }

    #[test]
    fn names_are_stable_across_releases() {
        // A DEL may come from a newer plugin than the ADD did.
        assert_eq!(key("net", "container", "eth0").host_ifname(), "cmbrj6jmrja3ysc");
    }

    proptest! {
        #[test]
        fn host_names_fit_linux(network in "[a-z0-9.-]{1,20}", id in "[a-f0-9]{1,64}", ifname in "[a-z]{1,15}") {
            let name = key(&network, &id, &ifname).host_ifname();
            prop_assert_eq!(name.len(), 15);
            prop_assert!(is_host_ifname(&name));
            let (host, container) = key(&network, &id, &ifname).macs();
            prop_assert!(host.is_unicast() && container.is_unicast() && host != container);
        }
    }
}

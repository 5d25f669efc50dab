//! The records of attachments at one moment, to be compared with what the kernel has.

use std::collections::BTreeSet;

use ipamd_addresses::attachment::Attachment;
use ipamd_api::AttachmentKey;
use ipamd_model::endpoint::{EndpointEntry, Slot};

/// Where a committed endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Index of its host end.
    pub ifindex: u32,
    /// Its place in the policy tables.
    pub slot: Slot,
}

/// An endpoint that is committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// Its record.
    pub attachment: Attachment,
    /// Name of its host end.
    pub host_ifname: String,
    /// Where it is.
    pub at: Placed,
}

impl Committed {
    /// What the programs should know of its addresses.
    pub fn entry(&self, shaped: bool) -> EndpointEntry {
        entry(&self.attachment, self.at, shaped)
    }
}

/// An attachment that is not committed, whose packets are dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Uncommitted {
    /// Which.
    pub key: AttachmentKey,
    /// Name of its host end.
    pub host_ifname: String,
    /// Whether its ADD may still be under way.
    pub fresh: bool,
    /// Whether it is not known who it is.
    pub unknown: bool,
}

/// The records at one moment.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// The committed endpoints.
    pub committed: Vec<Committed>,
    /// The endpoints that are not committed.
    pub uncommitted: Vec<Uncommitted>,
    /// Names of all host ends that belong to a record, committed or not.
    pub host_ifnames: BTreeSet<String>,
    /// Indexes of host ends that are being removed.
    pub leaving: BTreeSet<u32>,
    /// Whether records of running containers may be missing.
    pub has_lost: bool,
}

/// What the programs are told of an attachment that is there.
pub fn entry(attachment: &Attachment, at: Placed, shaped: bool) -> EndpointEntry {
    EndpointEntry {
        ifindex: at.ifindex,
        container_mac: attachment.container_mac,
        host_mac: attachment.host_mac,
        mtu: u16::try_from(attachment.mtu).unwrap_or(u16::MAX),
        shaped,
        chained: attachment.chained,
        slot: at.slot,
    }
}

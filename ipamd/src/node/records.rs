//! What the daemon holds of the attachments.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipamd_addresses::{attachment::Attachment, ipam::Allocator};
use ipamd_api::AttachmentKey;
use ipamd_plan::records::Placed;
use ipamd_policy::enforce::LocalEndpoint;
use ipamd_runtime::monotonic::Moment;
use ipamd_store::Ticket;

/// One attachment as the daemon holds it.
#[derive(Debug)]
pub(super) struct Record {
    pub attachment: Attachment,
    /// Resolves when the record is durable; the commit that waits for it takes it.
    pub stored: Option<Ticket>,
    /// Where it is, from the commit on.
    pub committed: Option<Placed>,
    /// When it was last asked for, on the monotonic clock: if somebody sets the wall clock, an ADD under way must not
    /// look old.
    pub touched: Moment,
}

/// The records and the addresses, behind their lock.
#[derive(Debug)]
pub(super) struct State {
    pub allocator: Allocator,
    pub records: BTreeMap<AttachmentKey, Record>,
    /// The cursors as they were last stored.
    pub cursors: BTreeMap<String, IpAddr>,
    /// Host ends that are being removed.
    pub leaving: BTreeSet<u32>,
}

/// The attachment as policy needs it.
pub(super) fn local_endpoint(attachment: &Attachment) -> LocalEndpoint {
    LocalEndpoint {
        host: None,
        key: attachment.key.clone(),
        pod: attachment.pod.clone(),
        labels: attachment.labels.clone(),
        addresses: attachment.ips().collect(),
    }
}

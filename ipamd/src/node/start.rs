//! The start of the node: it resumes from what the daemon before has left.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Instant,
};

use ipamd_api::ApiError;

use super::{
    internal_error::internal,
    kernel::Kernel,
    records::{Record, State},
    resume,
    this_node::Node,
    wall_clock::now,
};
use ipamd_addresses::{
    attachment::Attachment,
    ipam::{Allocator, Pool},
};
use ipamd_model::endpoint::FALLBACK_MTU;
use ipamd_plan::records::Placed;
use ipamd_policy::enforce::Enforcer;
use ipamd_runtime::monotonic::Moment;
use ipamd_services::Balancer;
use ipamd_store::{Loaded, Store, endpoint_files::EndpointFiles};

/// How attachments of this node get their interfaces and addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachmentMode {
    /// Cambric makes the interface and assigns addresses from these pools.
    Own(Vec<Pool>),
    /// A plugin before Cambric in the chain does both.
    Chained,
}

impl Node {
    /// Resumes from the store, the programs' maps and the endpoints' files. What one of them has lost is restored from
    /// the others.
    pub fn new(
        name: String,
        mode: AttachmentMode,
        (store, mut loaded): (Store, Loaded),
        files: EndpointFiles,
        kernel: Box<dyn Kernel>,
        policy: Arc<Enforcer>,
        services: Arc<Balancer>,
    ) -> Result<Self, ApiError> {
        let entries = kernel.endpoints().map_err(internal)?;
        let found = resume::complete(&mut loaded, &files, kernel.as_ref());
        let (is_chained, pools) = match mode {
            AttachmentMode::Own(pools) => (false, pools),
            AttachmentMode::Chained => (true, Vec::new()),
        };
        let allocator = Allocator::new(pools, &loaded.attachments, &loaded.cursors);
        let resume = |attachment: Attachment| {
            let known = attachment.ips().find_map(|ip| entries.get(&ip));
            let known = known.map(|entry| Placed { ifindex: entry.ifindex, slot: entry.slot });
            let committed = known.or_else(|| resume::placed(&attachment, &found, kernel.as_ref()));
            // Of a time in the future the clock was set back, perhaps by years, which must not protect for as long.
            let touched = Moment::now().before(now().abs_diff(attachment.created));
            (attachment.key.clone(), Record { attachment, stored: None, committed, touched })
        };
        let records = loaded.attachments.into_iter().map(resume).collect();
        let state = State { allocator, records, cursors: loaded.cursors, leaving: BTreeSet::new() };
        let store_failure = store.unwritable().map(ToString::to_string);
        let node = Self {
            name,
            is_chained,
            kernel: Arc::from(kernel),
            policy,
            services,
            store,
            files,
            lets_unknown_pass: false,
            state: Mutex::new(state),
            findings: Mutex::default(),
            flows: Mutex::default(),
            maps: Mutex::default(),
            mtu: Mutex::new(FALLBACK_MTU),
            store_failure: Mutex::new(store_failure),
            refused_prefixes: Mutex::default(),
            started: Instant::now(),
        };
        node.store_restored(&found.lost)?;
        node.keep_files();
        Ok(node)
    }
}

//! Finds leaked attachments and frees them.

use ipamd_api::AttachmentKey;

use super::this_node::Node;
use ipamd_addresses::leaks::{self, Grace, LeakReason, NetnsSeen, Observation, Verdict};

/// An attachment that had been left behind and is freed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// Which.
    pub key: AttachmentKey,
    /// Why it counted as left behind.
    pub reason: LeakReason,
}

impl Node {
    /// Frees leaked attachments. One that cannot be freed now is found again next time.
    pub fn repair_leaks(&self, grace: Grace) -> Vec<Leak> {
        let suspects = {
            let state = self.state();
            let unlinked = |key: &AttachmentKey| self.kernel.link_index(&key.host_ifname()).is_none();
            let records = state.records.values().filter(|record| unlinked(&record.attachment.key));
            records
                .map(|record| (record.attachment.clone(), record.committed.is_some(), record.touched))
                .collect::<Vec<_>>()
        };
        let mut leaks = Vec::new();
        for (attachment, committed, touched) in suspects {
            let netns = match self.kernel.netns_at(&attachment.netns) {
                None => NetnsSeen::Gone,
                Some(id) if id == attachment.netns_id => NetnsSeen::Same,
                Some(_) => NetnsSeen::Another,
            };
            let seen = Observation { host_link: false, committed, netns };
            let Verdict::Leaked(reason) = leaks::judge(touched.age(), seen, grace) else { continue };
            let mut state = self.state();
            // Meanwhile an ADD may have come for it.
            let unchanged = state
                .records
                .get(&attachment.key)
                .is_some_and(|record| record.touched == touched && record.committed.is_some() == committed);
            if unchanged && self.detach(&mut state, &attachment.key).is_ok() {
                // Removed when it has a link pin left: the reconciliation finds it by its missing interface.
                leaks.push(Leak { key: attachment.key, reason });
            }
        }
        if !leaks.is_empty() {
            // On a thread that may wait, if not for a large change.
            self.policy.forget_dismissed();
        }
        leaks
    }
}

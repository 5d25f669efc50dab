//! Looks up the cookies of network namespaces that are missing in the records.

use super::this_node::Node;
use ipamd_store::Batch;

impl Node {
    /// Finds the cookies that committed records lack: of a release that did not store them, or of a daemon that was
    /// killed before it did. It blocks for the life of a thread per record.
    pub fn find_namespaces(&self) {
        let lacking = {
            let state = self.state();
            let attachments =
                state.records.values().filter(|it| it.committed.is_some()).map(|it| &it.attachment);
            let lacking =
                attachments.filter(|it| it.netns_cookie.is_none() && !it.netns.as_os_str().is_empty());
            lacking.map(|it| (it.key.clone(), it.netns.clone(), it.netns_id)).collect::<Vec<_>>()
        };
        let mut batch = Batch::new();
        let mut found = 0_usize;
        for (key, path, id) in lacking {
            let Some(cookie) = self.kernel.netns_cookie_at(&path, id) else { continue };
            let mut state = self.state();
            let record = state.records.get_mut(&key).filter(|record| record.attachment.netns_id == id);
            let Some(record) = record else { continue };
            record.attachment.netns_cookie = Some(cookie);
            found += usize::from(batch.put(&record.attachment).is_ok());
        }
        if found > 0 {
            tracing::info!(attachments = found, "found the cookies of namespaces");
            // If this is not stored, the next start finds it again.
            drop(self.submit(batch));
        }
    }
}

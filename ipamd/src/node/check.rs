//! CHECK: compares an attachment's record with the daemon's part of the kernel.

use ipamd_api::{AttachmentKey, wire::Checked};

use super::this_node::Node;
use ipamd_plan::records::entry;

impl Node {
    /// Compares an attachment's record with what the kernel has of it.
    pub fn check(&self, key: &AttachmentKey) -> Checked {
        // The kernel is asked after the lock, for its answer may have to wait for its own.
        let known = {
            let state = self.state();
            state
                .records
                .get(key)
                .map(|record| (record.attachment.clone(), record.committed, self.reservation(record)))
        };
        let Some((attachment, committed, reservation)) = known else {
            return Checked { reservation: None, faults: vec![format!("the daemon has no record of {key}")] };
        };
        let host_ifname = key.host_ifname();
        let mut faults = Vec::new();
        match (committed, self.kernel.link_index(&host_ifname)) {
            (None, _) => faults.push(format!("the ADD of {key} was never completed")),
            (Some(_), None) => faults.push(format!("the interface {host_ifname} is gone")),
            (Some(at), Some(present)) if at.ifindex != present => {
                faults.push(format!("the interface {host_ifname} is not the one that ADD made"));
            }
            (Some(at), Some(_)) => {
                faults.extend(self.kernel.attachment_faults(&host_ifname, at.ifindex));
                match self.kernel.endpoints() {
                    Err(error) => faults.push(error.to_string()),
                    Ok(known) => {
                        for ip in attachment.ips() {
                            let wanted = known.get(&ip).map(|known| entry(&attachment, at, known.shaped));
                            if known.get(&ip) != wanted.as_ref() {
                                faults.push(format!(
                                    "the programs know something else of {ip} than its record says"
                                ));
                            } else if wanted.is_none() {
                                faults.push(format!("the programs do not know the address {ip}"));
                            }
                        }
                    }
                }
            }
        }
        Checked { reservation: Some(reservation), faults }
    }
}

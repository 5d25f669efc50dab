//! The flows that policies refused lately. Flows that passed are in conntrack.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipamd_policy::enforce::SeenFlow;

/// How many are kept: half a megabyte, and more than a person looks through.
const KEPT: usize = 2_048;

/// A flow but for the port it is opened from, of which each attempt has another.
type Key = (u8, IpAddr, IpAddr, u16);

/// Refused flows, each once.
#[derive(Debug, Default)]
pub struct RecentDenials {
    /// By when they were seen last.
    flows: BTreeMap<u64, SeenFlow>,
    seen: HashMap<Key, u64>,
    next: u64,
}

fn key(flow: &SeenFlow) -> Key {
    (flow.protocol, flow.source, flow.destination, flow.destination_port)
}

impl RecentDenials {
    /// Adds a flow. If there are too many, the oldest is dropped.
    pub fn put(&mut self, flow: SeenFlow) {
        let now = self.next;
        self.next += 1;
        if let Some(before) = self.seen.insert(key(&flow), now) {
            self.flows.remove(&before);
        }
        self.flows.insert(now, flow);
        if self.flows.len() > KEPT
            && let Some((_, oldest)) = self.flows.pop_first()
        {
            self.seen.remove(&key(&oldest));
        }
    }

    /// All of them, the latest first.
    pub fn flows(&self) -> Vec<SeenFlow> {
        self.flows.values().rev().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(source_port: u16, destination_port: u16) -> SeenFlow {
        SeenFlow {
            protocol: 6,
            source: "10.0.0.1".parse().unwrap(),
            source_port,
            destination: "10.0.0.2".parse().unwrap(),
            destination_port,
        }
    }

    #[test]
    fn a_flow_is_kept_once_as_it_was_seen_last() {
        let mut recent = RecentDenials::default();
        for flow in [flow(1, 80), flow(1, 81), flow(2, 80)] {
            recent.put(flow);
        }
        assert_eq!(recent.flows(), [flow(2, 80), flow(1, 81)]);
    }

    #[test]
    fn the_oldest_give_way() {
        let mut recent = RecentDenials::default();
        let most = u16::try_from(KEPT).unwrap();
        for port in 0..most + 10 {
            recent.put(flow(1, port));
            // Seen again and again, it stays.
            recent.put(flow(1, 0));
        }
        let flows = recent.flows();
        assert_eq!((flows.len(), recent.seen.len()), (KEPT, KEPT));
        assert!(flows.contains(&flow(1, 0)) && flows.contains(&flow(1, most + 9)));
        assert!(!flows.contains(&flow(1, 1)) && flows.contains(&flow(1, 11)));
    }
}

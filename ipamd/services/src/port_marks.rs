//! Counts of the reasons for which a port is marked.

use std::collections::HashMap;

use super::tables::{PortRow, Tables};

#[derive(Debug)]
pub(super) struct PortMarks {
    row: PortRow,
    reasons: HashMap<u16, u32>,
}

impl PortMarks {
    pub fn new(row: PortRow) -> Self {
        Self { row, reasons: HashMap::new() }
    }

    /// Adds a reason; the first one marks the port at once.
    pub fn add(&mut self, port: u16, tables: &mut dyn Tables) {
        let reasons = self.reasons.entry(port).or_default();
        *reasons += 1;
        if *reasons == 1 {
            tables.mark_port(self.row, port, true);
        }
    }

    /// Removes a reason. Returns whether it was the last.
    pub fn remove(&mut self, port: u16) -> bool {
        let Some(reasons) = self.reasons.get_mut(&port) else { return false };
        *reasons -= 1;
        let last = *reasons == 0;
        if last {
            self.reasons.remove(&port);
        }
        last
    }

    /// Whether there is any reason.
    pub fn has(&self, port: u16) -> bool {
        self.reasons.contains_key(&port)
    }

    /// Whether no port is marked.
    pub fn is_empty(&self) -> bool {
        self.reasons.is_empty()
    }
}

//! Lists connections from the conntrack maps.

use ipamd_api::wire::{Connection, ConntrackFilter};

use super::entry::{connection, matches, now};
use crate::{datapath::Datapath, error::DatapathError};

/// How many connections a page of a listing holds.
const PAGE: usize = 500;

impl Datapath {
    /// Calls `page` with the matching conntrack entries, a few hundred at a time, until it returns false.
    pub fn conntrack(
        &self,
        filter: &ConntrackFilter,
        page: &mut dyn FnMut(Vec<Connection>) -> bool,
    ) -> Result<(), DatapathError> {
        let now = now();
        let mut left = filter.limit.unwrap_or(u64::MAX);
        let mut filling = Vec::new();
        let mut take = |connection: Option<Connection>| {
            if left == 0 {
                return false;
            }
            let Some(connection) = connection.filter(|connection| matches(filter, connection)) else {
                return true;
            };
            left -= 1;
            filling.push(connection);
            filling.len() < PAGE || page(std::mem::take(&mut filling))
        };
        let mut on = true;
        self.conntrack4.each(|key, entry| {
            on = take(connection(&key, &entry, &self.lifetimes, now));
            on
        })?;
        if on {
            self.conntrack6.each(|key, entry| take(connection(&key, &entry, &self.lifetimes, now)))?;
        }
        if !filling.is_empty() {
            page(filling);
        }
        Ok(())
    }
}

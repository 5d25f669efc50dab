//! How full the maps are, and the warnings about those that are nearly full.

use std::collections::BTreeMap;

use ipamd_api::wire::MapUse;
use libbpf_rs::{MapCore, MapHandle, MapType};

use super::{batch, datapath::Datapath, error::DatapathError, map_error};

/// A map is nearly full from this percentage on.
const NEARLY_FULL: u64 = 90;

/// A sentence that says what to do about a nearly full map; `None` for one that is not full, or whose least used
/// entries make room.
pub fn nearly_full(map: &str, used: MapUse) -> Option<String> {
    let advice = map_error::about(map).advice?;
    let MapUse { entries, capacity } = used;
    (capacity > 0 && entries * 100 >= capacity * NEARLY_FULL)
        .then(|| format!("the map {map} is nearly full ({entries} of {capacity} entries): {advice}"))
}

impl Datapath {
    /// How full each map is that users may fill, by its name. The maps of flows are left out: the sweep counts them. This reads the
    /// maps whole, which takes tens of milliseconds.
    pub fn map_use(&self) -> Result<BTreeMap<String, MapUse>, DatapathError> {
        let typed = [
            (self.endpoints4.name(), self.endpoints4.handle()),
            (self.endpoints6.name(), self.endpoints6.handle()),
            (self.no_masquerade4.name(), self.no_masquerade4.handle()),
            (self.no_masquerade6.name(), self.no_masquerade6.handle()),
            (self.domains.name(), self.domains.handle()),
            (self.resolvers.name(), self.resolvers.handle()),
            (self.dns_records.name(), self.dns_records.handle()),
            (self.machines4.name(), self.machines4.handle()),
            (self.machines6.name(), self.machines6.handle()),
            (self.node_prefixes4.name(), self.node_prefixes4.handle()),
            (self.node_prefixes6.name(), self.node_prefixes6.handle()),
        ];
        let bounded =
            |map: &MapHandle| matches!(map.map_type(), MapType::Hash | MapType::LruHash | MapType::LpmTrie);
        let others = self.others.iter().map(|(name, map)| (name.as_str(), map));
        let maps = typed.into_iter().chain(others.filter(|(_, map)| bounded(map)));
        let count = |(name, map): (&str, &MapHandle)| {
            let mut entries = 0;
            batch::each_entry(map, |_, _| {
                entries += 1;
                true
            })
            .map_err(|error| DatapathError::map(name)(error.into()))?;
            Ok((name.to_owned(), MapUse { entries, capacity: map.max_entries().into() }))
        };
        maps.map(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_told_of_before_it_is_full() {
        let used = |entries| MapUse { entries, capacity: 1_000 };
        assert_eq!(nearly_full("machines4", used(899)), None);
        let warning = nearly_full("machines4", used(900)).unwrap();
        assert!(
            warning
                .starts_with("the map machines4 is nearly full (900 of 1000 entries): raise --prefix-size")
        );
        assert!(nearly_full("waiting6", used(950)).unwrap().contains("raise --conntrack-size"));
        assert_eq!(
            nearly_full("fragments4", used(1_000)),
            None,
            "an LRU map without a sweep is full in the end"
        );
        assert_eq!(nearly_full("machines4", MapUse { entries: 0, capacity: 0 }), None);
    }
}

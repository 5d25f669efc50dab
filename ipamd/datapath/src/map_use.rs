//! Warnings about maps that are nearly full.

use ipamd_api::wire::MapUse;

use crate::map_error;

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

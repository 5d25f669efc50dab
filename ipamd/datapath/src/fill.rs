//! How full maps are, for whoever has to make room.

use ipamd_api::wire::MapUse;

use crate::refused;

/// Who is told that a map fills, in percent of it.
const NEARLY_FULL: u64 = 90;

/// What to do about a map that is nearly full, a sentence; `None` for one that is not, or that is to be full: what is used least
/// makes room there.
pub fn objection(map: &str, used: MapUse) -> Option<String> {
    let advice = refused::about(map).advice?;
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
        assert_eq!(objection("machines4", used(899)), None);
        let said = objection("machines4", used(900)).unwrap();
        assert!(
            said.starts_with("the map machines4 is nearly full (900 of 1000 entries): raise --prefix-size")
        );
        assert!(objection("waiting6", used(950)).unwrap().contains("raise --conntrack-size"));
        assert_eq!(
            objection("fragments4", used(1_000)),
            None,
            "an LRU map without a sweep is full in the end"
        );
        assert_eq!(objection("machines4", MapUse { entries: 0, capacity: 0 }), None);
    }
}

//! A hash of a record, of which a digest of many is the sum.

/// What a record adds to the digest: a hash (FNV-1a) of its key and value. Not a CRC, whose sums over records with
/// swapped parts are alike.
pub fn weight(key: &str, value: &[u8]) -> u64 {
    let bytes = key.bytes().chain([0]).chain(value.iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

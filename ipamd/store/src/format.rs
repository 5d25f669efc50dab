//! What stands in the tree.
//!
//! | key | value, as JSON |
//! | --- | --- |
//! | `meta` | the format's version |
//! | `summary` | the sequence number of the last batch, how many attachments there are, a digest of all records |
//! | `attachment/<network>/<container>/<ifname>` | the [`Attachment`] |
//! | `cursor/<pool>` | the address that the pool handed out last |
//!
//! In front of each value's JSON stands a CRC-32 (little endian) of the key, a zero byte and the JSON: a value that
//! has come to another key is found as well as one that has changed.

use std::net::IpAddr;

use ipamd_api::AttachmentKey;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::error::StoreError;
use ipamd_addresses::attachment::Attachment;

/// The version of the format that this release writes, and the newest that it reads. What is pinned belongs to it: an earlier
/// release whose programs cannot go on with the maps of this one is kept away by this number.
///
/// Of 1 and 2 the records are the same. In 1 the maps of endpoints were smaller, and who has an address was read from them alone.
pub(super) const FORMAT: u32 = 2;
/// The earliest that this release reads.
pub(super) const FORMAT_BEFORE: u32 = 1;

pub(super) const META: &str = "meta";
pub(super) const SUMMARY: &str = "summary";
const ATTACHMENT: &str = "attachment/";
const CURSOR: &str = "cursor/";

/// Under [`META`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub format: u32,
}

/// Under [`SUMMARY`]: part of every batch, so it speaks of the tree as that batch left it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Summary {
    /// Counts the batches.
    pub sequence: u64,
    /// How many attachments there are.
    pub attachments: u64,
    /// Sum of all records' [`weight`]s.
    pub digest: u64,
}

/// One key with its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Record {
    Meta(Meta),
    Summary(Summary),
    Attachment(Box<Attachment>),
    Cursor(String, IpAddr),
}

/// Changes that are written wholly or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    /// Keys with their new values, `None` to remove; of one key, the last counts.
    pub(super) changes: Vec<(String, Option<Vec<u8>>)>,
}

impl Batch {
    /// A batch that changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records an attachment, in place of one with the same key.
    ///
    /// # Errors
    /// [`StoreError::Unencodable`] if JSON cannot hold it: its namespace's path is not UTF-8.
    pub fn put(&mut self, attachment: &Attachment) -> Result<(), StoreError> {
        let key = attachment_key(&attachment.key);
        let unencodable = |error: serde_json::Error| StoreError::Unencodable {
            key: attachment.key.to_string(),
            detail: error.to_string(),
        };
        let value = seal(&key, &serde_json::to_vec(attachment).map_err(unencodable)?);
        self.changes.push((key, Some(value)));
        Ok(())
    }

    /// Removes an attachment's record, if there is one.
    pub fn remove(&mut self, key: &AttachmentKey) {
        self.changes.push((attachment_key(key), None));
    }

    /// Says that no release before this one goes on with what is here.
    ///
    /// # Errors
    /// None that is known of.
    pub(super) fn claim(&mut self) -> Result<(), StoreError> {
        let unencodable = |error: serde_json::Error| StoreError::Unencodable {
            key: META.into(),
            detail: error.to_string(),
        };
        let json = serde_json::to_vec(&Meta { format: FORMAT }).map_err(unencodable)?;
        self.changes.push((META.to_owned(), Some(seal(META, &json))));
        Ok(())
    }

    /// Records the address that a pool has handed out last.
    pub fn cursor(&mut self, pool: &str, last: IpAddr) {
        let key = format!("{CURSOR}{pool}");
        let value = seal(&key, format!("\"{last}\"").as_bytes());
        self.changes.push((key, Some(value)));
    }
}

fn attachment_key(key: &AttachmentKey) -> String {
    format!("{ATTACHMENT}{key}")
}

/// Whether `key` is that of an attachment.
pub(super) fn is_attachment(key: &str) -> bool {
    key.starts_with(ATTACHMENT)
}

/// A value as it is stored.
pub(super) fn seal(key: &str, json: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(4 + json.len());
    value.extend_from_slice(&checksum(key, json).to_le_bytes());
    value.extend_from_slice(json);
    value
}

fn checksum(key: &str, json: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key.as_bytes());
    hasher.update(&[0]);
    hasher.update(json);
    hasher.finalize()
}

/// Reads one key with its value; or says what is wrong with it.
pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<(String, Record), String> {
    let key = std::str::from_utf8(key).map_err(|_| format!("a key is no text: {}", key.escape_ascii()))?;
    let (stored, json) = value.split_first_chunk().ok_or_else(|| format!("the record {key} is cut off"))?;
    if u32::from_le_bytes(*stored) != checksum(key, json) {
        return Err(format!("the record {key} does not match its checksum"));
    }
    let record = if key == META {
        Record::Meta(parse(key, json)?)
    } else if key == SUMMARY {
        Record::Summary(parse(key, json)?)
    } else if let Some(pool) = key.strip_prefix(CURSOR) {
        Record::Cursor(pool.to_owned(), parse(key, json)?)
    } else if is_attachment(key) {
        let attachment: Box<Attachment> = parse(key, json)?;
        if attachment_key(&attachment.key) != key {
            return Err(format!("the record {key} is that of {}", attachment.key));
        }
        Record::Attachment(attachment)
    } else {
        return Err(format!("the record {key} is of no known sort"));
    };
    Ok((key.to_owned(), record))
}

fn parse<T: DeserializeOwned>(key: &str, json: &[u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| format!("the record {key} cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use ipamd_api::PortMapping;

    use super::{super::tests::attachment, *};

    #[test]
    fn what_is_put_is_decoded() {
        let mut attachment = attachment("a", &["10.0.0.2", "fd00::2"]);
        attachment.netns_cookie = Some(u64::MAX);
        attachment.port_mappings = [None, "10.0.0.1".parse().ok(), "::".parse().ok()]
            .map(|host_ip| PortMapping { host_ip, host_port: 8080, container_port: 80, protocol: 6 })
            .to_vec();
        let mut batch = Batch::new();
        batch.put(&attachment).unwrap();
        batch.cursor("default", "10.0.0.2".parse().unwrap());
        let decoded: Vec<_> = batch
            .changes
            .iter()
            .map(|(key, value)| decode(key.as_bytes(), value.as_ref().unwrap()).unwrap().1)
            .collect();
        assert_eq!(
            decoded,
            [
                Record::Attachment(Box::new(attachment)),
                Record::Cursor("default".into(), "10.0.0.2".parse().unwrap())
            ]
        );
    }

    #[test]
    fn a_record_of_a_former_release_is_read() {
        let mut json = serde_json::to_value(attachment("a", &["10.0.0.2"])).unwrap();
        let fields = json.as_object_mut().unwrap();
        // It did not know of these yet.
        fields.remove("netns_cookie");
        assert!(!fields.contains_key("port_mappings"), "what nobody asked for takes no room");
        let key = "attachment/net/a/eth0";
        let (_, record) = decode(key.as_bytes(), &seal(key, json.to_string().as_bytes())).unwrap();
        assert_eq!(record, Record::Attachment(Box::new(attachment("a", &["10.0.0.2"]))));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let key = "cursor/default";
        let value = seal(key, b"\"10.0.0.2\"");
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(key.as_bytes(), &flipped).is_err(), "bit {bit}");
        }
        assert!(decode(b"cursor/other", &value).is_err(), "a value under another key");
        assert!(decode(key.as_bytes(), &value[..3]).is_err());
    }

    #[test]
    fn a_record_under_the_wrong_key_is_found_whatever_its_checksum() {
        let json = serde_json::to_vec(&attachment("a", &[])).unwrap();
        let key = "attachment/net/b/eth0";
        assert_eq!(
            decode(key.as_bytes(), &seal(key, &json)).unwrap_err(),
            "the record attachment/net/b/eth0 is that of net/a/eth0"
        );
    }

    #[test]
    fn a_path_that_is_not_text_is_refused() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
        let mut odd = attachment("a", &[]);
        odd.netns = OsStr::from_bytes(b"/run/\xff").into();
        assert!(matches!(Batch::new().put(&odd), Err(StoreError::Unencodable { .. })));
    }
}

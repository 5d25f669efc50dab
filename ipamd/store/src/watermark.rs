//! How far the store was durable when callers were last told so.
//!
//! A file of one line: a magic word, the format's version, the kernel's boot id, the sequence number of the last
//! durable batch, and a CRC-32 of all that. It is rewritten in place by a single write after each flush of the
//! database. As long as the machine has not been rebooted a write cannot get lost, so a database that is behind its
//! watermark has lost something.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    path::Path,
};

/// The version of this file's format.
const FORMAT: u32 = 1;
/// The file, in the store's directory.
pub(super) const NAME: &str = "watermark";
const MAGIC: &str = "cambric-store";

/// What a watermark says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The boot it was written in.
    pub boot_id: String,
    /// The last durable batch.
    pub sequence: u64,
}

/// Why a watermark cannot be read.
#[derive(Debug)]
pub(super) enum Unreadable {
    Io(io::Error),
    Damaged(String),
    Newer(u32),
}

/// Reads the watermark in `dir`; `None` if there is none.
pub(super) fn read(dir: &Path) -> Result<Option<Mark>, Unreadable> {
    match fs::read(dir.join(NAME)) {
        Ok(bytes) => parse(&bytes).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Unreadable::Io(error)),
    }
}

fn parse(bytes: &[u8]) -> Result<Mark, Unreadable> {
    let damaged = |detail: &str| Unreadable::Damaged(format!("the file {NAME} {detail}"));
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("is no text"))?;
    let mut words = text.split_whitespace();
    if words.next() != Some(MAGIC) {
        return Err(damaged("does not start as it should"));
    }
    let format = words.next().and_then(|word| word.parse().ok()).ok_or_else(|| damaged("names no format"))?;
    // A newer format may go on in another way.
    if format > FORMAT {
        return Err(Unreadable::Newer(format));
    }
    let mark = match (words.next(), words.next().map(str::parse)) {
        (Some(boot_id), Some(Ok(sequence))) => Mark { boot_id: boot_id.to_owned(), sequence },
        _ => return Err(damaged("is cut off")),
    };
    if text == line(&mark) { Ok(mark) } else { Err(damaged("does not match its checksum")) }
}

/// The whole content of the file; of the same length for every sequence number.
fn line(mark: &Mark) -> String {
    let text = format!("{MAGIC} {FORMAT} {} {:020}", mark.boot_id, mark.sequence);
    format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes()))
}

/// The open file.
#[derive(Debug)]
pub(super) struct Watermark {
    file: File,
    boot_id: String,
}

impl Watermark {
    /// Writes the watermark of `dir` anew, in place of whatever was there.
    pub(super) fn create(dir: &Path, mark: Mark) -> io::Result<Self> {
        let fresh = dir.join(format!("{NAME}.new"));
        fs::write(&fresh, line(&mark))?;
        let file = File::options().write(true).open(&fresh)?;
        file.sync_all()?;
        // The name moves, the open file stays the same one.
        fs::rename(&fresh, dir.join(NAME))?;
        File::open(dir)?.sync_all()?;
        Ok(Self { file, boot_id: mark.boot_id })
    }

    /// Says that everything up to `sequence` is durable.
    pub(super) fn advance(&self, sequence: u64) -> io::Result<()> {
        let mark = Mark { boot_id: self.boot_id.clone(), sequence };
        self.file.write_all_at(line(&mark).as_bytes(), 0)
    }
}

#[cfg(test)]
impl Watermark {
    pub(super) fn break_for_test(&mut self) {
        self.file = File::open("/dev/null").unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path()), Ok(None)));
        let mark = Mark { boot_id: ipamd_kernel::kernel_files::boot_id().unwrap(), sequence: 7 };
        let watermark = Watermark::create(dir.path(), mark.clone()).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(mark.clone()));
        watermark.advance(u64::MAX).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(Mark { sequence: u64::MAX, ..mark }));
    }

    #[test]
    fn nothing_but_the_whole_line_is_taken() {
        let whole = line(&Mark { boot_id: "8ff0".into(), sequence: 12 });
        assert!(parse(whole.as_bytes()).is_ok());
        for cut in 0..whole.len() {
            assert!(parse(&whole.as_bytes()[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone().into_bytes();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        assert!(matches!(parse(b"cambric-store 2 in words we do not know"), Err(Unreadable::Newer(2))));
    }
}

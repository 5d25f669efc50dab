//! A compressed tar of files that only root reads.

use std::io::{self, Write};

use flate2::{Compression, write::GzEncoder};

/// A block of tar.
const BLOCK: usize = 512;

/// A tar that is being written.
pub(super) struct Archive<W: Write> {
    to: GzEncoder<W>,
    /// Seconds since the Unix epoch, of each file.
    time: u64,
}

impl<W: Write> Archive<W> {
    pub fn new(to: W, time: u64) -> Self {
        Self { to: GzEncoder::new(to, Compression::default()), time }
    }

    /// Adds a file. Its path has 100 bytes at most.
    pub fn add(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.to.write_all(&header(path, content.len(), self.time)?)?;
        self.to.write_all(content)?;
        let rest = content.len() % BLOCK;
        if rest > 0 {
            self.to.write_all(&vec![0; BLOCK - rest])?;
        }
        Ok(())
    }

    /// Writes the end, and gives back what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.to.write_all(&[0; 2 * BLOCK])?;
        self.to.finish()
    }
}

/// A header of POSIX' ustar format.
fn header(path: &str, size: usize, time: u64) -> io::Result<[u8; BLOCK]> {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    if path.len() > 100 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the path {path} is too long for a tar"),
        ));
    }
    put(0, path);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, &format!("{time:011o}\0"));
    // The checksum is made with spaces in its place.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\0");
    put(263, "00");
    put(265, "root");
    put(297, "root");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(header)
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    #[test]
    fn tar_reads_it_and_only_the_owner_may() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.tar.gz");
        let mut archive = Archive::new(Vec::new(), 1_700_000_000);
        archive.add("dump/one.txt", b"one\n").unwrap();
        archive.add("dump/two/empty", b"").unwrap();
        archive.add("dump/block", &[b'x'; BLOCK]).unwrap();
        fs::write(&file, archive.finish().unwrap()).unwrap();
        let tar = |args: &[&str]| {
            let out = Command::new("tar").env("TZ", "UTC").args(args).arg(&file).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        };
        let listed = tar(&["-tvzf"]);
        assert!(listed.lines().all(|line| line.starts_with("-rw------- root/root")), "{listed}");
        let names: Vec<_> = listed.lines().filter_map(|line| line.split(' ').next_back()).collect();
        assert_eq!(names, ["dump/one.txt", "dump/two/empty", "dump/block"]);
        assert!(listed.contains("2023-11-14"), "{listed}");
        assert_eq!(tar(&["-xOzf"]), format!("one\n{}", "x".repeat(BLOCK)));
    }

    #[test]
    fn a_path_that_does_not_fit_is_an_error() {
        assert!(Archive::new(Vec::new(), 0).add(&"x".repeat(101), b"").is_err());
    }
}

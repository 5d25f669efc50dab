//! What the daemon asks of the kernel for itself: little memory, and as many files as it may have.

use std::{ffi::c_void, fs, io, ptr};

use nix::{
    errno::Errno,
    libc,
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
    },
};

/// Raises the limit of open files to what the process may raise it to: each policy map is one.
///
/// # Errors
/// Why the kernel refused.
pub fn allow_files() -> Result<(), Errno> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
}

/// Gives memory back that was needed for a while.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim only returns free pages of the allocator's to the kernel.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives back the pages of the program that nobody needs any more, after a start: most of its twenty megabytes are read or run once.
/// They stay in the page cache while there is room, and what is needed again is mapped again from there, without a read.
///
/// # Errors
/// The kernel does not tell which pages those are, or refused.
pub fn give_back_program() -> io::Result<()> {
    let program = fs::read_link("/proc/self/exe")?;
    let maps = fs::read_to_string("/proc/self/smaps")?;
    for (begin, end) in unchanged(&maps, &program.to_string_lossy()) {
        // SAFETY: the range is a mapping of the program's own file that nobody can write to, and of which no page differs from the
        // file. Whoever looks there next finds what is in the file, as before.
        let result = unsafe {
            libc::madvise(ptr::with_exposed_provenance_mut::<c_void>(begin), end - begin, libc::MADV_DONTNEED)
        };
        Errno::result(result)?;
    }
    Ok(())
}

/// The mappings of a file, by /proc/self/smaps, that cannot be written to and have no page of their own. Where the program was
/// relocated some have, and these would be lost.
fn unchanged(smaps: &str, file: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        if let Some(mapping) = mapping(line) {
            let (range, permissions, name) = mapping;
            current = (name == file && !permissions.contains('w')).then_some(range);
        } else if let Some(kibibytes) = line.strip_prefix("Anonymous:")
            && kibibytes.trim() == "0 kB"
        {
            found.extend(current.take());
        }
    }
    found
}

/// The line that begins a mapping in smaps: its range, its permissions, and its file.
fn mapping(line: &str) -> Option<((usize, usize), &str, &str)> {
    let mut words = line.split_ascii_whitespace();
    let (begin, end) = words.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(((address(begin)?, address(end)?), words.next()?, words.nth(3).unwrap_or_default()))
}

/// Tells the kernel and the allocator to spend memory only on what is used. To be called before any thread starts.
///
/// - No transparent huge pages: sled has tables of megabytes of which it touches a page or two, and a huge page
///   makes two megabytes of either.
/// - One heap for all threads: sled starts seven, which are idle nearly always, and glibc would give each its own.
/// - Large tables always straight from the kernel, whose zeroes need not be written: glibc would raise the limit for
///   that by itself, and clear them on its heap.
///
/// # Errors
/// Why the kernel refused the first, which does no harm.
pub fn keep_small() -> Result<(), Errno> {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers and touches nothing of ours; it is called before other threads could
    // allocate, as its manual asks.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
    }
    prctl::set_thp_disable(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0000001000 r--p 00000000 fe:00 9 /opt/a
Rss:                   4 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
7f0000001000-7f0000003000 r-xp 00001000 fe:00 9 /opt/a
Anonymous:             0 kB
7f0000003000-7f0000004000 r--p 00003000 fe:00 9 /opt/a
Anonymous:             4 kB
7f0000004000-7f0000005000 rw-p 00004000 fe:00 9 /opt/a
Anonymous:             0 kB
7f0000005000-7f0000006000 r-xp 00000000 fe:00 8 /opt/b
Anonymous:             0 kB
7f0000006000-7f0000007000 rw-p 00000000 00:00 0
Anonymous:             0 kB
";

    #[test]
    fn only_pages_that_are_as_in_the_file_are_given_back() {
        let found = unchanged(SMAPS, "/opt/a");
        assert_eq!(found, [(0x7f00_0000_0000, 0x7f00_0000_1000), (0x7f00_0000_1000, 0x7f00_0000_3000)]);
        assert!(unchanged(SMAPS, "/opt/c").is_empty());
    }

    #[test]
    fn the_program_goes_on_without_them() {
        static TABLE: [u32; 4] = [2, 3, 5, 7];
        give_back_program().unwrap();
        assert_eq!(TABLE.iter().sum::<u32>(), 17);
        assert_eq!(format!("{:?}", unchanged("", "")), "[]");
    }
}

//! What a process uses, by the kernel's own account.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// Memory of a process, in KiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Resident.
    pub resident: u64,
    /// Of that, what is no file's.
    pub anonymous: u64,
    /// The most that was resident at a time.
    pub peak: u64,
}

/// A process.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    pub fn memory(self) -> Result<Memory> {
        let rollup = self.read("smaps_rollup")?;
        Ok(Memory {
            resident: field(&rollup, "Rss:")?,
            anonymous: field(&rollup, "Anonymous:")?,
            peak: field(&self.read("status")?, "VmHWM:")?,
        })
    }

    /// Processor time so far.
    pub fn cpu(self) -> Result<Duration> {
        self.cpu_of("stat")
    }

    fn cpu_of(self, file: &str) -> Result<Duration> {
        let stat = self.read(file)?;
        // The second field is a name in parentheses, which may have spaces in it.
        let rest = stat.rsplit_once(')').context("a name")?.1;
        let ticks =
            |at: usize| -> Result<u64> { Ok(rest.split_whitespace().nth(at).context("a number")?.parse()?) };
        // utime and stime, which are counted in hundredths.
        Ok(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
    }

    /// The same of each thread, by name.
    pub fn threads(self) -> Result<Vec<(String, Duration)>> {
        let mut threads = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/task", self.0))? {
            let id = entry?.file_name().to_string_lossy().into_owned();
            let name = self.read(&format!("task/{id}/comm"));
            // One that has ended meanwhile uses nothing any more.
            if let (Ok(name), Ok(cpu)) = (name, self.cpu_of(&format!("task/{id}/stat"))) {
                threads.push((name.trim().to_owned(), cpu));
            }
        }
        Ok(threads)
    }

    /// Bytes that it has had written to disks.
    pub fn written(self) -> Result<u64> {
        field(&self.read("io")?, "write_bytes:")
    }

    fn read(self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.0);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

fn field(text: &str, name: &str) -> Result<u64> {
    let value =
        text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(value.split_whitespace().next().context("a number")?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() -> Result<()> {
        let own = Process(std::process::id());
        let memory = own.memory()?;
        assert!(
            memory.resident > 0 && memory.anonymous <= memory.resident && memory.resident <= 2 * memory.peak
        );
        assert!(!own.threads()?.is_empty());
        own.cpu()?;
        own.written().map(drop)
    }
}

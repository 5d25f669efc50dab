//! A directory of text files with prefixes, as block lists are published: each file is a deny set. It is looked at again and again; what
//! cannot be read or understood changes nothing, also when the daemon has been started anew: what was read is recorded.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    mem,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use ipnetwork::IpNetwork;

use crate::{
    deny_record::{self, DenyRecord, Identity},
    directory::read_file,
};

/// Files of these extensions are read.
const EXTENSIONS: [&str; 2] = ["txt", "netset"];
/// A file that was changed so lately may be about to be changed again, as by a program that writes it in place.
const FRESH: Duration = Duration::from_secs(2);

/// What is known of the directory.
#[derive(Debug)]
pub struct DenyDirectory {
    path: PathBuf,
    /// Where is recorded what it said.
    record: PathBuf,
    /// The directory that was read last.
    identity: Option<Identity>,
    /// By file name.
    files: BTreeMap<String, File>,
    /// What is wrong with the directory itself.
    trouble: Option<String>,
    /// Whether it was read once, be it by an earlier daemon.
    was_read: bool,
    /// Whether the record has what the files say.
    is_recorded: bool,
    /// Why it has not.
    unrecorded: Option<String>,
}

#[derive(Debug, Default)]
struct File {
    /// The version that was read last; `None` if this daemon read none.
    version: Option<Version>,
    prefixes: Arc<[IpNetwork]>,
    trouble: Option<String>,
}

/// Device, inode, size in bytes, and the time of the last change in nanoseconds.
type Version = (u64, u64, u64, i128);

/// A line that is no prefix.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    /// From 1 on.
    line: usize,
    why: String,
}

impl DenyDirectory {
    /// It says what the file `record` has of it, and is not read yet.
    pub fn new(path: impl Into<PathBuf>, record: impl Into<PathBuf>) -> Self {
        let (path, record) = (path.into(), record.into());
        let former = deny_record::read(&record).unwrap_or_else(|error| {
            let file = record.display();
            tracing::warn!(
                "{file}, the record of what the deny lists said, cannot be read: {error}; it is written anew"
            );
            None
        });
        let was_read = former.is_some();
        let DenyRecord { identity, files } = former.unwrap_or_default();
        let file = |prefixes: Vec<_>| File { prefixes: prefixes.into(), ..File::default() };
        let files = files.into_iter().map(|(name, prefixes)| (name, file(prefixes))).collect();
        Self {
            path,
            record,
            identity,
            files,
            trouble: None,
            was_read,
            is_recorded: was_read,
            unrecorded: None,
        }
    }

    /// Looks for what has changed. Returns whether the sets did.
    pub fn look(&mut self) -> bool {
        self.look_at(SystemTime::now())
    }

    fn look_at(&mut self, now: SystemTime) -> bool {
        let (identity, found) = match self.entries() {
            Ok(entries) => entries,
            Err(why) => {
                self.trouble = Some(why);
                return false;
            }
        };
        self.trouble = None;
        let gone: Vec<_> = self.files.keys().filter(|name| !found.contains_key(*name)).cloned().collect();
        let is_first = !mem::replace(&mut self.was_read, true);
        let mut changed = is_first || !gone.is_empty();
        for name in gone {
            self.files.remove(&name);
        }
        for (name, version) in found {
            let file = self.files.entry(name.clone()).or_default();
            if file.version == Some(version) {
                continue;
            }
            // What is there when a daemon reads the directory for the first time is in force at once.
            if is_first || is_settled(version, now) {
                changed |= file.read(&self.path.join(name), version);
            } else if file.is_of_an_earlier_daemon() {
                file.trouble = Some(
                    "this file is being changed; what it said before the daemon started stays in force until it \
                     has not been changed for two seconds"
                        .into(),
                );
            }
        }
        self.is_recorded &= !changed && self.identity == Some(identity);
        self.identity = Some(identity);
        if !self.is_recorded {
            self.write_record();
        }
        changed
    }

    fn write_record(&mut self) {
        let files = self.files.iter().map(|(name, file)| (name.as_str(), &file.prefixes));
        let written = deny_record::write(&self.record, self.identity, files);
        self.is_recorded = written.is_ok();
        self.unrecorded = written.err().map(|error| {
            format!(
                "cannot record in {} what the deny lists say: {error}; a list that cannot be read when the daemon starts would not \
                 say what it says now",
                self.record.display()
            )
        });
    }

    /// Which directory it is, its files and their versions; or why the directory is not to be believed, a sentence.
    fn entries(&self) -> Result<(Identity, BTreeMap<String, Version>), String> {
        let shown = self.path.display();
        let then = if self.was_read { "what it said stays in force" } else { "what it says is not known" };
        let unread = |error| format!("cannot read the directory of deny sets, {shown}: {error}; {then}");
        let identity = fs::metadata(&self.path).map(|it| identity(&it)).map_err(unread)?;
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.path).map_err(unread)? {
            let entry = entry.map_err(unread)?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if !is_list(&name) {
                continue;
            }
            // Of a link the target counts: that is how a ConfigMap is mounted. What leads nowhere may be about to be replaced.
            found
                .insert(name, fs::metadata(entry.path()).map_or((0, 0, 0, 0), |metadata| version(&metadata)));
        }
        if self.identity.is_some_and(|it| it != identity) && found.is_empty() && !self.files.is_empty() {
            return Err(format!(
                "another directory without deny sets is at {shown}; what the former one said stays in force until this one has some"
            ));
        }
        Ok((identity, found))
    }

    /// The sets by the names of their files; `None` if the directory could never be read.
    pub fn sets(&self) -> Option<impl Iterator<Item = (&str, Arc<[IpNetwork]>)>> {
        let sets = self.files.iter().map(|(name, file)| (name.as_str(), Arc::clone(&file.prefixes)));
        self.was_read.then_some(sets)
    }

    /// What is wrong, a sentence each.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let of_files = self.files.iter().filter_map(|(name, file)| {
            Some(format!("{}: {}", self.path.join(name).display(), file.trouble.as_ref()?))
        });
        self.trouble.iter().chain(&self.unrecorded).cloned().chain(of_files)
    }
}

/// Removes the record of what a directory said, where none is configured any longer: it would say it again if one was.
pub fn forget(record: &Path) {
    if let Err(error) = deny_record::remove(record) {
        tracing::warn!("cannot remove {}: {error}", record.display());
    }
}

impl File {
    /// Whether it has what an earlier daemon read, and nothing is known of it since.
    fn is_of_an_earlier_daemon(&self) -> bool {
        self.version.is_none() && self.trouble.is_none() && !self.prefixes.is_empty()
    }

    /// Reads it. Returns whether its prefixes are others now.
    fn read(&mut self, path: &Path, version: Version) -> bool {
        let is_first = self.version.is_none() && self.prefixes.is_empty();
        let text = match read_file::read(path) {
            Ok(text) => text,
            Err(error) => {
                self.version = None;
                let then = if self.prefixes.is_empty() {
                    "it denies nothing"
                } else {
                    "what it said stays in force"
                };
                self.trouble = Some(format!("{error}; {then}"));
                return false;
            }
        };
        self.version = Some(version);
        if text.trim().is_empty() && !self.prefixes.is_empty() {
            self.trouble = Some(
                "this file is empty; what it said stays in force until it has content or is removed".into(),
            );
            return false;
        }
        let (prefixes, faults) = parse(&text);
        self.trouble = faults.first().map(|Fault { line, why }| {
            let more = match faults.len() {
                1 => String::new(),
                count => format!(" (and {} more lines)", count - 1),
            };
            let then = if is_first {
                "the other lines are in force"
            } else {
                "what the file said before stays in force"
            };
            format!("line {line}: {why}{more}; {then}")
        });
        if !faults.is_empty() && !is_first {
            return false;
        }
        if prefixes.is_empty() && faults.is_empty() {
            self.trouble = Some("this file has no prefix, so it denies nothing".into());
        }
        let is_other = prefixes[..] != self.prefixes[..];
        self.prefixes = prefixes.into();
        is_other
    }
}

/// Whether a file was last changed some time ago.
fn is_settled(version: Version, now: SystemTime) -> bool {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let since = |time: Duration| i128::try_from(time.as_nanos()).unwrap_or(i128::MAX);
    // A time to come is no reason to wait for it.
    !(0..since(FRESH)).contains(&(since(now) - version.3))
}

fn identity(metadata: &Metadata) -> Identity {
    let made = metadata.created().ok().and_then(|it| it.duration_since(SystemTime::UNIX_EPOCH).ok());
    (metadata.dev(), metadata.ino(), made.and_then(|it| u64::try_from(it.as_nanos()).ok()))
}

fn version(metadata: &Metadata) -> Version {
    let changed = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
    (metadata.dev(), metadata.ino(), metadata.size(), changed)
}

fn is_list(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|it| it.to_str());
    !name.starts_with('.') && extension.is_some_and(|it| EXTENSIONS.contains(&it))
}

/// The prefixes of a text, each once and in order, and the lines that are none. A line is an address or a prefix; `#` and `;` begin
/// comments.
fn parse(text: &str) -> (Vec<IpNetwork>, Vec<Fault>) {
    let (mut prefixes, mut faults) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start_matches('\u{feff}');
        let content = line.split(['#', ';']).next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        match prefix(content) {
            Ok(prefix) => prefixes.push(prefix),
            Err(why) => faults.push(Fault { line: index + 1, why }),
        }
    }
    prefixes.sort_unstable();
    prefixes.dedup();
    (prefixes, faults)
}

fn prefix(text: &str) -> Result<IpNetwork, String> {
    let shown = ipamd_model::field::shown(text);
    let prefix: IpNetwork = text
        .parse()
        .map_err(|_| format!("{shown} is neither an address nor a prefix, such as 192.0.2.0/24"))?;
    check(prefix)?;
    if prefix.ip() != prefix.network() {
        return Err(format!(
            "{shown} has bits behind its length; write {}/{}",
            prefix.network(),
            prefix.prefix()
        ));
    }
    Ok(prefix)
}

/// Refuses a prefix, a sentence, that has every address of its family, since nobody means to cut the node off from everybody; and one of IPv4
/// addresses within IPv6, which no packet comes from.
pub fn check(prefix: IpNetwork) -> Result<(), String> {
    if let IpNetwork::V6(it) = prefix
        && it.prefix() >= 96
        && let Some(address) = it.network().to_ipv4_mapped()
    {
        return Err(format!("{prefix} is written as {address}/{}", it.prefix() - 96));
    }
    if prefix.prefix() == 0 {
        return Err(format!("{prefix} would deny every address; write the prefixes that are meant"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> (Vec<String>, Vec<usize>) {
        let (prefixes, faults) = parse(text);
        (prefixes.iter().map(ToString::to_string).collect(), faults.iter().map(|it| it.line).collect())
    }

    #[test]
    fn lists_are_read_as_they_are_published() {
        let text = "; Spamhaus DROP List\r\n192.0.2.0/24 ; SBL1\r\n# FireHOL\n198.51.100.7\n\n2001:db8::/32\n192.0.2.0/24\n";
        assert_eq!(
            parsed(text),
            (vec!["192.0.2.0/24".into(), "198.51.100.7/32".into(), "2001:db8::/32".into()], vec![])
        );
    }

    #[test]
    fn what_is_no_prefix_is_told_by_its_line() {
        let (prefixes, faults) = parse(
            "192.0.2.0/24\n192.0.2.1/24\n0.0.0.0/0\n::/0\nexample.com\n192.0.2.0/33\n::ffff:192.0.2.1\n",
        );
        assert_eq!(prefixes.len(), 1);
        let said: Vec<_> = faults.iter().map(|it| format!("{}: {}", it.line, it.why)).collect();
        assert_eq!(said.len(), 6, "{said:?}");
        assert_eq!(said[5], "7: ::ffff:192.0.2.1/128 is written as 192.0.2.1/32");
        assert_eq!(said[0], "2: \"192.0.2.1/24\" has bits behind its length; write 192.0.2.0/24");
        assert!(said[1].contains("would deny every address"), "{}", said[1]);
    }

    struct Bench {
        folder: tempfile::TempDir,
        it: DenyDirectory,
        now: SystemTime,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("deny")).unwrap();
            let it = Self::daemon(&folder);
            Self { folder, it, now: SystemTime::now() + FRESH * 2 }
        }

        fn daemon(folder: &tempfile::TempDir) -> DenyDirectory {
            DenyDirectory::new(folder.path().join("deny"), folder.path().join("deny.json"))
        }

        /// Another daemon takes the place of this one, and looks.
        fn restart(&mut self) {
            self.it = Self::daemon(&self.folder);
            self.look();
        }

        fn problems(&self) -> String {
            self.it.problems().collect::<Vec<_>>().join("\n")
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join("deny").join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        fn look(&mut self) -> bool {
            self.it.look_at(self.now)
        }

        fn said(&self) -> String {
            let sets = self.it.sets().map(|sets| {
                let line = |(name, prefixes): (&str, Arc<[IpNetwork]>)| {
                    let prefixes: Vec<_> = prefixes.iter().map(ToString::to_string).collect();
                    format!("{name}: {}", prefixes.join(" "))
                };
                sets.map(line).collect::<Vec<_>>().join("\n")
            });
            sets.unwrap_or_else(|| "not known".into())
        }
    }

    #[test]
    fn a_directory_is_followed() {
        let mut bench = Bench::new();
        assert_eq!(bench.said(), "not known");
        bench.write("a.txt", "192.0.2.1");
        bench.write(".hidden.txt", "192.0.2.2");
        bench.write("a.txt~", "192.0.2.3");
        assert!(bench.look() && !bench.look());
        assert_eq!(bench.said(), "a.txt: 192.0.2.1/32");
        bench.write("b.netset", "192.0.2.4");
        fs::remove_file(bench.path("a.txt")).unwrap();
        assert!(bench.look());
        assert_eq!(bench.said(), "b.netset: 192.0.2.4/32");
    }

    #[test]
    fn what_cannot_be_read_or_understood_changes_nothing() {
        let mut bench = Bench::new();
        bench.write("a.txt", "192.0.2.1\nfoo");
        assert!(bench.look());
        let problems = |bench: &Bench| bench.it.problems().collect::<Vec<_>>().join("\n");
        assert!(problems(&bench).ends_with("the other lines are in force"), "{}", problems(&bench));
        bench.write("a.txt", "192.0.2.1\n192.0.2.2");
        assert!(bench.look() && problems(&bench).is_empty());
        for (bad, why) in [("192.0.2.3\nfoo", "line 2"), ("", "empty")] {
            bench.write("a.txt", bad);
            assert!(!bench.look());
            assert_eq!(bench.said(), "a.txt: 192.0.2.1/32 192.0.2.2/32");
            assert!(problems(&bench).contains(why), "{}", problems(&bench));
        }
        let (here, away) = (bench.folder.path().join("deny"), bench.folder.path().join("away"));
        fs::rename(&here, &away).unwrap();
        assert!(!bench.look() && problems(&bench).contains("cannot read"), "{}", problems(&bench));
        // As when a volume is not mounted.
        fs::create_dir(&here).unwrap();
        assert!(!bench.look() && problems(&bench).contains("another directory"), "{}", problems(&bench));
        assert_eq!(bench.said(), "a.txt: 192.0.2.1/32 192.0.2.2/32");
        bench.write("c.txt", "192.0.2.9");
        assert!(bench.look());
        assert_eq!(bench.said(), "c.txt: 192.0.2.9/32");
    }

    #[test]
    fn a_file_counts_when_nobody_has_changed_it_for_a_while() {
        let mut bench = Bench::new();
        bench.write("a.txt", "192.0.2.1");
        bench.now = SystemTime::now();
        assert!(bench.look(), "when the daemon starts it counts at once");
        for text in ["", "192.0.2.1\n128.0.0.0/1", "192.0.2.1\n192.0.2.2"] {
            bench.write("a.txt", text);
            bench.now = SystemTime::now();
            assert!(!bench.look());
            assert_eq!(bench.said(), "a.txt: 192.0.2.1/32");
        }
        bench.now += FRESH * 2;
        assert!(bench.look());
        assert_eq!(bench.said(), "a.txt: 192.0.2.1/32 192.0.2.2/32");
    }

    #[test]
    fn a_directory_that_is_away_or_empty_at_a_start_says_what_it_said() {
        let mut bench = Bench::new();
        bench.write("a.txt", "192.0.2.1");
        bench.look();
        let (here, away) = (bench.folder.path().join("deny"), bench.folder.path().join("away"));
        fs::rename(&here, &away).unwrap();
        bench.restart();
        assert_eq!(bench.said(), "a.txt: 192.0.2.1/32", "known, so that nothing else waits for it");
        assert!(bench.problems().contains("what it said stays in force"), "{}", bench.problems());
        fs::create_dir(&here).unwrap();
        for _ in 0..2 {
            bench.restart();
            assert_eq!(bench.said(), "a.txt: 192.0.2.1/32");
            assert!(bench.problems().contains("another directory"), "{}", bench.problems());
        }
        bench.write("none.txt", "# nothing is denied");
        bench.restart();
        assert_eq!(bench.said(), "none.txt: ");
        // Who empties the directory itself means it.
        fs::remove_file(bench.path("none.txt")).unwrap();
        bench.write("a.txt", "192.0.2.1");
        bench.restart();
        fs::remove_file(bench.path("a.txt")).unwrap();
        bench.restart();
        assert_eq!((bench.said(), bench.problems()), (String::new(), String::new()));
    }

    #[test]
    fn a_directory_that_was_never_read_is_not_known() {
        let mut bench = Bench::new();
        fs::remove_dir(bench.folder.path().join("deny")).unwrap();
        bench.look();
        assert_eq!(bench.said(), "not known");
        assert!(bench.problems().ends_with("what it says is not known"), "{}", bench.problems());
    }

    #[test]
    fn a_list_that_cannot_be_read_at_a_start_says_what_it_said() {
        let mut bench = Bench::new();
        bench.write("target", "192.0.2.1\n192.0.2.2");
        std::os::unix::fs::symlink("target", bench.path("a.txt")).unwrap();
        bench.write("b.txt", "192.0.2.3");
        bench.look();
        let all = "a.txt: 192.0.2.1/32 192.0.2.2/32\nb.txt: 192.0.2.3/32";
        for (bad, why) in [
            (None, "cannot be read"),
            (Some(""), "this file is empty"),
            (Some("192.0.2.1\n192.0.2.300"), "what the file said before stays"),
        ] {
            match bad {
                Some(text) => bench.write("target", text),
                None => fs::remove_file(bench.path("target")).unwrap(),
            }
            bench.restart();
            assert_eq!(bench.said(), all, "{bad:?}");
            assert!(bench.problems().contains(why), "{}", bench.problems());
        }
        bench.write("target", "192.0.2.2");
        bench.restart();
        assert_eq!(bench.said(), "a.txt: 192.0.2.2/32\nb.txt: 192.0.2.3/32");
        assert_eq!(bench.problems(), "");
    }

    #[test]
    fn a_list_that_is_being_written_at_a_start_says_what_it_said() {
        let mut bench = Bench::new();
        bench.write("a.txt", "192.0.2.1\n192.0.2.2");
        bench.look();
        bench.write("a.txt", "192.0.2.1");
        bench.write("new.txt", "192.0.2");
        bench.now = SystemTime::now();
        bench.restart();
        assert_eq!(bench.said(), "a.txt: 192.0.2.1/32 192.0.2.2/32\nnew.txt: ");
        assert!(bench.problems().contains("a.txt: this file is being changed"), "{}", bench.problems());
        bench.write("new.txt", "192.0.2.3");
        bench.now += FRESH * 2;
        assert!(bench.look());
        assert_eq!(bench.said(), "a.txt: 192.0.2.1/32\nnew.txt: 192.0.2.3/32");
        assert_eq!(bench.problems(), "");
    }

    #[test]
    fn a_record_that_cannot_be_written_is_told_and_one_that_is_damaged_is_made_anew() {
        let mut bench = Bench::new();
        let record = bench.folder.path().join("deny.json");
        bench.write("a.txt", "192.0.2.1");
        fs::create_dir_all(record.join("full")).unwrap();
        bench.look();
        assert!(bench.problems().contains("cannot record"), "{}", bench.problems());
        fs::remove_dir_all(&record).unwrap();
        assert!(!bench.look(), "the sets are the same");
        assert_eq!(bench.problems(), "");
        fs::write(&record, "{").unwrap();
        bench.restart();
        assert_eq!((bench.said(), bench.problems()), ("a.txt: 192.0.2.1/32".into(), String::new()));
        fs::remove_file(bench.path("a.txt")).unwrap();
        std::os::unix::fs::symlink("nowhere", bench.path("a.txt")).unwrap();
        bench.restart();
        assert_eq!(bench.said(), "a.txt: 192.0.2.1/32");
        forget(&record);
        bench.restart();
        assert_eq!(bench.said(), "a.txt: ");
        assert!(bench.problems().ends_with("it denies nothing"), "{}", bench.problems());
    }

    #[test]
    fn what_denies_nothing_and_what_leads_nowhere_is_told() {
        let mut bench = Bench::new();
        bench.write("a.txt", "# nothing\n");
        std::os::unix::fs::symlink("nowhere", bench.path("b.txt")).unwrap();
        bench.look();
        let problems: Vec<_> = bench.it.problems().collect();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].ends_with("a.txt: this file has no prefix, so it denies nothing"),
            "{problems:?}"
        );
        assert!(problems[1].contains("b.txt: this file cannot be read"), "{problems:?}");
        fs::create_dir(bench.path("c.txt")).unwrap();
        bench.look();
        let problems = bench.problems();
        assert!(problems.ends_with("c.txt: this is not a regular file; it denies nothing"), "{problems}");
    }

    proptest! {
        #[test]
        fn no_text_does_harm(text in "[0-9a-f.:/ #;\\n\\r]{0,200}|\\PC{0,100}") {
            let (prefixes, _) = parse(&text);
            prop_assert!(prefixes.iter().all(|it| it.prefix() > 0 && it.ip() == it.network()));
        }
    }
}

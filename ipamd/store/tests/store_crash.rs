//! Kills a process that writes to the store, again and again, and compares what the next one finds with what the
//! killed one had been told.
//!
//! The test runs its own binary again as the process to be killed ([`victim`]): it reserves and releases addresses,
//! several batches in flight, and says on stdout what it is about to submit and, once the store calls a batch
//! durable, so much. The parent keeps the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    io::{Write, pipe, read_to_string},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipamd_addresses::{
    attachment::Attachment,
    ipam::{Allocator, Pool},
};
use ipamd_api::{AttachmentKey, wire::NetnsId};
use ipamd_store::{Batch, Loaded, Store, Ticket};
use ipamd_waiting::time_passes;

/// Set for the process that is to be killed: the store's directory.
const DIR: &str = "STORE_CRASH_DIR";
/// A number of its own for each run, so that no two reserve under one key.
const RUN: &str = "STORE_CRASH_RUN";

const KILLS: u32 = 40;

fn pools() -> Vec<Pool> {
    [("four", "10.88.0.0/25"), ("six", "fd00:88::/64")]
        .map(|(name, cidr)| Pool::new(name, cidr.parse().unwrap()).unwrap())
        .into()
}

/// Enough of a random number for choosing: xorshift.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self(u64::from(now.subsec_nanos()) << 20 ^ now.as_secs() ^ u64::from(std::process::id()) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn attachment(container_id: String, allocator: &mut Allocator) -> Option<Attachment> {
    let key = AttachmentKey { network: "net".into(), container_id, ifname: "eth0".into() };
    let addresses = allocator.reserve(&key, &[]).ok()?;
    let (host_mac, container_mac) = key.macs();
    Some(Attachment {
        key,
        addresses,
        container_mac,
        host_mac,
        mtu: 1500,
        netns: PathBuf::from("/run/netns/x"),
        netns_id: NetnsId { dev: 4, ino: 1 },
        netns_cookie: None,
        pod: None,
        labels: BTreeMap::new(),
        port_mappings: Vec::new(),
        chained: false,
        created: 1,
    })
}

/// What is written about one attachment: its id and addresses.
fn words(attachment: &Attachment) -> String {
    let addresses: Vec<_> = attachment.ips().map(|ip| ip.to_string()).collect();
    format!("{}={}", attachment.key.container_id, addresses.join(","))
}

/// Reserves and releases without end.
fn victim(dir: &Path, run: &str) {
    let (store, loaded) = Store::open(dir).unwrap();
    let mut allocator = Allocator::new(pools(), &loaded.attachments, &loaded.cursors);
    let mut standing = loaded.attachments;
    let mut waiting: Vec<(u64, Ticket)> = Vec::new();
    let mut dice = Dice::new();
    let mut out = std::io::stdout().lock();
    for number in 0.. {
        let mut batch = Batch::new();
        let mut says = String::new();
        // A batch of several changes must come whole or not at all.
        for part in 0..=dice.below(3) {
            if dice.below(2) == 0 || standing.len() < 5 {
                let Some(fresh) = attachment(format!("{run}.{number}.{part}"), &mut allocator) else {
                    continue;
                };
                batch.put(&fresh).unwrap();
                write!(says, " +{}", words(&fresh)).unwrap();
                standing.push(fresh);
            } else {
                let at = usize::try_from(dice.below(standing.len() as u64)).unwrap();
                let gone = standing.swap_remove(at);
                batch.remove(&gone.key);
                for ip in gone.ips() {
                    allocator.release(ip);
                }
                write!(says, " -{}", words(&gone)).unwrap();
            }
        }
        for (pool, last) in allocator.cursors() {
            batch.cursor(pool, last);
        }
        writeln!(out, "submit {number}{says}").unwrap();
        out.flush().unwrap();
        waiting.push((number, store.submit(batch).unwrap()));
        while waiting.len() > usize::try_from(dice.below(12)).unwrap() {
            let (durable, ticket) = waiting.remove(0);
            ticket.wait_blocking().unwrap();
            writeln!(out, "durable {durable}").unwrap();
            out.flush().unwrap();
        }
    }
}

type Standing = BTreeSet<String>;

/// What a killed process had said: the state after each batch that it submitted, and how many of them were durable.
fn states(before: &Standing, said: &str) -> (Vec<Standing>, usize) {
    let mut states = vec![before.clone()];
    let mut durable = 0;
    // The last line may be cut off.
    for line in said.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let mut words = line.split(' ');
        let (Some(verb), Some(number)) = (words.next(), words.next()) else { continue };
        match verb {
            "submit" => {
                let mut state = states.last().unwrap().clone();
                for change in words {
                    let (sign, attachment) = change.split_at(1);
                    assert!(
                        if sign == "+" { state.insert(attachment.into()) } else { state.remove(attachment) },
                        "{line}"
                    );
                }
                states.push(state);
            }
            // The test harness prints lines of its own before.
            "durable" => durable = number.parse::<usize>().unwrap() + 1,
            _ => {}
        }
    }
    (states, durable)
}

fn check_addresses(loaded: &Loaded) {
    let mut seen = BTreeSet::<IpAddr>::new();
    for ip in loaded.attachments.iter().flat_map(Attachment::ips) {
        assert!(seen.insert(ip), "{ip} belongs to two attachments");
    }
}

#[test]
fn a_killed_daemon_has_kept_all_that_it_answered_for() {
    if let (Some(dir), Ok(run)) = (env::var_os(DIR), env::var(RUN)) {
        return victim(Path::new(&dir), &run);
    }
    let dir = tempfile::tempdir().unwrap();
    let mut dice = Dice::new();
    let mut standing = Standing::new();
    let (mut batches, mut lost) = (0, 0);
    for run in 0..KILLS {
        let (mut reader, writer) = pipe().unwrap();
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["a_killed_daemon_has_kept_all_that_it_answered_for", "--exact", "--nocapture"])
            .env(DIR, dir.path())
            .env(RUN, run.to_string())
            .stdout(writer)
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let said = thread::spawn(move || read_to_string(&mut reader).unwrap());
        // Some are killed while they open the store, most while they write.
        time_passes(Duration::from_micros(dice.below(250_000)), "each is killed at another step");
        child.kill().unwrap();
        child.wait().unwrap();

        let (states, durable) = states(&standing, &said.join().unwrap());
        let (store, loaded) =
            Store::open(dir.path()).unwrap_or_else(|error| panic!("after kill {run}: {error}"));
        store.close().unwrap();
        check_addresses(&loaded);
        let found: Standing = loaded.attachments.iter().map(words).collect();
        let whole = states.iter().rposition(|state| *state == found);
        let Some(whole) = whole else {
            panic!(
                "after kill {run}: what is there is not the state after any batch\nfound {found:?}\nsaid {states:?}"
            )
        };
        assert!(whole >= durable, "after kill {run}: {durable} batches were durable, {whole} are there");
        batches += whole;
        lost += states.len() - 1 - whole;
        standing = found;
    }
    println!("{KILLS} kills, {batches} batches kept, {lost} unacknowledged ones lost");
    assert!(batches > KILLS as usize, "the kills came too early to say anything");
}

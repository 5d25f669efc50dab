use std::{net::IpAddr, os::unix::fs::PermissionsExt, path::PathBuf};

use ipamd_api::{
    AttachmentKey, MacAddr,
    wire::{Assigned, NetnsId},
};

use super::*;
use ipamd_addresses::attachment::Attachment;

pub(crate) fn attachment(id: &str, addresses: &[&str]) -> Attachment {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    Attachment {
        key: AttachmentKey { network: "net".into(), container_id: id.into(), ifname: "eth0".into() },
        addresses: addresses.iter().map(|text| Assigned { address: ip(text), gateway: ip(text) }).collect(),
        container_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        host_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        mtu: 1500,
        netns: PathBuf::from("/run/netns/x"),
        netns_id: NetnsId { dev: 4, ino: 4_026_531_840 },
        netns_cookie: None,
        pod: None,
        labels: [("app".to_owned(), "web".to_owned())].into(),
        port_mappings: Vec::new(),
        chained: false,
        created: 1_700_000_000,
    }
}

/// Writes `count` attachments, one batch each, changes some and removes some.
pub(super) fn fill(dir: &Path, count: usize) {
    let (store, _) = Store::open(dir).unwrap();
    for number in 0..count {
        let address = format!("10.0.{}.{}", number / 200, number % 200 + 2);
        let mut batch = Batch::new();
        batch.put(&attachment(&format!("{number:064}"), &[&address])).unwrap();
        batch.cursor("default", address.parse().unwrap());
        drop(store.submit(batch).unwrap());
        if number % 7 == 0 {
            let mut batch = Batch::new();
            batch.remove(&attachment(&format!("{:064}", number / 2), &[]).key);
            // A flush of its own every now and then, so that the log has many pieces.
            store.submit(batch).unwrap().wait_blocking().unwrap();
        }
    }
    store.close().unwrap();
}

#[test]
fn what_was_submitted_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/store");
    let (store, loaded) = Store::open(&path).unwrap();
    assert_eq!(loaded, Loaded::default());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);

    let (a, b) = (attachment("a", &["10.0.0.2", "fd00::2"]), attachment("b", &["10.0.0.3"]));
    let mut first = Batch::new();
    first.put(&a).unwrap();
    first.put(&b).unwrap();
    first.cursor("default", "10.0.0.3".parse().unwrap());
    store.submit(first).unwrap().wait_blocking().unwrap();
    let mut second = Batch::new();
    second.remove(&a.key);
    drop(store.submit(second).unwrap());
    store.close().unwrap();

    let (_store, loaded) = Store::open(&path).unwrap();
    assert_eq!(loaded.attachments, [b]);
    assert_eq!(loaded.cursors, [("default".to_owned(), "10.0.0.3".parse().unwrap())].into());
}

#[test]
fn an_empty_batch_waits_for_the_earlier_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    let mut batch = Batch::new();
    batch.put(&attachment("a", &["10.0.0.2"])).unwrap();
    drop(store.submit(batch).unwrap());
    store.submit(Batch::new()).unwrap().wait_blocking().unwrap();
    let sequence = watermark::read(dir.path()).unwrap().unwrap().sequence;
    assert_eq!(sequence, 1);
}

#[test]
fn tickets_can_be_awaited() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut batch = Batch::new();
    batch.put(&attachment("a", &["10.0.0.2"])).unwrap();
    let ticket = store.submit(batch).unwrap();
    runtime.block_on(ticket.wait()).unwrap();
}

#[test]
fn many_waiting_batches_share_their_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    let tickets: Vec<_> = (0..500)
        .map(|number| {
            let mut batch = Batch::new();
            batch
                .put(&attachment(&number.to_string(), &[&format!("10.0.{}.{}", number / 250, number % 250)]))
                .unwrap();
            store.submit(batch).unwrap()
        })
        .collect();
    for ticket in tickets {
        ticket.wait_blocking().unwrap();
    }
    store.close().unwrap();
    assert_eq!(Store::open(dir.path()).unwrap().1.attachments.len(), 500);
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _) = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("stop the other cambric-ipamd"), "{error}");
}

#[test]
fn a_failure_to_write_reaches_every_waiter_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _) = open::open(dir.path()).unwrap();
    // A watermark that cannot be written stands for any failing disk.
    writer.watermark.break_for_test();
    let (queue, jobs) = sync_channel(QUEUE);
    let tickets: Vec<_> = ["a", "b"]
        .map(|id| {
            let mut batch = Batch::new();
            batch.put(&attachment(id, &[])).unwrap();
            let (done, ticket) = oneshot::channel();
            queue.send(writer::Job::new(batch, done)).unwrap();
            Ticket(ticket)
        })
        .into();
    drop(queue);
    assert!(matches!(writer.run(&jobs), Err(StoreError::Write { .. })));
    for ticket in tickets {
        let error = ticket.wait_blocking().unwrap_err();
        assert!(error.to_string().contains("the daemon then goes on by itself"), "{error}");
    }
}

/// Changes what is stored behind the store's back.
fn tamper(dir: &Path, key: &str, json: &[u8]) {
    let (writer, _) = open::open(dir).unwrap();
    writer.db.insert(key, format::seal(key, json)).unwrap();
    writer.db.flush().unwrap();
}

fn refused(dir: &Path) -> (bool, String) {
    let error = Store::open(dir).unwrap_err();
    (matches!(error, StoreError::Damaged { .. }), error.to_string())
}

#[test]
fn a_newer_format_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    tamper(dir.path(), format::META, br#"{"format":3,"more":true}"#);
    let (damaged, text) = refused(dir.path());
    assert!(!damaged);
    assert!(
        text.contains(
            "was written by a newer Cambric (format 3, this one knows 2), and what is pinned is of that, too; start that \
             version, or drain the node, run `cambricctl uninstall`"
        ),
        "{text}"
    );
}

#[test]
fn the_format_before_is_read_and_stays_until_this_release_has_claimed_it() {
    let dir = tempfile::tempdir().unwrap();
    let format = || {
        let (writer, _) = open::open(dir.path()).unwrap();
        let meta = writer.db.get(format::META).unwrap().unwrap();
        match format::decode(format::META.as_bytes(), &meta).unwrap() {
            (_, format::Record::Meta(meta)) => meta.format,
            other => panic!("{other:?}"),
        }
    };
    fill(dir.path(), 3);
    let before = Store::open(dir.path()).unwrap().1;
    assert_eq!(format(), 1, "a daemon that could not load its programs leaves the way back open");

    let (store, _) = Store::open(dir.path()).unwrap();
    for _ in 0..2 {
        store.claim().unwrap().wait_blocking().unwrap();
    }
    store.close().unwrap();
    assert_eq!(format(), 2);
    assert_eq!(Store::open(dir.path()).unwrap().1, before);
}

#[test]
fn a_record_too_many_or_changed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 2);
    let extra = serde_json::to_vec(&attachment("x", &["10.7.7.7"])).unwrap();
    tamper(dir.path(), "attachment/net/x/eth0", &extra);
    let (damaged, text) = refused(dir.path());
    assert!(damaged && text.contains("it holds 2 attachments instead of 1"), "{text}");

    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 2);
    tamper(dir.path(), "cursor/default", b"\"10.0.0.99\"");
    let (damaged, text) = refused(dir.path());
    assert!(damaged && text.contains("some of its records are not the latest"), "{text}");
}

#[test]
fn one_address_in_two_records_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    let mut batch = Batch::new();
    batch.put(&attachment("a", &["10.0.0.2"])).unwrap();
    batch.put(&attachment("b", &["10.0.0.2"])).unwrap();
    store.submit(batch).unwrap().wait_blocking().unwrap();
    store.close().unwrap();
    let (damaged, text) = refused(dir.path());
    assert!(
        damaged && text.contains("the address 10.0.0.2 belongs to both net/a/eth0 and net/b/eth0"),
        "{text}"
    );
}

#[test]
fn a_database_behind_its_watermark_is_refused_unless_the_machine_went_down() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 2);
    let mark = watermark::read(dir.path()).unwrap().unwrap();
    let ahead = watermark::Mark { sequence: mark.sequence + 5, ..mark.clone() };
    watermark::Watermark::create(dir.path(), ahead.clone()).unwrap();
    let (damaged, text) = refused(dir.path());
    assert!(
        damaged
            && text.contains(&format!(
                "ends at batch {0}, but was durable up to batch {1}",
                mark.sequence, ahead.sequence
            )),
        "{text}"
    );

    watermark::Watermark::create(dir.path(), watermark::Mark { boot_id: "an-earlier-boot".into(), ..ahead })
        .unwrap();
    let (store, loaded) = Store::open(dir.path()).unwrap();
    assert_eq!(loaded.attachments.len(), 1);
    store.close().unwrap();
    assert_eq!(watermark::read(dir.path()).unwrap(), Some(mark), "the watermark is this boot's again");
}

#[test]
fn a_first_start_that_was_cut_short_is_made_up_for() {
    let dir = tempfile::tempdir().unwrap();
    // Killed while the database was being made.
    std::fs::create_dir_all(dir.path().join("sled.new/blobs")).unwrap();
    std::fs::write(dir.path().join("sled.new/db"), b"half").unwrap();
    drop(Store::open(dir.path()).unwrap());
    assert!(!dir.path().join("sled.new").exists());
    // Killed before the watermark was written.
    std::fs::remove_file(dir.path().join("watermark")).unwrap();
    assert_eq!(Store::open(dir.path()).unwrap().1, Loaded::default());
}

fn read_only() -> std::io::Error {
    std::io::ErrorKind::ReadOnlyFilesystem.into()
}

/// A store with content below a state directory of its own, and what it holds.
fn filled() -> (tempfile::TempDir, PathBuf, Loaded) {
    let state = tempfile::tempdir().unwrap();
    let store = state.path().join("store");
    fill(&store, 5);
    let (opened, loaded) = Store::open(&store).unwrap();
    opened.close().unwrap();
    (state, store, loaded)
}

fn begun(store: &Path, is_first: bool) -> Found {
    Store::open_or_begin(store, &store.with_extension("copy"), is_first).unwrap()
}

#[test]
fn a_whole_store_opens_as_it_is_and_nothing_is_lost() {
    let (_state, store, loaded) = filled();
    for is_first in [false, true] {
        let found = begun(&store, is_first);
        assert_eq!((found.loaded, found.set_aside, found.store.has_lost()), (loaded.clone(), None, false));
    }
}

#[test]
fn a_damaged_store_is_moved_aside_and_what_it_held_counts_as_lost_until_it_was_looked_for() {
    let (_state, store, _) = filled();
    std::fs::write(store.join("sled/db"), "cut").unwrap();
    let found = begun(&store, false);
    assert_eq!(found.loaded, Loaded::default());
    assert!(found.set_aside.unwrap().join("sled/db").exists());
    assert!(found.store.has_lost());
    // The daemon is killed before it has looked; then not.
    drop(found.store);
    let again = begun(&store, false);
    assert_eq!((again.set_aside, again.store.has_lost()), (None, true));
    again.store.found_lost().unwrap();
    assert!(!again.store.has_lost());
    drop(again.store);
    assert!(!begun(&store, false).store.has_lost());
}

#[test]
fn a_damaged_store_of_another_boot_has_lost_nothing() {
    let (_state, store, _) = filled();
    std::fs::write(store.join("watermark"), "cut").unwrap();
    let found = begun(&store, true);
    assert!(found.set_aside.is_some() && !found.store.has_lost());
}

#[test]
fn a_missing_store_has_lost_what_the_daemon_before_had() {
    let (_state, store, _) = filled();
    std::fs::remove_dir_all(&store).unwrap();
    assert!(begun(&store, false).store.has_lost());
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::remove_file(store.with_extension("lost")).unwrap();
    assert!(!begun(&store, true).store.has_lost(), "it is the first one");
}

#[test]
fn a_store_of_a_newer_release_or_of_another_daemon_is_left_alone() {
    let (_state, store, _) = filled();
    let _other = Store::open(&store).unwrap();
    let scratch = store.with_extension("copy");
    let error = Store::open_or_begin(&store, &scratch, false).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    let (_state, store, _) = filled();
    std::fs::write(store.join("watermark"), "cambric-store 2 whatever").unwrap();
    let error = Store::open_or_begin(&store, &scratch, false).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }) && store.exists(), "{error}");
}

#[test]
fn a_store_that_cannot_be_written_tells_what_it_holds_and_takes_nothing() {
    let (state, store, loaded) = filled();
    let scratch = state.path().join("copy");
    let reason = read_only();
    let (opened, found) = Store::open_read_only(&store).unwrap();
    assert_eq!((found, opened.has_lost()), (loaded, false));
    assert!(!store.with_extension("copy").exists(), "the copy stays");
    let error = opened.submit(Batch::new()).unwrap_err();
    assert!(error.to_string().contains("read-only filesystem"), "{error}");
    assert_eq!(opened.unwritable().unwrap().to_string(), error.to_string());
    opened.close().unwrap();
    // What cannot be read either may be anything.
    std::fs::write(store.join("sled/db"), "cut").unwrap();
    let opening = open::read_copy(&store, &scratch, "boot", &reason).unwrap();
    assert_eq!((opening.loaded, opening.has_lost), (Loaded::default(), true));
}

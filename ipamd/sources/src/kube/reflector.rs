//! Lists and watches one collection, for as long as the daemon runs and whatever the server does.
//!
//! A list is streamed if the server supports that (`watch_list.rs`). If a streamed list fails, it is asked for in pages
//! at once. A list is one state of the collection, and the watch begins at its version.

use std::{sync::Arc, time::Duration};

use ipamd_runtime::backoff::{Backoff, spread};
use kube::Client;
use tokio::{
    sync::watch::Receiver,
    time::{Instant, sleep, timeout},
};

use super::{
    backoff,
    collection::Collection,
    crds::Presence,
    failure::Failure,
    list_watch::{self, Watch, WireEvent},
    watch_event::{Absence, EventSink, SinkClosed, WatchEvent},
    watch_list::{Verdict, WatchListSupport, verdict},
};

/// Objects per page. If the server forgets the rest of a list before it was sent (410), the list begins again with
/// larger pages, and at last with one page. The server offers a rest of a newer state instead, but then the list would
/// mix two states.
const PAGES: [Option<u32>; 3] = [Some(500), Some(5000), None];
/// How long a streamed list may make no progress before it is asked for in pages. A server that does not know streamed
/// lists may answer with a watch that never marks the end of the list.
const STREAM_SILENCE: Duration = Duration::from_secs(3);
/// The longest pause between a streamed list that a busy server refused and the list in pages. Retry-After of the
/// former is meant for streams; it must not delay the list further.
const AFTER_BUSY: Duration = Duration::from_secs(2);
/// How long a server may be silent before and within an answer that is a whole collection.
const SILENCE: Duration = Duration::from_secs(30);
/// The same for a page, which is small, and for the start of a watch, which servers answer at once. A server that hung
/// may never answer requests from that time but answer new ones.
const SHORT_SILENCE: Duration = Duration::from_secs(10);
/// How many empty pages may follow each other. A filter can empty some pages; a list of empty pages only has no end.
const EMPTY_PAGES: u32 = 1000;
/// How long a watch may be silent before it is replaced. The API server sends a bookmark about every minute.
const IDLE: Duration = Duration::from_secs(150);
/// A watch that lives this long counts as established. Some servers send a refusal inside the stream.
const ESTABLISHED_AFTER: Duration = Duration::from_secs(1);
/// A watch that ends sooner than this without an event counts as failed.
const SHORT: Duration = Duration::from_secs(5);
/// After this many failed watches in a row the collection is listed again: the version that they start from may be the
/// cause.
const WATCH_TRIES: u32 = 3;
/// The longest pause before a missing resource is tried again while its CRD is unknown; another API server may serve
/// it.
const LOOK_AGAIN: Duration = Duration::from_mins(5);
const LOOK_FOR_ABSENT: Duration = Duration::from_mins(15);
/// How long to wait for the list of CRDs, which tells what a 404 means.
const CRDS_WITHIN: Duration = Duration::from_secs(5);
/// After this time a resource that is not found, and whose CRD is not known to be absent, counts as not served by this
/// server. A server that is starting is faster.
const NOT_SERVED_AFTER: Duration = Duration::from_secs(30);

/// What a 404 means, by the state of the CRD and by how long the resource was not found.
fn absence(presence: Presence, lasts: Duration) -> Absence {
    match presence {
        Presence::Absent => Absence::Certain,
        _ if lasts >= NOT_SERVED_AFTER => Absence::Lasting,
        _ => Absence::Unclear,
    }
}

/// Why a list or a watch was cut short.
enum End {
    SinkClosed,
    Failed(Failure),
}

impl From<SinkClosed> for End {
    fn from(_: SinkClosed) -> Self {
        Self::SinkClosed
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// How an established watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Closed by the server, or replaced because it was silent.
    Well,
    /// Its connection broke, as when a server ends. The next request finds out whether the server is there.
    Broken,
}

/// The version up to which events were sent, and the stream that continues there if the list was streamed.
struct Position {
    version: String,
    stream: Option<Watch>,
}

/// Lists and watches a collection.
pub(super) struct Reflector<A> {
    collection: Collection,
    client: Client,
    sink: A,
    watch_list: Arc<WatchListSupport>,
    /// The state of the CRD, for resources that may be missing.
    crd: Option<Receiver<Presence>>,
    backoff: Backoff,
    /// Failed watches in a row.
    failed: u32,
    /// Since when the server answers 404.
    not_found: Option<Instant>,
    /// The newest version seen; no later list may be older.
    newest_version: String,
}

impl<A: EventSink + Send> Reflector<A> {
    pub fn new(collection: Collection, client: Client, watch_list: Arc<WatchListSupport>, sink: A) -> Self {
        Self {
            collection,
            client,
            sink,
            watch_list,
            crd: None,
            backoff: Backoff::new(backoff::FIRST),
            failed: 0,
            not_found: None,
            newest_version: String::new(),
        }
    }

    /// Gives the state of the CRD for a collection that may be missing.
    pub fn with_crd(self, crd: Option<Receiver<Presence>>) -> Self {
        Self { crd, ..self }
    }

    /// Runs until the receiver is gone.
    pub async fn run(mut self) {
        while self.list_and_watch().await.is_ok() {}
    }

    /// Lists, then watches until a new list is needed.
    async fn list_and_watch(&mut self) -> Result<(), SinkClosed> {
        let mut position = match self.list_all().await {
            Ok(position) => position,
            Err(End::SinkClosed) => return Err(SinkClosed),
            Err(End::Failed(failure)) => return self.report_and_back_off(&failure).await,
        };
        self.backoff.reset();
        self.collection.is_served();
        self.failed = 0;
        self.not_found = None;
        loop {
            let (begun, before) = (Instant::now(), position.version.clone());
            let ended = match self.watch(&mut position).await {
                Err(End::SinkClosed) => return Err(SinkClosed),
                Err(End::Failed(failure)) => Err(failure),
                Ok(ended) => Ok(ended),
            };
            let held = ended.is_ok() && begun.elapsed() > SHORT;
            let served = held || before != position.version;
            self.failed = if served { 0 } else { self.failed + 1 };
            self.newest_version.clone_from(&position.version);
            let failure = match ended {
                Ok(Ended::Well) if served => continue,
                Ok(_) if self.failed < WATCH_TRIES => {
                    sleep(self.backoff.next(backoff::LONGEST)).await;
                    continue;
                }
                Ok(_) => Failure::Broken("its watches end as soon as they begin".into()),
                Err(failure) => failure,
            };
            self.report_and_back_off(&failure).await?;
            if self.must_relist(&failure) {
                return Ok(());
            }
        }
    }

    /// Whether a failed watch requires a new list, because the version may be the cause.
    fn must_relist(&self, failure: &Failure) -> bool {
        match failure {
            // These have nothing to do with the version.
            Failure::Silent(_) | Failure::Broken(_) => false,
            Failure::Refused(refusal) if matches!(refusal.code, 401 | 403 | 408 | 429 | 503) => false,
            Failure::Refused(refusal) if refusal.code < 500 => true,
            Failure::Refused(_) | Failure::Garbage(_) => self.failed >= WATCH_TRIES,
        }
    }

    async fn emit(&mut self, event: WatchEvent) -> Result<(), SinkClosed> {
        self.sink.accept(event).await
    }

    /// Lists everything: by a stream if the server supports it, else in pages.
    async fn list_all(&mut self) -> Result<Position, End> {
        let server = self.collection.server;
        if !self.watch_list.is_supported(server) {
            return self.list_pages().await;
        }
        let failure = match self.stream_list().await {
            Err(End::Failed(failure)) => failure,
            ended => return ended,
        };
        let verdict = verdict(&failure);
        tracing::debug!(
            resource = self.collection.name,
            why = failure.message(),
            ?verdict,
            "a streamed list failed"
        );
        if verdict == Verdict::Busy {
            self.emit(WatchEvent::Failed(failure.message())).await?;
            let pause = failure.retry_after().unwrap_or(backoff::FIRST).min(AFTER_BUSY);
            sleep(backoff::retry_after(pause)).await;
        }
        if verdict == Verdict::Unsupported {
            self.stop_streaming(&failure);
        }
        let position = self.list_pages().await?;
        if verdict == Verdict::ProbablyUnsupported {
            self.stop_streaming(&failure);
        }
        Ok(position)
    }

    /// Marks the server as unable to stream lists.
    fn stop_streaming(&self, failure: &Failure) {
        if self.watch_list.mark_unsupported(self.collection.server) {
            tracing::info!(
                resource = self.collection.name,
                why = failure.message(),
                "the API server does not stream lists; listing in pages from now on"
            );
        }
    }

    /// Lists everything by a stream.
    async fn stream_list(&mut self) -> Result<Position, End> {
        let mut watch =
            Watch::begin(&self.client, &self.collection, &self.newest_version, true, STREAM_SILENCE).await?;
        self.emit(WatchEvent::ListStarted).await?;
        let mut until = Instant::now() + STREAM_SILENCE;
        loop {
            if !self.watch_list.is_supported(self.collection.server) {
                return Err(Failure::Garbage("other lists of this server are no streams".into()).into());
            }
            match watch.next(until.saturating_duration_since(Instant::now())).await? {
                // Only these are progress. A watch that is no list has changes and bookmarks only.
                Some(WireEvent::Added(pruned)) => {
                    self.emit(WatchEvent::Listed(pruned)).await?;
                    until = Instant::now() + STREAM_SILENCE;
                }
                Some(WireEvent::Modified(pruned)) => self.emit(WatchEvent::Listed(pruned)).await?,
                // While the server checks that it is up to date, changes come before the end of the list.
                Some(WireEvent::Deleted(pruned)) => self.emit(WatchEvent::Deleted(pruned)).await?,
                Some(WireEvent::Bookmark { ends_list: false, .. }) => {}
                Some(WireEvent::Bookmark { version, ends_list: true }) => {
                    self.emit(WatchEvent::ListFinished(version.clone())).await?;
                    return Ok(Position { version, stream: Some(watch) });
                }
                None => {
                    return Err(Failure::Garbage("a stream ended before the list in it did".into()).into());
                }
            }
        }
    }

    /// Lists everything in pages of one list.
    async fn list_pages(&mut self) -> Result<Position, End> {
        let mut ended = Ok(Position { version: String::new(), stream: None });
        for limit in PAGES {
            ended = self.list_with_limit(limit).await;
            match &ended {
                Err(End::Failed(failure)) if failure.is_expired() => {}
                _ => break,
            }
        }
        if ended.is_err() {
            // The server may not know this version: it may have been restored from a backup.
            self.newest_version.clear();
        }
        ended
    }

    async fn list_with_limit(&mut self, limit: Option<u32>) -> Result<Position, End> {
        self.emit(WatchEvent::ListStarted).await?;
        let (mut rest, mut version) = (None, None);
        let mut empty = 0;
        let patience = if limit.is_some() { SHORT_SILENCE } else { SILENCE };
        loop {
            let page =
                list_watch::page(&self.client, &self.collection, limit, rest.as_deref(), patience).await?;
            // All pages have one version. If a server changes it, the watch from the first version brings the
            // difference.
            let version = version.get_or_insert(page.version).clone();
            let is_empty = page.items.is_empty();
            for pruned in page.items {
                self.emit(WatchEvent::Listed(pruned)).await?;
            }
            empty = if is_empty { empty + 1 } else { 0 };
            if page.rest.is_some() && page.rest == rest || empty > EMPTY_PAGES {
                let what = "its list has no end: a page leads to itself, or too many pages have no object";
                return Err(Failure::Garbage(what.into()).into());
            }
            rest = page.rest;
            if rest.is_none() {
                self.emit(WatchEvent::ListFinished(version.clone())).await?;
                return Ok(Position { version, stream: None });
            }
        }
    }

    /// Watches from a position until the server ends the watch.
    async fn watch(&mut self, position: &mut Position) -> Result<Ended, End> {
        let mut watch = match position.stream.take() {
            Some(watch) => watch,
            None => self.begin_watch(&position.version).await?,
        };
        let mut established = false;
        loop {
            let patience = if established { IDLE } else { ESTABLISHED_AFTER };
            let event = match watch.next(patience).await {
                Err(Failure::Silent(_)) if established => return Ok(Ended::Well),
                Err(Failure::Broken(why)) => {
                    tracing::debug!(resource = self.collection.name, why, "the connection of a watch broke");
                    return Ok(Ended::Broken);
                }
                Err(Failure::Silent(_)) => {
                    established = true;
                    self.emit(WatchEvent::Alive).await?;
                    continue;
                }
                event => event?,
            };
            let Some(event) = event else { return Ok(Ended::Well) };
            established = true;
            self.backoff.reset();
            match event {
                WireEvent::Added(pruned) | WireEvent::Modified(pruned) => {
                    pruned.version().clone_into(&mut position.version);
                    self.emit(WatchEvent::Applied(pruned)).await?;
                }
                WireEvent::Deleted(pruned) => {
                    pruned.version().clone_into(&mut position.version);
                    self.emit(WatchEvent::Deleted(pruned)).await?;
                }
                WireEvent::Bookmark { version, .. } => {
                    position.version = version;
                    self.emit(WatchEvent::Alive).await?;
                }
            }
        }
    }

    async fn begin_watch(&self, version: &str) -> Result<Watch, Failure> {
        Watch::begin(&self.client, &self.collection, version, false, SHORT_SILENCE).await
    }

    /// Reports a failure and waits before the next try.
    async fn report_and_back_off(&mut self, failure: &Failure) -> Result<(), SinkClosed> {
        let why = failure.message();
        if failure.code() == Some(404) && self.collection.try_another_version() {
            return Ok(());
        }
        if failure.code() == Some(404) && self.crd.is_some() {
            let absence = self.classify_not_found().await;
            self.emit(WatchEvent::NotFound(absence, why)).await?;
            self.wait_for_crd(absence == Absence::Certain).await;
            return Ok(());
        }
        self.not_found = None;
        let is_expired = failure.is_expired();
        self.emit(if is_expired { WatchEvent::Expired(why) } else { WatchEvent::Failed(why) }).await?;
        let pause = match failure.retry_after() {
            Some(time) => backoff::retry_after(time),
            None if is_expired => backoff::relist(),
            None => self.backoff.next(backoff::LONGEST),
        };
        sleep(pause).await;
        Ok(())
    }

    /// What a 404 means, by the state of the CRD. At the start the list of CRDs is waited for, because all requests
    /// start at once.
    async fn classify_not_found(&mut self) -> Absence {
        let since = *self.not_found.get_or_insert_with(Instant::now);
        let Some(crd) = &mut self.crd else { return Absence::Unclear };
        let presence = match timeout(CRDS_WITHIN, crd.wait_for(|it| *it != Presence::Unknown)).await {
            Ok(Ok(presence)) => *presence,
            _ => Presence::Unknown,
        };
        absence(presence, since.elapsed())
    }

    /// Waits until the CRD changes, or until it is time to try again.
    async fn wait_for_crd(&mut self, absent: bool) {
        let pause = if absent { spread(LOOK_FOR_ABSENT) } else { self.backoff.next(LOOK_AGAIN) };
        let Some(crd) = &mut self.crd else { return sleep(pause).await };
        if let Ok(Ok(())) = timeout(pause, crd.changed()).await {
            self.backoff.reset();
        }
    }
}

#[cfg(test)]
mod tests;

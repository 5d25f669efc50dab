//! Follows one collection: lists it once, then watches it for good, through whatever becomes of the server.
//!
//! A list is streamed where the server can (`streams.rs`); after any other answer it is asked for in pages, at once. What is
//! listed is one state of the collection, and the watch goes on from there.

use std::{future::Future, sync::Arc, time::Duration};

use kube::Client;
use tokio::{
    sync::watch::Receiver,
    time::{Instant, sleep, timeout},
};

use super::{
    collection::Collection,
    definitions::Presence,
    failure::Failure,
    pause::{self, Pause},
    seen::Seen,
    streams::{Streams, Verdict, verdict},
    told::{self, Event, Watch},
};

/// How many objects are asked for at a time. A list whose rest is forgotten before it is told is begun anew with more of
/// them, at last with all: what the server offers instead, a rest of another state, would not be one list.
const PAGES: [Option<u32>; 3] = [Some(500), Some(5000), None];
/// How long a streamed list may bring nothing more of it before it is asked for in pages. A server that does not know of
/// streamed lists may answer with a watch that never says where the list ends.
const STREAM_SILENCE: Duration = Duration::from_secs(3);
/// The longest pause between a streamed list that a busy server has refused and the plain one. What it says of when to come
/// back is about streams: nothing may be without a list for longer than this because of them.
const AFTER_BUSY: Duration = Duration::from_secs(2);
/// How long a server may say nothing before and in an answer that is a whole collection.
const SILENCE: Duration = Duration::from_secs(30);
/// As long for a page, which is small, and for the beginning of a watch, which a server answers at once. A server that hung
/// may never answer what it was asked then, and answer all else.
const SHORT_SILENCE: Duration = Duration::from_secs(10);
/// How many pages without an object may follow each other. A filter can empty some; a list that brings nothing has no end.
const EMPTY_PAGES: u32 = 1000;
/// How long a watch may say nothing before another one is begun: a real server sends a bookmark a minute.
const IDLE: Duration = Duration::from_secs(150);
/// A watch that holds for so long is one. Servers may refuse inside a stream that they have begun.
const SETTLED: Duration = Duration::from_secs(1);
/// A watch that ends sooner than this, and has told nothing, is as good as none.
const SHORT: Duration = Duration::from_secs(5);
/// How many watches may fail in a row before everything is listed anew: the version that they begin from may be why.
const WATCH_TRIES: u32 = 3;
/// The longest pause before a resource is looked for that is missing while nobody tells of its definition; it may be served
/// by another API server.
const LOOK_AGAIN: Duration = Duration::from_mins(5);
const LOOK_FOR_ABSENT: Duration = Duration::from_mins(15);
/// How long the definitions may be in coming, which say what a resource that is not found means.
const DEFINITIONS: Duration = Duration::from_secs(5);
/// After so long a resource that is not found, and of which no definition tells that it is not there, is not served by this
/// server at all: what starts is there sooner.
const NOT_SERVED_AFTER: Duration = Duration::from_secs(30);

/// What is told of a collection.
#[derive(Debug)]
pub(super) enum Told {
    /// All objects follow.
    Begin,
    /// One of all.
    Listed(Seen),
    /// These were all, at this version.
    Done(String),
    /// An object is new or has changed.
    Put(Seen),
    /// An object is gone; also while all follow.
    Gone(Seen),
    /// There is no such resource, as the server says.
    Missing(Absence, String),
    /// The server has begun an answer; more may follow at any time.
    Answered,
    /// The server has forgotten what happened since it told last; all objects follow.
    Expired(String),
    /// The server does not tell, for this reason.
    Trouble(String),
}

/// What a server means that does not find a resource (404). That one may not be seen (403) is no absence: rights are looked at
/// before what there is, so a refusal says nothing of whether there are objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// It is not defined.
    Certain,
    /// It is not there, but may be defined: a server that starts says so for a moment.
    Unclear,
    /// The same, for longer than a start takes.
    Lasting,
}

impl Absence {
    /// By what is known of its definition, and for how long the resource was not found, time and again.
    fn of(presence: Presence, lasts: Duration) -> Self {
        match presence {
            Presence::Absent => Self::Certain,
            _ if lasts >= NOT_SERVED_AFTER => Self::Lasting,
            _ => Self::Unclear,
        }
    }
}

/// Nobody listens any more.
#[derive(Debug)]
pub(super) struct Unheard;

/// Who is told.
pub(super) trait Audience {
    /// Takes it in.
    fn hear(&mut self, told: Told) -> impl Future<Output = Result<(), Unheard>> + Send;
}

/// Why something has ended before its time.
enum End {
    Unheard,
    Failed(Failure),
}

impl From<Unheard> for End {
    fn from(_: Unheard) -> Self {
        Self::Unheard
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// How a watch ends that was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// By the server, or after it has said nothing for long.
    Well,
    /// With its connection, as when a server ends. Whether another one is there is found out at once, and told then.
    Broken,
}

/// What has been told so far: everything until a version, and where more comes from if the list was a stream.
struct Position {
    version: String,
    stream: Option<Watch>,
}

/// Follows a collection.
pub(super) struct Reflector<A> {
    collection: Collection,
    client: Client,
    audience: A,
    streams: Arc<Streams>,
    /// Of its definition, if it may be missing.
    defined: Option<Receiver<Presence>>,
    pause: Pause,
    /// Watches in a row that failed.
    failed: u32,
    /// Since when the resource was not found, time and again.
    not_found: Option<Instant>,
    /// The newest version that was told, which no list may be older than.
    known: String,
}

impl<A: Audience + Send> Reflector<A> {
    pub fn new(collection: Collection, client: Client, streams: Arc<Streams>, audience: A) -> Self {
        Self {
            collection,
            client,
            audience,
            streams,
            defined: None,
            pause: Pause::default(),
            failed: 0,
            not_found: None,
            known: String::new(),
        }
    }

    /// The collection may be missing, which its definition tells.
    pub fn defined(self, defined: Option<Receiver<Presence>>) -> Self {
        Self { defined, ..self }
    }

    /// Follows it until nobody listens.
    pub async fn follow(mut self) {
        while self.live().await.is_ok() {}
    }

    /// From one list to the next.
    async fn live(&mut self) -> Result<(), Unheard> {
        let mut position = match self.everything().await {
            Ok(position) => position,
            Err(End::Unheard) => return Err(Unheard),
            Err(End::Failed(failure)) => return self.wait_after(&failure).await,
        };
        self.pause.reset();
        self.failed = 0;
        self.not_found = None;
        loop {
            let (begun, before) = (Instant::now(), position.version.clone());
            let ended = match self.watch(&mut position).await {
                Err(End::Unheard) => return Err(Unheard),
                Err(End::Failed(failure)) => Err(failure),
                Ok(ended) => Ok(ended),
            };
            let held = ended.is_ok() && begun.elapsed() > SHORT;
            let served = held || before != position.version;
            self.failed = if served { 0 } else { self.failed + 1 };
            self.known.clone_from(&position.version);
            let failure = match ended {
                Ok(Ended::Well) if served => continue,
                Ok(_) if self.failed < WATCH_TRIES => {
                    sleep(self.pause.next(pause::LONGEST)).await;
                    continue;
                }
                Ok(_) => Failure::Broken("its watches end as soon as they begin".into()),
                Err(failure) => failure,
            };
            self.wait_after(&failure).await?;
            if self.begins_anew(&failure) {
                return Ok(());
            }
        }
    }

    /// Whether everything must be listed after a watch has failed, because its version may be why.
    fn begins_anew(&self, failure: &Failure) -> bool {
        match failure {
            // The version is not to blame.
            Failure::Silent(_) | Failure::Broken(_) => false,
            Failure::Refused(refusal) if matches!(refusal.code, 401 | 403 | 408 | 429 | 503) => false,
            Failure::Refused(refusal) if refusal.code < 500 => true,
            Failure::Refused(_) | Failure::Garbage(_) => self.failed >= WATCH_TRIES,
        }
    }

    async fn tell(&mut self, told: Told) -> Result<(), Unheard> {
        self.audience.hear(told).await
    }

    /// Tells everything, by a stream if the server may do that, and by pages at once if it does not.
    async fn everything(&mut self) -> Result<Position, End> {
        let server = self.collection.server;
        if !self.streams.may_be_asked(server) {
            return self.list().await;
        }
        let failure = match self.stream().await {
            Err(End::Failed(failure)) => failure,
            ended => return ended,
        };
        let verdict = verdict(&failure);
        tracing::debug!(
            resource = self.collection.name,
            why = failure.words(),
            ?verdict,
            "a list is not streamed"
        );
        if verdict == Verdict::Busy {
            self.tell(Told::Trouble(failure.words())).await?;
            let pause = failure.retry_after().unwrap_or(pause::FIRST).min(AFTER_BUSY);
            sleep(pause::said(pause)).await;
        }
        if verdict == Verdict::NeverStreams {
            self.is_no_streamer(&failure);
        }
        let position = self.list().await?;
        if verdict == Verdict::Refused {
            self.is_no_streamer(&failure);
        }
        Ok(position)
    }

    /// The server is not asked for a stream again.
    fn is_no_streamer(&self, failure: &Failure) {
        if self.streams.refused(self.collection.server) {
            tracing::info!(
                resource = self.collection.name,
                why = failure.words(),
                "the API server does not stream lists; from now on they are asked for in pages"
            );
        }
    }

    /// Tells everything by a stream.
    async fn stream(&mut self) -> Result<Position, End> {
        let mut watch =
            Watch::begin(&self.client, &self.collection, &self.known, true, STREAM_SILENCE).await?;
        self.tell(Told::Begin).await?;
        let mut until = Instant::now() + STREAM_SILENCE;
        loop {
            if !self.streams.may_be_asked(self.collection.server) {
                return Err(Failure::Garbage("other lists of this server are no streams".into()).into());
            }
            match watch.next(until.saturating_duration_since(Instant::now())).await? {
                // Only these bring the end of the list nearer; a watch that is no list tells of changes and bookmarks.
                Some(Event::Added(seen)) => {
                    self.tell(Told::Listed(seen)).await?;
                    until = Instant::now() + STREAM_SILENCE;
                }
                Some(Event::Modified(seen)) => self.tell(Told::Listed(seen)).await?,
                // What happens while the server makes sure that it knows of everything comes before the end of the list.
                Some(Event::Gone(seen)) => self.tell(Told::Gone(seen)).await?,
                Some(Event::Bookmark { ends_list: false, .. }) => {}
                Some(Event::Bookmark { version, ends_list: true }) => {
                    self.tell(Told::Done(version.clone())).await?;
                    return Ok(Position { version, stream: Some(watch) });
                }
                None => {
                    return Err(Failure::Garbage("a stream ended before the list in it did".into()).into());
                }
            }
        }
    }

    /// Tells everything by pages of one list.
    async fn list(&mut self) -> Result<Position, End> {
        let mut ended = Ok(Position { version: String::new(), stream: None });
        for limit in PAGES {
            ended = self.pages(limit).await;
            match &ended {
                Err(End::Failed(failure)) if failure.is_expired() => {}
                _ => break,
            }
        }
        if ended.is_err() {
            // What was known may be what the server does not know: it may have been restored from a backup.
            self.known.clear();
        }
        ended
    }

    async fn pages(&mut self, limit: Option<u32>) -> Result<Position, End> {
        self.tell(Told::Begin).await?;
        let (mut rest, mut version) = (None, None);
        let mut empty = 0;
        let patience = if limit.is_some() { SHORT_SILENCE } else { SILENCE };
        loop {
            let page = told::page(&self.client, &self.collection, limit, rest.as_deref(), patience).await?;
            // All pages are of one version. If a server thinks otherwise, the watch tells what changed since the first.
            let version = version.get_or_insert(page.version).clone();
            let is_empty = page.items.is_empty();
            for seen in page.items {
                self.tell(Told::Listed(seen)).await?;
            }
            empty = if is_empty { empty + 1 } else { 0 };
            if page.rest.is_some() && page.rest == rest || empty > EMPTY_PAGES {
                let what = "its list has no end: a page leads to itself, or too many pages have no object";
                return Err(Failure::Garbage(what.into()).into());
            }
            rest = page.rest;
            if rest.is_none() {
                self.tell(Told::Done(version.clone())).await?;
                return Ok(Position { version, stream: None });
            }
        }
    }

    /// Tells what happens from a position on, until the server ends the watch.
    async fn watch(&mut self, position: &mut Position) -> Result<Ended, End> {
        let mut watch = match position.stream.take() {
            Some(watch) => watch,
            None => self.begin_watch(&position.version).await?,
        };
        let mut settled = false;
        loop {
            let patience = if settled { IDLE } else { SETTLED };
            let event = match watch.next(patience).await {
                Err(Failure::Silent(_)) if settled => return Ok(Ended::Well),
                Err(Failure::Broken(why)) => {
                    tracing::debug!(resource = self.collection.name, why, "a watch broke");
                    return Ok(Ended::Broken);
                }
                Err(Failure::Silent(_)) => {
                    settled = true;
                    self.tell(Told::Answered).await?;
                    continue;
                }
                event => event?,
            };
            let Some(event) = event else { return Ok(Ended::Well) };
            settled = true;
            self.pause.reset();
            match event {
                Event::Added(seen) | Event::Modified(seen) => {
                    seen.version().clone_into(&mut position.version);
                    self.tell(Told::Put(seen)).await?;
                }
                Event::Gone(seen) => {
                    seen.version().clone_into(&mut position.version);
                    self.tell(Told::Gone(seen)).await?;
                }
                Event::Bookmark { version, .. } => {
                    position.version = version;
                    self.tell(Told::Answered).await?;
                }
            }
        }
    }

    async fn begin_watch(&self, version: &str) -> Result<Watch, Failure> {
        Watch::begin(&self.client, &self.collection, version, false, SHORT_SILENCE).await
    }

    /// Tells of a failure, and waits as long as is good after it.
    async fn wait_after(&mut self, failure: &Failure) -> Result<(), Unheard> {
        let why = failure.words();
        if failure.code() == Some(404) && self.defined.is_some() {
            let absence = self.absence().await;
            self.tell(Told::Missing(absence, why)).await?;
            self.wait_for_definition(absence == Absence::Certain).await;
            return Ok(());
        }
        self.not_found = None;
        let is_expired = failure.is_expired();
        self.tell(if is_expired { Told::Expired(why) } else { Told::Trouble(why) }).await?;
        let pause = match failure.retry_after() {
            Some(time) => pause::said(time),
            None if is_expired => pause::relist(),
            None => self.pause.next(pause::LONGEST),
        };
        sleep(pause).await;
        Ok(())
    }

    /// What it means that the resource is not found, by its definition. At a start that is waited for a moment: all is asked
    /// for at once.
    async fn absence(&mut self) -> Absence {
        let since = *self.not_found.get_or_insert_with(Instant::now);
        let Some(defined) = &mut self.defined else { return Absence::Unclear };
        let presence = match timeout(DEFINITIONS, defined.wait_for(|it| *it != Presence::Unknown)).await {
            Ok(Ok(presence)) => *presence,
            _ => Presence::Unknown,
        };
        Absence::of(presence, since.elapsed())
    }

    /// Waits until its definition appears or changes, or it is time to look again.
    async fn wait_for_definition(&mut self, absent: bool) {
        let pause = if absent { pause::spread(LOOK_FOR_ABSENT) } else { self.pause.next(LOOK_AGAIN) };
        let Some(defined) = &mut self.defined else { return sleep(pause).await };
        if let Ok(Ok(())) = timeout(pause, defined.changed()).await {
            self.pause.reset();
        }
    }
}

#[cfg(test)]
mod tests;

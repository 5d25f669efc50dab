//! Follows one resource: lists it once, then watches it for good, through whatever becomes of the server.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        utils::Backoff,
        watcher::{self, Event, InitialListStrategy},
    },
};
use tokio::{
    sync::{Notify, mpsc::Sender},
    time::{sleep, timeout},
};

use super::{
    resources::{RESOURCES, Resource},
    seen::Seen,
};

/// Objects of a list that is not streamed come so many at a time.
const PAGE: u32 = 500;
/// Within how long the nodes of a cluster list anew what a server has forgotten the history of, which it does for all of
/// them at once.
const RELIST: Duration = Duration::from_secs(5);
/// How long the server may say nothing while it is asked for everything.
const SILENCE: Duration = Duration::from_secs(30);
/// How often is looked for a resource whose definition nobody has told of; it may be served by another API server.
const LOOK_AGAIN: Duration = Duration::from_mins(15);
/// A definition is there a moment before its resource.
const LOOKS_FOR_DEFINED: u32 = 15;

/// What is told of a resource.
#[derive(Debug)]
pub(super) enum Told {
    /// All objects follow.
    Begin,
    /// One of all.
    Listed(Seen),
    /// These were all.
    Done,
    /// An object is new or has changed.
    Put(Seen),
    /// An object is gone.
    Gone(Seen),
    /// The resource is not there.
    Missing,
    /// The server has begun an answer; more may follow at any time.
    Answered,
    /// The server does not tell, for this reason.
    Trouble(String),
}

/// What is told, and of which resource.
#[derive(Debug)]
pub(super) struct Report {
    pub resource: &'static Resource,
    pub told: Told,
}

/// Wakes those who wait for their definition, by its name.
pub(super) type Definitions = HashMap<String, Arc<Notify>>;

/// The definitions that may appear.
pub(super) fn definitions() -> Definitions {
    let optional = RESOURCES.iter().filter(|it| it.optional);
    optional.map(|it| (it.definition(), Arc::new(Notify::new()))).collect()
}

/// Tells of definitions that appear or change.
pub(super) async fn watch_definitions(client: Client, definitions: Definitions) {
    let api = Api::<PartialObjectMeta<CustomResourceDefinition>>::all(client);
    let mut pause = watcher::DefaultBackoff::default();
    let mut events = pin!(watcher::watcher(api, watcher::Config::default().timeout(watch_seconds())));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(definition) | Event::InitApply(definition)) => {
                if let Some(waiting) = definitions.get(&definition.name_any()) {
                    waiting.notify_one();
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "definitions of resources cannot be watched");
                sleep(spread(pause.next())).await;
            }
        }
    }
}

/// Nobody listens any more.
struct Unheard;

/// What follows on a watcher that is given up.
enum Next {
    /// Another one.
    Again,
    /// There is no such resource.
    Missing,
}

/// Follows a resource: lists it once, then watches it for good.
pub(super) struct Reflector {
    resource: &'static Resource,
    api: Api<Seen>,
    /// The server has begun an answer.
    answered: Arc<Notify>,
    reports: Sender<Report>,
    pause: watcher::DefaultBackoff,
    /// Whether the server can stream a list: since Kubernetes 1.27, by default since 1.32.
    streaming: bool,
    /// How often to look quickly for what is missing.
    looks: u32,
}

impl Reflector {
    pub fn new(
        resource: &'static Resource,
        client: Client,
        answered: Arc<Notify>,
        reports: Sender<Report>,
    ) -> Self {
        Self {
            resource,
            api: Api::all_with(client, &resource),
            answered,
            reports,
            pause: watcher::DefaultBackoff::default(),
            streaming: true,
            looks: LOOKS_FOR_DEFINED,
        }
    }

    /// Follows the resource until nobody listens. `defined` is told of when its definition appears or changes.
    pub async fn follow(mut self, defined: Option<Arc<Notify>>) {
        loop {
            match self.live().await {
                Ok(Next::Again) => {}
                Ok(Next::Missing) => {
                    if self.tell(Told::Missing).await.is_err() {
                        return;
                    }
                    self.wait_for_definition(defined.as_deref()).await;
                }
                Err(Unheard) => return,
            }
        }
    }

    async fn tell(&self, told: Told) -> Result<(), Unheard> {
        self.reports.send(Report { resource: self.resource, told }).await.map_err(|_| Unheard)
    }

    /// One watcher's life.
    async fn live(&mut self) -> Result<Next, Unheard> {
        let mut events = pin!(watcher::watcher(self.api.clone(), self.config()));
        let mut listing = true;
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = self.answered.notified() => {
                    self.tell(Told::Answered).await?;
                    continue;
                }
                // While it watches, the watcher itself sees to it that the server says something from time to time.
                () = sleep(SILENCE), if listing => {
                    // A server that does not know of streamed lists may answer with a watch that has no end.
                    self.streaming = !self.streaming;
                    self.tell(Told::Trouble("it does not answer".into())).await?;
                    return Ok(Next::Again);
                }
            };
            let told = match event {
                None => return Ok(Next::Again),
                Some(Ok(event)) => {
                    listing = match event {
                        Event::Init => true,
                        Event::InitDone => false,
                        _ => listing,
                    };
                    if !listing {
                        self.pause.reset();
                        self.looks = LOOKS_FOR_DEFINED;
                    }
                    match event {
                        Event::Init => Told::Begin,
                        Event::InitApply(seen) => Told::Listed(seen),
                        Event::InitDone => Told::Done,
                        Event::Apply(seen) => Told::Put(seen),
                        Event::Delete(seen) => Told::Gone(seen),
                    }
                }
                Some(Err(error)) => {
                    let next = self.understand(&error);
                    if next.is_none() || is_gone(&error) {
                        self.tell(Told::Trouble(explained(&error))).await?;
                        sleep(pause_after(&error, self.pause.next())).await;
                    }
                    if let Some(next) = next {
                        return Ok(next);
                    }
                    continue;
                }
            };
            self.tell(told).await?;
        }
    }

    fn config(&self) -> watcher::Config {
        watcher::Config {
            label_selector: self.resource.labels.map(ToOwned::to_owned),
            field_selector: self.resource.fields.map(ToOwned::to_owned),
            timeout: Some(watch_seconds()),
            initial_list_strategy: if self.streaming {
                InitialListStrategy::StreamingList
            } else {
                InitialListStrategy::ListWatch
            },
            page_size: Some(PAGE),
            ..watcher::Config::default()
        }
    }

    /// What an error means besides trouble.
    fn understand(&mut self, error: &watcher::Error) -> Option<Next> {
        let code = match error {
            watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            | watcher::Error::WatchError(status) => status.code,
            _ => return None,
        };
        match code {
            404 if self.resource.optional => Some(Next::Missing),
            // Without the right to see them there are none, as far as this node can know.
            403 if self.resource.optional => {
                tracing::warn!(resource = %self.resource, "the API server forbids to watch this resource; it is taken to be missing");
                Some(Next::Missing)
            }
            // The watcher would go on asking for what is forgotten.
            410 if matches!(error, watcher::Error::WatchStartFailed(_)) => Some(Next::Again),
            // How servers say that they do not stream lists: of the parameter, or of the version 0 that goes with it.
            400 | 422 if self.streaming => {
                self.streaming = false;
                Some(Next::Again)
            }
            _ => None,
        }
    }

    async fn wait_for_definition(&mut self, defined: Option<&Notify>) {
        let Some(defined) = defined else { return sleep(LOOK_AGAIN).await };
        if self.looks > 0 && self.looks < LOOKS_FOR_DEFINED {
            self.looks -= 1;
            return sleep(Duration::from_secs(1)).await;
        }
        // The definition is there, or it is time to look again: look quickly for a while.
        let _ = timeout(spread(Some(LOOK_AGAIN)), defined.notified()).await;
        self.looks = LOOKS_FOR_DEFINED - 1;
    }
}

/// How long the server is asked to go on with one watch: not the same for all nodes.
fn watch_seconds() -> u32 {
    200 + random_below(90)
}

/// Whether the server has forgotten what happened since it was heard last.
fn is_gone(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) | watcher::Error::WatchError(status)
            if status.code == 410
    )
}

/// How long to wait after an error. What follows on a history that is gone is a list of everything, which costs a server
/// the more the larger the cluster is.
fn pause_after(error: &watcher::Error, pause: Option<Duration>) -> Duration {
    if is_gone(error) { RELIST * random_below(1000) / 1000 } else { spread(pause) }
}

/// A pause that is not the same on all nodes, so that they do not come back as one.
fn spread(pause: Option<Duration>) -> Duration {
    let pause = pause.unwrap_or(Duration::from_secs(30));
    pause / 2 + pause * random_below(1000) / 1000
}

/// A number below the bound, another one each time.
fn random_below(bound: u32) -> u32 {
    use std::hash::{BuildHasher, RandomState};
    // Each has keys of its own, from the system's random numbers.
    u32::try_from(RandomState::new().hash_one(()) % u64::from(bound.max(1))).unwrap_or(0)
}

/// What went wrong, in one line.
fn explained(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => words_of(error),
        WatchError(status) => said(status),
        NoResourceVersion => words(error),
    }
}

/// What went wrong with a request, in one line.
pub(super) fn words_of(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => said(status),
        other => words(other),
    }
}

/// A refusal in the server's words.
fn said(status: &kube::core::Status) -> String {
    format!("it says: {} ({})", status.message, status.code)
}

/// An error and what is behind it, in one line.
pub(super) fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        // Many wrap an error and repeat what it says.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16) -> watcher::Error {
        let status = kube::core::Status { code, ..kube::core::Status::default() };
        watcher::Error::WatchError(Box::new(status))
    }

    /// Five thousand nodes whose API server has restarted: in no tenth of the time that they take to come back are there
    /// many more than a tenth of them.
    #[test]
    fn thousands_of_nodes_do_not_come_back_as_one() {
        const NODES: usize = 5000;
        for (code, first, last) in
            [(410, Duration::ZERO, RELIST), (503, Duration::from_millis(500), Duration::from_millis(1500))]
        {
            let mut tenths = [0; 10];
            for _ in 0..NODES {
                let pause = pause_after(&refused(code), Some(Duration::from_secs(1)));
                assert!((first..last).contains(&pause), "{code}: {pause:?}");
                let of = |end: Duration| end.saturating_sub(first).as_millis();
                let at = 10 * of(pause) / of(last);
                tenths[usize::try_from(at).unwrap()] += 1;
            }
            assert!(tenths.iter().all(|it| (NODES / 20..NODES * 3 / 20).contains(it)), "{code}: {tenths:?}");
        }
    }

    #[test]
    fn pauses_differ_and_are_bounded() {
        let second = Duration::from_secs(1);
        let pauses: Vec<_> = (0..100).map(|_| spread(Some(second))).collect();
        assert!(pauses.iter().all(|it| (second / 2..second * 3 / 2).contains(it)));
        assert!(pauses.iter().any(|it| *it != pauses[0]));
        assert!((0..100).map(|_| watch_seconds()).all(|it| (200..290).contains(&it)));
    }
}

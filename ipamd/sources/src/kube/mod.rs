//! The Kubernetes API as a source: every resource is listed once and then watched.
//!
//! If the server fails, the last known state stays: in force, and in a copy on disk. A daemon that starts while the
//! server is away begins with that copy.

mod backoff;
mod cache;
mod client;
mod collection;
mod crds;
mod events;
mod failure;
mod list_watch;
mod network_condition;
mod object_versions;
mod pod_lookup;
mod pruned_object;
mod reflector;
mod request;
mod resources;
mod sync_status;
mod token;
mod types;
mod watch_event;
mod watch_list;

use std::{
    collections::BTreeMap,
    mem,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{
        mpsc::{Receiver, Sender, channel},
        oneshot,
    },
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::{
    cache::Cache,
    collection::Collection,
    crds::Crds,
    object_versions::{Delta, ObjectVersions},
    pod_lookup::{LocalPods, PodAnswer},
    pruned_object::PrunedObject,
    reflector::Reflector,
    resources::{RESOURCES, Resource},
    sync_status::SyncStatus,
    watch_event::{Absence, EventSink, SinkClosed, WatchEvent},
    watch_list::WatchListSupport,
};
pub use self::{
    client::{ClientError, client},
    events::{Events, Notice},
    network_condition::NetworkCondition,
    pod_lookup::{PodLookup, PodLookupError},
};
use super::{Source, SourceState, field::Field, manifest, v1};
use ipamd_model::{
    interned::Interned,
    objects::{Batch, Change, Kind, ObjectId, Origin, Refusal},
};

/// The origin of objects in refusals, where a manifest would have its file.
const ORIGIN: &str = "the API server";
/// The queue of events from the reflectors.
const ROOM: usize = 512;
/// At most this many events become one batch.
const MOST_AT_ONCE: usize = 4096;
/// How long a start waits for progress of the first lists before it uses the copy of the cluster's state.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the time of the last contact is written to disk.
const SAVE_FRESHNESS_EVERY: Duration = Duration::from_secs(30);

/// How to reach a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig; `None` in a pod of the cluster.
    pub kubeconfig: Option<PathBuf>,
    /// URL of the server, in place of the one that follows from that.
    pub server: Option<String>,
}

impl Access {
    /// The configuration of a client.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn config(&self) -> Result<kube::Config, ClientError> {
        client::config(self.kubeconfig.as_deref(), self.server.as_deref()).await
    }
}

/// An event of a reflector, with its resource.
#[derive(Debug)]
struct Report {
    resource: &'static Resource,
    event: WatchEvent,
}

/// Sends the events of one resource's reflector to the source.
#[derive(Debug)]
struct Reporter {
    resource: &'static Resource,
    reports: Sender<Report>,
}

impl EventSink for Reporter {
    async fn accept(&mut self, event: WatchEvent) -> Result<(), SinkClosed> {
        self.reports.send(Report { resource: self.resource, event }).await.map_err(|_| SinkClosed)
    }
}

/// The Kubernetes API as a source.
#[derive(Debug)]
pub struct Kube {
    reports: Receiver<Report>,
    answers: Receiver<PodAnswer>,
    /// Pod lookups that wait until their answer is in force.
    lookups: Vec<oneshot::Sender<()>>,
    mirror: Mirror,
    local: LocalPods,
    started: bool,
    /// The last batch may not be in force yet.
    unacknowledged: bool,
    save_freshness: Instant,
    /// The reflectors; they end when this is dropped.
    _tasks: JoinSet<()>,
}

impl Kube {
    /// Starts the reflectors on the current runtime, for the node of that name. The copy of the cluster's state is at
    /// `copy`.
    ///
    /// # Errors
    /// The credentials cannot be used.
    pub fn open(
        config: &kube::Config,
        node: &str,
        copy: &Path,
    ) -> Result<(Self, PodLookup, NetworkCondition), ClientError> {
        let server = config.cluster_url.to_string();
        let server = server.trim_end_matches('/');
        let cache = Cache::open(copy, server);
        let status = Arc::new(SyncStatus::new(server.into(), cache.last_contact(), cache.state()));
        let (reporting, reports) = channel(ROOM);
        // All share one client, and over HTTP/2 one connection.
        let client = client(config)?;
        let watch_list = Arc::new(WatchListSupport::default());
        let crds = Crds::new();
        let mut tasks = JoinSet::new();
        for resource in &RESOURCES {
            let crd = crds.watch(resource).filter(|_| resource.optional);
            let reporter = Reporter { resource, reports: reporting.clone() };
            let (collection, watch_list) = (Collection::of(resource), Arc::clone(&watch_list));
            let reflector = Reflector::new(collection, client.clone(), watch_list, reporter).with_crd(crd);
            tasks.spawn(reflector.run());
        }
        let collection = Collection::of_crds();
        tasks.spawn(Reflector::new(collection, client, watch_list, crds).run());
        let local = LocalPods::default();
        let (pod_lookup, answers) = PodLookup::new(config.clone(), local.clone());
        let kube = Self {
            reports,
            answers,
            lookups: Vec::new(),
            mirror: Mirror::new(cache, status, node),
            local,
            started: false,
            unacknowledged: false,
            save_freshness: Instant::now(),
            _tasks: tasks,
        };
        Ok((kube, pod_lookup, NetworkCondition::new(config.clone(), node)))
    }

    /// The first state of the whole cluster: the completed lists, or the copy if the lists make no progress for a
    /// while.
    async fn initial_batch(&mut self) -> Batch {
        let has_copy = self.mirror.load();
        let mut progress = Instant::now();
        while !self.mirror.is_whole() {
            tokio::select! {
                report = self.reports.recv() => {
                    // The reflectors have ended. Half of a cluster must not be taken for all of it.
                    let Some(report) = report else { return std::future::pending().await };
                    // Changes of resources that are listed already are no progress.
                    if matches!(report.event, WatchEvent::Listed(_) | WatchEvent::ListFinished(_) | WatchEvent::NotFound(Absence::Certain, _)) {
                        progress = Instant::now();
                    }
                    self.mirror.apply(report);
                }
                answer = self.answers.recv() => self.apply_answer(answer),
                () = sleep_until(progress + PATIENCE), if has_copy => {
                    self.mirror.status.uses_copy();
                    tracing::warn!(server = self.mirror.status.server(), "no list from the API server yet; starting with the copy of the cluster's last state");
                    break;
                }
            }
        }
        self.save_freshness();
        self.mirror.batch()
    }

    fn apply_answer(&mut self, answer: Option<PodAnswer>) {
        let Some(answer) = answer else { return };
        for (resource, pruned) in &answer.objects {
            self.mirror.apply_lookup(resource, pruned);
        }
        self.lookups.push(answer.in_force);
    }

    /// Takes the events that are queued already: a list or a burst of changes becomes one batch.
    fn drain_reports(&mut self) {
        for _ in 0..MOST_AT_ONCE {
            let Ok(report) = self.reports.try_recv() else { return };
            self.mirror.apply(report);
        }
    }

    fn save_freshness(&mut self) {
        if Instant::now() < self.save_freshness {
            return;
        }
        self.save_freshness = Instant::now() + SAVE_FRESHNESS_EVERY;
        if let Some(at) = self.mirror.status.fresh_until() {
            self.mirror.cache.set_last_contact(at);
        }
    }
}

impl Source for Kube {
    async fn next(&mut self) -> Batch {
        if !self.started {
            let batch = self.initial_batch().await;
            self.started = true;
            return batch;
        }
        loop {
            tokio::select! {
                report = self.reports.recv() => {
                    // The tasks end with this.
                    let Some(report) = report else { return std::future::pending().await };
                    self.mirror.apply(report);
                    self.drain_reports();
                }
                answer = self.answers.recv() => self.apply_answer(answer),
                () = sleep_until(self.save_freshness) => {}
            }
            self.save_freshness();
            let batch = self.mirror.batch();
            if !batch.changes.is_empty() || batch.refusals.is_some() {
                self.unacknowledged = true;
                return batch;
            }
            // If nothing is unacknowledged, the answer of a lookup was known already and is in force.
            if !self.unacknowledged {
                self.acknowledge();
            }
        }
    }

    fn acknowledge(&mut self) {
        self.unacknowledged = false;
        for (key, uid) in self.mirror.local.drain(..) {
            self.local.note(key, uid);
        }
        for waiting in self.lookups.drain(..) {
            // The caller may have given up.
            let _ = waiting.send(());
        }
    }

    fn state(&self) -> Option<Arc<dyn SourceState>> {
        Some(Arc::clone(&self.mirror.status) as _)
    }
}

/// The known state of the cluster, as far as it is needed to see what changes.
#[derive(Debug)]
struct Mirror {
    /// In the order of the resources.
    versions: Vec<ObjectVersions>,
    cache: Cache,
    status: Arc<SyncStatus>,
    changes: Vec<Change>,
    refusals: BTreeMap<(String, Box<str>), Refusal>,
    refusals_changed: bool,
    /// This node.
    node: Box<str>,
    /// Pods of this node that were added, with their UIDs, or removed.
    local: Vec<(Box<str>, Option<Box<str>>)>,
    interned: Interned,
}

impl Mirror {
    fn new(cache: Cache, status: Arc<SyncStatus>, node: &str) -> Self {
        Self {
            versions: RESOURCES.iter().map(|_| ObjectVersions::default()).collect(),
            cache,
            status,
            changes: Vec::new(),
            refusals: BTreeMap::new(),
            refusals_changed: true,
            node: node.into(),
            local: Vec::new(),
            interned: Interned::default(),
        }
    }

    /// Loads the copy of the cluster's state. Returns whether it is complete.
    fn load(&mut self) -> bool {
        let mut is_whole = true;
        for resource in &RESOURCES {
            let loaded = self.cache.load(resource);
            is_whole &= loaded.complete || !resource.enforced;
            for body in loaded.bodies {
                let pruned = PrunedObject::of(body);
                self.versions(resource).updated(&pruned);
                self.read(resource, &pruned);
            }
        }
        is_whole
    }

    /// Whether every resource has been listed since the start that what is in force follows from.
    fn is_whole(&self) -> bool {
        let mut each = RESOURCES.iter().zip(&self.versions);
        each.all(|(resource, versions)| !resource.enforced || versions.is_complete())
    }

    fn versions(&mut self, resource: &Resource) -> &mut ObjectVersions {
        let at = RESOURCES.iter().position(|it| it == resource).unwrap_or(0);
        &mut self.versions[at]
    }

    fn apply(&mut self, Report { resource, event }: Report) {
        match event {
            // The start of a list is no sign of health: the list may still fail.
            WatchEvent::ListStarted => self.versions(resource).start_list(),
            WatchEvent::Listed(pruned) => {
                if self.versions(resource).listed(&pruned) == Delta::Changed {
                    self.put(resource, &pruned);
                }
            }
            WatchEvent::Applied(pruned) => {
                self.note_healthy(resource, false);
                if self.versions(resource).updated(&pruned) == Delta::Changed {
                    self.put(resource, &pruned);
                }
            }
            WatchEvent::Deleted(pruned) => {
                self.note_healthy(resource, false);
                if self.versions(resource).deleted(&pruned) == Delta::Changed {
                    self.remove(resource, &pruned.key());
                }
            }
            WatchEvent::ListFinished(version) => {
                self.note_healthy(resource, true);
                self.finish_list(resource, Some(&version));
            }
            WatchEvent::Alive => self.note_healthy(resource, false),
            WatchEvent::NotFound(absence, why) => self.note_not_found(resource, absence, &why),
            WatchEvent::Expired(why) => self.note_failure(resource, &why, true),
            WatchEvent::Failed(why) => self.note_failure(resource, &why, false),
        }
    }

    fn note_healthy(&self, resource: &Resource, whole: bool) {
        if self.status.mark_healthy(resource, whole) {
            tracing::info!(%resource, "list and watch work again");
        }
    }

    fn note_failure(&self, resource: &Resource, why: &str, expired: bool) {
        if self.status.mark_failed(resource, why.to_owned(), expired) {
            tracing::warn!(%resource, why, "list or watch failed; the last known state stays in force");
        }
    }

    /// The server answers 404 for a resource. What is in force is removed only when it is certain that the resource is
    /// gone, because a server that is starting answers 404 for a moment. A resource of which no object is known counts
    /// as empty after a while.
    fn note_not_found(&mut self, resource: &'static Resource, absence: Absence, why: &str) {
        match absence {
            Absence::Certain => {}
            Absence::Lasting if self.versions(resource).is_empty() => {
                tracing::warn!(%resource, why, "the API server does not serve this resource (404); it counts as empty");
            }
            Absence::Lasting | Absence::Unclear => return self.note_failure(resource, why, false),
        }
        self.note_healthy(resource, true);
        self.versions(resource).start_list();
        self.finish_list(resource, None);
    }

    fn apply_lookup(&mut self, resource: &'static Resource, pruned: &PrunedObject) {
        if self.versions(resource).looked_up(pruned) == Delta::Changed {
            self.put(resource, pruned);
        }
    }

    /// A list of this version is complete.
    fn finish_list(&mut self, resource: &Resource, version: Option<&str>) {
        for key in self.versions(resource).finish_list(version) {
            self.remove(resource, &key);
        }
        self.cache.set_complete(resource);
    }

    fn put(&mut self, resource: &Resource, pruned: &PrunedObject) {
        // A refused object changes nothing, so the copy keeps its last good state for the next start.
        if self.read(resource, pruned) {
            self.cache.put(resource, &pruned.key(), &pruned.body);
        }
    }

    /// Parses an object. Returns false if it is refused; then nothing changes.
    fn read(&mut self, resource: &Resource, pruned: &PrunedObject) -> bool {
        let refused = (resource.to_string(), pruned.key());
        let origin = Origin { file: Path::new(ORIGIN).into(), line: 0 };
        match manifest::typed(resource.kind, &pruned.body, origin) {
            Ok(mut object) => {
                self.interned.share(&mut object);
                self.refusals_changed |= self.refusals.remove(&refused).is_some();
                self.changes.push(Change::Put(object));
                if resource.kind == Kind::Pod && pruned.body["spec"]["nodeName"] == *self.node {
                    self.local.push((pruned.key(), Some(pruned.uid().into())));
                }
                true
            }
            Err(error) => {
                self.refusals_changed = true;
                let refusal = Refusal {
                    file: ORIGIN.into(),
                    line: 0,
                    object: v1::id(resource.kind, &Field::root(&pruned.body)).ok(),
                    field: error.field,
                    reason: error.reason,
                };
                self.refusals.insert(refused, refusal);
                false
            }
        }
    }

    fn remove(&mut self, resource: &Resource, key: &str) {
        self.refusals_changed |= self.refusals.remove(&(resource.to_string(), key.into())).is_some();
        self.changes.push(Change::Remove(id(resource.kind, key)));
        if resource.kind == Kind::Pod {
            self.local.push((key.into(), None));
        }
        self.cache.remove(resource, key);
    }

    /// What has changed since the last batch.
    fn batch(&mut self) -> Batch {
        let refusals =
            mem::take(&mut self.refusals_changed).then(|| self.refusals.values().cloned().collect());
        Batch { changes: mem::take(&mut self.changes), refusals }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if let Some(at) = self.status.fresh_until() {
            self.cache.set_last_contact(at.min(SystemTime::now()));
        }
    }
}

/// The id of a removed object.
fn id(kind: Kind, key: &str) -> ObjectId {
    match key.split_once('/') {
        Some((namespace, name)) => ObjectId::namespaced(kind, namespace, name),
        None => ObjectId::global(kind, key),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mirror(folder: &Path) -> Mirror {
        let cache = Cache::open(folder, "https://a");
        let status = Arc::new(SyncStatus::new("https://a".into(), None, cache.state()));
        Mirror::new(cache, status, "node")
    }

    /// Of every resource: what is in force in the kernel stays until all are known.
    #[test]
    fn a_resource_that_is_not_told_of_keeps_a_start_without_a_copy_waiting() {
        let folder = tempfile::tempdir().unwrap();
        for (at, resource) in RESOURCES.iter().enumerate() {
            let mut mirror = mirror(&folder.path().join(at.to_string()));
            assert!(!mirror.load());
            // Nothing in the kernel follows from what is only tried out.
            let whole = !resource.enforced;
            for other in RESOURCES.iter().filter(|it| *it != resource) {
                mirror.apply(Report { resource: other, event: WatchEvent::ListStarted });
                mirror.apply(Report { resource: other, event: WatchEvent::ListFinished("1".into()) });
            }
            for event in [
                WatchEvent::ListStarted,
                WatchEvent::Failed("it says: no (403)".into()),
                WatchEvent::Expired("it says: old (410)".into()),
                WatchEvent::NotFound(Absence::Unclear, "it says: no (404)".into()),
            ] {
                mirror.apply(Report { resource, event });
                assert_eq!((mirror.is_whole(), mirror.load()), (whole, whole), "{resource}");
                let status = mirror.status.status();
                assert_eq!((status.live, &*status.unlisted), (false, &[resource.to_string()][..]));
            }
            let trouble = mirror.status.status().trouble.unwrap();
            assert_eq!(trouble, format!("{resource}: it says: no (404)"));
            mirror.apply(Report { resource, event: WatchEvent::ListStarted });
            mirror.apply(Report { resource, event: WatchEvent::ListFinished("1".into()) });
            assert!(mirror.is_whole() && mirror.status.status().live, "{resource}");
        }
    }

    #[test]
    fn what_is_known_goes_only_when_it_is_certain_that_its_resource_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let mut mirror = mirror(&folder.path().join("copy"));
        let resource = Resource::of(Kind::Tier);
        let tier = json!({"metadata": {"name": "t", "resourceVersion": "1"}, "spec": {"order": 1}});
        mirror.apply(Report { resource, event: WatchEvent::ListStarted });
        mirror.apply(Report { resource, event: WatchEvent::Listed(PrunedObject::of(tier)) });
        mirror.apply(Report { resource, event: WatchEvent::ListFinished("1".into()) });
        assert_eq!(mirror.batch().changes.len(), 1);
        for absence in [Absence::Unclear, Absence::Lasting] {
            mirror.apply(Report { resource, event: WatchEvent::NotFound(absence, "no".into()) });
            assert!(mirror.batch().changes.is_empty(), "{absence:?}");
        }
        mirror.apply(Report { resource, event: WatchEvent::NotFound(Absence::Certain, "no".into()) });
        assert_eq!(mirror.batch().changes, [Change::Remove(ObjectId::global(Kind::Tier, "t"))]);
        // And of what nobody knows an object, what is not served for long has none.
        mirror.apply(Report { resource, event: WatchEvent::NotFound(Absence::Lasting, "no".into()) });
        assert!(mirror.batch().changes.is_empty() && mirror.status.status().trouble.is_none());
    }
}

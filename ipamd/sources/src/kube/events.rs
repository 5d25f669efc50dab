//! Kubernetes Events about what this node cannot do; `kubectl get events` and `kubectl describe node` show them.
//!
//! An Event is repeated every hour for as long as its problem lasts, because servers forget Events after an hour. Its
//! name follows from its text and the hour, so that of several nodes with the same Event about a policy only one
//! creates it. The rate is bounded, and after refusals the pauses grow.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use tokio::time::timeout;

use super::{client::client, failure::message_of, resources::RESOURCES};
use ipamd_runtime::digest::weight;

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who tells, to the cluster.
const CONTROLLER: &str = "cambric-ipamd";
/// The namespace of Events about what is in none.
const DEFAULT_NAMESPACE: &str = "default";
/// How many bytes the server takes of a note.
const LONGEST_NOTE: usize = 1024;
/// How long a name may be, without what is put behind it.
const LONGEST_NAME: usize = 200;
/// After so many seconds it is told again what lasts.
const AGAIN: u64 = 3600;
/// How many are told at once, and in how many seconds there is room for one more.
const AT_ONCE: u64 = 20;
const ONE_MORE: u64 = 30;
/// How many seconds nothing is told after a refusal; twice as long each time, up to the longest.
const FIRST_PAUSE: u64 = 60;
const LONGEST_PAUSE: u64 = 3600;

/// What is to be told, and of what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// The kind of what it is about, as [`ipamd_model::objects::Kind::name`] has it.
    pub kind: String,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// In a word, for programs.
    pub reason: &'static str,
    /// A sentence.
    pub note: String,
}

/// Makes Events about what a node has to tell.
#[derive(Debug)]
pub struct Events {
    config: kube::Config,
    node: String,
    began: Instant,
    pace: EventPace,
}

impl Events {
    pub(super) fn new(config: kube::Config, node: &str) -> Self {
        Self { config, node: node.into(), began: Instant::now(), pace: EventPace::new(0) }
    }

    /// Tells what of `notices` is to be told now. Returns how many could not be.
    pub async fn tell(&mut self, notices: BTreeSet<Notice>) -> u64 {
        let mut failures = 0;
        for notice in self.pace.due(self.began.elapsed().as_secs(), notices) {
            match self.create(&notice).await {
                Ok(()) => self.pace.told(self.began.elapsed().as_secs(), notice),
                Err(why) => {
                    failures += 1;
                    if self.pace.refused(self.began.elapsed().as_secs()) {
                        tracing::warn!(why, "cannot create Events; trying again");
                    }
                    break;
                }
            }
        }
        failures
    }

    async fn create(&self, notice: &Notice) -> Result<(), String> {
        let client = client(&self.config).map_err(|error| error.to_string())?;
        let event = event(notice, &self.node, Timestamp::now());
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let events = Api::<Event>::namespaced(client, &namespace);
        match timeout(PATIENCE, events.create(&PostParams::default(), &event)).await {
            Ok(Ok(_)) => Ok(()),
            // Another node was faster, or this one before it was started anew.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
            Ok(Err(error)) => Err(message_of(&error)),
            Err(_) => Err(format!("the server did not answer within {PATIENCE:?}")),
        }
    }
}

fn event(notice: &Notice, node: &str, now: Timestamp) -> Event {
    let resource = RESOURCES.iter().find(|resource| resource.kind.name() == notice.kind);
    let api_version = resource.map(|resource| match resource.group {
        "" => resource.version.to_owned(),
        group => format!("{group}/{}", resource.version),
    });
    let kind = notice.kind.split('.').next().unwrap_or_default();
    let hour = now.as_second().div_euclid(AGAIN.cast_signed());
    let said = format!("{notice:?} {hour}");
    let name = format!("{}.{:016x}", cut(&notice.name, LONGEST_NAME), weight(CONTROLLER, said.as_bytes()));
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(notice.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE).to_owned()),
            ..ObjectMeta::default()
        },
        regarding: Some(ObjectReference {
            api_version,
            kind: Some(kind.to_owned()),
            namespace: notice.namespace.clone(),
            name: Some(notice.name.clone()),
            // As the kubelet has it, by which `kubectl describe node` finds them.
            uid: (kind == "Node").then(|| notice.name.clone()),
            ..ObjectReference::default()
        }),
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(CONTROLLER.into()),
        reporting_instance: Some(cut(&format!("{CONTROLLER}-{node}"), 128).to_owned()),
        action: Some("Enforce".into()),
        reason: Some(notice.reason.into()),
        note: Some(cut(&notice.note, LONGEST_NOTE).to_owned()),
        type_: Some("Warning".into()),
        ..Event::default()
    }
}

/// The beginning of a text, of so many bytes at most.
fn cut(text: &str, longest: usize) -> &str {
    &text[..text.floor_char_boundary(longest)]
}

/// What has been told, and how much may be. Times are seconds of a steady clock.
#[derive(Debug)]
struct EventPace {
    told: BTreeMap<Notice, u64>,
    /// How many may be told, and since when that is so.
    room: u64,
    since: u64,
    /// Nothing is told before this.
    rests_until: u64,
    pause: u64,
}

impl EventPace {
    fn new(now: u64) -> Self {
        Self { told: BTreeMap::new(), room: AT_ONCE, since: now, rests_until: 0, pause: FIRST_PAUSE }
    }

    /// What is to be told of all that there is to tell; what is not among that any more is forgotten.
    fn due(&mut self, now: u64, all: BTreeSet<Notice>) -> Vec<Notice> {
        self.told.retain(|notice, at| all.contains(notice) && now.saturating_sub(*at) < AGAIN);
        let more = now.saturating_sub(self.since) / ONE_MORE;
        self.room = (self.room + more).min(AT_ONCE);
        self.since += more * ONE_MORE;
        if now < self.rests_until {
            return Vec::new();
        }
        let room = usize::try_from(self.room).unwrap_or(0);
        all.into_iter().filter(|notice| !self.told.contains_key(notice)).take(room).collect()
    }

    fn told(&mut self, now: u64, notice: Notice) {
        self.room = self.room.saturating_sub(1);
        self.pause = FIRST_PAUSE;
        self.told.insert(notice, now);
    }

    /// The server has refused one. Whether it is the first after one that it took.
    fn refused(&mut self, now: u64) -> bool {
        let is_first = self.pause == FIRST_PAUSE;
        self.rests_until = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        is_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(number: usize) -> Notice {
        Notice {
            kind: "NetworkPolicy.projectcalico.org".into(),
            namespace: Some("shop".into()),
            name: format!("p{number:03}"),
            reason: "PolicyRefused",
            note: "spec.order: is no number".into(),
        }
    }

    fn all(count: usize) -> BTreeSet<Notice> {
        (0..count).map(notice).collect()
    }

    #[test]
    fn a_notice_is_told_once_an_hour_for_as_long_as_it_lasts() {
        let mut pace = EventPace::new(0);
        assert_eq!(pace.due(0, all(1)), [notice(0)]);
        pace.told(0, notice(0));
        assert_eq!(pace.due(AGAIN - 1, all(1)), []);
        assert_eq!(pace.due(AGAIN, all(1)), [notice(0)]);
        pace.told(AGAIN, notice(0));
        assert_eq!(pace.due(AGAIN + 1, all(0)), []);
        assert_eq!(pace.due(AGAIN + 2, all(1)), [notice(0)], "it is so once more");
    }

    #[test]
    fn a_flood_is_told_little_by_little() {
        let mut pace = EventPace::new(0);
        let tell = |pace: &mut EventPace, now| {
            let due = pace.due(now, all(100));
            let count = due.len();
            for it in due {
                pace.told(now, it);
            }
            count as u64
        };
        assert_eq!(tell(&mut pace, 0), AT_ONCE);
        assert_eq!(tell(&mut pace, ONE_MORE - 1), 0);
        assert_eq!(tell(&mut pace, ONE_MORE), 1);
        assert_eq!(tell(&mut pace, 3 * ONE_MORE + 1), 2);
        assert_eq!(tell(&mut pace, 3 * ONE_MORE + 2), 0);
    }

    #[test]
    fn who_refuses_is_asked_ever_more_rarely() {
        let mut pace = EventPace::new(0);
        let (mut now, mut asked) = (0, Vec::new());
        while now < 3 * LONGEST_PAUSE {
            if !pace.due(now, all(1)).is_empty() {
                assert_eq!(pace.refused(now), asked.is_empty());
                asked.push(now);
            }
            now += 15;
        }
        assert_eq!(asked, [0, 60, 180, 420, 900, 1860, 3780, 7380]);
    }

    #[test]
    fn an_event_is_as_the_server_takes_it() {
        let now = "2026-11-29T22:00:00Z".parse().unwrap();
        let long = Notice { note: "ä".repeat(1000), ..notice(7) };
        let made = event(&long, "node", now);
        let regarding = made.regarding.clone().unwrap();
        assert_eq!(regarding.api_version.as_deref(), Some("projectcalico.org/v3"));
        assert_eq!((regarding.kind.as_deref(), regarding.uid), (Some("NetworkPolicy"), None));
        assert_eq!(made.metadata.namespace, regarding.namespace);
        assert_eq!(made.note.as_ref().map(String::len), Some(LONGEST_NOTE));
        assert!(made.event_time.is_some() && made.action.is_some() && made.reporting_instance.is_some());
        // The same of another node, and in the same hour.
        let name = |of: &Notice, node: &str, minutes| {
            let at = now + k8s_openapi::jiff::SignedDuration::from_mins(minutes);
            event(of, node, at).metadata.name.unwrap()
        };
        assert_eq!(name(&long, "node", 0), name(&long, "other", 59));
        assert_ne!(name(&long, "node", 0), name(&long, "node", 60));
        assert_ne!(name(&long, "node", 0), name(&notice(7), "node", 0));
        let of_node = Notice { kind: "Node".into(), namespace: None, name: "node".into(), ..long };
        let made = event(&of_node, "node", now);
        assert_eq!(made.metadata.namespace.as_deref(), Some("default"));
        let regarding = made.regarding.unwrap();
        assert_eq!(
            (regarding.api_version.as_deref(), regarding.uid.as_deref(), regarding.namespace),
            (Some("v1"), Some("node"), None)
        );
    }
}

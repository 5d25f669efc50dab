//! What is told of servers that answer by a script.

use std::{collections::VecDeque, convert::Infallible, sync::Mutex};

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use ipamd_waiting::time_passes_async;
use kube::client::Body;
use tower::service_fn;

use super::*;
use crate::kube::{resources::Resource, watch_list::Server};
use ipamd_model::objects::Kind;

/// Takes so much, as words.
struct Ear {
    heard: Arc<Mutex<Vec<String>>>,
    most: usize,
}

impl EventSink for Ear {
    async fn accept(&mut self, event: WatchEvent) -> Result<(), SinkClosed> {
        let mut heard = self.heard.lock().unwrap();
        heard.push(match event {
            WatchEvent::ListStarted => "begin".into(),
            WatchEvent::Listed(pruned) => format!("listed {}", pruned.key()),
            WatchEvent::ListFinished(version) => format!("done {version}"),
            WatchEvent::Applied(pruned) => format!("put {}", pruned.key()),
            WatchEvent::Deleted(pruned) => format!("gone {}", pruned.key()),
            WatchEvent::NotFound(absence, _) => format!("missing {absence:?}"),
            WatchEvent::Alive => "answered".into(),
            WatchEvent::Expired(_) => "expired".into(),
            WatchEvent::Failed(why) => format!("trouble {why}"),
        });
        if heard.len() < self.most { Ok(()) } else { Err(SinkClosed) }
    }
}

/// A server that answers so, one request after the other: what each must ask for, and the answer's code and body.
fn answering(script: &[(&'static str, u16, String)]) -> Client {
    let script = Mutex::new(VecDeque::from(script.to_vec()));
    let service = service_fn(move |request: Request<Body>| {
        let (part, code, body) = script.lock().unwrap().pop_front().expect("no more requests");
        let uri = request.uri().to_string();
        assert!(uri.contains(part), "{uri} is not about {part}");
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        async move { Ok::<_, Infallible>(response) }
    });
    Client::new(service, "default")
}

/// What is told of pods by such a server, up to so much.
async fn told(script: &[(&'static str, u16, String)], most: usize) -> (Vec<String>, Arc<WatchListSupport>) {
    told_by(answering(script), most).await
}

async fn told_by(client: Client, most: usize) -> (Vec<String>, Arc<WatchListSupport>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let watch_list = Arc::new(WatchListSupport::default());
    let ear = Ear { heard: Arc::clone(&heard), most };
    let collection = Collection::of(Resource::of(Kind::Pod));
    Reflector::new(collection, client, Arc::clone(&watch_list), ear).run().await;
    let heard = heard.lock().unwrap().clone();
    (heard, watch_list)
}

fn event(kind: &str, name: &str, version: u32) -> String {
    format!(
        r#"{{"type":"{kind}","object":{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"{name}","resourceVersion":"{version}"}}}}}}{}"#,
        "\n"
    )
}

fn page(names: &[&str], rest: &str) -> String {
    let items: Vec<_> = names.iter().map(|it| format!(r#"{{"metadata":{{"name":"{it}"}}}}"#)).collect();
    let items = items.join(",");
    format!(
        r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{"resourceVersion":"7","continue":"{rest}"}},"items":[{items}]}}"#
    )
}

const END: &str = r#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;

#[tokio::test]
async fn what_changes_while_a_list_is_streamed_is_part_of_it() {
    let stream = [
        event("ADDED", "a", 1),
        event("ADDED", "b", 2),
        event("DELETED", "a", 8),
        event("MODIFIED", "b", 9),
        format!("{END}\n"),
        event("DELETED", "b", 10),
    ];
    let script = [
        ("sendInitialEvents=true", 200, stream.concat()),
        ("resourceVersion=10", 200, event("ADDED", "c", 11)),
    ];
    let (heard, watch_list) = told(&script, 8).await;
    let all = ["begin", "listed a", "listed b", "gone a", "listed b", "done 9", "gone b", "put c"];
    assert_eq!(heard, all);
    assert!(watch_list.is_supported(Server::Own));
}

#[tokio::test]
async fn a_refused_stream_is_followed_by_pages_at_once_and_an_expired_rest_by_larger_ones() {
    let script = [
        ("sendInitialEvents=true", 422, "{}".into()),
        ("limit=500", 200, page(&["a"], "x")),
        ("continue=x", 410, r#"{"metadata":{"continue":"y"},"code":410}"#.into()),
        ("limit=5000", 200, page(&["b"], "z")),
        ("continue=z", 200, page(&["c"], "")),
        ("watch=true", 200, event("DELETED", "b", 8)),
    ];
    let (heard, watch_list) = told(&script, 7).await;
    assert_eq!(heard, ["begin", "listed a", "begin", "listed b", "listed c", "done 7", "gone b"]);
    assert!(!watch_list.is_supported(Server::Own));
}

/// As the APF of a server says that has no room for streams, and means a day.
#[tokio::test]
async fn a_server_that_is_busy_when_it_is_to_stream_is_asked_for_pages_within_seconds() {
    let busy = r#"{"message":"busy","details":{"retryAfterSeconds":86400},"code":429}"#;
    let script = [
        ("sendInitialEvents=true", 429, busy.into()),
        ("limit=500", 200, page(&["a"], "")),
        ("watch=true", 200, event("DELETED", "a", 8)),
    ];
    let begun = Instant::now();
    let (heard, watch_list) = told(&script, 5).await;
    assert_eq!(heard, ["trouble it says: busy (429)", "begin", "listed a", "done 7", "gone a"]);
    assert!(begun.elapsed() < AFTER_BUSY * 2, "{:?}", begun.elapsed());
    assert!(watch_list.is_supported(Server::Own));
}

#[tokio::test]
async fn a_list_without_an_end_is_not_followed_for_ever() {
    let script = [
        ("sendInitialEvents=true", 422, "{}".into()),
        ("limit=500", 200, page(&["a"], "x")),
        ("continue=x", 200, page(&["a"], "x")),
    ];
    let (heard, watch_list) = told(&script, 4).await;
    assert_eq!(heard[..3], ["begin", "listed a", "listed a"]);
    assert!(heard[3].contains("has no end"), "{heard:?}");
    assert!(!watch_list.is_supported(Server::Own), "what it has refused does not hang on its lists");
}

/// With changes and bookmarks all the time, and no end of the list.
#[tokio::test]
async fn a_watch_that_is_no_list_is_noticed_however_much_it_tells() {
    let bookmark =
        r#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"3"}}}"#
            .to_owned()
            + "\n";
    let events = [event("ADDED", "a", 1), event("MODIFIED", "a", 2), bookmark];
    let script = Mutex::new(VecDeque::from([page(&["a"], "")]));
    let service = service_fn(move |request: Request<Body>| {
        let streamed = request.uri().to_string().contains("sendInitialEvents");
        let body = if streamed {
            let events = events.clone();
            let ticks = futures_util::stream::unfold(0, move |at: usize| {
                let event = events[at.min(events.len() - 1)].clone();
                async move {
                    time_passes_async(Duration::from_millis(50), "the server tells something all the time")
                        .await;
                    Some((Ok::<_, Infallible>(Frame::data(Bytes::from(event))), at + 1))
                }
            });
            StreamBody::new(ticks).boxed_unsync()
        } else {
            Full::new(Bytes::from(script.lock().unwrap().pop_front().expect("one list"))).boxed_unsync()
        };
        async move { Ok::<_, Infallible>(Response::new(body)) }
    });
    let (heard, watch_list) = told_by(Client::new(service, "default"), 6).await;
    assert_eq!(heard, ["begin", "listed a", "listed a", "begin", "listed a", "done 7"]);
    assert!(watch_list.is_supported(Server::Own), "the sink has left before the verdict");
}

#[tokio::test]
async fn a_refusal_that_plain_lists_meet_too_is_not_one_of_streams() {
    let script = [("sendInitialEvents=true", 500, "x".into()), ("limit=500", 500, "y".into())];
    let (heard, watch_list) = told(&script, 2).await;
    assert_eq!(heard, ["begin", "trouble it says: y (500)"]);
    assert!(watch_list.is_supported(Server::Own));
}

#[tokio::test]
async fn a_watch_whose_version_is_forgotten_ends_in_a_list() {
    let script = [
        ("sendInitialEvents=true", 200, format!("{END}\n")),
        (
            "resourceVersion=9",
            200,
            r#"{"type":"ERROR","object":{"code":410,"message":"old"}}"#.to_owned() + "\n",
        ),
    ];
    let (heard, _) = told(&script, 3).await;
    assert_eq!(heard, ["begin", "done 9", "expired"]);
}

/// Whoever says that one may not see it (403) says nothing of what there is; nor does whoever does not find what is defined (404).
#[tokio::test]
async fn only_what_is_not_found_and_not_defined_is_certainly_not_there() {
    let of = async |code: u16, presence: Presence| {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let service = service_fn(move |_: Request<Body>| {
            let mut response = Response::new(Full::new(Bytes::from_static(b"no")));
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            async move { Ok::<_, Infallible>(response) }
        });
        let (_definition, crd) = tokio::sync::watch::channel(presence);
        let ear = Ear { heard: Arc::clone(&heard), most: 2 };
        let collection = Collection::of(Resource::of(Kind::GlobalNetworkPolicy));
        let client = Client::new(service, "default");
        Reflector::new(collection, client, Arc::default(), ear).with_crd(Some(crd)).run().await;
        let heard = heard.lock().unwrap();
        assert_eq!(heard[0], "begin");
        heard[1].clone()
    };
    assert_eq!(of(404, Presence::Absent).await, "missing Certain");
    assert_eq!(of(404, Presence::Present).await, "missing Unclear");
    for presence in [Presence::Absent, Presence::Present, Presence::Unknown] {
        let heard = of(403, presence).await;
        assert!(heard.starts_with("trouble it says: no (403); the daemon's ClusterRole"), "{heard}");
    }
    for presence in [Presence::Present, Presence::Unknown] {
        assert_eq!(absence(presence, NOT_SERVED_AFTER / 2), Absence::Unclear);
        assert_eq!(absence(presence, NOT_SERVED_AFTER), Absence::Lasting);
    }
}

/// The definition that serves one version is replaced by another one, which serves the other.
#[tokio::test]
async fn a_resource_is_followed_in_the_version_that_is_served() {
    let of = |text: String, version: &str| {
        let api_version = format!("policy.networking.k8s.io/{version}");
        text.replace("Pod", "ClusterNetworkPolicy").replace(r#""v1""#, &format!("{api_version:?}"))
    };
    let old = |text: String| of(text, "v1alpha2");
    let new = |text: String| of(text, "v1beta1");
    let script = [
        ("v1beta1/clusternetworkpolicies?", 404, "no".to_owned()),
        ("v1beta1/clusternetworkpolicies?", 404, "no".to_owned()),
        ("v1alpha2/", 200, old(event("ADDED", "a", 1)) + &old(END.to_owned()) + "\n"),
        ("v1alpha2/", 404, "gone".to_owned()),
        ("v1beta1/", 200, new(event("ADDED", "a", 1)) + &new(END.to_owned()) + "\n"),
    ];
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = Ear { heard: Arc::clone(&heard), most: 7 };
    let collection = Collection::of(Resource::of(Kind::ClusterNetworkPolicy));
    Reflector::new(collection, answering(&script), Arc::default(), ear).run().await;
    let all = ["begin", "begin", "listed a", "done 9", "begin", "listed a", "done 9"];
    assert_eq!(*heard.lock().unwrap(), all);
}

/// A list of something else, or one whose end is that of something else, is not taken for all objects.
#[tokio::test]
async fn a_list_of_something_else_is_trouble_and_never_done() {
    for (types, other) in [("Pod", "Secret"), (r#""v1""#, r#""other/v9""#)] {
        let script = [
            ("sendInitialEvents=true", 200, format!("{END}\n").replace(types, other)),
            ("limit=500", 200, page(&[], "").replace(types, other)),
        ];
        let (heard, _) = told(&script, 3).await;
        assert_eq!(heard[..2], ["begin", "begin"]);
        assert!(heard[2].starts_with("trouble it makes no sense: it tells the kind"), "{heard:?}");
    }
    for kind in ["ADDED", "MODIFIED", "DELETED", "BOOKMARK"] {
        let script = [
            ("sendInitialEvents=true", 200, format!("{END}\n")),
            ("resourceVersion=9", 200, event(kind, "a", 10).replace("Pod", "Secret")),
        ];
        let (heard, _) = told(&script, 3).await;
        assert_eq!(heard[..2], ["begin", "done 9"]);
        assert!(heard[2].starts_with("trouble it makes no sense: it tells the kind"), "{kind}: {heard:?}");
    }
}

//! What is told of a collection, and who is told.

use std::future::Future;

use super::pruned_object::PrunedObject;

/// What happens to a collection.
#[derive(Debug)]
pub(super) enum WatchEvent {
    /// A list begins: all objects follow.
    ListStarted,
    /// An object of the list.
    Listed(PrunedObject),
    /// The list is complete, at this version.
    ListFinished(String),
    /// An object is new or has changed.
    Applied(PrunedObject),
    /// An object was deleted; this may also come within a streamed list.
    Deleted(PrunedObject),
    /// The server does not have the resource (404).
    NotFound(Absence, String),
    /// The server answers: the watch is established, or it sent a bookmark.
    Alive,
    /// The version is too old for the server (410); a list follows.
    Expired(String),
    /// The list or watch failed, for this reason.
    Failed(String),
}

/// What a 404 for a resource means. A 403 is no absence: authorization comes before the look-up, so a refusal says
/// nothing about whether objects exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// The resource has no CRD.
    Certain,
    /// The resource may exist: a server that is starting answers 404 for a moment.
    Unclear,
    /// Not found for longer than a start of a server takes.
    Lasting,
}

/// The receiver of the events is gone.
#[derive(Debug)]
pub(super) struct SinkClosed;

/// The receiver of the events.
pub(super) trait EventSink {
    /// Takes an event.
    fn accept(&mut self, event: WatchEvent) -> impl Future<Output = Result<(), SinkClosed>> + Send;
}

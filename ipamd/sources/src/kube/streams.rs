//! Which servers stream lists. One that has refused once is not asked again: what it cannot do now it cannot do a minute
//! later, and each refusal would cost a list its time.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::failure::Failure;

/// Who serves a resource. The server itself has the groups that Kubernetes comes with; each other group may be served by
/// another one behind it, which streams or not whatever the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Server {
    /// The API server itself. What it refuses holds for whoever is behind it, too.
    Own,
    /// Whoever serves this group.
    Of(&'static str),
}

/// Who has refused to stream lists since the daemon started. An upgraded server streams when the daemon starts next.
#[derive(Debug, Default)]
pub(super) struct Streams {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    refused: BTreeSet<Server>,
    said: bool,
}

impl Streams {
    /// Whether a server is worth asking.
    pub fn may_be_asked(&self, server: Server) -> bool {
        let refused = &self.state().refused;
        !(refused.contains(&Server::Own) || refused.contains(&server))
    }

    /// A server does not stream, but lists. Returns whether that is worth a line in the log: once is.
    pub fn refused(&self, server: Server) -> bool {
        let mut state = self.state();
        state.refused.insert(server);
        !std::mem::replace(&mut state.said, true)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a streamed list that has failed says of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does not stream lists, whatever the plain list that follows meets: the request itself is what it refuses.
    NeverStreams,
    /// It does not stream lists, if the plain list that follows does not fail, too.
    Refused,
    /// Nothing: the resource, the right to see it or the version that was asked for was not there at that moment.
    Nothing,
    /// Nothing, and it is not the moment for more requests.
    Busy,
}

/// Any answer at all but a list is a refusal, as it is for client-go: the gate that is off is one of 422, an etcd that is too
/// old one of 500 inside the stream, and what proxies and aggregated servers say is anybody's guess. So is a stream that
/// makes no sense, or in which the end of the list does not come.
pub(super) fn verdict(failure: &Failure) -> Verdict {
    match failure {
        Failure::Refused(refusal) => match refusal.code {
            401 | 403 | 404 | 410 | 504 => Verdict::Nothing,
            429 | 503 => Verdict::Busy,
            400..500 => Verdict::NeverStreams,
            _ => Verdict::Refused,
        },
        Failure::Silent { .. } | Failure::Garbage(_) => Verdict::Refused,
        Failure::Broken(_) => Verdict::Busy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::failure::Refusal;

    #[test]
    fn what_the_server_refuses_nobody_behind_it_is_asked_for() {
        let streams = Streams::default();
        let [calico, other] = [Server::Of("projectcalico.org"), Server::Of("example.org")];
        assert!([Server::Own, calico, other].into_iter().all(|it| streams.may_be_asked(it)));
        assert!(streams.refused(calico));
        assert!(!streams.may_be_asked(calico));
        assert!([Server::Own, other].into_iter().all(|it| streams.may_be_asked(it)));
        assert!(!streams.refused(Server::Own), "one line is enough");
        assert!(!streams.may_be_asked(other));
    }

    #[test]
    fn only_rights_absence_and_load_say_nothing_of_streams() {
        let of = |code| {
            let refusal = Refusal { code, ..Refusal::default() };
            verdict(&Failure::Refused(refusal))
        };
        for code in [400, 405, 406, 409, 415, 418, 422] {
            assert_eq!(of(code), Verdict::NeverStreams, "{code}");
        }
        for code in [500, 501, 502, 505, 599] {
            assert_eq!(of(code), Verdict::Refused, "{code}");
        }
        for code in [401, 403, 404, 410, 504] {
            assert_eq!(of(code), Verdict::Nothing, "{code}");
        }
        assert_eq!([of(429), of(503)], [Verdict::Busy; 2]);
        assert_eq!(verdict(&Failure::Garbage(String::new())), Verdict::Refused);
        assert_eq!(verdict(&Failure::Broken(String::new())), Verdict::Busy);
    }
}

//! Which servers support streamed lists (WatchList). A server that refused once is not asked again, because each
//! refusal delays a list.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::failure::Failure;

/// Who serves a resource: the API server itself serves the groups of Kubernetes; every other group may be served by an
/// aggregated server, which may support streams or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Server {
    /// The API server itself. What it refuses, it refuses for aggregated servers too.
    Own,
    /// The server of this group.
    Of(&'static str),
}

/// The servers that have refused to stream lists since the daemon started. After an upgrade of a server the next start
/// of the daemon tries again.
#[derive(Debug, Default)]
pub(super) struct WatchListSupport {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    refused: BTreeSet<Server>,
    logged: bool,
}

impl WatchListSupport {
    /// Whether a server may be asked for a stream.
    pub fn is_supported(&self, server: Server) -> bool {
        let refused = &self.state().refused;
        !(refused.contains(&Server::Own) || refused.contains(&server))
    }

    /// A server does not stream lists. Returns whether this is the first such finding, which is logged.
    pub fn mark_unsupported(&self, server: Server) -> bool {
        let mut state = self.state();
        state.refused.insert(server);
        !std::mem::replace(&mut state.logged, true)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a failed streamed list says about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does not support streamed lists: it refuses the request itself.
    Unsupported,
    /// It does not support streamed lists, if the following list in pages succeeds.
    ProbablyUnsupported,
    /// Nothing: the resource, the permission or the version was missing.
    Unrelated,
    /// Nothing: the server is busy.
    Busy,
}

/// Like client-go this takes any answer but a list for a refusal: 422 if the feature gate is off, 500 inside the stream
/// if etcd is too old, anything from proxies and aggregated servers. A stream that cannot be parsed, or in which the
/// end of the list does not come, is a refusal too.
pub(super) fn verdict(failure: &Failure) -> Verdict {
    match failure {
        Failure::Refused(refusal) => match refusal.code {
            401 | 403 | 404 | 410 | 504 => Verdict::Unrelated,
            429 | 503 => Verdict::Busy,
            400..500 => Verdict::Unsupported,
            _ => Verdict::ProbablyUnsupported,
        },
        Failure::Silent { .. } | Failure::Garbage(_) => Verdict::ProbablyUnsupported,
        Failure::Broken(_) => Verdict::Busy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::failure::Refusal;

    #[test]
    fn what_the_server_refuses_nobody_behind_it_is_asked_for() {
        let support = WatchListSupport::default();
        let [calico, other] = [Server::Of("projectcalico.org"), Server::Of("example.org")];
        assert!([Server::Own, calico, other].into_iter().all(|it| support.is_supported(it)));
        assert!(support.mark_unsupported(calico));
        assert!(!support.is_supported(calico));
        assert!([Server::Own, other].into_iter().all(|it| support.is_supported(it)));
        assert!(!support.mark_unsupported(Server::Own), "one line is enough");
        assert!(!support.is_supported(other));
    }

    #[test]
    fn only_rights_absence_and_load_say_nothing_of_streams() {
        let of = |code| {
            let refusal = Refusal { code, ..Refusal::default() };
            verdict(&Failure::Refused(refusal))
        };
        for code in [400, 405, 406, 409, 415, 418, 422] {
            assert_eq!(of(code), Verdict::Unsupported, "{code}");
        }
        for code in [500, 501, 502, 505, 599] {
            assert_eq!(of(code), Verdict::ProbablyUnsupported, "{code}");
        }
        for code in [401, 403, 404, 410, 504] {
            assert_eq!(of(code), Verdict::Unrelated, "{code}");
        }
        assert_eq!([of(429), of(503)], [Verdict::Busy; 2]);
        assert_eq!(verdict(&Failure::Garbage(String::new())), Verdict::ProbablyUnsupported);
        assert_eq!(verdict(&Failure::Broken(String::new())), Verdict::Busy);
    }
}

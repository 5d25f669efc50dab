//! The token of the pod's service account, which the kubelet renews in its file. It is read again by the monotonic
//! clock: by the wall clock, a machine whose clock was set back would use an expired token until that time comes again.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderValue, Request, header::AUTHORIZATION};

use ipamd_runtime::monotonic::Moment;

/// After how many seconds the file is read again. A token is renewed long before its end.
const FRESH: u64 = 30;

/// A file with a token; clones share what was read.
#[derive(Clone, Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    read: Arc<Mutex<Option<(Moment, HeaderValue)>>>,
}

impl TokenFile {
    /// The file at a path.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned(), read: Arc::default() }
    }

    /// Says in a request who asks.
    pub fn authorize<B>(&self, mut request: Request<B>) -> Request<B> {
        if let Some(header) = self.header(Moment::now()) {
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        request
    }

    fn header(&self, now: Moment) -> Option<HeaderValue> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, header)) = &*read
            && now.since(*at) < FRESH
        {
            return Some(header.clone());
        }
        let fresh = fs::read_to_string(&self.path).ok().and_then(|token| {
            let mut header = HeaderValue::try_from(format!("Bearer {}", token.trim())).ok()?;
            header.set_sensitive(true);
            Some(header)
        });
        // Without the file, the last token may still be good.
        let header = fresh.or_else(|| read.as_ref().map(|(_, header)| header.clone()))?;
        *read = Some((now, header.clone()));
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_token_is_used_whatever_becomes_of_the_clock_and_the_last_one_without_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "one\n").unwrap();
        let (file, now) = (TokenFile::new(&path), Moment::now());
        let said = |later| file.header(now.after(later)).unwrap();
        assert_eq!(said(0), "Bearer one");
        fs::write(&path, "two\n").unwrap();
        assert_eq!(
            (said(FRESH - 1), said(FRESH)),
            ("Bearer one".try_into().unwrap(), "Bearer two".try_into().unwrap())
        );
        fs::remove_file(&path).unwrap();
        assert_eq!(said(3 * FRESH), "Bearer two");
        let request = file.authorize(Request::new(()));
        assert!(request.headers()[AUTHORIZATION].is_sensitive(), "no log shows it");
        assert_eq!(TokenFile::new(&path).header(now), None);
    }
}

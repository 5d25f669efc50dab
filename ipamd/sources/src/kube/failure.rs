//! Why a request to the API server failed.

use std::{error::Error, time::Duration};

use serde::Deserialize;

/// Why there is no answer, or none that helps.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server has refused, by the answer's code or in a watch.
    Refused(Refusal),
    /// It says nothing for so long.
    Silent(Duration),
    /// What it says makes no sense.
    Garbage(String),
    /// There is no connection, or it broke.
    Broken(String),
}

/// A refusal in the server's words.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    pub code: u16,
    pub message: String,
    /// When it wants to be asked again.
    pub retry_after: Option<Duration>,
}

/// The API's own form of a refusal.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Status {
    pub code: u16,
    message: Option<String>,
    reason: Option<String>,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: Option<u64>,
}

impl Failure {
    /// The code of a refusal.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            _ => None,
        }
    }

    /// Whether what was asked for is forgotten: the history since a version, or the rest of a list.
    pub fn is_expired(&self) -> bool {
        self.code() == Some(410)
    }

    /// When the server wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }

    /// What went wrong, in one line.
    pub fn message(&self) -> String {
        match self {
            // Whoever mends it is not whoever knows what the daemon asks for.
            Self::Refused(Refusal { code: 403, message, .. }) => format!(
                "it says: {message} (403); the daemon's ClusterRole must allow to list and watch it (conf/kubernetes/cambric.yaml has the role)"
            ),
            Self::Refused(refusal) => format!("it says: {} ({})", refusal.message, refusal.code),
            Self::Silent(time) => format!("it does not answer: nothing came for {time:?}"),
            Self::Garbage(what) => format!("it makes no sense: {what}"),
            Self::Broken(why) => why.clone(),
        }
    }
}

impl Refusal {
    /// Understands an answer with such a code. Not everything between a server and its clients speaks JSON.
    pub fn of(code: u16, retry_after: Option<&str>, body: &[u8]) -> Self {
        let status: Status = serde_json::from_slice(body).unwrap_or_default();
        let mut refusal = Self::from(status);
        refusal.code = code;
        if refusal.message.is_empty() {
            refusal.message = first_line(&String::from_utf8_lossy(body));
        }
        // The header may also be a date, which the API server never sends.
        let said = retry_after.and_then(|it| it.trim().parse().ok()).map(Duration::from_secs);
        refusal.retry_after = said.or(refusal.retry_after);
        refusal
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self {
            code: status.code,
            message: status.message.or(status.reason).unwrap_or_default(),
            retry_after: status.details.and_then(|it| it.retry_after_seconds).map(Duration::from_secs),
        }
    }
}

/// The beginning of a text that may be a page of HTML.
fn first_line(text: &str) -> String {
    const MOST: usize = 200;
    text.trim().lines().next().unwrap_or_default().chars().take(MOST).collect()
}

/// What went wrong with a request, in one line.
pub(super) fn message_of(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("it says: {} ({})", status.message, status.code),
        other => message_chain(other),
    }
}

/// An error and what is behind it, in one line.
pub(super) fn message_chain(error: &dyn Error) -> String {
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

    #[test]
    fn refusals_are_understood_in_every_form() {
        let status = br#"{"kind":"Status","message":"busy","details":{"retryAfterSeconds":2},"code":429}"#;
        let of = |header, body: &[u8]| {
            let refusal = Refusal::of(429, header, body);
            (refusal.message, refusal.retry_after.map(|it| it.as_secs()))
        };
        assert_eq!(of(None, status), ("busy".into(), Some(2)));
        assert_eq!(of(Some("7"), status), ("busy".into(), Some(7)));
        assert_eq!(of(Some("1"), b"Too many requests\nx"), ("Too many requests".into(), Some(1)));
        assert_eq!(of(Some("Wed, 21 Oct"), b""), (String::new(), None));
        assert_eq!(of(None, b"[1]").1, None);
        let refused = Failure::Refused(Refusal::of(410, None, br#"{"reason":"Expired","code":1}"#));
        assert!(refused.is_expired());
        assert_eq!(refused.message(), "it says: Expired (410)");
    }
}

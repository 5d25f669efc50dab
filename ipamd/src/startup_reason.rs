//! Why the daemon does not serve yet, for whoever asks.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ipamd_api::wire::ClusterStatus;

use ipamd_sources::SourceState;

/// Why the daemon does not serve yet.
#[derive(Debug, Default)]
pub struct StartupReason {
    missing: Mutex<Option<String>>,
    source: OnceLock<Arc<dyn SourceState>>,
}

/// At most this many unlisted resources are named.
const NAMED: usize = 3;

impl StartupReason {
    /// Sets what the daemon waits for: a clause.
    pub fn set(&self, missing: String) {
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = Some(missing);
    }

    /// Adds the state of the cluster's source to the reason.
    pub fn set_source(&self, source: Option<Arc<dyn SourceState>>) {
        if let Some(source) = source {
            // There is one source.
            let _ = self.source.set(source);
        }
    }

    /// The reason in words, with the resources that are not listed yet and the failure.
    pub fn missing(&self) -> String {
        let missing = self.get().unwrap_or_else(|| "the daemon is starting".into());
        match self.source() {
            Some(status) => missing + &untold(&status),
            None => missing,
        }
    }

    /// The state of the cluster's source, if there is one.
    pub fn source(&self) -> Option<ClusterStatus> {
        self.source.get().map(|source| source.status())
    }

    /// What is waited for.
    pub fn get(&self) -> Option<String> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a source lacks, as the end of a sentence: the unlisted resources and the failure.
pub fn untold(status: &ClusterStatus) -> String {
    let mut text = String::new();
    let unlisted = &status.unlisted;
    if !unlisted.is_empty() {
        let more = match unlisted.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = &unlisted[..unlisted.len().min(NAMED)];
        text = format!("; not listed yet: {}{more}", named.join(", "));
    }
    if let Some(trouble) = &status.trouble {
        text = format!("{text}; {trouble}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_source_has_not_told_is_named_with_why() {
        let status = |unlisted: &[&str], trouble: Option<&str>| ClusterStatus {
            unlisted: unlisted.iter().map(|it| (*it).to_owned()).collect(),
            trouble: trouble.map(ToOwned::to_owned),
            ..ClusterStatus::default()
        };
        assert_eq!(untold(&status(&[], None)), "");
        assert_eq!(
            untold(&status(&["tiers"], Some("tiers: no (403)"))),
            "; not listed yet: tiers; tiers: no (403)"
        );
        assert_eq!(untold(&status(&["a", "b", "c", "d", "e"], None)), "; not listed yet: a, b, c and 2 more");
    }
}

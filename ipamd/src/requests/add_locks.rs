//! A lock for each attachment, so that two ADDs of the same attachment run one after the other.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ipamd_api::{ApiError, AttachmentKey, ErrorKind};
use tokio::{
    sync::{Mutex as Lock, OwnedMutexGuard},
    time::timeout,
};

/// How long an ADD waits for another one of the same attachment: for one that was killed, until that is noticed.
const PATIENCE: Duration = Duration::from_secs(5);

type Locks = Mutex<BTreeMap<AttachmentKey, Arc<Lock<()>>>>;

/// The locks of the ADDs under way, by attachment.
#[derive(Debug)]
pub(super) struct AddLocks {
    locks: Arc<Locks>,
    patience: Duration,
}

impl Default for AddLocks {
    fn default() -> Self {
        Self { locks: Arc::default(), patience: PATIENCE }
    }
}

/// The lock of one attachment, until it is dropped.
#[derive(Debug)]
pub(super) struct AddLock {
    key: AttachmentKey,
    held: Option<OwnedMutexGuard<()>>,
    locks: Arc<Locks>,
}

impl AddLocks {
    /// Waits until no other ADD of `key` is under way.
    ///
    /// # Errors
    /// [`ErrorKind::TryAgainLater`] if one still is after some seconds.
    pub async fn take(&self, key: &AttachmentKey) -> Result<AddLock, ApiError> {
        let mut taken = AddLock { key: key.clone(), held: None, locks: Arc::clone(&self.locks) };
        let lock = Arc::clone(locked(&self.locks).entry(key.clone()).or_default());
        match timeout(self.patience, lock.lock_owned()).await {
            Ok(held) => {
                taken.held = Some(held);
                Ok(taken)
            }
            Err(_) => {
                Err(ApiError::new(ErrorKind::TryAgainLater, format!("another ADD of {key} is under way")))
            }
        }
    }
}

impl AddLock {
    /// What is added.
    pub fn key(&self) -> &AttachmentKey {
        &self.key
    }
}

impl Drop for AddLock {
    fn drop(&mut self) {
        let mut locks = locked(&self.locks);
        // Those who wait have it too.
        drop(self.held.take());
        if locks.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.key);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> AttachmentKey {
        AttachmentKey { network: "net".into(), container_id: id.into(), ifname: "eth0".into() }
    }

    #[tokio::test]
    async fn one_add_of_an_attachment_waits_for_another_and_for_no_other_attachment() {
        let locks = Arc::new(AddLocks::default());
        let first = locks.take(&key("a")).await.unwrap();
        locks.take(&key("b")).await.unwrap();
        let waiting = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { locks.take(&key("a")).await.map(drop) }
        });
        // The other task runs until it waits.
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert!(locked(&locks.locks).is_empty(), "nothing is kept of what is over");
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_told_of() {
        let locks = AddLocks { patience: Duration::from_millis(50), ..AddLocks::default() };
        let first = locks.take(&key("a")).await.unwrap();
        let refused = locks.take(&key("a")).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::TryAgainLater);
        assert!(refused.message.contains("another ADD of net/a/eth0"), "{refused}");
        drop(first);
        assert!(locked(&locks.locks).is_empty());
    }
}

//! Who may talk to the daemon, and how slowly.

use std::time::Duration;

/// Who may talk to the daemon, and how slowly.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The only user whose requests are answered.
    pub user: u32,
    /// How long a client may be silent that has asked for nothing yet, or been answered.
    pub idle: Duration,
    /// How long one may be silent that has something under way.
    pub under_way: Duration,
    /// How long a client may take to send a request that it has begun, or to take in an answer.
    pub transfer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            user: 0,
            idle: Duration::from_secs(5),
            under_way: Duration::from_mins(1),
            transfer: Duration::from_secs(10),
        }
    }
}

//! Where policies, services and the rest of the cluster are read from.
//!
//! A source tells the daemon what the cluster looks like, once as a whole and then change by change. Addresses and
//! endpoints never wait for it: a node whose source is silent goes on with what it knows.

pub mod directory;
pub mod field;
pub mod manifest;
pub mod objects;
pub mod place;
pub mod services;
pub mod v1;

use std::{future::Future, path::PathBuf, str::FromStr};

use self::objects::Batch;

/// Which source is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// There is no cluster: this node stands alone.
    None,
    /// A directory of manifests.
    Dir(PathBuf),
}

impl FromStr for Cluster {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Dir(path.into())),
            _ => Err("cluster sources are none and dir:PATH"),
        }
    }
}

/// A source of changes.
pub trait Source: Send {
    /// Waits for the next changes of the cluster; the first call gives the whole of it. Never returns while nothing
    /// changes. May be dropped and called again; nothing is lost.
    fn next(&mut self) -> impl Future<Output = Batch> + Send;
}

/// The source of a node without a cluster: an empty one that never changes.
#[derive(Debug, Default)]
pub struct Standalone {
    told: bool,
}

impl Source for Standalone {
    async fn next(&mut self) -> Batch {
        if std::mem::replace(&mut self.told, true) {
            std::future::pending::<()>().await;
        }
        Batch::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_named_by_their_kind() {
        assert_eq!("none".parse(), Ok(Cluster::None));
        assert_eq!("dir:/etc/cambric/cluster".parse(), Ok(Cluster::Dir("/etc/cambric/cluster".into())));
        for text in ["", "dir", "dir:", "none:x", "kubernetes"] {
            assert!(text.parse::<Cluster>().is_err(), "{text}");
        }
    }
}

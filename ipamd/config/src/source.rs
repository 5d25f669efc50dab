//! The configured source of the cluster's state.

use std::{path::PathBuf, str::FromStr};

/// Which source is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// There is no cluster: this node stands alone.
    None,
    /// A directory of manifests.
    Dir(PathBuf),
    /// The Kubernetes API, by a kubeconfig or as a pod of the cluster.
    Kube(Option<PathBuf>),
}

impl FromStr for Cluster {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "kube" => Ok(Self::Kube(None)),
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Dir(path.into())),
            Some(("kube", path)) if !path.is_empty() => Ok(Self::Kube(Some(path.into()))),
            _ => Err("cluster sources are none, dir:PATH, kube and kube:KUBECONFIG"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_named_by_their_kind() {
        assert_eq!("none".parse(), Ok(Cluster::None));
        assert_eq!("dir:/etc/cambric/cluster".parse(), Ok(Cluster::Dir("/etc/cambric/cluster".into())));
        assert_eq!("kube".parse(), Ok(Cluster::Kube(None)));
        assert_eq!("kube:/root/.kube/config".parse(), Ok(Cluster::Kube(Some("/root/.kube/config".into()))));
        for text in ["", "dir", "dir:", "kube:", "none:x", "kubernetes"] {
            assert!(text.parse::<Cluster>().is_err(), "{text}");
        }
    }
}

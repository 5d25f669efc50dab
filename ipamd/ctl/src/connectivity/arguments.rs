//! What a test and a cleaning are told.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::Args;

use super::{check::Kind, plan::Outside};
use ipamd_config::{Cluster, Locations};

/// Where pods are made.
#[derive(Debug, Args)]
pub(crate) struct Way {
    /// On this node alone, in network namespaces, although there is a kubeconfig
    #[arg(long)]
    pub(super) bare: bool,
    /// The cluster's kubeconfig [default: $KUBECONFIG or ~/.kube/config, or the pod's own rights; without any, this node alone
    /// is tested]
    #[arg(long, value_name = "FILE", conflicts_with = "bare")]
    pub(super) kubeconfig: Option<PathBuf>,
}

/// Where the node's files are; for tests of this node alone.
#[derive(Debug, Args)]
pub(crate) struct Places {
    /// Folder of network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(super) conf_dir: PathBuf,
    /// Folder of plugins; repeatable [default: /opt/cni/bin]
    #[arg(long, value_name = "DIR")]
    pub(super) bin_dir: Vec<PathBuf>,
    /// The network to test [default: the first that Cambric is part of]
    #[arg(long, value_name = "NAME")]
    pub(super) network: Option<String>,
    /// The daemon's configuration, for its directory of manifests [default: /etc/cambric/ipamd.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The directory of manifests that the daemon follows, over the configuration's
    #[arg(long, value_name = "DIR")]
    pub(super) manifests: Option<PathBuf>,
}

impl Places {
    pub(super) fn bin_dirs(&self) -> Vec<PathBuf> {
        if self.bin_dir.is_empty() { vec!["/opt/cni/bin".into()] } else { self.bin_dir.clone() }
    }

    /// The directory of manifests that the daemon follows, if that is its cluster.
    pub(super) fn manifests(&self) -> Result<Option<PathBuf>, String> {
        if self.manifests.is_some() {
            return Ok(self.manifests.clone());
        }
        let locations = Locations::load(self.config.as_deref()).map_err(|error| error.to_string())?;
        Ok(match locations.cluster {
            Cluster::Dir(directory) => Some(directory),
            _ => None,
        })
    }
}

/// What is tested.
#[derive(Debug, Args)]
pub(crate) struct Test {
    #[command(flatten)]
    pub(super) way: Way,
    #[command(flatten)]
    pub(super) places: Places,
    /// Image with cambricctl, in a cluster [default: that of Cambric's DaemonSet]
    #[arg(long)]
    pub(super) image: Option<String>,
    /// Beyond the cluster: an address to ping, or one with a port to connect to; repeatable [default: the gateways of the
    /// nodes]
    #[arg(long, value_name = "IP[:PORT]")]
    pub(super) outside: Vec<Outside>,
    /// DNS server to ask, on bare namespaces; repeatable [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "IP")]
    pub(super) dns: Vec<IpAddr>,
    /// Port of each node that leads to a pod; 0 for none
    #[arg(long, value_name = "PORT", default_value_t = 24_681)]
    pub(super) host_port: u16,
    /// Port that an agent serves in the network of each node
    #[arg(long, value_name = "PORT", default_value_t = 24_680)]
    pub(super) node_agent_port: u16,
    /// Node port of the service, on bare namespaces; a cluster chooses one itself
    #[arg(long, value_name = "PORT", default_value_t = 32_681)]
    pub(super) node_port: u16,
    /// Leaves out these checks; repeatable
    #[arg(long, value_name = "CHECK")]
    pub(super) skip: Vec<Kind>,
    /// How long each check may take until its outcome is as it should be
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(super) patience: u64,
    /// How long pods may take to start, and to go
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(super) timeout: u64,
}

impl Test {
    pub(super) fn wants(&self, kind: Kind) -> bool {
        !self.skip.contains(&kind)
    }

    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// What is removed.
#[derive(Debug, Args)]
pub(crate) struct Clean {
    /// The test, by the name of its namespace [default: all]
    pub(super) run: Option<String>,
    #[command(flatten)]
    pub(super) way: Way,
    #[command(flatten)]
    pub(super) places: Places,
}

impl Clean {
    pub(super) fn means(&self, run: &str) -> bool {
        self.run.as_deref().is_none_or(|it| it == run)
    }
}

impl FromStr for Outside {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = |address| Self { address, port: None };
        let with_port = |to: SocketAddr| Self { address: to.ip(), port: Some(to.port()) };
        text.parse().map(address).or_else(|_| text.parse().map(with_port)).map_err(|_| {
            format!("{text:?} is neither an address nor one with a port, such as 198.51.100.1:443 or [2001:db8::1]:443")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_outside_has_an_address_and_perhaps_a_port() {
        let of = |text: &str| text.parse::<Outside>().map(|it| (it.address.to_string(), it.port));
        assert_eq!(of("198.51.100.1"), Ok(("198.51.100.1".into(), None)));
        assert_eq!(of("2001:db8::1"), Ok(("2001:db8::1".into(), None)));
        assert_eq!(of("[2001:db8::1]:443"), Ok(("2001:db8::1".into(), Some(443))));
        assert!(of("example.org").unwrap_err().contains("198.51.100.1:443"));
    }
}

//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Policy at scale.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// Policies of the cluster
    #[arg(long, default_value_t = 1_000)]
    pub policies: u32,
    /// Pods of the cluster
    #[arg(long, default_value_t = 10_000)]
    pub pods: u32,
    /// Changes that are timed, of each sort
    #[arg(long, default_value_t = 300)]
    pub changes: u32,
    /// Where a bpffs is mounted
    #[arg(long, default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// Only what one tenant can make, which needs neither root nor a kernel
    #[arg(long)]
    pub tenant: bool,
    /// Only how long the daemon's answers are waited for while it is at a large change; the daemon is that of `CAMBRIC_BIN_DIR`
    #[arg(long)]
    pub answers: bool,
    /// Only writes the manifests there
    #[arg(long, value_name = "FOLDER")]
    pub write: Option<PathBuf>,
}

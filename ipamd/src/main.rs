//! Cambric's node daemon.

use std::{
    env, io,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use clap::Parser;
use ipamd::daemon::{self, ExitReason};
use ipamd_config::{CommandLine, Config, LogFormat};
use ipamd_kernel::kernel_files;
use ipamd_runtime::{error_chain, memory};

fn main() -> ExitCode {
    match run(CommandLine::parse()) {
        Ok(ExitReason::Stopped) => ExitCode::SUCCESS,
        Ok(ExitReason::PodCidrsChanged | ExitReason::StoreWritable) => {
            eprintln!("cambric-ipamd: cannot start anew: {}", start_anew());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("cambric-ipamd: {}", error_chain::sentence(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(command_line: CommandLine) -> anyhow::Result<ExitReason> {
    let config = Config::load(command_line)?;
    log(&config);
    kernel_files::set_root(&config.host_root);
    if let Err(error) = memory::keep_small() {
        tracing::debug!(%error, "cannot set the limits of malloc");
    }
    if let Err(error) = memory::allow_files() {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exit_reason = runtime.block_on(daemon::run(config));
    // What is still under way for nobody is not waited for.
    runtime.shutdown_background();
    exit_reason
}

/// Replaces this process by a new daemon (exec), so that no supervisor takes it for failed. Returns only if that fails.
fn start_anew() -> io::Error {
    // Not by its name: the file may have been replaced.
    Command::new("/proc/self/exe").args(env::args_os().skip(1)).exec()
}

/// Logs go to standard error, where systemd and Kubernetes pick them up.
fn log(config: &Config) {
    use tracing_subscriber::{EnvFilter, fmt};
    let subscriber = fmt()
        .with_writer(io::stderr)
        .with_env_filter(EnvFilter::new(format!("warn,ipamd={0},bpf={0}", config.log_level.name())))
        .with_target(false);
    match config.log_format {
        LogFormat::Text => subscriber.with_ansi(false).init(),
        LogFormat::Json => subscriber.json().init(),
    }
}

//! `cambricctl sysdump`: what a bug report needs, in one archive. It asks the daemon, the kernel and the node, each item within
//! its time, and names what it could not get. Secrets are left out.

mod archive;
mod item;
mod of_daemon;
mod of_node;
mod redact;
mod room;

use std::{
    fs::{self, OpenOptions},
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use ipamd_config::{DEFAULT_CONFIG, Locations};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use super::{
    machine::Configuration,
    output::{Output, table},
};
use archive::Archive;
use item::{Item, Outcome, Report};

/// What is never in an archive, for who is asked to send one.
const LEFT_OUT: [&str; 4] = [
    "values of tokens, passwords, credentials and private keys, wherever they stand (as [left out])",
    "kubeconfigs, service account tokens and Secrets: none is read",
    "the environment of processes",
    "the content of packets and of the records",
];

/// What is collected, and into which file.
#[derive(Debug, Args)]
pub(super) struct Sysdump {
    /// Where the archive is written, - for standard output; the file must not exist [default:
    /// ./cambric-sysdump-NODE-TIME.tar.gz]
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// How many MiB of text there are at most, before they are compressed; no item gets more than a quarter of it
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    size_limit: u32,
    /// How long each item may take
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    item_timeout: u32,
    /// Where the daemon serves its metrics, over the configuration's
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    #[command(flatten)]
    configuration: Configuration,
}

/// What is in an archive.
#[derive(Debug, Serialize)]
struct Manifest {
    /// Goes up when fields change their meaning.
    format: u32,
    cambricctl: &'static str,
    node: String,
    began: String,
    seconds: u64,
    size_limit_bytes: u64,
    items: Vec<Report>,
    left_out: [&'static str; 4],
}

/// Writes the archive, and says what is in it. It succeeds if the archive is whole, whatever could not be collected.
pub(super) fn run(what: &Sysdump, socket: Option<PathBuf>, output: &Output) -> anyhow::Result<()> {
    let began = Timestamp::now();
    let node = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let node = if node.is_empty() { "node".to_owned() } else { node };
    let stem = stem(&node, &began.strftime("%Y%m%dT%H%M%SZ").to_string());
    let (items, trouble) = items(what, socket);
    let seconds = u64::try_from(began.as_second()).unwrap_or(0);
    if what.file.as_deref() == Some(Path::new("-")) {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            bail!("a terminal cannot show the archive; send it into a file");
        }
        let archive = Archive::new(stdout.lock(), seconds);
        write(archive, &stem, what, items, trouble, (node, began)).context("cannot write the archive")?;
        return Ok(());
    }
    let path = what.file.clone().unwrap_or_else(|| format!("{stem}.tar.gz").into());
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let file = opened.with_context(|| format!("cannot create {}", path.display()))?;
    let written = write(Archive::new(file, seconds), &stem, what, items, trouble, (node, began));
    let manifest = match written {
        Ok(manifest) => manifest,
        Err(error) => {
            // Half an archive serves nobody.
            let _ = fs::remove_file(&path);
            return Err(error).with_context(|| format!("cannot write {}", path.display()));
        }
    };
    output.print(&serde_json::json!({ "file": path, "manifest": manifest }), |_| text(&path, &manifest))
}

/// All items, and why the configuration could not be read: then all is where it is without one.
fn items(what: &Sysdump, socket: Option<PathBuf>) -> (Vec<Item>, Option<String>) {
    let (mut locations, trouble) = match what.configuration.locations() {
        Ok(locations) => (locations, None),
        Err(error) => (Locations::default(), Some(error.to_string())),
    };
    if let Some(socket) = socket {
        locations.socket = socket;
    }
    let config = what.configuration.file().unwrap_or(Path::new(DEFAULT_CONFIG));
    let mut items = of_daemon::items(&locations.socket);
    items.extend(of_node::items(&locations, config, what.metrics.or(locations.metrics)));
    (items, trouble)
}

/// The archive's name and that of the folder in it: letters that any file system and any tar takes.
fn stem(node: &str, time: &str) -> String {
    let plain = |it: char| if it.is_ascii_alphanumeric() || it == '-' || it == '.' { it } else { '_' };
    let node: String = node.chars().take(30).map(plain).collect();
    format!("cambric-sysdump-{node}-{time}")
}

fn write(
    mut archive: Archive<impl Write>,
    stem: &str,
    what: &Sysdump,
    items: Vec<Item>,
    trouble: Option<String>,
    (node, began): (String, Timestamp),
) -> io::Result<Manifest> {
    let clock = Instant::now();
    let limit = u64::from(what.size_limit) << 20;
    let within = Duration::from_secs(what.item_timeout.into());
    let mut left = limit;
    let mut reports = Vec::new();
    if let Some(reason) = trouble {
        let (outcome, path) = (Outcome::Failed, "configuration".to_owned());
        let reason = Some(format!("{reason}; everything was looked for where it is without a configuration"));
        reports.push(Report { path, outcome, bytes: 0, cut_bytes: 0, reason, milliseconds: 0 });
    }
    for item in items {
        let most = left.min(limit / 4);
        let (report, content) = item::take(item, usize::try_from(most).unwrap_or(usize::MAX), within);
        left -= report.bytes.min(left);
        if report.bytes > 0 || report.outcome == Outcome::Taken {
            archive.add(&format!("{stem}/{}", report.path), &content)?;
        }
        reports.push(report);
    }
    let manifest = Manifest {
        format: 1,
        cambricctl: env!("CARGO_PKG_VERSION"),
        node,
        began: began.to_string(),
        seconds: clock.elapsed().as_secs(),
        size_limit_bytes: limit,
        items: reports,
        left_out: LEFT_OUT,
    };
    archive.add(
        &format!("{stem}/manifest.json"),
        (serde_json::to_string_pretty(&manifest)? + "\n").as_bytes(),
    )?;
    archive.finish()?.flush()?;
    Ok(manifest)
}

/// What is not whole, with why; and where the archive is.
fn text(path: &Path, manifest: &Manifest) -> String {
    let partly = manifest.items.iter().filter(|it| it.outcome != Outcome::Taken);
    let rows: Vec<_> = partly
        .map(|it| [it.path.clone(), it.outcome.name().to_owned(), it.reason.clone().unwrap_or_default()])
        .collect();
    let whole = manifest.items.len() - rows.len();
    let table =
        if rows.is_empty() { String::new() } else { table(["ITEM", "OUTCOME", "REASON"], rows) + "\n" };
    format!(
        "{table}{whole} of {} items are whole\n{} is without the secrets that are known by name or form; read it before you \
         send it on\n",
        manifest.items.len(),
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_file_has_plain_letters() {
        assert_eq!(stem("a/b ü", "T"), "cambric-sysdump-a_b__-T");
        assert!(stem(&"n".repeat(200), "20260101T000000Z").len() < 64);
    }

    #[test]
    fn what_is_not_whole_is_told_with_its_reason() {
        let report = |path: &str, outcome, reason: Option<&str>| Report {
            path: path.into(),
            outcome,
            bytes: 0,
            cut_bytes: 0,
            reason: reason.map(str::to_owned),
            milliseconds: 1,
        };
        let manifest = Manifest {
            format: 1,
            cambricctl: "0",
            node: "n".into(),
            began: String::new(),
            seconds: 0,
            size_limit_bytes: 1,
            items: vec![report("a", Outcome::Taken, None), report("b", Outcome::Late, Some("it took long"))],
            left_out: LEFT_OUT,
        };
        let text = text(Path::new("x.tar.gz"), &manifest);
        assert!(text.contains("b     late     it took long\n"), "{text}");
        assert!(text.contains("1 of 2 items are whole\nx.tar.gz is without"), "{text}");
    }
}

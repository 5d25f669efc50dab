//! How long it takes from a manifest's change to what it says being so: by the daemon's own clock, and as somebody who
//! connects sees it.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};

use super::{
    manifests::{SLICE, slice_manifest},
    metrics::{Metrics, Reading},
    population::{PORT, Population, SERVICE_PORT},
};

/// The daemon's histogram of changes of services.
const METRIC: &str = "cambric_service_change_seconds";
/// What has not happened after this long will not.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between a change and the question how long it took, so that asking does not slow it.
const SETTLE: Duration = Duration::from_millis(10);

/// A daemon that follows a folder of manifests, in whose network namespace this process stands.
#[derive(Debug)]
pub struct Changes {
    /// The folder.
    pub cluster: PathBuf,
    /// Its services; the one that is measured is changed.
    pub population: Population,
    /// The network namespace of the first endpoint.
    pub netns: PathBuf,
    /// The daemon's metrics.
    pub metrics: Metrics,
    /// How many changes are timed.
    pub count: u32,
}

/// What was measured, each value a change.
#[derive(Debug, Default)]
pub struct Times {
    /// From word of a change to the maps being written, by the daemon.
    pub programmed: Vec<Duration>,
    /// From the file's change to the first connection that succeeds.
    pub reachable: Vec<Duration>,
}

/// Changes the endpoints of one service again and again.
pub fn time_changes(changes: &Changes) -> Result<Times> {
    let all = &changes.population.backends;
    ensure!(all.len() > 1, "the service needs two endpoints or more");
    let mut times = Times::default();
    for round in 0..changes.count {
        let endpoints = if round % 2 == 0 { &all[1..] } else { &all[..] };
        let before = changes.metrics.histogram(METRIC)?;
        changes.replace(endpoints)?;
        thread::sleep(SETTLE);
        let after = changes.observed_since(before)?;
        times.programmed.push(mean(before, after)?);
    }
    times.reachable = thread::scope(|scope| {
        let (ready, listens) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        let server = scope.spawn(move || listen(&changes.netns, all[0], &ready, &stopped));
        let measured = if listens.recv().is_ok() { changes.connect_to_new() } else { Ok(Vec::new()) };
        drop(stop);
        server.join().map_err(|_| anyhow!("the server has panicked"))?.context("server")?;
        measured
    })?;
    changes.replace(all)?;
    Ok(times)
}

impl Changes {
    /// Lets the service have these endpoints.
    fn replace(&self, endpoints: &[Ipv4Addr]) -> Result<Instant> {
        let text = slice_manifest(self.population.measured(), endpoints, &self.population.node);
        replace(&self.cluster, &text)
    }

    /// The histogram when it has more than before.
    fn observed_since(&self, before: Reading) -> Result<Reading> {
        let began = Instant::now();
        loop {
            let now = self.metrics.histogram(METRIC)?;
            if now.count > before.count {
                return Ok(now);
            }
            ensure!(began.elapsed() < PATIENCE, "the daemon does not follow {}", self.cluster.display());
            thread::sleep(SETTLE);
        }
    }

    /// Takes the service's last endpoint away and gives it one, which is connected to at once.
    fn connect_to_new(&self) -> Result<Vec<Duration>> {
        let service = SocketAddr::from((Population::cluster_ip(self.population.measured()), SERVICE_PORT));
        let mut times = Vec::new();
        for _ in 0..self.count {
            let gone = self.replace(&[])?;
            while TcpStream::connect_timeout(&service, PATIENCE).is_ok() {
                ensure!(gone.elapsed() < PATIENCE, "{service} is reached although it has no endpoint");
            }
            thread::sleep(SETTLE);
            let came = self.replace(&self.population.backends[..1])?;
            while TcpStream::connect_timeout(&service, PATIENCE).is_err() {
                ensure!(came.elapsed() < PATIENCE, "{service} is not reached although it has an endpoint");
            }
            times.push(came.elapsed());
        }
        Ok(times)
    }
}

/// Puts the slice there, whole at any time; says when.
fn replace(folder: &Path, text: &str) -> Result<Instant> {
    // Not a manifest by its name, so that it is not read half written.
    let beside = folder.join(".new");
    fs::write(&beside, text)?;
    let at = Instant::now();
    fs::rename(&beside, folder.join(SLICE))?;
    Ok(at)
}

fn mean(before: Reading, after: Reading) -> Result<Duration> {
    let count = u32::try_from(after.count - before.count)?;
    ensure!(count > 0, "nothing was observed");
    Ok(Duration::try_from_secs_f64(after.sum - before.sum).context("the daemon's sum of times fell")? / count)
}

/// Accepts connections until there is no more of the sender.
fn listen(
    netns: &Path,
    address: Ipv4Addr,
    ready: &mpsc::Sender<()>,
    stopped: &mpsc::Receiver<()>,
) -> Result<()> {
    let file = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", netns.display()))?;
    let listener = TcpListener::bind((address, PORT))?;
    listener.set_nonblocking(true)?;
    ready.send(())?;
    while stopped.recv_timeout(Duration::from_millis(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
        while listener.accept().is_ok() {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_takes_what_the_sum_grew_by() -> Result<()> {
        let before = Reading { count: 3, sum: 0.003 };
        assert_eq!(mean(before, Reading { count: 5, sum: 0.004 })?, Duration::from_micros(500));
        assert!(mean(before, before).is_err());
        Ok(())
    }
}

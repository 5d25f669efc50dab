//! Client and servers on one core, and how many requests a second they manage.

use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    time::{ClockId, clock_gettime},
};

use super::{
    options::{Options, Row},
    server::Server,
};
use crate::path::{LAST, PATIENCE, connect, exchange, pin, repeat, settle};

/// What part of a core client and servers have where nobody else wants it.
const BUSY: f64 = 0.98;
/// How often a row is loaded in a round, at most, to find the core theirs.
const TRIES: u32 = 3;

/// A load, by the names that the field has for them.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// A byte there and a byte back over one connection.
    TcpRr,
    /// The same over a connection of its own each time.
    TcpCrr,
}

/// Both.
pub const LOADS: [Load; 2] = [Load::TcpRr, Load::TcpCrr];

/// How fast it was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    /// Thousands of requests per second.
    pub thousands: f64,
    /// What part of the time client and servers had the core.
    pub busy: f64,
}

/// Thousands of requests per second. What was measured while others had the core too much is measured again; in the end
/// what was disturbed least counts.
pub fn undisturbed(load: Load, row: &Row, options: &Options, duration: Duration) -> Result<f64> {
    let mut best = Rate::default();
    for _ in 0..TRIES {
        let rate = measure(load, row, options, duration)?;
        if rate.busy > best.busy {
            best = rate;
        }
        if best.busy > BUSY {
            break;
        }
    }
    Ok(best.thousands)
}

/// How fast it is for so long.
pub fn measure(load: Load, row: &Row, options: &Options, duration: Duration) -> Result<Rate> {
    let cpu = options.cpu;
    let client = options.seen.iter().find(|seen| seen.row == row.name).map(|seen| seen.client);
    join(&row.cgroup)?;
    let (ready, listens) = mpsc::channel();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let listeners = row.servers.iter().map(Server::listen).collect::<Result<Vec<_>>>()?;
            pin(cpu)?;
            ready.send(())?;
            serve(&listeners, client)
        });
        let client = scope.spawn(move || {
            settle(&row.client, cpu)?;
            // If nobody listens, the server says why.
            if listens.recv().is_err() {
                return Ok(Rate::default());
            }
            request(load, &row.targets, duration)
        });
        let client = client.join().map_err(|_| anyhow!("the client has panicked"))?;
        let server = server.join().map_err(|_| anyhow!("the server has panicked"))?;
        match (client, server) {
            (Ok(rate), Ok(())) => Ok(rate),
            (Err(error), Ok(())) => Err(error.context("client")),
            (Ok(_), Err(error)) => Err(error.context("server")),
            (Err(client), Err(server)) => Err(anyhow!("client: {client:#}; server: {server:#}")),
        }
    })
}

/// Moves this process into a cgroup: its sockets are of the cgroup that they were made in.
pub fn join(cgroup: &Path) -> Result<()> {
    let path = cgroup.join("cgroup.procs");
    let mut file =
        File::options().write(true).open(&path).with_context(|| format!("open {}", path.display()))?;
    file.write_all(b"0").with_context(|| format!("move into {}", cgroup.display()))
}

/// Which of them has a connection waiting; an error if none has for long.
pub fn ready(listeners: &[TcpListener]) -> Result<Vec<usize>> {
    let mut waiting: Vec<_> =
        listeners.iter().map(|one| PollFd::new(one.as_fd(), PollFlags::POLLIN)).collect();
    let timeout = PollTimeout::try_from(PATIENCE).context("patience is too long")?;
    ensure!(poll(&mut waiting, timeout)? > 0, "nobody has connected");
    Ok((0..waiting.len()).filter(|number| waiting[*number].any().unwrap_or(true)).collect())
}

/// Answers one connection after another, all from the client if its address is known, until one sends the last byte.
fn serve(listeners: &[TcpListener], client: Option<IpAddr>) -> Result<()> {
    let mut byte = [0];
    while byte[0] != LAST {
        for number in ready(listeners)? {
            let (mut connection, from) = listeners[number].accept()?;
            let from = from.ip();
            ensure!(client.is_none_or(|client| client == from), "the client is seen as {from}");
            connection.set_nodelay(true)?;
            connection.set_read_timeout(Some(PATIENCE))?;
            while connection.read(&mut byte)? > 0 {
                connection.write_all(&byte)?;
            }
        }
    }
    Ok(())
}

fn request(load: Load, targets: &[SocketAddr], duration: Duration) -> Result<Rate> {
    let mut count = 0_u32;
    let mut turns = targets.iter().cycle();
    let mut next =
        || -> Result<TcpStream> { connect(*turns.next().context("there is nothing to connect to")?) };
    let before = processor_time()?;
    let (elapsed, used) = match load {
        Load::TcpRr => {
            let mut connection = next()?;
            let elapsed = repeat(duration, &mut count, |byte| exchange(&mut connection, byte))?;
            let used = processor_time()?.saturating_sub(before);
            exchange(&mut connection, LAST)?;
            (elapsed, used)
        }
        Load::TcpCrr => {
            let elapsed = repeat(duration, &mut count, |byte| exchange(&mut next()?, byte))?;
            let used = processor_time()?.saturating_sub(before);
            exchange(&mut next()?, LAST)?;
            (elapsed, used)
        }
    };
    Ok(Rate {
        thousands: f64::from(count) / elapsed.as_secs_f64() / 1e3,
        busy: used.as_secs_f64() / elapsed.as_secs_f64(),
    })
}

/// What this process, of which client and servers are threads, has had of the processors.
fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

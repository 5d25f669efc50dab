//! What a client gets of a service that several servers stand behind, when all of them share one core. The servers are
//! always the same ones, so that only the way to them differs.

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    path::{Path, PathBuf},
    str::FromStr,
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    Netns, parse, parts,
    path::{LAST, PATIENCE, connect, exchange, pin, repeat, settle},
    spread::Spread,
};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// What is compared, the first being what the others are compared with: a name, the namespace of the client, the
    /// cgroup that its sockets belong to, what it connects to in turn (joined by +), and the servers
    #[arg(long = "row", value_name = "NAME,CLIENT,CGROUP,TARGETS,SERVERS", required = true)]
    rows: Vec<Row>,
    /// Two rows whose ratio is printed as well, and what it should be at least, if anything
    #[arg(long = "ratio", value_name = "NAME,NAME,LIMIT")]
    ratios: Vec<Ratio>,
    /// Rounds, in turns
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// How long each row is loaded in each round, in milliseconds
    #[arg(long, default_value_t = 150)]
    millis: u64,
    /// The core of client and servers
    #[arg(long, default_value_t = 1)]
    cpu: usize,
}

#[derive(Clone, Debug)]
struct Row {
    name: String,
    client: Netns,
    cgroup: PathBuf,
    targets: Vec<SocketAddr>,
    servers: Vec<Server>,
}

impl FromStr for Row {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [name, client, cgroup, targets, servers] = parts(text, "NAME,CLIENT,CGROUP,TARGETS,SERVERS")?;
        Ok(Self {
            name,
            client: Netns(client),
            cgroup: cgroup.into(),
            targets: targets.split('+').map(parse).collect::<Result<_, _>>()?,
            servers: servers.split('+').map(parse).collect::<Result<_, _>>()?,
        })
    }
}

/// A server's namespace, and where it listens.
#[derive(Clone, Debug)]
pub struct Server {
    netns: Netns,
    at: SocketAddr,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (netns, at) =
            text.split_once('@').ok_or_else(|| format!("{text:?} is not of the form NETNS@ADDRESS:PORT"))?;
        Ok(Self { netns: Netns(netns.into()), at: parse(at)? })
    }
}

impl Server {
    /// Listens, and leaves this thread in the namespace.
    pub fn listen(&self) -> Result<TcpListener> {
        self.netns.enter()?;
        let listener = TcpListener::bind(self.at).with_context(|| format!("listen on {}", self.at))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

#[derive(Clone, Debug)]
struct Ratio {
    row: String,
    base: String,
    limit: Option<f64>,
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [row, base, limit] = parts(text, "NAME,NAME,LIMIT")?;
        let limit = if limit.is_empty() { None } else { Some(parse(&limit)?) };
        Ok(Self { row, base, limit })
    }
}

/// A load, by the names that the field has for them.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// A byte there and a byte back over one connection.
    TcpRr,
    /// The same over a connection of its own each time.
    TcpCrr,
}

/// How long each row is loaded before the first round, to see that it works.
const TRIAL: Duration = Duration::from_millis(20);

const LOADS: [Load; 2] = [Load::TcpRr, Load::TcpCrr];

/// For each load and row, thousands of requests per second in each round; none of a row that could not be run.
struct Measured(Vec<Vec<Vec<f64>>>);

impl Measured {
    /// The ratios of a row to another in the same round.
    fn ratios(&self, load: usize, row: usize, base: usize) -> Option<Spread> {
        let rounds = self.0[load][row].iter().zip(&self.0[load][base]);
        let ratios: Vec<f64> = rounds.map(|(value, base)| value / base).collect();
        (!ratios.is_empty()).then(|| Spread::of(ratios))
    }
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let duration = Duration::from_millis(options.millis);
    let mut failed = Vec::new();
    for (number, row) in options.rows.iter().enumerate() {
        for load in LOADS {
            if let Err(error) = measure(load, row, options.cpu, TRIAL) {
                failed.push((number, format!("{load:?}: {error:#}")));
                break;
            }
        }
    }
    let runs: Vec<usize> =
        (0..options.rows.len()).filter(|number| failed.iter().all(|(other, _)| other != number)).collect();
    let mut measured = Measured(vec![vec![Vec::new(); options.rows.len()]; LOADS.len()]);
    for round in 0..options.rounds {
        for (load, measured) in LOADS.iter().zip(&mut measured.0) {
            let mut order = runs.clone();
            if round % 2 == 1 {
                order.reverse();
            }
            for number in order {
                let row = &options.rows[number];
                let value = measure(*load, row, options.cpu, duration)
                    .with_context(|| format!("{load:?} on {}", row.name))?;
                measured[number].push(value);
            }
        }
    }
    print(options, &measured)?;
    for (number, error) in &failed {
        println!("\n{} was not run: {error}", options.rows[*number].name);
    }
    ensure!(failed.is_empty(), "{} of {} rows were not run", failed.len(), options.rows.len());
    Ok(())
}

fn print(options: &Options, measured: &Measured) -> Result<()> {
    println!("| way | TCP_RR k/s | / first row | TCP_CRR k/s | / first row |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (number, row) in options.rows.iter().enumerate() {
        print!("| {} |", row.name);
        for load in 0..LOADS.len() {
            match measured.ratios(load, number, 0) {
                Some(ratios) => {
                    let median = Spread::of(measured.0[load][number].iter().copied()).median();
                    print!(" {median:.1} | {ratios:.2} |");
                }
                None => print!(" not run | |"),
            }
        }
        println!();
    }
    if options.ratios.is_empty() {
        return Ok(());
    }
    println!("\n| ratio | TCP_RR | TCP_CRR | at least |");
    println!("| --- | ---: | ---: | ---: |");
    for Ratio { row, base, limit } in &options.ratios {
        let (number, base_number) = (options.number(row)?, options.number(base)?);
        let [rr, crr] =
            [0, 1].map(|load| judged(measured.ratios(load, number, base_number).as_ref(), *limit));
        let limit = limit.map(|limit| format!("{limit:.2}")).unwrap_or_default();
        println!("| {row} / {base} | {rr} | {crr} | {limit} |");
    }
    Ok(())
}

/// Ratios, and what their median should be at least, if anything: in bold where it is less.
fn judged(ratios: Option<&Spread>, limit: Option<f64>) -> String {
    match ratios {
        None => "not run".to_owned(),
        Some(ratios) if limit.is_some_and(|limit| ratios.median() < limit) => format!("**{ratios:.3}**"),
        Some(ratios) => format!("{ratios:.3}"),
    }
}

impl Options {
    fn number(&self, name: &str) -> Result<usize> {
        self.rows.iter().position(|row| row.name == name).with_context(|| format!("there is no row {name:?}"))
    }
}

/// Thousands of requests per second.
fn measure(load: Load, row: &Row, cpu: usize, duration: Duration) -> Result<f64> {
    join(&row.cgroup)?;
    let (ready, listens) = mpsc::channel();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let listeners = row.servers.iter().map(Server::listen).collect::<Result<Vec<_>>>()?;
            pin(cpu)?;
            ready.send(())?;
            serve(&listeners)
        });
        let client = scope.spawn(move || {
            settle(&row.client, cpu)?;
            // If nobody listens, the server says why.
            if listens.recv().is_err() {
                return Ok(0.0);
            }
            request(load, &row.targets, duration)
        });
        let (client, server) = (client.join(), server.join());
        let value = client.map_err(|_| anyhow!("the client has panicked"))?.context("client")?;
        server.map_err(|_| anyhow!("the server has panicked"))?.context("server")?;
        Ok(value)
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

/// Answers one connection after another, until a client sends the last byte.
fn serve(listeners: &[TcpListener]) -> Result<()> {
    let mut byte = [0];
    while byte[0] != LAST {
        for number in ready(listeners)? {
            let (mut connection, _) = listeners[number].accept()?;
            connection.set_nodelay(true)?;
            connection.set_read_timeout(Some(PATIENCE))?;
            while connection.read(&mut byte)? > 0 {
                connection.write_all(&byte)?;
            }
        }
    }
    Ok(())
}

fn request(load: Load, targets: &[SocketAddr], duration: Duration) -> Result<f64> {
    let mut count = 0_u32;
    let mut turns = targets.iter().cycle();
    let mut next =
        || -> Result<TcpStream> { connect(*turns.next().context("there is nothing to connect to")?) };
    let elapsed = match load {
        Load::TcpRr => {
            let mut connection = next()?;
            let elapsed = repeat(duration, &mut count, |byte| exchange(&mut connection, byte))?;
            exchange(&mut connection, LAST)?;
            elapsed
        }
        Load::TcpCrr => {
            let elapsed = repeat(duration, &mut count, |byte| exchange(&mut next()?, byte))?;
            exchange(&mut next()?, LAST)?;
            elapsed
        }
    };
    Ok(f64::from(count) / elapsed.as_secs_f64() / 1e3)
}

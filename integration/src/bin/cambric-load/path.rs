//! What passes between two network namespaces when client and server share one core, so that no wake-up of another core
//! hides the path.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    str::FromStr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    netns::Netns,
    option_values::{parse, parts},
    spread::Spread,
};

/// What a client sends to end its server.
pub const LAST: u8 = b'q';
/// A reply that is not there after this long was lost.
pub const PATIENCE: Duration = Duration::from_secs(2);
const BLOCK: usize = 128 * 1024;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// What is compared, the first being what the others are compared with: a name, the namespaces of client and server,
    /// and the server's address
    #[arg(long = "path", value_name = "NAME,CLIENT,SERVER,ADDRESS", required = true)]
    paths: Vec<Subject>,
    /// Rounds, in turns
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long each path is loaded in each round, in milliseconds
    #[arg(long, default_value_t = 500)]
    millis: u64,
    /// The core of client and server
    #[arg(long, default_value_t = 1)]
    cpu: usize,
}

#[derive(Clone, Debug)]
struct Subject {
    name: String,
    client: Netns,
    server: Netns,
    address: IpAddr,
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [name, client, server, address] = parts(text, "NAME,CLIENT,SERVER,ADDRESS")?;
        Ok(Self { name, client: Netns(client), server: Netns(server), address: parse(&address)? })
    }
}

/// A load, by the names that the field has for them.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// A byte there and a byte back over one connection.
    TcpRr,
    /// The same over a connection of its own each time.
    TcpCrr,
    /// The same in datagrams.
    UdpRr,
    /// As many bytes as pass, one way.
    Stream,
}

const LOADS: [Load; 4] = [Load::TcpRr, Load::TcpCrr, Load::UdpRr, Load::Stream];

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let duration = Duration::from_millis(options.millis);
    // Per load and path, a value for each round.
    let mut measured = vec![vec![Vec::new(); options.paths.len()]; LOADS.len()];
    for round in 0..options.rounds {
        for (load, measured) in LOADS.iter().zip(&mut measured) {
            let mut order: Vec<usize> = (0..options.paths.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for number in order {
                let path = &options.paths[number];
                let value = measure(*load, path, options.cpu, duration)
                    .with_context(|| format!("{load:?} on {}", path.name))?;
                measured[number].push(value);
            }
        }
    }
    println!(
        "Median, and in the second column its ratio to the first row: median (min-max) of {} rounds\n",
        options.rounds
    );
    println!("| path | TCP_RR k/s | | TCP_CRR k/s | | UDP_RR k/s | | stream Gbit/s | |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (number, path) in options.paths.iter().enumerate() {
        print!("| {} |", path.name);
        for measured in &measured {
            let ratios = measured[number].iter().zip(&measured[0]).map(|(value, base)| value / base);
            print!(" {:.1} | {:.2} |", Spread::of(measured[number].clone()).median(), Spread::of(ratios));
        }
        println!();
    }
    Ok(())
}

/// Thousands of requests per second; of a stream, Gbit per second.
fn measure(load: Load, path: &Subject, cpu: usize, duration: Duration) -> Result<f64> {
    let (ready, port) = mpsc::channel();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            settle(&path.server, cpu)?;
            serve(load, path.address, &ready)
        });
        let client = scope.spawn(move || {
            settle(&path.client, cpu)?;
            // If there is no port, the server says why.
            let Ok(port) = port.recv() else { return Ok(0.0) };
            request(load, SocketAddr::new(path.address, port), duration)
        });
        // A client that has failed leaves its server waiting for nothing: both wait no longer than `PATIENCE`.
        let (client, server) = (client.join(), server.join());
        let value = client.map_err(|_| anyhow!("the client has panicked"))?.context("client")?;
        server.map_err(|_| anyhow!("the server has panicked"))?.context("server")?;
        Ok(value)
    })
}

/// Moves this thread into the namespace and onto the core.
pub fn settle(netns: &Netns, cpu: usize) -> Result<()> {
    netns.enter()?;
    pin(cpu)
}

/// Moves this thread onto the core.
pub fn pin(cpu: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cores).with_context(|| format!("cannot move to core {cpu}"))
}

fn serve(load: Load, address: IpAddr, ready: &mpsc::Sender<u16>) -> Result<()> {
    let any = SocketAddr::new(address, 0);
    let mut byte = [0];
    if let Load::UdpRr = load {
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        ready.send(socket.local_addr()?.port())?;
        while byte[0] != LAST {
            let (_, from) = socket.recv_from(&mut byte)?;
            socket.send_to(&byte, from)?;
        }
        return Ok(());
    }
    let listener = TcpListener::bind(any)?;
    ready.send(listener.local_addr()?.port())?;
    loop {
        let mut connection = accept(&listener)?;
        connection.set_nodelay(true)?;
        if let Load::Stream = load {
            let mut block = vec![0; BLOCK];
            while connection.read(&mut block)? > 0 {}
            return Ok(());
        }
        while connection.read(&mut byte)? > 0 {
            connection.write_all(&byte)?;
        }
        if byte[0] == LAST {
            return Ok(());
        }
    }
}

/// Accepts one connection, or gives up after `PATIENCE`.
fn accept(listener: &TcpListener) -> Result<TcpStream> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((connection, _)) => {
                connection.set_read_timeout(Some(PATIENCE))?;
                return Ok(connection);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                let timeout = PollTimeout::try_from(PATIENCE).context("patience is too long")?;
                anyhow::ensure!(poll(&mut waiting, timeout)? > 0, "nobody has connected");
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn request(load: Load, server: SocketAddr, duration: Duration) -> Result<f64> {
    let mut count = 0_u32;
    let elapsed = match load {
        Load::TcpRr => {
            let mut connection = connect(server)?;
            let elapsed = repeat(duration, &mut count, |byte| exchange(&mut connection, byte))?;
            exchange(&mut connection, LAST)?;
            elapsed
        }
        Load::TcpCrr => {
            let elapsed = repeat(duration, &mut count, |byte| exchange(&mut connect(server)?, byte))?;
            exchange(&mut connect(server)?, LAST)?;
            elapsed
        }
        Load::UdpRr => {
            let any: IpAddr =
                if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(server)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            let ask = |byte: u8| {
                socket.send(&[byte])?;
                socket.recv(&mut [0])?;
                Ok(())
            };
            let elapsed = repeat(duration, &mut count, ask)?;
            ask(LAST)?;
            elapsed
        }
        Load::Stream => return stream(server, duration),
    };
    Ok(f64::from(count) / elapsed.as_secs_f64() / 1e3)
}

/// Does it until the time is over, counting.
pub fn repeat(
    duration: Duration,
    count: &mut u32,
    mut ask: impl FnMut(u8) -> Result<()>,
) -> Result<Duration> {
    ask(b'1')?;
    let began = Instant::now();
    loop {
        ask(b'x')?;
        *count += 1;
        let elapsed = began.elapsed();
        if elapsed >= duration {
            return Ok(elapsed);
        }
    }
}

/// Connects, without delays of small packets, or gives up after `PATIENCE`.
pub fn connect(server: SocketAddr) -> Result<TcpStream> {
    let connection = TcpStream::connect_timeout(&server, PATIENCE)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

/// A byte there and a byte back.
pub fn exchange(connection: &mut TcpStream, byte: u8) -> Result<()> {
    connection.write_all(&[byte])?;
    connection.read_exact(&mut [0])?;
    Ok(())
}

fn stream(server: SocketAddr, duration: Duration) -> Result<f64> {
    let mut connection = connect(server)?;
    let block = vec![0; BLOCK];
    let began = Instant::now();
    let mut blocks = 0_u32;
    while began.elapsed() < duration {
        connection.write_all(&block)?;
        blocks += 1;
    }
    connection.shutdown(Shutdown::Write)?;
    // The server closes when it has read everything.
    let _ = connection.read(&mut [0])?;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let bits = f64::from(blocks) * (8 * BLOCK) as f64;
    Ok(bits / began.elapsed().as_secs_f64() / 1e9)
}

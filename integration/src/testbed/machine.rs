//! What nodes, pods and neighbours can do.

use std::{
    fmt::Write as _,
    fs::File,
    io::{Read, Seek},
    net::{IpAddr, SocketAddr},
    process::Child,
};

use anyhow::{Context, Result};

use super::{Listeners, Netns, Service, TcpEcho, TcpStreamCheck, UdpEcho};

/// Something with a network namespace of its own.
pub trait Machine {
    /// Its namespace.
    fn netns(&self) -> &Netns;

    /// Whether each of three pings is answered.
    fn reaches(&self, to: impl Into<IpAddr>) -> Result<bool> {
        let pings = self.ping(to, &["-c3", "-i0.05", "-W1"])?;
        Ok(pings.received == 3)
    }

    /// Pings with these flags.
    fn ping(&self, to: impl Into<IpAddr>, flags: &[&str]) -> Result<Pings> {
        let to: IpAddr = to.into();
        let out = self.netns().command("ping")?.arg("-n").args(flags).arg(to.to_string()).output()?;
        Pings::read(&out.stdout, &out.stderr)
    }

    /// Begins to ping `count` times, 2 ms apart.
    fn flood(&self, to: impl Into<IpAddr>, count: u32) -> Result<Flood> {
        let to: IpAddr = to.into();
        let mut command = self.netns().command("ping")?;
        command.args(["-n", "-D", "-i0.002", "-W2", "-c"]).arg(count.to_string()).arg(to.to_string());
        let output = tempfile::tempfile()?;
        command.stdout(output.try_clone()?).stderr(output.try_clone()?);
        Ok(Flood { child: command.spawn()?, output })
    }

    /// Listens on these ports of these addresses, for probes.
    fn serve(&self, addresses: &[IpAddr], services: &[Service]) -> Result<Listeners> {
        self.netns().inside(|| Listeners::open(addresses, services))
    }

    /// Listens for TCP connections on `address` and sends back what comes.
    fn serve_tcp(&self, address: impl Into<SocketAddr>) -> Result<TcpEcho> {
        let address = address.into();
        self.netns().inside(|| TcpEcho::listen(address))
    }

    /// Connects by TCP.
    fn connect(&self, to: impl Into<SocketAddr>) -> Result<TcpStreamCheck> {
        let to = to.into();
        self.netns().inside(|| TcpStreamCheck::connect(to))
    }

    /// Listens for datagrams on `address` and sends them back.
    fn serve_udp(&self, address: impl Into<SocketAddr>) -> Result<UdpEcho> {
        let address = address.into();
        self.netns().inside(|| UdpEcho::listen(address))
    }

    /// Whether a datagram of `size` bytes to an echo server comes back.
    fn echoes_udp(&self, to: impl Into<SocketAddr>, size: usize) -> Result<bool> {
        let to = to.into();
        self.netns().inside(|| super::udp::echoes(to, size))
    }
}

/// What came of some pings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pings {
    /// How many were sent.
    pub sent: u32,
    /// How many were answered.
    pub received: u32,
    /// All that was printed.
    pub text: String,
}

impl Pings {
    fn read(stdout: &[u8], stderr: &[u8]) -> Result<Self> {
        let text = format!("{}{}", String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
        let line = text.lines().find(|line| line.contains("packets transmitted"));
        let line = line.with_context(|| format!("no summary of ping in {text:?}"))?;
        let mut numbers = line.split(", ").filter_map(|part| part.split_whitespace().next()?.parse().ok());
        let (sent, received) = numbers.next().zip(numbers.next()).context("two numbers")?;
        Ok(Self { sent, received, text })
    }
}

/// Pings under way. A line for each answer goes to a file, for a pipe that nobody reads is full at some time.
#[derive(Debug)]
pub struct Flood {
    child: Child,
    output: File,
}

impl Flood {
    /// Whether it is not over.
    pub fn goes_on(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the last answer. The text: what had no answer, and the summary.
    pub fn end(mut self) -> Result<Pings> {
        self.child.wait()?;
        let mut output = Vec::new();
        self.output.rewind()?;
        self.output.read_to_end(&mut output)?;
        let pings = Pings::read(&output, &[])?;
        let (_, summary) = pings.text.split_once("\n--- ").unwrap_or_default();
        let text = format!("{}{summary}", unanswered(&pings.text, pings.sent));
        Ok(Pings { text, ..pings })
    }
}

/// Which of so many pings have no answer in what `ping -D` printed, and when: seconds from the first answer to the answers around them.
fn unanswered(printed: &str, sent: u32) -> String {
    let mut answers = printed.lines().filter_map(|line| {
        let (time, line) = line.strip_prefix('[')?.split_once(']')?;
        let (_, sequence) = line.split_once("icmp_seq=")?;
        Some((sequence.split_whitespace().next()?.parse::<u32>().ok()?, time.parse::<f64>().ok()?))
    });
    let Some((mut last, first_time)) = answers.next() else { return format!("no answer to {sent} pings\n") };
    let (mut last_time, mut text) = (first_time, String::new());
    let mut gap = |last: u32, next: u32, from: f64, to: f64| {
        if next > last + 1 {
            let (from, to) = (from - first_time, to - first_time);
            let _ = writeln!(
                text,
                "no answer to {} to {}, between {from:.3} s and {to:.3} s",
                last + 1,
                next - 1
            );
        }
    };
    gap(0, last, first_time, first_time);
    for (sequence, time) in answers {
        gap(last, sequence, last_time, time);
        (last, last_time) = (last.max(sequence), time);
    }
    gap(last, sent + 1, last_time, f64::INFINITY);
    text
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_without_an_answer_are_named_with_their_time() {
        let line = |sequence: u32, time: &str| {
            format!("[{time}] 64 bytes from 10.0.0.1: icmp_seq={sequence} ttl=64 time=0.1 ms\n")
        };
        let printed = format!("PING\n{}{}{}", line(1, "100.000000"), line(2, "100.5"), line(6, "102.0"));
        assert_eq!(unanswered(&printed, 6), "no answer to 3 to 5, between 0.500 s and 2.000 s\n");
        assert_eq!(
            unanswered(&printed, 7),
            "no answer to 3 to 5, between 0.500 s and 2.000 s\nno answer to 7 to 7, between 2.000 s and inf s\n"
        );
        assert_eq!(unanswered("PING\n", 7), "no answer to 7 pings\n");
    }
}

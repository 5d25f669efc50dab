//! What a daemon says of its times.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// A daemon that does not answer for so long is not going to.
const PATIENCE: Duration = Duration::from_secs(5);

/// A daemon's metrics, where it serves them.
#[derive(Clone, Copy, Debug)]
pub struct Metrics(pub SocketAddr);

/// A histogram at a moment: how many were observed, and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// How many.
    pub count: u64,
    /// In seconds.
    pub sum: f64,
}

impl Metrics {
    /// The histogram of that name, without labels.
    pub fn histogram(&self, name: &str) -> Result<Reading> {
        let text = self.get()?;
        histogram(&text, name).with_context(|| format!("the daemon has no metric {name}"))
    }

    fn get(&self) -> Result<String> {
        let mut connection = TcpStream::connect_timeout(&self.0, PATIENCE)
            .with_context(|| format!("connect to the metrics at {}", self.0))?;
        connection.set_read_timeout(Some(PATIENCE))?;
        write!(connection, "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.0)?;
        let mut text = String::new();
        connection.read_to_string(&mut text)?;
        ensure!(
            text.starts_with("HTTP/1.1 200"),
            "the metrics are refused: {}",
            text.lines().next().unwrap_or("")
        );
        Ok(text)
    }
}

fn histogram(text: &str, name: &str) -> Option<Reading> {
    let value = |suffix: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(suffix)?.strip_prefix(' '))
    };
    Some(Reading { count: value("_count")?.parse().ok()?, sum: value("_sum")?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_its_count_and_its_sum() {
        let text = "a_change_seconds_sum 0.5\nchange_seconds_sum 0.000125\nchange_seconds_count 2\n\
                    change_seconds_bucket{le=\"0.1\"} 2\n# EOF\n";
        assert_eq!(histogram(text, "change_seconds"), Some(Reading { count: 2, sum: 0.000_125 }));
        assert_eq!(histogram(text, "change"), None);
    }
}

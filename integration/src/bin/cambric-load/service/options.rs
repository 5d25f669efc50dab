//! What is compared, and for how long.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use anyhow::{Context, Result};

use super::server::Server;
use crate::{
    netns::Netns,
    option_values::{parse, parts},
};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// What is compared, the first being what the others are compared with: a name, the namespace of the client, the
    /// cgroup that its sockets belong to, what it connects to in turn (joined by +), and the servers
    #[arg(long = "row", value_name = "NAME,CLIENT,CGROUP,TARGETS,SERVERS", required = true)]
    pub rows: Vec<Row>,
    /// Two rows whose ratio is printed as well, and what it should be at least, if anything
    #[arg(long = "ratio", value_name = "NAME,NAME,LIMIT")]
    pub ratios: Vec<Ratio>,
    /// The address that the servers of a row must see as the client's; otherwise the row is not run
    #[arg(long = "seen", value_name = "NAME,ADDRESS")]
    pub seen: Vec<Seen>,
    /// Rounds, in turns
    #[arg(long, default_value_t = 15)]
    pub rounds: usize,
    /// How long each row is loaded in each round, in milliseconds
    #[arg(long, default_value_t = 150)]
    pub millis: u64,
    /// The core of client and servers
    #[arg(long, default_value_t = 1)]
    pub cpu: usize,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub client: Netns,
    pub cgroup: PathBuf,
    pub targets: Vec<SocketAddr>,
    pub servers: Vec<Server>,
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

#[derive(Clone, Debug)]
pub struct Ratio {
    pub row: String,
    pub base: String,
    pub limit: Option<f64>,
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [row, base, limit] = parts(text, "NAME,NAME,LIMIT")?;
        let limit = if limit.is_empty() { None } else { Some(parse(&limit)?) };
        Ok(Self { row, base, limit })
    }
}

#[derive(Clone, Debug)]
pub struct Seen {
    pub row: String,
    pub client: IpAddr,
}

impl FromStr for Seen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [row, client] = parts(text, "NAME,ADDRESS")?;
        Ok(Self { row, client: parse(&client)? })
    }
}

impl Options {
    /// The place of a row.
    pub fn number(&self, name: &str) -> Result<usize> {
        self.rows.iter().position(|row| row.name == name).with_context(|| format!("there is no row {name:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_whole() -> Result<(), String> {
        let row: Row =
            "a way,client,/sys/fs/cgroup/x,10.96.0.1:80,s-0@10.88.0.2:8080+s-1@10.88.0.3:8080".parse()?;
        assert_eq!(row.targets, ["10.96.0.1:80".parse().map_err(|error| format!("{error}"))?]);
        assert_eq!(row.servers.len(), 2);
        assert_eq!((row.servers[1].netns.0.as_str(), row.servers[1].at.port()), ("s-1", 8080));
        for wrong in ["a way", "a,b,c,d,e", "a,b,c,10.96.0.1:80,10.88.0.2:8080"] {
            assert!(wrong.parse::<Row>().is_err(), "{wrong}");
        }
        Ok(())
    }

    #[test]
    fn a_ratio_may_have_no_limit() -> Result<(), String> {
        assert_eq!("a,b,0.97".parse::<Ratio>()?.limit, Some(0.97));
        assert_eq!("a,b,".parse::<Ratio>()?.limit, None);
        Ok(())
    }
}

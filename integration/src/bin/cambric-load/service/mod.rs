//! What a client gets of a service that several servers stand behind, when all of them share one core. The servers are
//! always the same ones, so that only the way to them differs.

mod load;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use load::{LOADS, measure, undisturbed};
pub use load::{Server, join, ready};

use crate::{Netns, parse, parts, spread::Spread};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// What is compared, the first being what the others are compared with: a name, the namespace of the client, the
    /// cgroup that its sockets belong to, what it connects to in turn (joined by +), and the servers
    #[arg(long = "row", value_name = "NAME,CLIENT,CGROUP,TARGETS,SERVERS", required = true)]
    rows: Vec<Row>,
    /// Two rows whose ratio is printed as well, and what it should be at least, if anything
    #[arg(long = "ratio", value_name = "NAME,NAME,LIMIT")]
    ratios: Vec<Ratio>,
    /// The address that the servers of a row must see as the client's; otherwise the row is not run
    #[arg(long = "seen", value_name = "NAME,ADDRESS")]
    seen: Vec<Seen>,
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

#[derive(Clone, Debug)]
struct Seen {
    row: String,
    client: IpAddr,
}

impl FromStr for Seen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [row, client] = parts(text, "NAME,ADDRESS")?;
        Ok(Self { row, client: parse(&client)? })
    }
}

/// How long each row is loaded before the first round, to see that it works.
const TRIAL: Duration = Duration::from_millis(20);

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
    for name in options.seen.iter().map(|seen| &seen.row) {
        options.number(name)?;
    }
    let duration = Duration::from_millis(options.millis);
    let mut failed = Vec::new();
    for (number, row) in options.rows.iter().enumerate() {
        for load in LOADS {
            if let Err(error) = measure(load, row, options, TRIAL) {
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
                let value = undisturbed(*load, row, options, duration)
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

    #[test]
    fn what_misses_its_limit_stands_out() {
        let measured = Measured(vec![vec![vec![10.0, 10.0], vec![9.0, 9.5], Vec::new()]]);
        let ratios = measured.ratios(0, 1, 0);
        assert_eq!(judged(ratios.as_ref(), Some(0.97)), "**0.900 (0.900-0.950)**");
        assert_eq!(judged(ratios.as_ref(), Some(0.9)), "0.900 (0.900-0.950)");
        assert_eq!(judged(measured.ratios(0, 2, 0).as_ref(), Some(0.9)), "not run");
    }
}

//! Rounds of loads, and what is printed of them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    load::{LOADS, measure, undisturbed},
    options::{Options, Ratio},
};
use crate::spread::Spread;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_misses_its_limit_stands_out() {
        let measured = Measured(vec![vec![vec![10.0, 10.0], vec![9.0, 9.5], Vec::new()]]);
        let ratios = measured.ratios(0, 1, 0);
        assert_eq!(judged(ratios.as_ref(), Some(0.97)), "**0.900 (0.900-0.950)**");
        assert_eq!(judged(ratios.as_ref(), Some(0.9)), "0.900 (0.900-0.950)");
        assert_eq!(judged(measured.ratios(0, 2, 0).as_ref(), Some(0.9)), "not run");
    }
}

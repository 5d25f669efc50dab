//! Fault by operation: what goes wrong while the node does what it is for. After each cell all is as if nothing had happened: no
//! address lost or given twice, no packet where policy forbids it, no flow disturbed, nothing left over, and a sentence
//! has said what was.
//!
//! `scripts/test faults` runs it and prints the table; `CAMBRIC_FAULTS=word` runs only the faults with that word in their name.

mod harms;
mod kernel;
mod scene;
mod server;

use std::{
    env, fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Result, ensure};
use integration::needs_root;

use crate::{
    harms::{FAULTS, Fault},
    scene::{Operation, Scene},
};

/// How many nodes suffer at a time.
const SIDE_BY_SIDE: usize = 5;

/// What came of the cells of a fault.
struct Row {
    fault: &'static str,
    cells: Vec<Result<()>>,
    /// What came of the flows that went on all the while.
    flows: Result<()>,
    /// The sentence that said what was.
    said: Result<String>,
    seconds: u64,
}

impl Row {
    fn of(fault: &'static Fault) -> Result<Self> {
        let began = Instant::now();
        let cluster = scene::Cluster::new(fault.api)?;
        let node = cluster.node()?;
        // It ends after the node.
        let server = cluster.serve(&node)?;
        // Unmounted before the node's files go.
        let _mounts = (fault.prepare)(&node)?;
        node.start_daemon()?;
        let scene = Scene::new(&node, server.as_ref())?;
        let cells: Vec<_> =
            Operation::ALL.into_iter().enumerate().map(|(turn, it)| scene.cell(fault, it, turn)).collect();
        let said = scene.said(fault);
        let flows = scene.end(fault.silence);
        Ok(Self { fault: fault.name, cells, flows, said, seconds: began.elapsed().as_secs() })
    }

    fn failures(&self) -> Vec<String> {
        let of = |what: &str, result: Option<&anyhow::Error>| {
            result.map(|error| format!("{} x {what}: {error:#}", self.fault))
        };
        let cells = Operation::ALL.iter().zip(&self.cells);
        cells
            .filter_map(|(operation, cell)| of(operation.name(), cell.as_ref().err()))
            .chain(of("flows", self.flows.as_ref().err()))
            .chain(of("what is said", self.said.as_ref().err()))
            .collect()
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = |good: bool| if good { "ok" } else { "FAILED" };
        write!(f, "| {:<61} |", self.fault)?;
        for cell in &self.cells {
            write!(f, " {:<6} |", mark(cell.is_ok()))?;
        }
        let said = self.said.as_ref().map_or_else(|_| "nothing", String::as_str);
        write!(f, " {:<6} | {:>3} s | {said}", mark(self.flows.is_ok()), self.seconds)
    }
}

#[test]
#[ignore = "takes some minutes: scripts/test faults"]
fn nothing_is_lost_or_let_through_whatever_goes_wrong() -> Result<()> {
    needs_root!();
    let wanted = env::var("CAMBRIC_FAULTS").unwrap_or_default();
    let faults = FAULTS
        .iter()
        .chain(kernel::FAULTS)
        .chain(server::FAULTS)
        .filter(|fault| fault.name.contains(&wanted));
    let (next, failures, count) = (Mutex::new(faults), Mutex::new(Vec::new()), AtomicUsize::new(0));
    print!("\n| {:<61} |", "fault");
    for operation in Operation::ALL {
        print!(" {:<6} |", operation.name());
    }
    println!(" {:<6} | {:>5} | what is said of it", "flows", "time");
    let next = || next.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(fault) = next() {
            let failed = match Row::of(fault) {
                Ok(row) => {
                    println!("{row}");
                    row.failures()
                }
                Err(error) => vec![format!("{}: {error:#}", fault.name)],
            };
            for failure in &failed {
                eprintln!("{failure}");
            }
            failures.lock().unwrap_or_else(PoisonError::into_inner).extend(failed);
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    // They wait more than they compute.
    thread::scope(|scope| (0..SIDE_BY_SIDE).for_each(|_| drop(scope.spawn(work))));
    let (faults, failures) = (count.into_inner(), failures.into_inner().unwrap_or_default());
    println!("{faults} faults, {} cells, {} failures", faults * Operation::ALL.len(), failures.len());
    ensure!(faults > 0, "no fault has {wanted:?} in its name");
    ensure!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

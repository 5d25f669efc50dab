//! What a packet costs with no, a hundred and a thousand policies.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use anyhow::{Result, ensure};
use bpf::sizes::PolicySizes;
use etherparse::PacketBuilder;
use integration::programs::{Bench, Knobs, Local, REDIRECT};
use ipamd_datapath::{Datapath, PolicyTables};
use ipamd_model::objects::{Batch, Change};
use ipamd_policy::enforce::Enforcer;
use ipamd_sources::manifest;

use crate::{
    arguments::Arguments,
    bench_datapath::{PinFolder, datapath_config},
    scene::{self, LOCAL, NAMESPACES, PodNumber},
};

const ROUNDS: usize = 7;
const RUNS: u32 = 200_000;
const FLOWS: u16 = 4_000;

/// One cluster with its programs.
struct Variant {
    policies: u32,
    bench: Bench,
    client: Local,
    server: Local,
    _enforcer: Enforcer,
    _pins: PinFolder,
    established: Vec<f64>,
    new: Vec<f64>,
}

/// Prints a table of nanoseconds, and their ratios to those without policies.
pub fn measure(arguments: &Arguments) -> Result<()> {
    let counts = [0, arguments.policies / 10, arguments.policies];
    let mut variants = Vec::new();
    for policies in counts {
        variants.push(Variant::new(arguments, policies)?);
    }
    for _ in 0..ROUNDS {
        for variant in &mut variants {
            variant.round()?;
        }
    }
    println!(
        "| ns per packet, median (min-max) of {ROUNDS} rounds | established | / 0 policies | new flow | / 0 policies |"
    );
    println!("| --- | ---: | ---: | ---: | ---: |");
    let floor =
        variants.first_mut().map(|variant| (median(&mut variant.established), median(&mut variant.new)));
    let floor = floor.unwrap_or((1.0, 1.0));
    for variant in &mut variants {
        let (established, new) = (median(&mut variant.established), median(&mut variant.new));
        println!(
            "| {} policies | {} | {:.2} | {} | {:.2} |",
            variant.policies,
            spread(&variant.established),
            established / floor.0,
            spread(&variant.new),
            new / floor.1
        );
    }
    Ok(())
}

impl Variant {
    fn new(arguments: &Arguments, policies: u32) -> Result<Self> {
        let mut bench = Bench::new(&Knobs::default())?;
        let pins = PinFolder::new(&arguments.bpffs, &format!("packets-{policies}"))?;
        let config = datapath_config(&pins);
        bench.pin_maps(&config.pins)?;
        let datapath = Arc::new(Datapath::open(&config)?);
        let tables = PolicyTables::open(datapath, &config.pins, PolicySizes::default())?;
        let enforcer = Enforcer::new(Box::new(tables));
        let folder = tempfile::tempdir()?;
        scene::write(folder.path(), policies, arguments.pods)?;
        // A pod, and one of the app behind it, in one namespace: what the one sends and the other gets is policed.
        let (client, server) = (PodNumber(0), PodNumber(NAMESPACES));
        let endpoints = (0..LOCAL).map(|number| (PodNumber(number).endpoint(), None));
        let slots = enforcer.start(endpoints, BTreeSet::new(), read(folder.path())?)?;
        let slot = |pod: PodNumber| {
            let key = pod.endpoint().key;
            slots.iter().find(|(known, _)| *known == key).map_or(0, |(_, slot)| slot.0)
        };
        let client = Local { ipv4: client.ipv4(), slot: slot(client), ..bench.a };
        let server = Local { ipv4: server.ipv4(), slot: slot(server), ..bench.b };
        // A packet that was delivered is delivered again from the same Ethernet source.
        bench.b.host_mac = bench.a.mac;
        let server = Local { host_mac: bench.a.mac, ..server };
        bench.place_endpoint(&client)?;
        bench.place_endpoint(&server)?;
        let variant = Self {
            policies,
            bench,
            client,
            server,
            _enforcer: enforcer,
            _pins: pins,
            established: Vec::new(),
            new: Vec::new(),
        };
        if policies > 0 {
            // It is policed: another port is refused.
            let refused = variant.run(1, 80, 1)?;
            ensure!(refused.0 != REDIRECT, "port 80 passes with {policies} policies");
        }
        Ok(variant)
    }

    fn round(&mut self) -> Result<()> {
        self.bench.forget_flows()?;
        let (action, _) = self.run(1, 8080, 1)?;
        ensure!(action == REDIRECT, "port 8080 does not pass with {} policies", self.policies);
        let (_, established) = self.run(1, 8080, RUNS)?;
        let mut new = 0.0;
        for port in 1_000..1_000 + FLOWS {
            let (action, took) = self.run(port, 8080, 1)?;
            ensure!(action == REDIRECT, "{action} instead of {REDIRECT}");
            new += took;
        }
        self.established.push(established);
        self.new.push(new / f64::from(FLOWS));
        Ok(())
    }

    fn run(&self, from_port: u16, port: u16, repeat: u32) -> Result<(i32, f64)> {
        let mut packet = Vec::new();
        PacketBuilder::ethernet2(self.client.mac, self.client.host_mac)
            .ipv4(self.client.ipv4.octets(), self.server.ipv4.octets(), 255)
            .tcp(from_port, port, 1, 65_000)
            .ack(1)
            .write(&mut packet, b"x")?;
        let ran = self.bench.run_many("from_endpoint", self.client.ifindex, &packet, repeat)?;
        Ok((ran.action, ran.duration.as_secs_f64() * 1e9))
    }
}

fn read(folder: &Path) -> Result<Batch> {
    let mut batch = Batch::default();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let manifest = manifest::read(&path, &std::fs::read_to_string(&path)?);
        ensure!(manifest.refusals.is_empty(), "{:?}", manifest.refusals);
        batch.changes.extend(manifest.objects.into_iter().map(|located| Change::Put(located.object)));
    }
    Ok(batch)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn spread(sorted: &[f64]) -> String {
    format!("{:.0} ({:.0}-{:.0})", sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1])
}

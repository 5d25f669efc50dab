//! Changes of the cluster, at the pace of a large one, and how soon each is in force on the node.

use std::{
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use integration::apiserver::ApiServer;

use crate::{
    enforced::Enforced,
    population::{Pod, Population, State},
};

/// How often a kubelet says that its node is well, if nothing has changed.
const HEARTBEAT: Duration = Duration::from_mins(5);
/// What is not in force after this long will not be.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at the maps.
const LOOK: Duration = Duration::from_micros(100);
/// Changes in the life of a pod, as [`Churn::change`] makes them.
const CHANGES: u32 = 5;

/// What was measured, each value a change.
#[derive(Debug, Default)]
pub struct Times {
    /// From a pod's first address to its class being known.
    pub came: Vec<Duration>,
    /// From a change of its labels to its class being another.
    pub relabelled: Vec<Duration>,
    /// From its deletion to its class being known no more.
    pub went: Vec<Duration>,
    /// From its address in a slice to the service leading there.
    pub served: Vec<Duration>,
}

/// Pods that come and go.
pub struct Churn<'a> {
    pub server: &'a ApiServer,
    pub population: &'a Population,
    pub enforced: Enforced,
    /// Changes of pods a second.
    pub rate: u32,
}

impl Churn<'_> {
    /// Makes changes for so long.
    pub fn run(&mut self, duration: Duration) -> Result<Times> {
        let mut times = Times::default();
        let began = Instant::now();
        let (mut beats, mut beaten) = (0, 0);
        for at in 0.. {
            let due = began + Duration::from_secs(1) / self.rate * at;
            let now = began.elapsed();
            if now >= duration {
                break;
            }
            // The nodes' heartbeats are spread over the time between two of one node.
            let wanted = u128::from(self.population.nodes) * now.as_millis() / HEARTBEAT.as_millis();
            while beaten < wanted {
                self.server.put(self.population.node(beats % self.population.nodes, 300 + beats));
                beats += 1;
                beaten += 1;
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
            self.change(at, &mut times)?;
        }
        Ok(times)
    }

    /// The next change: each pod is made, gets its addresses, is told of again, gets other labels, and goes.
    fn change(&mut self, at: u32, times: &mut Times) -> Result<()> {
        let population = self.population;
        // Of one service after the other, on another node each time.
        let pod = Pod(population.pods + at / CHANGES * 7);
        let service = pod.service(population);
        let addresses = population.addresses(pod);
        let (Some(first @ IpAddr::V4(v4)), Some(last)) =
            (addresses.first().copied(), addresses.last().copied())
        else {
            bail!("a pod has an IPv4 address");
        };
        let running = |restarts, tier| State { addresses: addresses.clone(), restarts, tier };
        match at % CHANGES {
            0 => self.server.put(population.pod(pod, &State::default())),
            1 => {
                let object = population.pod(pod, &running(0, 0));
                let began = Instant::now();
                self.server.put(object);
                times.came.push(self.until(began, "a pod is known", |it| Ok(it.class(last)?.is_some()))?);
                times.served.push(self.put_slice(service, pod, v4)?);
            }
            2 => self.server.put(population.pod(pod, &running(1, 0))),
            3 => {
                let before = self.enforced.class(last)?;
                let object = population.pod(pod, &running(1, 1));
                let began = Instant::now();
                self.server.put(object);
                let is_other = |it: &mut Enforced| Ok(it.class(last)? != before);
                times.relabelled.push(self.until(began, "a pod's labels are known", is_other)?);
            }
            _ => {
                let (namespace, name) = pod.key(population);
                let began = Instant::now();
                self.server.delete("pods", &format!("{namespace}/{name}"));
                let is_gone = |it: &mut Enforced| Ok(it.class(first)?.is_none() && it.class(last)?.is_none());
                times.went.push(self.until(began, "a pod is gone", is_gone)?);
                self.server.put(population.slice(service, None));
            }
        }
        Ok(())
    }

    fn put_slice(&mut self, service: u32, pod: Pod, address: Ipv4Addr) -> Result<Duration> {
        let slice = self.population.slice(service, Some(pod));
        ensure!(!self.enforced.serves(service, address)?, "the service {service} leads to {address} already");
        let began = Instant::now();
        self.server.put(slice);
        self.until(began, "a service leads to its endpoint", |it| it.serves(service, address))
    }

    /// Looks again and again until it is so; how long that took.
    fn until(
        &mut self,
        began: Instant,
        what: &str,
        mut is_so: impl FnMut(&mut Enforced) -> Result<bool>,
    ) -> Result<Duration> {
        loop {
            if is_so(&mut self.enforced).with_context(|| format!("look whether {what}"))? {
                return Ok(began.elapsed());
            }
            ensure!(began.elapsed() < PATIENCE, "it did not happen within {PATIENCE:?} that {what}");
            thread::sleep(LOOK);
        }
    }
}

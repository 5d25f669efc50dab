//! `healthCheckNodePort`: tells a load balancer outside whether this node has endpoints of a service, as kube-proxy does.
//!
//! One task follows the wanted ports and runs a task for each address and port. An answer is computed from the current
//! state, so only a change of ports touches sockets.

mod answer;
mod check;
mod claims;
mod listen;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{net::TcpListener, runtime::Handle, sync::watch, task::JoinHandle};

pub use self::check::HealthCheck;
pub(super) use self::claims::Claims;
use ipamd_runtime::{
    backoff::Backoff,
    http::{self, Limits},
};

/// Enough for the load balancers of one service, which ask every few seconds.
const LIMITS: Limits = Limits { connections: 32, stay: Duration::from_secs(5) };
/// The first wait before a port that another process has is tried again.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// The addresses and ports to listen on.
#[derive(Clone, Debug, Default)]
struct Wanted {
    /// `None` stands for all addresses of the node.
    addresses: Option<BTreeSet<IpAddr>>,
    checks: BTreeMap<u16, HealthCheck>,
}

impl Wanted {
    fn places(&self) -> BTreeSet<SocketAddr> {
        let all = [IpAddr::V6(Ipv6Addr::UNSPECIFIED)].into();
        let addresses = self.addresses.as_ref().unwrap_or(&all);
        let ports = self.checks.keys().filter(|port| **port != 0);
        ports.flat_map(|port| addresses.iter().map(|address| SocketAddr::new(*address, *port))).collect()
    }

    fn service(&self, port: u16) -> String {
        self.checks.get(&port).map_or_else(String::new, |check| format!("{}/{}", check.namespace, check.name))
    }
}

/// Why an address and port cannot be listened on.
type Faults = Arc<Mutex<BTreeMap<SocketAddr, String>>>;

/// The health check ports of this node. They close when it is dropped.
#[derive(Debug)]
pub struct HealthPorts {
    wanted: watch::Sender<Wanted>,
    faults: Faults,
}

impl HealthPorts {
    /// Serves ports on `runtime` at these addresses of the node, or at all with `None`. There are no ports before
    /// [`Self::set`].
    pub fn new(runtime: &Handle, addresses: Option<BTreeSet<IpAddr>>) -> Self {
        let (wanted, follows) = watch::channel(Wanted { addresses, checks: BTreeMap::new() });
        let faults = Faults::default();
        runtime.spawn(follow(follows, Arc::clone(&faults)));
        Self { wanted, faults }
    }

    /// Replaces the ports and their answers.
    pub fn set(&self, wanted: BTreeMap<u16, HealthCheck>) {
        self.wanted.send_if_modified(|now| {
            let differs = now.checks != wanted;
            now.checks = wanted;
            differs
        });
    }

    /// Replaces the addresses; `None` stands for all of the node.
    pub fn set_addresses(&self, addresses: Option<BTreeSet<IpAddr>>) {
        self.wanted.send_if_modified(|now| {
            let differs = now.addresses != addresses;
            now.addresses = addresses;
            differs
        });
    }

    /// Why a port cannot be served, in a sentence. Returns `None` if it is served, or will be at once.
    pub fn problem(&self, port: u16) -> Option<String> {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let (place, why) = faults.iter().find(|(place, _)| place.port() == port)?;
        Some(format!("health checks are not answered at {}: {why}", listen::name(*place)))
    }
}

/// Opens and closes ports until the sender is dropped.
async fn follow(mut wanted: watch::Receiver<Wanted>, faults: Faults) {
    let mut serving: HashMap<SocketAddr, JoinHandle<()>> = HashMap::new();
    loop {
        let places = wanted.borrow_and_update().places();
        let gone: Vec<_> = serving.extract_if(|place, _| !places.contains(place)).collect();
        for (_, task) in &gone {
            task.abort();
        }
        for (place, task) in gone {
            // After this its socket is closed, so that an overlapping address can be opened.
            let _ = task.await;
            forget(&faults, place);
        }
        for place in places {
            serving
                .entry(place)
                .or_insert_with(|| tokio::spawn(serve(place, wanted.clone(), Arc::clone(&faults))));
        }
        if wanted.changed().await.is_err() {
            break;
        }
    }
    serving.values().for_each(JoinHandle::abort);
}

/// Serves one address and port, as soon as it can be bound.
async fn serve(place: SocketAddr, wanted: watch::Receiver<Wanted>, faults: Faults) {
    let listener = open(place, &wanted, &faults).await;
    forget(&faults, place);
    let answer = move |_| std::future::ready(answer::answer(wanted.borrow().checks.get(&place.port())));
    http::serve(listener, LIMITS, answer).await;
}

async fn open(place: SocketAddr, wanted: &watch::Receiver<Wanted>, faults: &Faults) -> TcpListener {
    let mut backoff = Backoff::new(FIRST_WAIT);
    loop {
        match listen::listen(place) {
            Ok(listener) => return listener,
            Err(error) => note(faults, place, &error, wanted),
        }
        tokio::time::sleep(backoff.next(LONGEST_WAIT)).await;
    }
}

/// Remembers why an address and port cannot be bound, and warns once.
fn note(faults: &Faults, place: SocketAddr, error: &io::Error, wanted: &watch::Receiver<Wanted>) {
    let known = faults.lock().unwrap_or_else(PoisonError::into_inner).insert(place, error.to_string());
    if known.is_none() {
        let (port, service, at) = (place.port(), wanted.borrow().service(place.port()), listen::name(place));
        tracing::warn!(port, service, at, %error, "cannot listen for health checks; trying again");
    }
}

fn forget(faults: &Faults, place: SocketAddr) {
    faults.lock().unwrap_or_else(PoisonError::into_inner).remove(&place);
}

//! The DNS resolvers by whose answers policies know the addresses of names.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use ipamd_config::ResolverName;
use ipamd_datapath::{Datapath, Resolver};
use ipamd_model::{
    objects::{Change, Kind, Object, ObjectId},
    policy::protocol::{TCP, UDP},
    services::EndpointSlice,
};

/// Keeps the programs' list of resolvers in step with the Services that are named in the configuration.
#[derive(Debug)]
pub struct Resolvers {
    datapath: Arc<Datapath>,
    fixed: BTreeSet<Resolver>,
    services: BTreeSet<(Arc<str>, Arc<str>)>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<ObjectId, BTreeSet<Resolver>>,
    /// The list that the programs have; `None`: not known.
    written: Option<BTreeSet<Resolver>>,
}

/// Both protocols of DNS.
fn both(at: SocketAddr) -> [Resolver; 2] {
    [UDP, TCP].map(|protocol| Resolver { at, protocol })
}

impl Resolvers {
    /// Nothing is written yet.
    pub fn new(datapath: Arc<Datapath>, names: &[ResolverName]) -> Self {
        let (mut fixed, mut services) = (BTreeSet::new(), BTreeSet::new());
        for name in names {
            match name {
                ResolverName::Address(at) => fixed.extend(both(*at)),
                ResolverName::Service { namespace, name } => {
                    services.insert((Arc::clone(namespace), Arc::clone(name)));
                }
            }
        }
        Self { datapath, fixed, services, state: Mutex::default() }
    }

    /// Takes in what changes say of the named Services. `first`: these are all objects of the cluster.
    pub fn apply(&self, changes: &[Change], first: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_new = first;
        for change in changes {
            let (id, now) = match change {
                Change::Put(Object::EndpointSlice(slice)) => (change.id(), self.of_slice(slice)),
                Change::Remove(id) if id.kind == Kind::EndpointSlice => (id.clone(), BTreeSet::new()),
                _ => continue,
            };
            if now.is_empty() {
                is_new |= state.known.remove(&id).is_some();
            } else if state.known.get(&id) != Some(&now) {
                state.known.insert(id, now);
                is_new = true;
            }
        }
        if is_new || state.written.is_none() {
            self.write(&mut state);
        }
    }

    fn write(&self, state: &mut State) {
        let wanted: BTreeSet<Resolver> =
            self.fixed.iter().chain(state.known.values().flatten()).copied().collect();
        if state.written.as_ref() == Some(&wanted) {
            return;
        }
        state.written = match self.datapath.set_resolvers(&wanted) {
            Ok(left_out) => {
                if let Some(resolver) = left_out.first() {
                    tracing::warn!(
                        left_out = left_out.len(),
                        "the resolver {} is left out, and its answers open nothing: there is room for 1024 resolvers at 4 different ports",
                        resolver.at
                    );
                }
                Some(wanted)
            }
            // The next change of any Service tries again.
            Err(error) => {
                tracing::warn!(%error, "cannot tell the programs which DNS resolvers there are");
                None
            }
        };
    }

    fn is_meant(&self, namespace: &Arc<str>, name: &Arc<str>) -> bool {
        self.services.contains(&(Arc::clone(namespace), Arc::clone(name)))
    }

    /// The endpoints of a Service. Its own addresses are none: packets to them are judged by the endpoint that they are for, and somebody
    /// on the wire may send as such an address.
    fn of_slice(&self, slice: &EndpointSlice) -> BTreeSet<Resolver> {
        if !slice.service.as_ref().is_some_and(|service| self.is_meant(&slice.namespace, service)) {
            return BTreeSet::new();
        }
        let ports = slice.ports.iter().filter(|port| {
            [UDP, TCP].contains(&port.protocol) && (port.port == 53 || port.name.starts_with("dns"))
        });
        // Those that are not ready count too: they may still answer what they were asked.
        let endpoints = slice.endpoints.iter().flat_map(|endpoint| {
            ports.clone().map(|port| Resolver {
                at: SocketAddr::new(endpoint.address, port.port),
                protocol: port.protocol,
            })
        });
        endpoints.collect()
    }
}

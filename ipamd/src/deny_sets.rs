//! Keeps the deny sets of the datapath in step with the cluster and with a directory of lists.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ipamd_datapath::{Datapath, DenySets};
use ipamd_model::{
    deny,
    field::shown,
    objects::{Change, Kind, NetworkSet, Node, Object, ObjectId},
    services::EndpointSlice,
};
use ipamd_sources::deny_directory::{self, DenyDirectory};
use ipnetwork::IpNetwork;

/// How often the directory is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// After a look that took long there is none for so many times as long.
const REST: u32 = 20;
/// There is never a longer rest.
const LONGEST_REST: Duration = Duration::from_secs(10);
/// What a link does not work without: neighbour discovery, DHCP, and the search for duplicate addresses.
const OF_THE_LINK: [&str; 3] = ["fe80::/10", "::/128", "0.0.0.0/32"];
/// What is recorded of the directory, by its name in the state directory.
const RECORD: &str = "deny-lists.json";
/// Told while nothing is known of the directory and an earlier daemon's program is attached.
const WAITING: &str = "deny sets: what an earlier daemon denied stays in force, and no set or exemption of now is, until the directory \
     of deny sets can be read";
/// The Service of the API server.
const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// The deny sets of all sources.
#[derive(Debug)]
pub struct DenyPrefixes {
    datapath: Arc<Datapath>,
    /// What the configuration exempts.
    exempt: Vec<IpNetwork>,
    state: Mutex<State>,
    /// What was wrong when somebody last looked.
    told: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct State {
    /// Whether the cluster is known.
    is_known: bool,
    /// The sets of the cluster, by the names of their objects.
    of_cluster: BTreeMap<Arc<str>, Arc<[IpNetwork]>>,
    /// What is wrong with them, by the same names.
    faults: BTreeMap<String, String>,
    /// What each object exempts: nodes, and the API server's EndpointSlices.
    exempt: BTreeMap<ObjectId, Vec<IpNetwork>>,
    directory: Option<DenyDirectory>,
    next_look: Instant,
    /// Why the last sets could not be put in force.
    failure: Option<String>,
    /// Whether they wait for the directory, while an earlier daemon's are in force.
    is_waiting: bool,
}

impl DenyPrefixes {
    /// Nothing is in force before [`Self::apply`] knows the cluster. A directory is read at once; what it says is recorded in the
    /// directory `state`.
    pub fn new(
        datapath: Arc<Datapath>,
        directory: Option<PathBuf>,
        state: &Path,
        exempt: Vec<IpNetwork>,
    ) -> Self {
        let record = state.join(RECORD);
        if directory.is_none() {
            deny_directory::forget(&record);
        }
        let mut directory = directory.map(|path| DenyDirectory::new(path, record));
        if let Some(directory) = &mut directory {
            directory.look();
        }
        Self { datapath, exempt, state: Mutex::new(State::with(directory)), told: Mutex::default() }
    }

    /// Takes in what changes say. `first`: these are all objects of the cluster.
    pub fn apply(&self, changes: &[Change], first: bool) {
        let mut state = self.state();
        let mut is_other = first;
        state.is_known |= first;
        for change in changes {
            is_other |= match change {
                Change::Put(Object::NetworkSet(set)) => state.put_set(set),
                Change::Put(Object::Node(node)) => state.put_exempt(change.id(), of_node(node)),
                Change::Put(Object::EndpointSlice(slice)) => state.put_exempt(change.id(), of_slice(slice)),
                Change::Remove(id) if id.kind == Kind::GlobalNetworkSet => state.remove_set(&id.name),
                Change::Remove(id) if id.kind == Kind::NetworkSet => {
                    state.faults.remove(&id.to_string());
                    false
                }
                Change::Remove(id) => state.exempt.remove(id).is_some(),
                Change::Put(_) => false,
            };
        }
        if is_other {
            self.put(&mut state);
        }
        self.tell(&state);
    }

    /// When the directory is to be looked at; `None` without one.
    pub fn next_look(&self) -> Option<Instant> {
        let state = self.state();
        state.directory.as_ref().map(|_| state.next_look)
    }

    /// Looks at the directory if it is time to.
    pub fn look(&self) {
        let mut state = self.state();
        let began = Instant::now();
        if began < state.next_look {
            return;
        }
        let Some(directory) = &mut state.directory else { return };
        let changed = directory.look();
        // To look takes a share of the time, however large the lists are.
        let rest = (began.elapsed() * REST).clamp(LOOK, LONGEST_REST);
        if changed || state.failure.is_some() {
            self.put(&mut state);
        }
        state.next_look = Instant::now() + rest;
        self.tell(&state);
    }

    /// Says what is wrong, and logs what was not before.
    fn tell(&self, state: &State) {
        let of_directory = state.directory.iter().flat_map(DenyDirectory::problems);
        let waiting = state.is_waiting.then(|| WAITING.to_owned());
        let problems: Vec<_> = state.faults.values().cloned().chain(of_directory).chain(waiting).collect();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in problems.iter().filter(|problem| !told.contains(problem)) {
            tracing::warn!("{problem}");
        }
        *told = problems;
    }

    fn put(&self, state: &mut State) {
        if !state.is_known {
            return;
        }
        let sets = state.sets(self.datapath.deny().has_former());
        state.is_waiting = sets.is_none();
        let Some(sets) = sets else { return };
        let own = OF_THE_LINK.iter().filter_map(|prefix| prefix.parse().ok());
        let exempt = state.exempt.values().flatten().chain(&self.exempt).copied().chain(own).collect();
        let failure = self.datapath.deny().set(&sets, &exempt).err().map(|error| error.to_string());
        if let Some(failure) = failure.as_ref().filter(|it| state.failure.as_ref() != Some(*it)) {
            tracing::warn!("cannot put the deny sets in force: {failure}");
        }
        state.failure = failure;
    }

    /// What is wrong, a sentence each. This waits for no change.
    pub fn problems(&self) -> Vec<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn with(directory: Option<DenyDirectory>) -> Self {
        Self {
            is_known: false,
            of_cluster: BTreeMap::new(),
            faults: BTreeMap::new(),
            exempt: BTreeMap::new(),
            directory,
            next_look: Instant::now(),
            failure: None,
            is_waiting: false,
        }
    }

    /// All sets by their names; `None` while the directory is not known and an earlier daemon may have put sets of it in force: those
    /// stay, with all else that it had.
    fn sets(&self, has_former: bool) -> Option<DenySets> {
        let mut sets = DenySets::new();
        for (name, prefixes) in &self.of_cluster {
            sets.insert(format!("GlobalNetworkSet {name}"), Arc::clone(prefixes));
        }
        match self.directory.as_ref().map(DenyDirectory::sets) {
            Some(None) if has_former => return None,
            Some(None) | None => {}
            Some(Some(files)) => {
                sets.extend(files.map(|(name, prefixes)| (format!("file {name}"), prefixes)));
            }
        }
        Some(sets)
    }

    fn put_set(&mut self, set: &NetworkSet) -> bool {
        let label = set.labels.get(deny::LABEL);
        if let Some(namespace) = &set.namespace {
            let named = format!("{}/{}", namespace, set.name);
            let fault = label.map(|_| {
                format!(
                    "NetworkSet {named}: {}: a NetworkSet denies nothing; write a GlobalNetworkSet",
                    deny::LABEL
                )
            });
            self.set_fault(&format!("NetworkSet {named}"), fault);
            return false;
        }
        if label != Some(deny::TRUE) {
            let is_changed = self.remove_set(&set.name);
            let fault = label.filter(|value| *value != deny::FALSE).map(|value| {
                format!(
                    "GlobalNetworkSet {}: {} is {}, which denies nothing; write \"true\" or \"false\"",
                    set.name,
                    deny::LABEL,
                    shown(value)
                )
            });
            self.set_fault(&set.name, fault);
            return is_changed;
        }
        let (mut prefixes, mut faults) = (BTreeSet::new(), Vec::new());
        for net in &set.nets {
            match deny_directory::check(*net) {
                Ok(()) => drop(prefixes.insert(without_host_bits(*net))),
                Err(why) => faults.push(why),
            }
        }
        let fault = faults.into_iter().next().map(|why| {
            format!("GlobalNetworkSet {}: spec.nets: {why}; its other prefixes are in force", set.name)
        });
        self.set_fault(&set.name, fault);
        let prefixes: Arc<[IpNetwork]> = prefixes.into_iter().collect();
        let former = self.of_cluster.insert(Arc::clone(&set.name), Arc::clone(&prefixes));
        former.is_none_or(|former| former != prefixes)
    }

    fn remove_set(&mut self, name: &str) -> bool {
        self.faults.remove(name);
        self.of_cluster.remove(name).is_some()
    }

    fn set_fault(&mut self, name: &str, fault: Option<String>) {
        match fault {
            Some(fault) => self.faults.insert(name.to_owned(), fault),
            None => self.faults.remove(name),
        };
    }

    fn put_exempt(&mut self, id: ObjectId, prefixes: Vec<IpNetwork>) -> bool {
        if prefixes.is_empty() {
            return self.exempt.remove(&id).is_some();
        }
        self.exempt.get(&id) != Some(&prefixes) && {
            self.exempt.insert(id, prefixes);
            true
        }
    }
}

/// The addresses of a node and of its pods. Who denies a whole network means those beyond the cluster.
fn of_node(node: &Node) -> Vec<IpNetwork> {
    let cidrs = node.pod_cidrs.iter().map(|cidr| without_host_bits(*cidr));
    node.addresses.iter().map(|address| IpNetwork::from(*address)).chain(cidrs).collect()
}

/// The addresses of the API server.
fn of_slice(slice: &EndpointSlice) -> Vec<IpNetwork> {
    let service = slice.service.as_deref();
    if (&*slice.namespace, service) != (API_SERVER.0, Some(API_SERVER.1)) {
        return Vec::new();
    }
    let addresses: BTreeSet<IpAddr> = slice.endpoints.iter().map(|endpoint| endpoint.address).collect();
    addresses.into_iter().map(IpNetwork::from).collect()
}

fn without_host_bits(prefix: IpNetwork) -> IpNetwork {
    IpNetwork::new(prefix.network(), prefix.prefix()).unwrap_or(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(namespace: Option<&str>, label: &str, nets: &[&str]) -> NetworkSet {
        NetworkSet {
            namespace: namespace.map(Into::into),
            name: "bad".into(),
            labels: [(deny::LABEL, label)].into_iter().collect(),
            nets: nets.iter().map(|net| net.parse().unwrap()).collect(),
            domains: Vec::new(),
        }
    }

    fn prefixes(state: &State) -> String {
        let all = state.of_cluster.values().flat_map(|it| it.iter()).map(ToString::to_string);
        all.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_set_denies_while_it_has_the_label() {
        let mut state = State::with(None);
        assert!(state.put_set(&set(None, "true", &["192.0.2.7/24", "192.0.2.0/24"])));
        assert_eq!(prefixes(&state), "192.0.2.0/24");
        assert!(!state.put_set(&set(None, "true", &["192.0.2.0/24"])), "nothing has changed");
        assert!(state.put_set(&set(None, "yes", &["192.0.2.0/24"])));
        assert_eq!(prefixes(&state), "");
        let told: Vec<_> = state.faults.values().collect();
        assert_eq!(
            told,
            [
                "GlobalNetworkSet bad: cambric.io/deny is \"yes\", which denies nothing; write \"true\" or \"false\""
            ]
        );
        assert!(!state.put_set(&set(None, "false", &["192.0.2.0/24"])) && state.faults.is_empty());
    }

    #[test]
    fn sets_of_the_cluster_do_not_wait_for_a_directory_that_was_known_before_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let (lists, record) = (folder.path().join("deny"), folder.path().join(RECORD));
        let started = || {
            let mut directory = DenyDirectory::new(&lists, &record);
            directory.look();
            let mut state = State::with(Some(directory));
            state.put_set(&set(None, "true", &["192.0.2.0/24"]));
            state
        };
        let names = |state: &State| state.sets(true).map(|sets| sets.into_keys().collect::<Vec<_>>());
        assert_eq!(names(&started()), None, "nothing tells what the earlier daemon had of it");
        std::fs::create_dir(&lists).unwrap();
        std::fs::write(lists.join("a.txt"), "198.51.100.1").unwrap();
        let all = vec!["GlobalNetworkSet bad".to_owned(), "file a.txt".to_owned()];
        assert_eq!(names(&started()).as_ref(), Some(&all));
        std::fs::rename(&lists, folder.path().join("away")).unwrap();
        assert_eq!(names(&started()), Some(all));
    }

    #[test]
    fn a_namespace_denies_nothing() {
        let mut state = State::with(None);
        assert!(!state.put_set(&set(Some("shop"), "true", &["192.0.2.0/24"])));
        let told: Vec<_> = state.faults.values().collect();
        assert_eq!(
            told,
            ["NetworkSet shop/bad: cambric.io/deny: a NetworkSet denies nothing; write a GlobalNetworkSet"]
        );
    }

    #[test]
    fn all_addresses_of_a_family_are_never_denied_and_that_is_told() {
        let mut state = State::with(None);
        assert!(state.put_set(&set(None, "true", &["0.0.0.0/0", "192.0.2.0/24"])));
        assert_eq!(prefixes(&state), "192.0.2.0/24");
        let told: Vec<_> = state.faults.values().collect();
        assert_eq!(
            told,
            [
                "GlobalNetworkSet bad: spec.nets: 0.0.0.0/0 would deny every address; write the prefixes that are meant; its other \
              prefixes are in force"
            ]
        );
        state.put_set(&set(None, "true", &["192.0.2.0/24"]));
        assert!(state.faults.is_empty());
    }

    #[test]
    fn an_object_exempts_what_it_says_last() {
        let mut state = State::with(None);
        let id = ObjectId::global(Kind::Node, "a");
        let of = |text: &str| vec![text.parse().unwrap()];
        assert!(state.put_exempt(id.clone(), of("192.0.2.1/32")));
        assert!(!state.put_exempt(id.clone(), of("192.0.2.1/32")));
        assert!(state.put_exempt(id.clone(), of("192.0.2.2/32")));
        assert!(state.put_exempt(id, Vec::new()) && state.exempt.is_empty());
    }
}

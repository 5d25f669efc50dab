//! The daemon from start to end: what is opened in which order, and closed again.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, mpsc::SyncSender},
};

use anyhow::{Context, bail};
use bpf::attach::Pins;
use ipamd_api::{files, key::is_host_ifname};
use ipnetwork::IpNetwork;
use tokio::{
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{
    cluster_sync::{self, ClusterSync, SyncTargets},
    deny_sets::DenyPrefixes,
    host::Host,
    host_endpoints::HostEndpoints,
    hubble::{Hubble, Sources},
    kubernetes_events,
    metrics::{Metrics, Served},
    monitor::{Monitor, RingReader},
    node::{AttachmentMode, Node},
    pending_deletes, pod_cidrs, pool_conflicts,
    probe_server::ProbeServer,
    reconcile::{Reconciler, Reconciliation},
    remote_nodes::RemoteNodes,
    requests::NodeService,
    resolvers::Resolvers,
    server::{self, Limits},
    single_instance::SingleInstance,
    startup_gate::StartupGate,
    startup_reason::StartupReason,
    store_recovery,
    trials::Trials,
};
use bpf::sizes::{Machine, MapSizes};
use ipamd_addresses::{attachment::Attachment, ipam::Pool};
use ipamd_config::{Cluster, Config, ExternalServiceMode, InterfaceOwner, cni_chain::Configurations};
use ipamd_datapath::{
    Datapath, DatapathConfig, DatapathError, ExternalSettings, PolicyTables, ServiceTables,
    socket_termination::{SocketTerminationError, SocketTerminator},
};
use ipamd_hubble::cluster::ClusterView;
use ipamd_kernel::link_reaper::Reaper;
use ipamd_machine::{footprint::FootprintFile, preflight};
use ipamd_model::objects;
use ipamd_policy::enforce::Enforcer;
use ipamd_runtime::{error_chain, supervisor};
use ipamd_services::{Balancer, RemovedBackend, Site, health::HealthPorts};
use ipamd_sources::{SourceState, kube::NetworkCondition};
use ipamd_store as store;
use ipamd_store::{Loaded, Store, StoreError, endpoint_files::EndpointFiles};

/// Why the daemon has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// A signal stopped it.
    Stopped,
    /// The pod CIDRs of this node's Node have changed; a new daemon uses them.
    PodCidrsChanged,
    /// The store had failed and is writable again; a new daemon opens it.
    StoreWritable,
}

/// Runs the daemon until it is stopped, or has to restart.
///
/// # Errors
/// Why it could not start, or what went wrong at its end.
pub async fn run(mut config: Config) -> anyhow::Result<ExitReason> {
    let mut signals = Signals::listen()?;
    supervise(&config)?;
    config.cni.check()?;
    check_machine(&config)?;

    // From here on the store's lock keeps a second daemon away.
    let pins = Pins::new(&config.bpffs);
    let StateDirectory { store, set_aside, footprint } = open_records(&config, &pins)?;
    if !pins.programs().exists() {
        // This is a new machine, or it has booted. Runtimes must not use this node before the daemon serves.
        config.cni.withdraw()?;
    }
    let (listener, socket_file) = server::listen(&config.socket)?;
    let single_instance = SingleInstance::take(&config.bpffs)?;
    let startup = Arc::new(StartupReason::default());
    let gate = Arc::new(StartupGate::new(config.node_name.clone(), Arc::clone(&startup)));
    let (probes, served) = serve_probes(&config, &startup)?;
    let (stop, stopped) = watch::channel(false);
    let serving =
        tokio::spawn(server::serve(listener, Arc::clone(&gate), Limits::default(), stopped.clone()));
    let initial_sync = ClusterSync::open(&config, Arc::clone(&startup)).await?;
    let source = initial_sync.state();
    startup.set_source(source.clone());
    config.deny_exempt.extend(initial_sync.api_server.map(IpNetwork::from));
    // What an earlier daemon put in force stays in the kernel until the whole cluster is known.
    let cluster = tokio::select! {
        cluster = initial_sync.finished() => cluster?,
        () = signals.wait() => return Ok(ExitReason::Stopped),
    };
    startup.set("the state of the cluster is being put in force".into());
    let of_the_node = take_pools(&mut config, cluster.own.as_ref(), &store.1.attachments)?;

    let datapath = Arc::new(open_datapath(&config, &pins)?);
    claim(&store.0).await?;
    let policy = Arc::new(enforcer(&config, &datapath, &pins)?);
    let services = Arc::new(balancer(&config, &datapath, &pins, probes.handle())?);
    let monitor = Arc::new(Monitor::new(Arc::clone(&datapath) as _, Arc::clone(&policy) as _));
    let ring_reader = RingReader::start(Arc::clone(&monitor), &pins)?;
    let node = Arc::new(make_node(&config, store, &pins, &datapath, &policy, &services)?);
    let metrics = metrics(&config, source, set_aside);
    let deletes_dir = files::released(&config.socket);
    // Attachments that were deleted while the daemon was away are released first.
    pending_deletes::catch_up(&deletes_dir, &node).await;
    let (terminator, removed_backends) = start_socket_termination(Arc::clone(&node), &pins)?;
    let remote_nodes = Arc::new(RemoteNodes::new(&config.node_name).context("cannot make a pipe")?);
    let deny_prefixes = Arc::new(deny_prefixes(&config, &datapath));
    let cluster_view = config.hubble.is_on().then(Arc::<ClusterView>::default);
    let hosts = Arc::new(host_endpoints(&config, &policy, &remote_nodes));
    let targets = SyncTargets {
        hosts: Arc::clone(&hosts),
        datapath: Arc::clone(&datapath),
        node: Arc::clone(&node),
        policy: Arc::clone(&policy),
        services: Arc::clone(&services),
        resolvers: Arc::new(Resolvers::new(Arc::clone(&datapath), &config.dns_resolvers)),
        deny_prefixes: Arc::clone(&deny_prefixes),
        hubble: cluster_view.clone(),
        remote_nodes: Arc::clone(&remote_nodes),
        removed_backends,
        metrics: Arc::clone(&metrics),
    };
    let cluster_sync = tokio::select! {
        cluster_sync = cluster.start(&config, targets) => cluster_sync?,
        () = signals.wait() => return Ok(ExitReason::Stopped),
    };
    translate_sockets(&config, &node, &datapath)?;
    let reconciler = Reconciler::new(
        &config,
        node.clone(),
        datapath.clone(),
        metrics.clone(),
        footprint,
        remote_nodes.clone(),
    )?
    .with_monitor(Arc::clone(&monitor))
    .with_services(Arc::clone(&services))
    .with_deny_prefixes(deny_prefixes)
    .with_hosts(hosts);
    let reconciliation = Reconciliation::start(reconciler).await?;

    let trials = Trials::start(&node, &policy, &monitor)?;
    let hubble = hubble(&config, &node, &policy, &monitor, cluster_view)?;
    let service = NodeService::new(Arc::clone(&node), Arc::clone(&metrics), monitor, services, stopped);
    let (state, pods) = (cluster_sync.state.clone(), cluster_sync.pod_lookup.clone());
    gate.open(service.about(state, config.cluster_stale_after, pods));
    config.cni.install()?;
    let mut background =
        background(&node, deletes_dir, cluster_sync.network.clone(), &remote_nodes, &metrics);
    served.open(metrics, Arc::clone(&node));
    notify_systemd(&[sd_notify::NotifyState::Ready]);
    log_serving(&config, node.attachments().len(), &datapath);

    let exit_reason = signals.exit_reason(&config, &node, of_the_node.then_some(&*remote_nodes)).await;
    served.stop();
    stop.send_replace(true);
    serving.await.context("the server has failed")?;
    drop(gate);
    background.shutdown().await;
    // In this order.
    drop((hubble, trials, cluster_sync));
    drop((terminator, reconciliation, ring_reader, socket_file, probes, served, single_instance));
    match close(node).await {
        // That it could not be written is known.
        Err(_) if exit_reason == ExitReason::StoreWritable => {}
        closed => closed?,
    }
    Ok(exit_reason)
}

/// Hubble's API, if it is asked for.
fn hubble(
    config: &Config,
    node: &Arc<Node>,
    policy: &Arc<Enforcer>,
    monitor: &Arc<Monitor>,
    cluster: Option<Arc<ClusterView>>,
) -> anyhow::Result<Option<Hubble>> {
    let Some(cluster) = cluster else { return Ok(None) };
    let (node, policy, monitor) = (Arc::clone(node), Arc::clone(policy), Arc::clone(monitor));
    let hubble = Hubble::start(config, Sources { node, policy, monitor, cluster });
    hubble.context("cannot serve Hubble's API").map(Some)
}

/// The host endpoints of this node.
fn host_endpoints(config: &Config, policy: &Arc<Enforcer>, remote_nodes: &Arc<RemoteNodes>) -> HostEndpoints {
    let (policy, remote_nodes) = (Arc::clone(policy), Arc::clone(remote_nodes));
    HostEndpoints::new(&config.node_name, config.failsafe.clone(), policy, remote_nodes)
}

/// The deny sets, with those of the directory as it is now.
fn deny_prefixes(config: &Config, datapath: &Arc<Datapath>) -> DenyPrefixes {
    let (directory, exempt) = (config.deny_directory.clone(), config.deny_exempt.clone());
    DenyPrefixes::new(Arc::clone(datapath), directory, &config.state_dir, exempt)
}

/// The node, with the records of the store.
fn make_node(
    config: &Config,
    store: (Store, Loaded),
    pins: &Pins,
    datapath: &Arc<Datapath>,
    policy: &Arc<Enforcer>,
    services: &Arc<Balancer>,
) -> anyhow::Result<Node> {
    let node = Node::new(
        config.node_name.clone(),
        attachment_mode(config),
        store,
        EndpointFiles::beside(&config.socket).context("cannot read the kernel's boot id")?,
        Box::new(host(config, datapath, pins)?),
        Arc::clone(policy),
        Arc::clone(services),
    )?;
    Ok(node.let_unknown_pass(matches!(config.cluster, Cluster::None)).rest_addresses(config.address_rest))
}

/// Starts the thread that ends sockets connected to removed backends, of the node and of its endpoints.
fn start_socket_termination(
    node: Arc<Node>,
    pins: &Pins,
) -> Result<(SocketTerminator, SyncSender<Vec<RemovedBackend>>), SocketTerminationError> {
    SocketTerminator::start(move |netns| node.namespace_path(netns), pins)
}

/// Uses the pod CIDRs of this node's Node as pools, unless pools are configured. Refuses pools that conflict with this
/// machine. Returns whether they are the Node's.
fn take_pools(
    config: &mut Config,
    own: Option<&objects::Node>,
    attachments: &[Attachment],
) -> anyhow::Result<bool> {
    let of_the_node = config.needs_pools();
    if let Some(own) = own {
        config.take_pools(own)?;
    }
    let conflict = pool_conflicts::find(&config.pools, attachments);
    match conflict.context("cannot see which networks this node has")? {
        Some(conflict) => bail!("{conflict}"),
        None => Ok(of_the_node),
    }
}

/// Why a new daemon could not use the Node's new pod CIDRs, in a sentence.
fn pod_cidr_problem(config: &Config, node: &Node, own: &objects::Node) -> Option<String> {
    let mut candidate = config.clone();
    candidate.pools.clear();
    let error = take_pools(&mut candidate, Some(own), &node.attachments()).err()?;
    let problem = format!(
        "the Node has other pod CIDRs now, which cannot be used, so those before stay in use: {}",
        error_chain::sentence(&error)
    );
    tracing::warn!("{problem}");
    Some(problem)
}

/// The metrics. A store that was moved aside counts as a repair.
fn metrics(config: &Config, source: Option<Arc<dyn SourceState>>, set_aside: bool) -> Arc<Metrics> {
    let metrics = Metrics::about(source, config.cluster_stale_after);
    if set_aside {
        metrics.repair("store");
    }
    Arc::new(metrics)
}

/// The kernel for the node.
fn host(config: &Config, datapath: &Arc<Datapath>, pins: &Pins) -> anyhow::Result<Host> {
    let configurations = Configurations::new(config.cni.conf_dir.clone());
    Ok(Host::new(Arc::clone(datapath), pins.clone(), Reaper::start()?, config.socket_lb, configurations))
}

/// The contents of the state directory.
struct StateDirectory {
    /// The store with what it holds.
    store: (Store, Loaded),
    /// Whether a damaged one was moved aside.
    set_aside: bool,
    /// The changes of this machine.
    footprint: FootprintFile,
}

fn open_records(config: &Config, pins: &Pins) -> anyhow::Result<StateDirectory> {
    let state_dir = &config.state_dir;
    let shown = state_dir.display();
    match make_private(state_dir) {
        // The store reports this error itself.
        Err(error) if store::is_of_the_disk(&error) => {}
        made => made.with_context(|| format!("cannot make the state directory {shown}"))?,
    }
    // Pins, the endpoints' files and interfaces do not survive a boot.
    let is_first = !pins.programs().exists()
        && !files::endpoints(&config.socket).exists()
        && !has_host_ends().unwrap_or(true);
    let scratch = files::copy_of_store(&config.socket);
    let store::Found { store, loaded, set_aside } =
        Store::open_or_begin(&state_dir.join("store"), &scratch, is_first)?;
    let footprint = FootprintFile::open_or_begin(state_dir)
        .with_context(|| format!("cannot read the notes in {shown}"))?;
    Ok(StateDirectory { store: (store, loaded), set_aside: set_aside.is_some(), footprint })
}

/// Marks the store so that earlier releases do not start on this one's pins. If the store cannot be written, the next
/// daemon does it.
async fn claim(store: &Store) -> Result<(), StoreError> {
    match store.unwritable() {
        Some(_) => Ok(()),
        None => store.claim()?.wait().await,
    }
}

/// Whether there is a host end of a container in this namespace.
fn has_host_ends() -> nix::Result<bool> {
    let interfaces = nix::net::if_::if_nameindex()?;
    Ok(interfaces.iter().any(|it| it.name().to_str().is_ok_and(is_host_ifname)))
}

/// Clears the node's condition NetworkUnavailable whenever the Node is created.
async fn clear_network_condition(network: NetworkCondition, remote_nodes: Arc<RemoteNodes>) {
    loop {
        remote_nodes.own_node_added().await;
        network.clear().await;
    }
}

async fn close(node: Arc<Node>) -> anyhow::Result<()> {
    match Arc::try_unwrap(node) {
        Ok(node) => node.close()?,
        // A request still lists conntrack for a client that is gone, or waits for a large change.
        Err(node) => node.flush().await,
    }
    Ok(())
}

/// The signals that stop the daemon.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits for a reason to exit. If the pools are the Node's, `remote_nodes` shows changes of its pod CIDRs.
    async fn exit_reason(
        &mut self,
        config: &Config,
        node: &Node,
        remote_nodes: Option<&RemoteNodes>,
    ) -> ExitReason {
        let pod_cidrs_changed = async {
            match remote_nodes {
                Some(remote_nodes) => {
                    let in_use = config.pools.iter().map(Pool::cidr).collect();
                    let pod_cidr_problem = |own: &objects::Node| pod_cidr_problem(config, node, own);
                    let tell = |problem| node.refuse_prefixes(problem);
                    pod_cidrs::wait_for_change(
                        remote_nodes,
                        in_use,
                        pod_cidrs::STABLE_FOR,
                        pod_cidr_problem,
                        tell,
                    )
                    .await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.wait() => {
                tracing::info!("stopping; containers keep their network");
                notify_systemd(&[sd_notify::NotifyState::Stopping]);
                ExitReason::Stopped
            }
            () = pod_cidrs_changed => {
                tracing::warn!(
                    "restarting: the pod CIDRs of the Node have changed; running containers keep their addresses, but other nodes \
                     no longer route packets to them: restart their pods"
                );
                ExitReason::PodCidrsChanged
            }
            () = store_recovery::writable_again(node, &config.state_dir) => {
                let dir = config.state_dir.display();
                tracing::warn!("restarting: {dir} is writable again");
                ExitReason::StoreWritable
            }
        }
    }
}

/// Starts the background tasks.
fn background(
    node: &Arc<Node>,
    deletes_dir: PathBuf,
    network: Option<NetworkCondition>,
    remote_nodes: &Arc<RemoteNodes>,
    metrics: &Arc<Metrics>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if let Some(network) = network {
        tasks.spawn(kubernetes_events::publish(network.events(), Arc::clone(node), Arc::clone(metrics)));
        tasks.spawn(clear_network_condition(network, Arc::clone(remote_nodes)));
    }
    let node = Arc::clone(node);
    tasks.spawn(async move { pending_deletes::watch(&deletes_dir, &node).await });
    tasks
}

/// Starts the server of probes and metrics. Until the node serves, it reports what the daemon waits for.
fn serve_probes(config: &Config, startup: &Arc<StartupReason>) -> anyhow::Result<(ProbeServer, Arc<Served>)> {
    let probes = ProbeServer::start().context("cannot start the thread that answers probes")?;
    let served = Arc::new(Served::new(Arc::clone(startup)));
    if let Some(address) = config.metrics {
        let served = Arc::clone(&served);
        probes.serve(address, served).with_context(|| format!("cannot serve metrics on {address}"))?;
    }
    Ok((probes, served))
}

/// Starts the supervision of all threads, this one included. While all are well, systemd's watchdog is notified.
fn supervise(config: &Config) -> anyhow::Result<()> {
    let watched = sd_notify::watchdog_enabled().is_some();
    let well = move || {
        if watched {
            notify_systemd(&[sd_notify::NotifyState::Watchdog]);
        }
    };
    supervisor::start(config.thread_deadline, well)
        .context("cannot start the thread that supervises the others")?;
    // For as long as the process lives.
    std::mem::forget(supervisor::supervise("the main thread"));
    tokio::spawn(supervisor::heart());
    Ok(())
}

fn log_serving(config: &Config, attachments: usize, datapath: &Datapath) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = config.node_name,
        socket = %config.socket.display(),
        attachments,
        attach_mode = ?datapath.attach_mode(),
        "serving"
    );
}

/// Makes a directory that only root may look into.
fn make_private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Loads the programs and configures them.
fn open_datapath(config: &Config, pins: &Pins) -> anyhow::Result<Datapath> {
    let datapath = Datapath::open(&DatapathConfig {
        pins: pins.clone(),
        attach_mode: config.attach,
        sizes: MapSizes::new(&config.sizes, Machine::here()),
        masquerade: config.masquerade,
        masquerade_ports: config.masquerade_ports.clone(),
        lifetimes: config.conntrack_timeouts,
        policy_rules: config.policy.rules,
        dns_search: config.dns_search.clone(),
        dns_least_lifetime: config.dns_least_ttl,
        deny_mode: config.deny_mode,
        overlay: (config.cluster != Cluster::None && config.routing.may_need_overlay())
            .then_some((config.vxlan_port, config.vxlan_id)),
    })?;
    let external = external(config).context("cannot list the node's addresses")?;
    datapath.set_external(external)?;
    datapath.set_wall_clock()?;
    Ok(datapath)
}

/// Tells the programs in which namespaces they translate sockets to services' backends.
fn translate_sockets(config: &Config, node: &Node, datapath: &Datapath) -> Result<(), DatapathError> {
    node.find_namespaces();
    let namespaces = if config.socket_lb { node.namespaces() } else { Vec::new() };
    datapath.set_namespaces(ipamd_api::netns::cookie().ok(), &namespaces)
}

/// What keeps policies in force.
fn enforcer(config: &Config, datapath: &Arc<Datapath>, pins: &Pins) -> anyhow::Result<Enforcer> {
    let tables = PolicyTables::open(Arc::clone(datapath), pins, config.policy)?;
    Ok(Enforcer::new(Box::new(tables)).with_denied(config.denied))
}

/// The balancer of services, with its health check ports.
fn balancer(
    config: &Config,
    datapath: &Arc<Datapath>,
    pins: &Pins,
    probes: &Handle,
) -> Result<Balancer, DatapathError> {
    let tables = ServiceTables::open(Arc::clone(datapath), pins)?;
    let balancer = Balancer::new(Box::new(tables), site(config));
    balancer.serve_cluster_ips_outside(config.cluster_ip_external);
    balancer.answer_health_checks(HealthPorts::new(probes, None));
    Ok(balancer)
}

/// How attachments get their interfaces and addresses.
fn attachment_mode(config: &Config) -> AttachmentMode {
    match config.interface_owner {
        InterfaceOwner::Cambric => AttachmentMode::Own(config.pools.clone()),
        InterfaceOwner::ChainedPlugin => AttachmentMode::Chained,
    }
}

/// This node, as services need it.
fn site(config: &Config) -> Site {
    Site {
        node: config.node_name.as_str().into(),
        zone: None,
        pools: config.pools.iter().map(Pool::cidr).collect(),
    }
}

/// How services treat what comes from outside.
fn external(config: &Config) -> io::Result<ExternalSettings> {
    let mut settings =
        ExternalSettings { dsr: config.external_services == ExternalServiceMode::Dsr, ..Default::default() };
    // Gateways are preferred; the other addresses count where there are no pools.
    let gateways = config.pools.iter().map(Pool::gateway);
    for address in gateways.chain(cluster_sync::node_addresses(config)?) {
        match address {
            IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_link_local() => {
                settings.hairpin4 = settings.hairpin4.or(Some(ip));
            }
            IpAddr::V6(ip) if !ip.is_loopback() && !ip.is_unicast_link_local() => {
                settings.hairpin6 = settings.hairpin6.or(Some(ip));
            }
            _ => {}
        }
    }
    Ok(settings)
}

/// Refuses to start where the datapath could not work, with a line for each reason.
fn check_machine(config: &Config) -> anyhow::Result<()> {
    preflight::mount_bpffs(&config.bpffs)?;
    let findings = preflight::check(&preflight::Subject::from(config));
    let mut failed = 0;
    for finding in findings {
        match finding.outcome {
            preflight::Outcome::Ok => tracing::debug!(check = finding.name, "{finding}"),
            preflight::Outcome::Warning => tracing::warn!(check = finding.name, "{finding}"),
            preflight::Outcome::Failure => {
                failed += 1;
                tracing::error!(check = finding.name, "{finding}");
            }
        }
    }
    if failed > 0 {
        bail!(
            "this machine lacks what Cambric needs ({failed} of the checks above failed; cambricctl preflight repeats them)"
        );
    }
    Ok(())
}

/// Notifies systemd, if it listens.
fn notify_systemd(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

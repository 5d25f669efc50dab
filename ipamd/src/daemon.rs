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
use tokio::{
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{
    alone::Alone,
    following::{self, Followers, Following},
    host::Host,
    mending,
    metrics::{Metrics, Served},
    monitor::{Listening, Monitor},
    node::{Making, Node},
    notices,
    peers::Peers,
    pool_conflicts, prefixes,
    probes::Probes,
    reconcile::{Reconciler, Reconciliation},
    released,
    requests::NodeService,
    server::{self, Limits},
    startup_gate::StartupGate,
    startup_reason::StartupReason,
};
use bpf::sizes::{Machine, MapSizes};
use ipamd_addresses::{attachment::Attachment, ipam::Pool};
use ipamd_config::{Cluster, Config, ExternalServiceMode, Maker, cni_chain::Configurations};
use ipamd_datapath::{
    Datapath, DatapathConfig, DatapathError, ExternalSettings, PolicyTables, ServiceTables,
    parting::{Parting, PartingError},
};
use ipamd_kernel::reaper::Reaper;
use ipamd_machine::{footprint::FootprintFile, preflight};
use ipamd_model::objects;
use ipamd_policy::enforce::Enforcer;
use ipamd_runtime::{chain, supervisor};
use ipamd_services::{Balancer, Gone, Site, health::HealthPorts};
use ipamd_sources::{SourceState, kube::NetworkCondition};
use ipamd_store as store;
use ipamd_store::{Loaded, Store, StoreError, endpoint_files::EndpointFiles};

/// Why the daemon has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was told to stop.
    Stopped,
    /// The cluster has given this node other prefixes, and a daemon that starts takes them.
    OtherPrefixes,
    /// The store could not be written, and a daemon that starts can.
    WritableAgain,
}

/// Runs the daemon until it is told to stop, or has to start anew.
///
/// # Errors
/// Why it could not start, or what went wrong at its end.
pub async fn run(mut config: Config) -> anyhow::Result<Ending> {
    let mut signals = Signals::listen()?;
    supervise(&config)?;
    config.cni.check()?;
    check_machine(&config)?;

    // The store's lock keeps a second daemon away from here on.
    let pins = Pins::new(&config.bpffs);
    let Opened { store, set_aside, footprint } = open_records(&config, &pins)?;
    if !pins.programs().exists() {
        // The machine is new to this, or has booted: nobody is to count on this node before it can serve.
        config.cni.withdraw()?;
    }
    let (listener, socket_file) = server::listen(&config.socket)?;
    let alone = Alone::take(&config.bpffs)?;
    let startup = Arc::new(StartupReason::default());
    let gate = Arc::new(StartupGate::new(config.node_name.clone(), Arc::clone(&startup)));
    let (probes, served) = answer_probes(&config, &startup)?;
    let (stop, stopped) = watch::channel(false);
    let serving =
        tokio::spawn(server::serve(listener, Arc::clone(&gate), Limits::default(), stopped.clone()));
    let opening = Following::open(&config, Arc::clone(&startup)).await?;
    let source = opening.state();
    if let Some(state) = source.clone() {
        startup.tell_of(state);
    }
    // What an earlier daemon has put in force stays in the kernel, untouched, until all of the cluster is known.
    let cluster = tokio::select! {
        cluster = opening.opened() => cluster?,
        () = signals.wait() => return Ok(Ending::Stopped),
    };
    startup.set("what the cluster has told is being put in force".into());
    let of_the_node = take_pools(&mut config, cluster.own.as_ref(), &store.1.attachments)?;

    let datapath = Arc::new(open_datapath(&config, &pins)?);
    claim(&store.0).await?;
    let tables = PolicyTables::open(Arc::clone(&datapath), &pins, config.policy)?;
    let policy = Arc::new(Enforcer::new(Box::new(tables)));
    let services = Arc::new(balancer(&config, &datapath, &pins, probes.handle())?);
    let monitor = Arc::new(Monitor::new(Arc::clone(&datapath) as _, Arc::clone(&policy) as _));
    let listening = Listening::start(Arc::clone(&monitor), &pins)?;
    let attachments = store.1.attachments.len();
    let node = Node::new(
        config.node_name.clone(),
        making(&config),
        store,
        EndpointFiles::beside(&config.socket).context("cannot read the kernel's boot id")?,
        Box::new(host(&config, &datapath, &pins)?),
        Arc::clone(&policy),
        Arc::clone(&services),
    )?
    .let_unknown_pass(matches!(config.cluster, Cluster::None))
    .rest_addresses(config.address_rest);
    let node = Arc::new(node);
    let metrics = metrics(&config, source, set_aside);
    let released = files::released(&config.socket);
    // What was deleted meanwhile is gone before anything is taken for granted.
    released::catch_up(&released, &node).await;
    let (parting, gone) = end_sockets(Arc::clone(&node), &pins)?;
    let peers = Arc::new(Peers::new(&config.node_name).context("cannot make a pipe")?);
    let followers = Followers {
        node: Arc::clone(&node),
        policy: Arc::clone(&policy),
        services: Arc::clone(&services),
        peers: Arc::clone(&peers),
        gone,
        metrics: Arc::clone(&metrics),
    };
    let following = tokio::select! {
        following = cluster.follow(&config, followers) => following?,
        () = signals.wait() => return Ok(Ending::Stopped),
    };
    node.find_namespaces();
    let led = if config.socket_lb { node.namespaces() } else { Vec::new() };
    datapath.set_namespaces(ipamd_api::netns::cookie().ok(), &led)?;
    let reconciler = Reconciler::new(
        &config,
        Arc::clone(&node),
        Arc::clone(&datapath),
        Arc::clone(&metrics),
        footprint,
        Arc::clone(&peers),
    )?
    .tell_ends(Arc::clone(&monitor))
    .tend_services(Arc::clone(&services));
    let reconciliation = Reconciliation::start(reconciler).await?;

    let service = NodeService::new(Arc::clone(&node), Arc::clone(&metrics), monitor, services, stopped);
    gate.open(service.about(following.state.clone(), config.cluster_stale_after, following.asking.clone()));
    config.cni.install()?;
    let mut background = background(&node, released, following.network.clone(), &peers, &metrics);
    served.open(metrics, Arc::clone(&node));
    say(&[sd_notify::NotifyState::Ready]);
    say_serving(&config, attachments, &datapath);

    let ending = signals.ending(&config, &node, of_the_node.then_some(&*peers)).await;
    served.stop();
    stop.send_replace(true);
    serving.await.context("the server has failed")?;
    drop(gate);
    background.shutdown().await;
    // In this order.
    drop((following, parting, reconciliation, listening, socket_file, probes, served, alone));
    match close(node).await {
        // That it could not be written is known.
        Err(_) if ending == Ending::WritableAgain => {}
        closed => closed?,
    }
    Ok(ending)
}

/// Has the sockets ended of backends that are gone, of the node and of its endpoints.
fn end_sockets(node: Arc<Node>, pins: &Pins) -> Result<(Parting, SyncSender<Vec<Gone>>), PartingError> {
    Parting::start(move |netns| node.namespace_path(netns), pins)
}

/// Takes the pools of this node's Node, unless some are configured, and refuses such as cannot be handed out on this machine. Whether
/// they are the Node's.
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

/// Why a daemon that starts could not use the prefixes that the Node names now, in a sentence.
fn objection(config: &Config, node: &Node, own: &objects::Node) -> Option<String> {
    let mut candidate = config.clone();
    candidate.pools.clear();
    let error = take_pools(&mut candidate, Some(own), &node.attachments()).err()?;
    let problem = format!(
        "the Node has other pod CIDRs now, which cannot be used, so those before stay in use: {}",
        chain::sentence(&error)
    );
    tracing::warn!("{problem}");
    Some(problem)
}

/// The metrics, in which a store that was moved aside counts.
fn metrics(config: &Config, source: Option<Arc<dyn SourceState>>, set_aside: bool) -> Arc<Metrics> {
    let metrics = Metrics::about(source, config.cluster_stale_after);
    if set_aside {
        metrics.repair("store");
    }
    Arc::new(metrics)
}

/// What the node's records are carried out on.
fn host(config: &Config, datapath: &Arc<Datapath>, pins: &Pins) -> anyhow::Result<Host> {
    let configurations = Configurations::new(config.cni.conf_dir.clone());
    Ok(Host::new(Arc::clone(datapath), pins.clone(), Reaper::start()?, config.socket_lb, configurations))
}

/// What the state directory has.
struct Opened {
    /// The store with what it holds.
    store: (Store, Loaded),
    /// Whether a damaged one was moved aside.
    set_aside: bool,
    /// What was changed on this machine.
    footprint: FootprintFile,
}

fn open_records(config: &Config, pins: &Pins) -> anyhow::Result<Opened> {
    let state_dir = &config.state_dir;
    let shown = state_dir.display();
    match make_private(state_dir) {
        // The store tells of it.
        Err(error) if store::is_of_the_disk(&error) => {}
        made => made.with_context(|| format!("cannot make the state directory {shown}"))?,
    }
    // What is pinned, the endpoints' files and interfaces do not outlive a boot.
    let is_first = !pins.programs().exists()
        && !files::endpoints(&config.socket).exists()
        && !has_host_ends().unwrap_or(true);
    let scratch = files::copy_of_store(&config.socket);
    let store::Found { store, loaded, set_aside } =
        Store::open_or_begin(&state_dir.join("store"), &scratch, is_first)?;
    let footprint = FootprintFile::open_or_begin(state_dir)
        .with_context(|| format!("cannot read the notes in {shown}"))?;
    Ok(Opened { store: (store, loaded), set_aside: set_aside.is_some(), footprint })
}

/// Keeps earlier releases away from what this one has pinned. Where nothing can be written the daemon that can does it.
async fn claim(store: &Store) -> Result<(), StoreError> {
    match store.unwritable() {
        Some(_) => Ok(()),
        None => store.claim()?.wait().await,
    }
}

/// Whether a container's interface leads here that Cambric made.
fn has_host_ends() -> nix::Result<bool> {
    let interfaces = nix::net::if_::if_nameindex()?;
    Ok(interfaces.iter().any(|it| it.name().to_str().is_ok_and(is_host_ifname)))
}

/// Tells the cluster that this node has a network, as often as the node is made in it.
async fn tell_of_network(network: NetworkCondition, peers: Arc<Peers>) {
    loop {
        peers.own_came().await;
        network.clear().await;
    }
}

async fn close(node: Arc<Node>) -> anyhow::Result<()> {
    match Arc::try_unwrap(node) {
        Ok(node) => node.close()?,
        // Somebody still walks the connections for a client that is gone, or is in the midst of a large change.
        Err(node) => node.flush().await,
    }
    Ok(())
}

/// What asks the daemon to stop.
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

    /// Waits until the daemon has a reason to end. Where the pools are those that this node's Node names, `peers` says which
    /// it names now.
    async fn ending(&mut self, config: &Config, node: &Node, peers: Option<&Peers>) -> Ending {
        let other_prefixes = async {
            match peers {
                Some(peers) => {
                    let in_use = config.pools.iter().map(Pool::cidr).collect();
                    let objection = |own: &objects::Node| objection(config, node, own);
                    let tell = |problem| node.refuse_prefixes(problem);
                    prefixes::others(peers, in_use, prefixes::SETTLES, objection, tell).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.wait() => {
                tracing::info!("stopping; containers go on as they are");
                say(&[sd_notify::NotifyState::Stopping]);
                Ending::Stopped
            }
            () = other_prefixes => {
                tracing::warn!(
                    "starting anew, for the Node has other pod CIDRs now; containers keep their addresses, which other nodes \
                     do not lead packets to any more: restart their pods"
                );
                Ending::OtherPrefixes
            }
            () = mending::writable_again(node, &config.state_dir) => {
                let dir = config.state_dir.display();
                tracing::warn!("starting anew, for {dir} could not be written and can be again");
                Ending::WritableAgain
            }
        }
    }
}

/// What goes on beside the socket.
fn background(
    node: &Arc<Node>,
    released: PathBuf,
    network: Option<NetworkCondition>,
    peers: &Arc<Peers>,
    metrics: &Arc<Metrics>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if let Some(network) = network {
        tasks.spawn(notices::tell(network.events(), Arc::clone(node), Arc::clone(metrics)));
        tasks.spawn(tell_of_network(network, Arc::clone(peers)));
    }
    let node = Arc::clone(node);
    tasks.spawn(async move { released::watch(&released, &node).await });
    tasks
}

/// Answers whoever looks whether the node is well; for now, by what it waits for.
fn answer_probes(config: &Config, startup: &Arc<StartupReason>) -> anyhow::Result<(Probes, Arc<Served>)> {
    let probes = Probes::start().context("cannot start the thread that answers probes")?;
    let served = Arc::new(Served::new(Arc::clone(startup)));
    if let Some(address) = config.metrics {
        let served = Arc::clone(&served);
        probes.serve(address, served).with_context(|| format!("cannot serve metrics on {address}"))?;
    }
    Ok((probes, served))
}

/// Has every thread be supervised, this one too, and systemd's watchdog told that all are well, if it listens.
fn supervise(config: &Config) -> anyhow::Result<()> {
    let watched = sd_notify::watchdog_enabled().is_some();
    let well = move || {
        if watched {
            say(&[sd_notify::NotifyState::Watchdog]);
        }
    };
    supervisor::start(config.thread_deadline, well)
        .context("cannot start the thread that supervises the others")?;
    // For as long as the process lives.
    std::mem::forget(supervisor::supervise("the main thread"));
    tokio::spawn(supervisor::heart());
    Ok(())
}

fn say_serving(config: &Config, attachments: usize, datapath: &Datapath) {
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

/// The programs, loaded, with what they take from the configuration.
fn open_datapath(config: &Config, pins: &Pins) -> anyhow::Result<Datapath> {
    let datapath = Datapath::open(&DatapathConfig {
        pins: pins.clone(),
        attach_mode: config.attach,
        sizes: MapSizes::new(&config.sizes, Machine::here()),
        masquerade: config.masquerade,
        masquerade_ports: config.masquerade_ports.clone(),
        lifetimes: config.conntrack_timeouts,
        policy_rules: config.policy.rules,
        overlay: (config.cluster != Cluster::None && config.routing.may_need_overlay())
            .then_some((config.vxlan_port, config.vxlan_id)),
    })?;
    let external = external(config).context("cannot list the node's addresses")?;
    datapath.set_external(external)?;
    datapath.set_wall_clock()?;
    Ok(datapath)
}

/// What balances connections, with its health check ports.
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

/// Who makes the containers' interfaces.
fn making(config: &Config) -> Making {
    match config.maker {
        Maker::Cambric => Making::Own(config.pools.clone()),
        Maker::PluginsBefore => Making::Chained,
    }
}

/// Where this node stands.
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
    // The gateways before other addresses, which matter where there are no pools.
    let gateways = config.pools.iter().map(Pool::gateway);
    for address in gateways.chain(following::node_addresses(config)?) {
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

/// Tells systemd, if it listens.
fn say(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

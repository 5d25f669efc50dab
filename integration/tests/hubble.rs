//! Hubble's API: real flows, as its clients see them.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{
        Authority, HubbleClient, Identity, Listeners, Machine, Node, Pod, Settings, allowed, denied,
        eventually, flow_of, hold, tcp,
    },
};
use ipamd_hubble::proto::{
    flow::{DropReason, Flow, FlowFilter, TrafficDirection, Verdict, layer4::Protocol},
    observer::{GetFlowsRequest, get_flows_response::ResponseTypes},
};

const PATIENCE: Duration = Duration::from_secs(20);
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// `closed` is spoken to by nobody, `guarded` on every port but 81; `tried` would be spoken to by nobody.
const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: shut }
spec: { podSelector: { matchLabels: { app: closed } }, policyTypes: [Ingress] }
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: { namespace: shop, name: guard }
spec:
  selector: app == 'guarded'
  types: [Ingress]
  ingress:
  - { action: Deny, protocol: TCP, destination: { ports: [81] } }
  - { action: Allow }
---
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: { namespace: shop, name: try }
spec: { selector: app == 'tried', types: [Ingress] }
";

struct Scene<'n> {
    node: &'n Node,
    client: HubbleClient,
    friend: Pod<'n>,
    guarded: Pod<'n>,
    closed: Pod<'n>,
    tried: Pod<'n>,
    _listeners: Vec<Listeners>,
}

fn socket(node: &Node) -> PathBuf {
    node.folder().join("run/hubble.sock")
}

fn start(node: &Node, flags: &[&str]) -> Result<()> {
    let socket = format!("--hubble-socket={}", socket(node).display());
    node.start_daemon_with(&[&[socket.as_str()], flags].concat())
}

impl<'n> Scene<'n> {
    fn new(node: &'n Node) -> Result<Self> {
        start(node, &[])?;
        node.apply("policies.yaml", POLICIES)?;
        let pod = |app: &str| {
            node.add_pod_of(&format!("shop/{app}-7d9f-abcde"), &[("app", app), ("pod-template-hash", "7d9f")])
        };
        let (friend, guarded, closed, tried) =
            (pod("friend")?, pod("guarded")?, pod("closed")?, pod("tried")?);
        let listeners =
            [&guarded, &closed, &tried].map(|pod| pod.serve(pod.addresses(), &[tcp(80), tcp(81)]));
        let listeners = listeners.into_iter().collect::<Result<_>>()?;
        let client = HubbleClient::connect(&socket(node))?;
        Ok(Self { node, client, friend, guarded, closed, tried, _listeners: listeners })
    }

    /// Waits for a flow to a pod, at a port, that one of these filters matches.
    fn flow(&mut self, filter: &FlowFilter, is: impl Fn(&Flow) -> bool) -> Result<Flow> {
        let mut found = None;
        eventually(PATIENCE, || {
            let flows = self.client.flows(std::slice::from_ref(filter)).unwrap_or_default();
            found = flows.into_iter().find(&is);
            found.is_some()
        });
        let all = || format!("{:#?}\n{}", filter, self.node.log());
        found.with_context(all)
    }
}

fn to(pod: &str, port: u16) -> FlowFilter {
    FlowFilter {
        destination_pod: vec![format!("shop/{pod}")],
        destination_port: vec![port.to_string()],
        ..FlowFilter::default()
    }
}

fn policy_names(policies: &[ipamd_hubble::proto::flow::Policy]) -> Vec<String> {
    policies.iter().map(|it| format!("{} {}/{}", it.kind, it.namespace, it.name)).collect()
}

#[test]
fn flows_are_told_with_both_sides_and_the_policies_that_decided() -> Result<()> {
    needs_root!();
    let node = Node::new(Settings::default().cluster())?;
    let mut scene = Scene::new(&node)?;
    let mut table = allowed(&scene.friend, &scene.guarded, tcp(80));
    table.extend(denied(&scene.friend, &scene.guarded, tcp(81)));
    table.extend(denied(&scene.friend, &scene.closed, tcp(80)));
    table.extend(allowed(&scene.friend, &scene.tried, tcp(80)));
    hold(table)?;

    let flow = scene.flow(&to("guarded", 80), |flow| flow.verdict() == Verdict::Forwarded)?;
    let (source, destination) =
        (flow.source.clone().context("source")?, flow.destination.clone().context("destination")?);
    ensure!(
        (source.namespace.as_str(), source.pod_name.as_str()) == ("shop", "friend-7d9f-abcde"),
        "{flow:#?}"
    );
    ensure!(source.labels.contains(&"k8s:app=friend".to_owned()), "{flow:#?}");
    ensure!(
        destination.workloads.iter().any(|it| it.kind == "Deployment" && it.name == "guarded"),
        "{flow:#?}"
    );
    ensure!(source.identity >= 256 && source.identity != destination.identity, "{flow:#?}");
    ensure!(flow.node_name == "node" && flow.uuid.len() == 36 && flow.is_reply == Some(false), "{flow:#?}");
    ensure!(flow.traffic_direction() == TrafficDirection::Ingress, "{flow:#?}");
    ensure!(
        policy_names(&flow.ingress_allowed_by) == ["NetworkPolicy.projectcalico.org shop/guard"],
        "{flow:#?}"
    );
    let labels = &flow.ingress_allowed_by.first().context("a policy")?.labels;
    ensure!(labels.iter().any(|it| it == "cambric:tier=default"), "{flow:#?}");
    ensure!(labels.iter().any(|it| it == "cambric:rule=ingress[1]"), "{flow:#?}");
    let Some(Protocol::Tcp(l4)) = flow.l4.and_then(|it| it.protocol) else { anyhow::bail!("{flow:#?}") };
    ensure!(l4.destination_port == 80 && l4.flags.is_some_and(|flags| flags.syn), "{flow:#?}");

    // By a rule.
    let flow = scene.flow(&to("guarded", 81), |_| true)?;
    ensure!(
        (flow.verdict(), flow.drop_reason_desc()) == (Verdict::Dropped, DropReason::PolicyDenied),
        "{flow:#?}"
    );
    ensure!(
        policy_names(&flow.ingress_denied_by) == ["NetworkPolicy.projectcalico.org shop/guard"],
        "{flow:#?}"
    );
    ensure!(flow.summary.contains("policy_ingress") && flow.summary.contains("ingress[0]"), "{flow:#?}");
    // By default deny.
    let flow = scene.flow(&to("closed", 80), |_| true)?;
    ensure!(policy_names(&flow.ingress_denied_by) == ["NetworkPolicy shop/shut"], "{flow:#?}");
    let labels = &flow.ingress_denied_by.first().context("a policy")?.labels;
    ensure!(labels.contains(&"cambric:default-deny=true".to_owned()), "{flow:#?}");
    ensure!(flow.summary.contains("default deny of tier default"), "{flow:#?}");
    // By one that is staged, once as it was, and once as it would be. It is judged from a second after it was put there on, at most.
    let audited = FlowFilter { verdict: vec![Verdict::Audit.into()], ..to("tried", 80) };
    let is_audited = || {
        let opened = hold(allowed(&scene.friend, &scene.tried, tcp(80)));
        opened.is_ok() && scene.client.flows(std::slice::from_ref(&audited)).is_ok_and(|it| !it.is_empty())
    };
    ensure!(eventually(PATIENCE, is_audited), "{}", node.log());
    let flow = scene.flow(&audited, |_| true)?;
    ensure!(policy_names(&flow.ingress_denied_by) == ["StagedNetworkPolicy shop/try"], "{flow:#?}");
    scene.flow(&to("tried", 80), |flow| flow.verdict() == Verdict::Forwarded)?;

    let dropped = FlowFilter { verdict: vec![Verdict::Dropped.into()], ..FlowFilter::default() };
    let pods: BTreeSet<_> = scene
        .client
        .flows(&[dropped])?
        .into_iter()
        .filter_map(|it| it.destination)
        .map(|it| it.pod_name)
        .collect();
    ensure!(
        pods.iter().all(|it| it.starts_with("guarded") || it.starts_with("closed")) && pods.len() == 2,
        "{pods:?}"
    );
    let last = scene.client.answers(GetFlowsRequest { number: 3, ..Default::default() })?;
    ensure!(last.len() == 3 && last.iter().all(|it| it.node_name == "node"), "{last:#?}");
    let wrong = FlowFilter { http_method: vec!["GET".into()], ..FlowFilter::default() };
    let refused = scene.client.flows(&[wrong]).err().context("refused")?;
    ensure!(
        refused.code() == tonic::Code::InvalidArgument && refused.message().contains("http_method"),
        "{refused}"
    );

    let mode = fs::metadata(socket(&node))?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    let status = scene.client.status()?;
    ensure!(
        status.max_flows == 4_096 && status.num_flows == status.seen_flows && status.num_flows >= 5,
        "{status:?}"
    );
    ensure!(scene.client.namespaces()? == ["shop"]);
    let nodes = scene.client.nodes()?.nodes;
    ensure!(nodes.len() == 1 && nodes.iter().all(|it| it.name == "node"), "{nodes:?}");
    Ok(())
}

#[test]
fn a_flow_by_a_service_names_the_service() -> Result<()> {
    needs_root!();
    let node = Node::new(Settings::default().cluster())?;
    let mut scene = Scene::new(&node)?;
    let _server = scene.guarded.serve_tcp((scene.guarded.ipv4(), 8080))?;
    node.apply(
        "service.yaml",
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ namespace: shop, name: web }}\n\
             spec: {{ clusterIP: {SERVICE}, ports: [ {{ port: 80, targetPort: 8080 }} ] }}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{ namespace: shop, name: web-1, labels: {{ kubernetes.io/service-name: web }} }}\n\
             ports: [ {{ port: 8080 }} ]\nendpoints: [ {{ addresses: [ {} ] }} ]\n",
            scene.guarded.ipv4()
        ),
    )?;
    let _connection = scene.friend.connect((SERVICE, 80))?;
    let of_service = FlowFilter { destination_service: vec!["shop/web".into()], ..FlowFilter::default() };
    let flow = scene.flow(&of_service, |_| true)?;
    let ip = flow.ip.clone().context("addresses")?;
    ensure!(ip.destination == scene.guarded.ipv4().to_string(), "{flow:#?}");
    Ok(())
}

/// Sends a datagram to each of so many ports: each is a flow.
fn spray(pod: &Pod<'_>, to: Ipv4Addr, ports: std::ops::Range<u16>) -> Result<()> {
    let socket = pod.netns().inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    for port in ports {
        let sent = Instant::now();
        // What comes back is of no interest, an error of the datagram before least of all.
        let _ = socket.send_to(b"x", (to, port));
        // 1,000 in a second: fewer than the programs tell.
        while sent.elapsed() < Duration::from_millis(1) {
            std::hint::spin_loop();
        }
    }
    Ok(())
}

#[test]
fn a_follower_that_does_not_read_misses_flows_and_delays_nobody() -> Result<()> {
    needs_root!();
    let node = Node::new(Settings::default().cluster().flag("--hubble-flows=64"))?;
    let mut scene = Scene::new(&node)?;
    let mut slow = HubbleClient::connect(&socket(&node))?;
    let mut slow_follows = slow.follow(GetFlowsRequest::default())?;
    let mut quick_follows = scene.client.follow(GetFlowsRequest::default())?;
    let (from, to) = (&scene.friend, scene.guarded.ipv4());
    let mut ports = BTreeSet::new();
    // In portions that the ring has room for.
    for first in (2_000..4_000).step_by(40) {
        spray(from, to, first..first + 40)?;
        while ports.len() < usize::from(first + 40 - 2_000) {
            let answer = scene.client.next(&mut quick_follows, PATIENCE);
            let answer = answer.with_context(|| format!("after {} flows: {}", ports.len(), node.log()))?;
            let flow = flow_of(answer).context("nothing is lost to who reads")?;
            if let Some(Protocol::Udp(it)) = flow.l4.and_then(|it| it.protocol) {
                ports.insert(it.destination_port);
            }
        }
    }
    // It is told how many it has missed, and gets the last ones.
    let (mut got, mut lost) = (0, 0);
    while got + lost < 2_000 {
        let answer = slow.next(&mut slow_follows, PATIENCE);
        let answer = answer.with_context(|| format!("got {got}, lost {lost}: {}", node.log()))?;
        match answer.response_types {
            Some(ResponseTypes::Flow(_)) => got += 1,
            Some(ResponseTypes::LostEvents(it)) => lost += it.num_events_lost,
            _ => {}
        }
    }
    ensure!(lost > 0 && got >= 64, "got {got}, lost {lost}");
    // Nor does it keep the daemon from its end.
    let began = Instant::now();
    node.stop_daemon()?;
    ensure!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    ensure!(!socket(&node).exists(), "the socket's file is still there");
    Ok(())
}

#[test]
fn after_a_restart_clients_connect_again_and_see_what_comes() -> Result<()> {
    needs_root!();
    let node = Node::new(Settings::default().cluster())?;
    let mut scene = Scene::new(&node)?;
    hold(denied(&scene.friend, &scene.closed, tcp(80)))?;
    scene.flow(&to("closed", 80), |_| true)?;
    let mut follows = scene.client.follow(GetFlowsRequest::default())?;
    node.kill_daemon();
    // The stream ends, so that who follows learns of it.
    while scene.client.next(&mut follows, PATIENCE).is_some() {}
    start(&node, &[])?;
    scene.client = HubbleClient::connect(&socket(&node))?;
    ensure!(scene.client.flows(&[to("guarded", 81)])?.is_empty(), "flows are not kept over a restart");
    hold(denied(&scene.friend, &scene.guarded, tcp(81)))?;
    scene.flow(&to("guarded", 81), |_| true)?;
    Ok(())
}

const NODES: &str = "\
apiVersion: v1
kind: Node
metadata: { name: node }
status: { addresses: [ { type: InternalIP, address: 192.0.2.7 } ] }
---
apiVersion: v1
kind: Node
metadata: { name: other.example }
status: { addresses: [ { type: InternalIP, address: 192.0.2.8 } ] }
";
const SERVER: &str = "node.default.hubble-grpc.cilium.io";

#[test]
fn beyond_the_node_only_a_certificate_of_the_authority_lets_a_client_in() -> Result<()> {
    needs_root!();
    let node = Node::new(Settings::default().cluster())?;
    let (authority, stranger) = (Authority::new()?, Authority::new()?);
    let file = |name: &str| node.folder().join(name);
    let (certificate, key) = authority.sign(SERVER)?.write(file("tls.crt"), file("tls.key"))?;
    let authorities = authority.write(file("ca.crt"))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 4_244));
    node.start_daemon_with(&[
        &format!("--hubble-listen={address}"),
        &format!("--hubble-tls-certificate={}", certificate.display()),
        &format!("--hubble-tls-key={}", key.display()),
        &format!("--hubble-tls-client-ca={}", authorities.display()),
    ])?;
    node.apply("nodes.yaml", NODES)?;
    let connect = |identity: Option<&Identity>| {
        HubbleClient::connect_tls(&node, address, SERVER, authority.client(identity)?)
    };
    let invited = authority.sign("relay")?;
    let mut client = connect(Some(&invited))?;
    ensure!(client.status()?.max_flows == 4_096);
    let told = client.peers(2)?;
    let peer =
        |name: &str, address: &str, server: &str| (name.to_owned(), address.to_owned(), server.to_owned());
    let expected = [
        peer("node", "192.0.2.7:4244", SERVER),
        peer("other.example", "192.0.2.8:4244", "other-example.default.hubble-grpc.cilium.io"),
    ];
    ensure!(told == expected, "{told:?}");

    // With TLS 1.3 a client learns that it is not let in when it reads.
    let is_let_in = |identity: Option<&Identity>| connect(identity).is_ok_and(|mut it| it.status().is_ok());
    ensure!(is_let_in(Some(&invited)));
    ensure!(!is_let_in(None) && !is_let_in(Some(&stranger.sign("relay")?)));
    // Who says nothing keeps nobody out.
    let silent = node
        .netns()
        .inside(|| (0..20).map(|_| TcpStream::connect(address)).collect::<Result<Vec<_>, _>>())?;
    ensure!(is_let_in(Some(&invited)));
    drop(silent);

    // Renewed files are used without a restart.
    ensure!(client.status().is_ok());
    let renewed = Authority::new()?;
    renewed.sign(SERVER)?.write(certificate, key)?;
    renewed.write(authorities)?;
    let invited = renewed.sign("relay")?;
    let is_renewed = || {
        let config = renewed.client(Some(&invited));
        let client = config.and_then(|it| HubbleClient::connect_tls(&node, address, SERVER, it));
        client.is_ok_and(|mut it| it.status().is_ok())
    };
    ensure!(eventually(PATIENCE, is_renewed), "{}", node.log());
    Ok(())
}

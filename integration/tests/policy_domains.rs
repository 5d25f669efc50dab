//! Policies by DNS names: what a pod was told is open to it at once, to nobody else, and stays so while no daemon runs.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    dns_message::{A, AAAA},
    needs_root,
    testbed::{
        DnsAnswer, FAR4, Machine, NEIGHBOUR4, NEIGHBOUR6, NODE4, Node, Pod, Settings, TcpEcho, UdpEcho,
        eventually,
    },
};

const PATIENCE: Duration = Duration::from_secs(20);
/// A connection that is allowed comes about sooner.
const WHILE: Duration = Duration::from_millis(400);
const PORT: u16 = 8080;
/// By each resolver.
const LOOK_UPS: u16 = 2000;
const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The policy as the article has it that Cambric was made from.
const ARTICLE: &str = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: restricted }
spec:
  selector: app == 'restricted'
  egress:
  - { action: Allow, protocol: UDP, destination: { domains: ['*.internal.cluster'] } }
  - { action: Deny, destination: {} }
";

/// Everything but the DNS is by name.
const BY_NAME: &str = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: by-name }
spec:
  selector: app == 'by-name'
  types: [Egress]
  egress:
  - { action: Allow, protocol: UDP, destination: { ports: [53] } }
  - { action: Allow, protocol: TCP, destination: { ports: [53] } }
  - { action: Allow, destination: { domains: ['*.example.com', example.com] } }
";

fn cluster_dns(resolver: &Pod<'_>) -> String {
    format!(
        "\
apiVersion: v1
kind: Service
metadata: {{ name: kube-dns, namespace: kube-system }}
spec:
  clusterIP: {CLUSTER_DNS}
  ports:
  - {{ name: dns, port: 53, protocol: UDP, targetPort: 5353 }}
  - {{ name: dns-tcp, port: 53, protocol: TCP, targetPort: 5353 }}
  - {{ name: metrics, port: 9153, protocol: TCP }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: kube-dns-1, namespace: kube-system, labels: {{ kubernetes.io/service-name: kube-dns }} }}
addressType: IPv4
ports:
- {{ name: dns, port: 5353, protocol: UDP }}
- {{ name: dns-tcp, port: 5353, protocol: TCP }}
- {{ name: metrics, port: 9153, protocol: TCP }}
endpoints: [ {{ addresses: [{}], nodeName: node, conditions: {{ ready: true }} }} ]
",
        resolver.ipv4()
    )
}

/// Whether a connection comes about.
fn connects(from: &impl Machine, to: impl Into<IpAddr>) -> Result<bool> {
    let to = SocketAddr::new(to.into(), PORT);
    match from.netns().inside(|| TcpStream::connect_timeout(&to, WHILE)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(false),
        Err(error) => Err(error).with_context(|| format!("connect to {to}")),
    }
}

/// Servers of the neighbour at its own addresses and at 198.18.0.0/16.
fn serve(node: &Node) -> Result<(Vec<TcpEcho>, Vec<UdpEcho>)> {
    let neighbour = &node.neighbour;
    neighbour.netns().ip("route add local 198.18.0.0/16 dev lo")?;
    node.netns().ip(&format!("route add 198.18.0.0/16 via {NEIGHBOUR4}"))?;
    let tcp = [IpAddr::from(Ipv4Addr::UNSPECIFIED), NEIGHBOUR6.into()];
    let tcp = tcp.map(|ip| neighbour.serve_tcp((ip, PORT))).into_iter().collect::<Result<_>>()?;
    let udp = [IpAddr::from(NEIGHBOUR4), NEIGHBOUR6.into()];
    let udp = udp.map(|ip| neighbour.serve_udp((ip, PORT))).into_iter().collect::<Result<_>>()?;
    Ok((tcp, udp))
}

#[test]
fn the_articles_policy_works_as_it_stands() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let resolver = node.add_pod_of("kube-system/dns", &[])?;
    let server = resolver.serve_dns((Ipv4Addr::UNSPECIFIED, 5353))?;
    server.put_address("db.internal.cluster", NEIGHBOUR4.into());
    server.put_address("other.internal.cluster", FAR4.into());
    let _servers = serve(&node)?;
    node.apply("dns.yaml", &cluster_dns(&resolver))?;
    node.apply("policy.yaml", ARTICLE)?;
    let [pod, other] = ["shop/a", "shop/b"].map(|name| node.add_pod_of(name, &[("app", "restricted")]));
    let (pod, other) = (pod?, other?);

    ensure!(!pod.echoes_udp((NEIGHBOUR4, PORT), 100)?, "it has no name yet");
    let monitor = node.monitor(&["--verdict", "allow"])?;
    let mut client = pod.dns_client((CLUSTER_DNS, 53))?;
    client.look_up("DB.internal.cluster", A)?;
    ensure!(pod.echoes_udp((NEIGHBOUR4, PORT), 100)?, "a name of the policy");
    // The monitor may begin to listen after a flow has begun.
    let told = || {
        let _ = pod.echoes_udp((NEIGHBOUR4, PORT), 100);
        let events = monitor.events();
        events
            .iter()
            .any(|it| it["destination"]["others"].to_string().contains("DNS name db.internal.cluster"))
    };
    ensure!(eventually(PATIENCE, told), "{:#?}", monitor.events());
    ensure!(!connects(&pod, NEIGHBOUR4)?, "the policy allows UDP");
    ensure!(!pod.echoes_udp((FAR4, PORT), 100)?, "an address without a name");
    ensure!(!other.echoes_udp((NEIGHBOUR4, PORT), 100)?, "another pod has not asked");
    ensure!(client.look_up("secret.evil.net", A).is_err(), "it may ask about the names of its policy only");

    let told = node.ctl(&["dns", "list", "--pod", "shop/a"])?;
    ensure!(told[0]["name"] == "db.internal.cluster" && told[0]["in_policy"] == true, "{told}");
    let to = NEIGHBOUR4.to_string();
    let trace = node.ctl(&["policy", "trace", "--from", "shop/a", "--to", &to, "--port", "udp/8080"])?;
    ensure!(trace.to_string().contains("by the DNS name db.internal.cluster"), "{trace}");
    let trace = node.ctl(&["policy", "trace", "--from", "shop/b", "--to", &to, "--port", "udp/8080"])?;
    ensure!(trace.to_string().contains("*.internal.cluster"), "{trace}");

    // The daemon is gone: what was told stays, and more is told.
    node.kill_daemon();
    ensure!(pod.echoes_udp((NEIGHBOUR4, PORT), 100)?, "a name that was told before");
    let mut again = other.dns_client((CLUSTER_DNS, 53))?;
    again.look_up("db.internal.cluster", A)?;
    ensure!(other.echoes_udp((NEIGHBOUR4, PORT), 100)?, "a name that is told without a daemon");
    node.start_daemon()?;
    for pod in [&pod, &other] {
        ensure!(
            pod.echoes_udp((NEIGHBOUR4, PORT), 100)?,
            "a name that was told to a former daemon's programs"
        );
    }
    ensure!(!pod.echoes_udp((FAR4, PORT), 100)?, "an address without a name");

    // Whoever gets the interface's place or the address later was told nothing.
    pod.del()?;
    let next = node.add_pod_of("shop/c", &[("app", "restricted")])?;
    ensure!(!next.echoes_udp((NEIGHBOUR4, PORT), 100)?, "another pod was told");
    Ok(())
}

/// By a resolver on the network, whose answers are translated on their way, and by a pod; by UDP and by TCP.
#[test]
fn each_look_up_opens_its_address_before_the_client_connects() -> Result<()> {
    needs_root!();
    let flags = [format!("--dns-resolvers={NEIGHBOUR4}"), "--dns-resolvers=kube-system/kube-dns".to_owned()];
    let settings = flags.into_iter().fold(Settings::default().cluster(), Settings::flag);
    let node = Node::start_with(settings)?;
    let resolver = node.add_pod_of("kube-system/dns", &[])?;
    let servers =
        [node.neighbour.serve_dns((NEIGHBOUR4, 53))?, resolver.serve_dns((Ipv4Addr::UNSPECIFIED, 5353))?];
    let _servers = serve(&node)?;
    node.apply("dns.yaml", &cluster_dns(&resolver))?;
    node.apply("policy.yaml", BY_NAME)?;
    let pod = node.add_pod_of("shop/a", &[("app", "by-name")])?;
    let address = |at: u16| Ipv4Addr::from_bits(0xc612_0000 | u32::from(at));
    for at in 1..=LOOK_UPS {
        for (server, far) in servers.iter().zip(0..) {
            let to = address(at + far * 0x4000);
            server.put(
                &format!("n{at}.example.com"),
                DnsAnswer { aliases: vec!["edge.cdn.net".into()], addresses: vec![to.into()], ttl: 5 },
            );
        }
    }
    for (resolver, far) in [(IpAddr::from(NEIGHBOUR4), 0), (CLUSTER_DNS.into(), 1)] {
        let mut client = pod.dns_client((resolver, 53))?;
        let before = node.drops("policy_egress")?;
        for at in 1..=LOOK_UPS {
            client.look_up(&format!("n{at}.example.com"), A)?;
            let to = address(at + far * 0x4000);
            // The server may be slow to accept. What policy denies is counted.
            let passes = connects(&pod, to)? || node.drops("policy_egress")? == before;
            ensure!(
                passes,
                "{at}, {resolver}: {}",
                node.ctl(&["dns", "list", "--address", &to.to_string()])?
            );
        }
        ensure!(!connects(&pod, address(LOOK_UPS + 1 + far * 0x4000))?, "an address without a name");
        let before = node.drops("policy_egress")?;
        for at in 0x1001..0x1011 {
            let name = format!("t{at}.example.com");
            let to = address(at + far * 0x4000);
            servers[usize::from(far)].put_address(&name, to.into());
            pod.look_up_by_tcp((resolver, 53), &name, A)?;
            let passes = connects(&pod, to)? || node.drops("policy_egress")? == before;
            ensure!(passes, "by TCP, {resolver}");
        }
    }
    // The other family, by the same resolver.
    servers[0].put_address("six.example.com", NEIGHBOUR6.into());
    ensure!(!connects(&pod, NEIGHBOUR6)?, "it has no name yet");
    pod.dns_client((NEIGHBOUR4, 53))?.look_up("six.example.com", AAAA)?;
    ensure!(connects(&pod, NEIGHBOUR6)?, "an IPv6 address by an IPv4 resolver");
    Ok(())
}

#[test]
fn answers_of_others_open_nothing() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let server = node.neighbour.serve_dns((NEIGHBOUR4, 53))?;
    server.put_address("www.example.com", NEIGHBOUR4.into());
    let _servers = serve(&node)?;
    node.apply("policy.yaml", BY_NAME)?;
    let pod = node.add_pod_of("shop/a", &[("app", "by-name")])?;
    pod.dns_client((NEIGHBOUR4, 53))?.look_up("www.example.com", A)?;
    ensure!(!connects(&pod, NEIGHBOUR4)?, "the neighbour is no resolver");
    ensure!(node.ctl(&["dns", "list"])?.as_array().is_some_and(Vec::is_empty), "nothing was learnt");
    // Once it is one, the next answer counts.
    node.stop_daemon()?;
    node.start_daemon_with(&[&format!("--dns-resolvers={NEIGHBOUR4}")])?;
    pod.dns_client((NEIGHBOUR4, 53))?.look_up("www.example.com", A)?;
    ensure!(connects(&pod, NEIGHBOUR4)?, "the neighbour is a resolver");
    ensure!(!connects(&pod, NODE4)?, "an address without a name");
    Ok(())
}

/// A policy that comes later uses what was told before, and a policy that goes takes it back from live connections, too.
#[test]
fn names_that_were_told_before_a_policy_count_for_it() -> Result<()> {
    needs_root!();
    let node = Node::start_with(Settings::default().cluster().flag(format!("--dns-resolvers={NEIGHBOUR4}")))?;
    let server = node.neighbour.serve_dns((NEIGHBOUR4, 53))?;
    server.put_address("www.example.com", NEIGHBOUR4.into());
    server.put_address("www.example.net", Ipv4Addr::new(198, 18, 0, 1).into());
    let _servers = serve(&node)?;
    let pod = node.add_pod_of("shop/a", &[("app", "by-name")])?;
    let mut client = pod.dns_client((NEIGHBOUR4, 53))?;
    client.look_up("www.example.com", A)?;
    client.look_up("www.example.net", A)?;
    ensure!(connects(&pod, NEIGHBOUR4)? && connects(&pod, FAR4).is_ok(), "there is no policy yet");
    node.apply("policy.yaml", BY_NAME)?;
    let net: Ipv4Addr = [198, 18, 0, 1].into();
    ensure!(connects(&pod, NEIGHBOUR4)?, "a name that was told before");
    ensure!(!connects(&pod, net)?, "a name of no policy");
    node.apply("policy.yaml", &BY_NAME.replace("'*.example.com', example.com", "'*.example.net'"))?;
    ensure!(connects(&pod, net)?, "a name that was told before");
    ensure!(!connects(&pod, NEIGHBOUR4)?, "a name of no policy any more");
    node.apply("policy.yaml", &BY_NAME.replace("'*.example.com', example.com", "'*.example.com', '*.net'"))?;
    let both = || connects(&pod, net).is_ok_and(|it| it) && connects(&pod, NEIGHBOUR4).is_ok_and(|it| it);
    ensure!(eventually(PATIENCE, both), "{}", node.ctl(&["dns", "list"])?);
    Ok(())
}

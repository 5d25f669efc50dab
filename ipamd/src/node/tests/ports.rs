//! The node's ports that lead to containers, and the cookies of their namespaces.

use ipamd_api::{PortMapping, port_mapping::MAX_PORT_MAPPINGS, wire::Pod};

use ipamd_model::services::HostPort;

use super::*;

fn mapping(host_ip: &str, host_port: u16) -> PortMapping {
    let host_ip = (!host_ip.is_empty()).then(|| host_ip.parse().unwrap());
    PortMapping { host_ip, host_port, container_port: 80, protocol: 6 }
}

fn asking(id: &str, port_mappings: &[PortMapping]) -> Reserve {
    Reserve { port_mappings: port_mappings.to_vec(), ..request(id) }
}

impl Bench {
    async fn add_with_ports(&self, id: &str, port_mappings: &[PortMapping]) {
        self.node().reserve(&asking(id, port_mappings)).unwrap();
        let commit = Commit { key: key(id), host_ifindex: self.link(id), netns_cookie: None };
        self.node().commit(&commit).await.unwrap();
    }

    fn held(&self) -> Vec<String> {
        self.node().host_ports().iter().map(|port| format!("{} {}", port.key, port.mapping)).collect()
    }
}

#[tokio::test]
async fn a_port_leads_to_its_container_from_the_commit_to_the_release() {
    let bench = Bench::new();
    let pod = Pod { namespace: "shop".into(), name: "web".into(), uid: String::new() };
    let ports = [mapping("", 8080), mapping("10.9.9.9", 81)];
    let reservation =
        bench.node().reserve(&Reserve { pod: Some(pod.clone()), ..asking("a", &ports) }).unwrap();
    assert_eq!(reservation.port_mappings, ports);
    assert_eq!(bench.node().host_ports(), [], "the ADD is under way");

    let commit = Commit { key: key("a"), host_ifindex: bench.link("a"), netns_cookie: None };
    bench.node().commit(&commit).await.unwrap();
    let backends = ["10.0.0.2", "fd00::2"].map(|ip| ip.parse().unwrap()).to_vec();
    let held = ports.map(|mapping| HostPort {
        key: key("a"),
        pod: Some(pod.clone()),
        mapping,
        backends: backends.clone(),
    });
    assert_eq!(bench.node().host_ports(), held);
    assert_eq!(bench.node().endpoints()[0].port_mappings, ports);
    assert_eq!(bench.node().check(&key("a")).reservation.unwrap().port_mappings, ports);

    bench.node().release(&key("a")).await.unwrap();
    assert_eq!(bench.node().host_ports(), []);
}

#[tokio::test]
async fn a_taken_port_is_refused_with_its_holder_until_that_is_gone() {
    let bench = Bench::new();
    let pod = Some(Pod { namespace: "shop".into(), name: "web".into(), uid: String::new() });
    bench.node().reserve(&Reserve { pod, ..asking("a", &[mapping("", 8080)]) }).unwrap();
    for taken in ["", "0.0.0.0", "::", "10.9.9.9"] {
        let refused = bench.node().reserve(&asking("bb", &[mapping("", 1), mapping(taken, 8080)]));
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::PortInUse);
        assert_eq!(
            refused.message,
            format!(
                "the node's port {} cannot lead to net/bb/eth0: 8080/tcp leads to the pod shop/web (net/a/eth0)",
                mapping(taken, 8080).host_side()
            )
        );
    }
    assert_eq!(bench.node().endpoints().len(), 1, "what is refused holds nothing");
    let udp = PortMapping { protocol: 17, ..mapping("", 8080) };
    bench.node().reserve(&asking("bb", &[udp, mapping("", 8081)])).unwrap();
    bench.node().release(&key("bb")).await.unwrap();
    assert_eq!(bench.node().collect("net", &[]).await, Ok(1));
    bench.add_with_ports("bb", &[mapping("", 8080)]).await;
    assert_eq!(bench.held(), ["net/bb/eth0 8080/tcp to 80"]);
}

#[tokio::test]
async fn addresses_of_a_port_can_lead_apart() {
    let bench = Bench::new();
    bench.add_with_ports("a", &[mapping("10.9.9.9", 80), mapping("::", 80)]).await;
    bench.add_with_ports("bb", &[mapping("10.9.9.8", 80)]).await;
    let refused = bench.node().reserve(&asking("ccc", &[mapping("0.0.0.0", 80)]));
    assert!(refused.unwrap_err().message.contains("10.9.9.9:80/tcp leads to net/a/eth0"));
    let all = [
        "net/a/eth0 10.9.9.9:80/tcp to 80",
        "net/a/eth0 [::]:80/tcp to 80",
        "net/bb/eth0 10.9.9.8:80/tcp to 80",
    ];
    assert_eq!(bench.held(), all);
}

#[tokio::test]
async fn the_same_add_again_asks_for_the_same_ports() {
    let bench = Bench::new();
    let (one, two) = (mapping("", 1), mapping("", 2));
    bench.add_with_ports("a", &[one, two]).await;
    assert!(bench.node().reserve(&asking("a", &[two, one])).unwrap().committed);
    for other in [vec![], vec![one], vec![one, mapping("", 3)], vec![one, two, mapping("", 3)]] {
        let refused = bench.node().reserve(&asking("a", &other)).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Exists);
        assert!(refused.message.contains("the port mappings 1/tcp to 80, 2/tcp to 80;"), "{refused}");
    }
    let renewed = Reserve { netns_id: NetnsId { dev: 4, ino: 999 }, ..asking("a", &[one]) };
    assert_eq!(kind(bench.node().reserve(&renewed)), ErrorKind::Exists, "while the old one stands");
    // With a namespace go the interfaces in it.
    bench.kernel.lock().links.clear();
    assert_eq!(bench.node().reserve(&renewed).unwrap().port_mappings, [one], "of a new container");
}

#[test]
fn mappings_that_cannot_stand_are_refused() {
    let bench = Bench::new();
    let many = (1..).map(|port| mapping("", port)).take(MAX_PORT_MAPPINGS + 1).collect::<Vec<_>>();
    for (mappings, named) in [
        (vec![mapping("", 0)], "0/tcp to 80 has a port 0"),
        (vec![PortMapping { protocol: 1, ..mapping("", 8) }], "8/1 to 80 is of no protocol"),
        (vec![mapping("", 8), mapping("::", 8)], "8/tcp to 80 and [::]:8/tcp to 80 overlap"),
        (many.clone(), "port_mappings has 257 entries"),
    ] {
        let refused = bench.node().reserve(&asking("a", &mappings)).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::InvalidRequest);
        assert!(refused.message.contains(named), "{refused}");
    }
    bench.node().reserve(&asking("a", &many[1..])).unwrap();
}

#[tokio::test]
async fn a_container_that_was_left_behind_gives_its_port_up() {
    let bench = Bench::new();
    bench.add_with_ports("a", &[mapping("", 8080)]).await;
    bench.kernel.lock().links.clear();
    let wanted = asking("bb", &[mapping("", 8080)]);
    assert_eq!(kind(bench.node().reserve(&wanted)), ErrorKind::PortInUse, "its ADD is not long ago");
    for record in bench.node().state().records.values_mut() {
        record.touched = record.touched.before(leaks::GRACE);
    }
    assert_eq!(kind(bench.node().reserve(&wanted)), ErrorKind::PortInUse, "its namespace is there");
    bench.kernel.lock().netns.clear();
    bench.node().reserve(&wanted).unwrap();
    assert_eq!(bench.node().endpoints().iter().map(|it| it.key.clone()).collect::<Vec<_>>(), [key("bb")]);
}

#[tokio::test]
async fn a_restarted_daemon_knows_ports_and_namespaces() {
    let mut bench = Bench::new();
    bench.add_with_ports("a", &[mapping("", 8080)]).await;
    bench.node().reserve(&asking("bb", &[mapping("", 8081)])).unwrap();
    assert_eq!(bench.node().namespaces(), [] as [u64; 0]);
    for _ in 0..2 {
        bench.restart();
        assert_eq!(bench.held(), ["net/a/eth0 8080/tcp to 80"]);
        for port in [8080, 8081] {
            assert_eq!(
                kind(bench.node().reserve(&asking("ccc", &[mapping("", port)]))),
                ErrorKind::PortInUse
            );
        }
        // As if its record were of a release that kept none; the second time it is stored.
        bench.node().find_namespaces();
        assert_eq!(bench.node().namespaces(), [request("a").netns_id.ino + 1]);
        bench.kernel.lock().netns.clear();
    }
}

#[tokio::test]
async fn a_port_that_a_process_of_the_node_listens_at_is_refused() {
    use ipamd_kernel::netlink::{Listener, Protocol};

    let listening = |at: &str, protocol| vec![Listener { at: at.parse().unwrap(), protocol }];
    for (listener, host_ip, refused) in [
        ("0.0.0.0:22", "", true),
        ("[::]:22", "", true),
        ("[::]:22", "0.0.0.0", true),
        ("0.0.0.0:22", "::", false),
        ("0.0.0.0:22", "10.9.9.9", true),
        ("[::]:22", "10.9.9.9", true),
        ("0.0.0.0:22", "fd00::9", false),
        ("10.9.9.9:22", "10.9.9.9", true),
        ("10.9.9.8:22", "10.9.9.9", false),
        ("10.9.9.8:22", "", true),
        ("127.0.0.1:22", "", true),
        ("127.0.0.53:22", "", false),
        ("[::1]:22", "0.0.0.0", false),
        ("127.0.0.1:22", "127.0.0.1", true),
        ("0.0.0.0:23", "", false),
    ] {
        let bench = Bench::new();
        bench.kernel.lock().listeners = listening(listener, Protocol::Tcp);
        let answer = bench.node().reserve(&asking("a", &[mapping(host_ip, 22)]));
        assert_eq!(answer.is_err(), refused, "{host_ip:?} where {listener} is listened at: {answer:?}");
        if let Err(error) = answer {
            assert_eq!(error.kind, ErrorKind::PortInUse);
            assert!(error.message.contains(&format!("listens at {listener}")), "{}", error.message);
        }
        let udp = PortMapping { protocol: 17, ..mapping(host_ip, 22) };
        assert!(bench.node().reserve(&asking("b", &[udp])).is_ok(), "another protocol");
    }
    // Who has it already is asked nothing: the process came later.
    let bench = Bench::new();
    bench.add_with_ports("a", &[mapping("", 22)]).await;
    bench.kernel.lock().listeners = listening("0.0.0.0:22", Protocol::Tcp);
    assert!(bench.node().reserve(&asking("a", &[mapping("", 22)])).is_ok());
}

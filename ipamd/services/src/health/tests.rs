use std::net::Ipv4Addr;

use ipamd_waiting::eventually_async;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::*;

/// What anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Ports that nobody has.
fn free<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| std::net::TcpListener::bind("0.0.0.0:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

fn check(name: &str, local_endpoints: usize) -> HealthCheck {
    HealthCheck { namespace: "shop".into(), name: name.into(), local_endpoints }
}

fn everywhere() -> HealthPorts {
    HealthPorts::new(&Handle::current(), None)
}

/// All that comes back, once the port answers.
async fn ask(place: impl Into<SocketAddr>, request: &str) -> String {
    let place = place.into();
    let mut connected = None;
    let answers = eventually_async(PATIENCE, async || {
        connected = TcpStream::connect(place).await.ok();
        connected.is_some()
    });
    assert!(answers.await);
    let mut stream = connected.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}

async fn get(port: u16) -> String {
    ask((LOOPBACK, port), "GET / HTTP/1.1\r\nHost: n\r\n\r\n").await
}

async fn is_refused(place: impl Into<SocketAddr>) {
    let place = place.into();
    assert!(eventually_async(PATIENCE, async || TcpStream::connect(place).await.is_err()).await);
}

#[tokio::test]
async fn the_answer_is_kube_proxys() {
    let [with, without] = free();
    let ports = everywhere();
    ports.set([(with, check("web", 2)), (without, check("db", 0))].into());

    let answer = get(with).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_lowercase();
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    for header in [
        "content-type: application/json",
        "x-content-type-options: nosniff",
        "x-load-balancing-endpoint-weight: 2",
        "connection: close",
    ] {
        assert!(head.lines().any(|line| line == header), "{header} in {head}");
    }
    assert_eq!(
        body,
        r#"{"service":{"namespace":"shop","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}"#
    );

    let answer = get(without).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 503 service unavailable\r\n"), "{answer}");
    assert!(answer.contains("\r\nx-load-balancing-endpoint-weight: 0\r\n"), "{answer}");
    assert!(answer.contains(r#""localendpoints":0,"#), "{answer}");
}

#[tokio::test]
async fn every_path_and_method_is_answered() {
    let [port] = free();
    let ports = everywhere();
    ports.set([(port, check("web", 1))].into());
    for request in [
        "GET /healthz?x=1 HTTP/1.1\r\nHost: n\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: n\r\nContent-Length: 2\r\n\r\nhi",
        "HEAD / HTTP/1.1\r\nHost: n\r\n\r\n",
    ] {
        let answer = ask((LOOPBACK, port), request).await;
        assert!(answer.contains(" 200 OK\r\n"), "{request}: {answer}");
        assert_eq!(answer.ends_with('}'), !request.starts_with("HEAD"), "{answer}");
    }
}

#[tokio::test]
async fn the_next_request_sees_a_change_even_on_a_connection_from_before() {
    let [port] = free();
    let ports = everywhere();
    ports.set([(port, check("web", 0))].into());
    assert!(get(port).await.contains(" 503 "));
    let mut before = TcpStream::connect((LOOPBACK, port)).await.unwrap();
    ports.set([(port, check("web", 3))].into());
    assert!(get(port).await.contains(r#""localEndpoints":3"#));
    ports.set([(port, check("shop", 1))].into());
    before.write_all(b"GET / HTTP/1.1\r\nHost: n\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    before.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(r#""name":"shop"},"localEndpoints":1"#), "{answer}");
}

#[tokio::test]
async fn ports_come_and_go() {
    let [first, second] = free();
    let ports = everywhere();
    ports.set([(first, check("web", 1))].into());
    assert!(get(first).await.contains(r#""name":"web""#));
    ports.set([(second, check("web", 1))].into());
    assert!(get(second).await.contains(r#""name":"web""#));
    is_refused((LOOPBACK, first)).await;
    for at in 0..20 {
        ports.set(BTreeMap::new());
        ports.set([(first, check("web", at)), (second, check("db", at))].into());
    }
    assert!(get(first).await.contains(r#""localEndpoints":19"#));
    assert!(get(second).await.contains(r#""name":"db""#));
    drop(ports);
    is_refused((LOOPBACK, first)).await;
    is_refused((LOOPBACK, second)).await;
}

#[tokio::test]
async fn a_port_of_another_program_is_taken_once_it_is_free_and_holds_up_no_other() {
    let other = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let taken = other.local_addr().unwrap().port();
    let [free] = free();
    let ports = everywhere();
    ports.set([(taken, check("web", 1)), (free, check("db", 1))].into());
    assert!(get(free).await.contains(r#""name":"db""#));
    assert!(eventually_async(PATIENCE, async || ports.problem(taken).is_some()).await);
    let said = ports.problem(taken).unwrap();
    assert!(said.starts_with(&format!("health checks are not answered at port {taken}: Address ")), "{said}");
    assert_eq!(ports.problem(free), None);
    drop(other);
    assert!(get(taken).await.contains(r#""name":"web""#));
    assert_eq!(ports.problem(taken), None);
}

#[tokio::test]
async fn a_port_that_is_given_up_while_another_program_has_it_is_no_problem_any_more() {
    let other = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let taken = other.local_addr().unwrap().port();
    let ports = everywhere();
    ports.set([(taken, check("web", 1))].into());
    assert!(eventually_async(PATIENCE, async || ports.problem(taken).is_some()).await);
    ports.set(BTreeMap::new());
    assert!(eventually_async(PATIENCE, async || ports.problem(taken).is_none()).await);
}

#[tokio::test]
async fn only_the_addresses_that_are_named_are_listened_on() {
    let [port] = free();
    let (first, second) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let ports = HealthPorts::new(&Handle::current(), Some([IpAddr::V4(first)].into()));
    ports.set([(port, check("web", 1))].into());
    let request = "GET / HTTP/1.0\r\n\r\n";
    assert!(ask((first, port), request).await.contains(" 200 OK"));
    is_refused((LOOPBACK, port)).await;
    ports.set_addresses(Some([IpAddr::V4(second)].into()));
    assert!(ask((second, port), request).await.contains(" 200 OK"));
    is_refused((first, port)).await;
    ports.set_addresses(None);
    assert!(ask((first, port), request).await.contains(" 200 OK"));
    assert!(get(port).await.contains(" 200 OK"));
}

#[tokio::test]
async fn both_families_are_listened_on() {
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return;
    }
    let [port] = free();
    let ports = everywhere();
    ports.set([(port, check("web", 1))].into());
    assert!(get(port).await.contains(" 200 OK"));
    assert!(ask((Ipv6Addr::LOCALHOST, port), "GET / HTTP/1.0\r\n\r\n").await.contains(" 200 OK"));
}

#[tokio::test]
async fn clients_that_dawdle_give_way_to_those_that_ask() {
    let [port] = free();
    let ports = everywhere();
    ports.set([(port, check("web", 1))].into());
    assert!(get(port).await.contains(" 200 OK"));
    let mut idle = Vec::new();
    for _ in 0..LIMITS.connections * 2 {
        let mut stream = TcpStream::connect((LOOPBACK, port)).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
        idle.push(stream);
    }
    assert!(timeout(LIMITS.stay / 2, get(port)).await.unwrap().contains(" 200 OK"));
    let ended = timeout(LIMITS.stay / 2, idle[0].read(&mut [0])).await;
    assert!(matches!(ended.unwrap(), Ok(0) | Err(_)));
    // The last of them may stay its time, and no longer.
    let last = idle.last_mut().unwrap();
    assert!(timeout(LIMITS.stay / 10, last.read(&mut [0])).await.is_err());
    assert!(matches!(timeout(PATIENCE, last.read(&mut [0])).await.unwrap(), Ok(0) | Err(_)));
}

#[tokio::test]
async fn nonsense_is_survived() {
    let [port] = free();
    let ports = everywhere();
    ports.set([(port, check("web", 1))].into());
    assert!(get(port).await.contains(" 200 OK"));
    let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(100_000));
    for nonsense in
        [&b"\x16\x03\x01\x02\0\x01\0\x01\xfc"[..], b"\r\n\r\n\r\n", b"GET", b"\0", long.as_bytes()]
    {
        let mut stream = TcpStream::connect((LOOPBACK, port)).await.unwrap();
        // It may be told so before it is done.
        let _ = stream.write_all(nonsense).await;
        let _ = stream.shutdown().await;
        let _ = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.unwrap();
        assert!(get(port).await.contains(" 200 OK"));
    }
}

#[test]
fn it_is_set_from_threads_that_are_not_the_runtimes() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ports = HealthPorts::new(runtime.handle(), None);
    let [port] = free();
    std::thread::scope(|scope| {
        scope.spawn(|| ports.set([(port, check("web", 4))].into()));
    });
    assert!(runtime.block_on(get(port)).contains(r#""localEndpoints":4"#));
}

//! What is said of policies: who may speak with whom and why, what happened, what would change.

use std::{fs, net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{
        Addressed, FAR4, Flowing, Listeners, Machine, Marked, NEIGHBOUR4, Node, Pod, Service, allowed, cases,
        denied, eventually, hold, tcp, udp,
    },
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: guard }
spec:
  podSelector: { matchLabels: { app: guarded } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: nobody } } } ]
  - from: [ { podSelector: { matchLabels: { app: friend } } } ]
    ports: [ { port: 80 } ]
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: { name: security }
spec: { order: 10 }
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: security.out }
spec:
  tier: security
  selector: app == 'stranger'
  types: [Egress]
  egress:
  - { action: Log, protocol: UDP }
  - { action: Deny, protocol: UDP }
  - { action: Deny, destination: { nets: [198.51.100.0/24] } }
  - { action: Pass }
";

struct Scene<'n> {
    node: &'n Node,
    guarded: Pod<'n>,
    friend: Pod<'n>,
    stranger: Pod<'n>,
    _listeners: Vec<Listeners>,
}

const SERVICES: [Service; 3] = [tcp(80), tcp(81), udp(80)];

impl<'n> Scene<'n> {
    fn new(node: &'n Node) -> Result<Self> {
        let [guarded, friend, stranger] = ["guarded", "friend", "stranger"]
            .map(|app| node.add_pod_of(&format!("shop/{app}"), &[("app", app)]));
        let (guarded, friend, stranger) = (guarded?, friend?, stranger?);
        let mut listeners = [&guarded, &friend, &stranger]
            .map(|pod| pod.serve(pod.addresses(), &SERVICES))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        listeners.push(node.neighbour.serve(&[FAR4.into(), NEIGHBOUR4.into()], &SERVICES)?);
        node.apply("policies.yaml", POLICIES)?;
        Ok(Self { node, guarded, friend, stranger, _listeners: listeners })
    }

    fn trace(&self, from: &str, to: &str, service: Service) -> Result<Value> {
        self.node.ctl(&["policy", "trace", "--from", from, "--to", to, "--port", &service.to_string()])
    }
}

fn is_allowed(trace: &Value) -> Result<bool> {
    match trace["verdict"].as_str() {
        Some("allow") => Ok(true),
        Some("deny") => Ok(false),
        _ => anyhow::bail!("no verdict: {trace:#}"),
    }
}

#[test]
fn a_trace_agrees_with_what_happens_and_names_the_rule() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let scene = Scene::new(&node)?;
    let pods = [
        ("shop/guarded", &scene.guarded),
        ("shop/friend", &scene.friend),
        ("shop/stranger", &scene.stranger),
    ];
    let mut table = Vec::new();
    for (from_name, from) in pods {
        for (to_name, to) in pods.into_iter().filter(|(name, _)| *name != from_name) {
            for service in SERVICES {
                let by_name = is_allowed(&scene.trace(from_name, to_name, service)?)?;
                for address in to.known_by() {
                    let by_address =
                        scene.trace(&from.known_by()[0].to_string(), &address.to_string(), service);
                    // A flow is of one family.
                    if address.is_ipv4() == from.known_by()[0].is_ipv4() {
                        ensure!(is_allowed(&by_address?)? == by_name, "{from_name} {to_name} {service}");
                    }
                }
                table.extend(cases(from, to, service, by_name));
            }
        }
    }
    hold(table)?;
    for to in [FAR4, NEIGHBOUR4] {
        for service in SERVICES {
            for (name, pod) in pods {
                let expected = is_allowed(&scene.trace(name, &to.to_string(), service)?)?;
                hold([integration::testbed::case(pod, IpAddr::from(to), service, expected, "outside")])?;
            }
        }
    }
    for (from, to, service, verdict, words) in [
        ("shop/friend", "shop/guarded", tcp(80), "allow", &["guard", "1"][..]),
        ("shop/friend", "shop/guarded", tcp(81), "deny", &["guard"]),
        ("shop/stranger", "shop/guarded", udp(80), "deny", &["security.out", "1"]),
        ("shop/stranger", &FAR4.to_string(), tcp(80), "deny", &["security.out", "2"]),
        (&NEIGHBOUR4.to_string(), "shop/guarded", tcp(80), "deny", &["guard"]),
    ] {
        let said = scene.trace(from, to, service)?;
        ensure!(said["verdict"] == verdict, "{from} {to} {service}: {said:#}");
        let text = said.to_string();
        ensure!(words.iter().all(|word| text.contains(word)), "{from} {to} {service}: {words:?} in {said:#}");
        let people = node.ctl_output(&[
            "policy",
            "trace",
            "--from",
            from,
            "--to",
            to,
            "--port",
            &service.to_string(),
        ])?;
        let people = String::from_utf8_lossy(&people.stdout).into_owned();
        ensure!(
            words.iter().all(|word| people.contains(word)),
            "{from} {to} {service}: {words:?} in {people}"
        );
    }
    Ok(())
}

fn text(event: &Value) -> String {
    event.to_string()
}

#[test]
fn the_monitor_tells_of_flows_ends_drops_and_logs() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let scene = Scene::new(&node)?;
    let monitor = node.monitor(&[])?;
    // It has begun once it tells of anything.
    ensure!(
        eventually(PATIENCE, || {
            let _ = hold(allowed(&scene.friend, &scene.stranger, tcp(80)));
            !monitor.events().is_empty()
        }),
        "nothing is told"
    );
    hold(allowed(&scene.friend, &scene.guarded, tcp(80)))?;
    let between = |event: &Value, kind: &str, from: &str, to: &str| {
        event["kind"] == kind
            && text(&event["source"]).contains(from)
            && text(&event["destination"]).contains(to)
    };
    let flow = monitor.tells("the flow", |event| between(event, "flow", "friend", "guarded"))?;
    ensure!(flow["destination"]["port"] == 80 && flow["protocol"] == "tcp", "{flow:#}");
    monitor.tells("its end", |event| between(event, "end", "friend", "guarded"))?;
    hold(denied(&scene.stranger, &scene.guarded, tcp(81)))?;
    let drop = monitor.tells("the drop", |event| between(event, "drop", "stranger", "guarded"))?;
    ensure!(drop["reason"] == "policy_ingress", "{drop:#}");
    ensure!(text(&drop["rule"]).contains("guard"), "{drop:#}");
    hold(denied(&scene.stranger, &scene.friend, udp(80)))?;
    let log = monitor.tells("the log", |event| between(event, "log", "stranger", "friend"))?;
    ensure!(text(&log).contains("security.out"), "{log:#}");
    let drop =
        monitor.tells("the drop of what it sends", |event| between(event, "drop", "stranger", "friend"))?;
    ensure!(drop["reason"] == "policy_egress" && text(&drop["rule"]).contains("security.out"), "{drop:#}");
    Ok(())
}

#[test]
fn the_monitor_shows_what_is_asked_for_only() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let scene = Scene::new(&node)?;
    let drops = node.monitor(&["--verdict", "deny"])?;
    let friends = node.monitor(&["--pod", "shop/friend"])?;
    ensure!(
        eventually(PATIENCE, || {
            let _ = hold(allowed(&scene.friend, &scene.guarded, tcp(80)));
            let _ = hold(denied(&scene.stranger, &scene.guarded, tcp(81)));
            !drops.events().is_empty() && !friends.events().is_empty()
        }),
        "nothing is told: {:?} {:?}",
        drops.events(),
        friends.events()
    );
    for event in drops.events() {
        ensure!(event["kind"] == "drop", "{event:#}");
    }
    for event in friends.events() {
        ensure!(text(&event).contains("friend"), "{event:#}");
    }
    Ok(())
}

/// Hits of the rules of a policy, as `policy show` has them.
fn hits(node: &Node, policy: &str) -> Result<Vec<u64>> {
    let shown = node.ctl(&["policy", "show", policy])?;
    let rules = shown["rules"].as_array().with_context(|| format!("rules in {shown:#}"))?;
    Ok(rules.iter().map(|rule| rule["hits"].as_u64().unwrap_or_default()).collect())
}

#[test]
fn rules_count_what_they_decide() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let scene = Scene::new(&node)?;
    let (guard, out) = (hits(&node, "shop/guard")?, hits(&node, "security.out")?);
    hold(allowed(&scene.friend, &scene.guarded, tcp(80)))?;
    hold(denied(&scene.stranger, &scene.friend, udp(80)))?;
    let grown = eventually(PATIENCE, || {
        let now = (hits(&node, "shop/guard"), hits(&node, "security.out"));
        let (Ok(guard_now), Ok(out_now)) = now else { return false };
        // Two families; the first rule of the guard is nobody's. Logged and denied.
        guard_now[0] == guard[0]
            && guard_now[1] >= guard[1] + 2
            && out_now[0] >= out[0] + 2
            && out_now[1] >= out[1] + 2
    });
    ensure!(
        grown,
        "{:?} {:?}, before {guard:?} {out:?}",
        hits(&node, "shop/guard")?,
        hits(&node, "security.out")?
    );
    // What is established costs no look-up, so it counts no more.
    let flow = scene.friend.tcp_flow(&scene.guarded, (scene.guarded.ipv4(), 8080), Duration::from_millis(1));
    ensure!(flow.is_err(), "8080 is denied");
    let counted = hits(&node, "shop/guard")?[1];
    scene.friend.reaches(scene.stranger.ipv4())?;
    ensure!(hits(&node, "shop/guard")?[1] == counted);
    Ok(())
}

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: { namespace: shop, name: web }
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  ports: [ { name: web, port: 8080, targetPort: 81 } ]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { namespace: shop, name: web-1, labels: { kubernetes.io/service-name: web } }
addressType: IPv4
ports: [ { name: web, port: 81 } ]
endpoints: [ ENDPOINTS ]
";

#[test]
fn a_trace_follows_a_service_to_each_of_its_backends() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let scene = Scene::new(&node)?;
    let endpoint = |pod: &Pod<'_>| {
        format!("{{ addresses: [{}], nodeName: node, conditions: {{ ready: true }} }}", pod.ipv4())
    };
    let endpoints = format!("{}, {}", endpoint(&scene.guarded), endpoint(&scene.stranger));
    node.apply("service.yaml", &SERVICE.replace("ENDPOINTS", &endpoints))?;
    let (vip, port) = ("10.96.0.1", tcp(8080));
    let is_led = || scene.trace("shop/friend", vip, port).is_ok_and(|trace| trace["paths"][1].is_object());
    ensure!(eventually(PATIENCE, is_led), "{:#?}", scene.trace("shop/friend", vip, port));
    let trace = scene.trace("shop/friend", vip, port)?;
    ensure!(trace["verdict"] == "mixed", "{trace:#}");
    for path in trace["paths"].as_array().context("paths")? {
        ensure!(path["service"] == "shop/web" && path["destination"]["port"] == 81, "{path:#}");
        // What is said of a backend is what happens to a connection to it.
        let (name, to) = if path["destination"]["pod"] == "shop/guarded" {
            ("guarded", &scene.guarded)
        } else {
            ("stranger", &scene.stranger)
        };
        let is_allowed = path["verdict"] == "allow";
        ensure!(is_allowed == (name == "stranger"), "{path:#}");
        hold([integration::testbed::case(
            &scene.friend,
            IpAddr::from(to.ipv4()),
            tcp(81),
            is_allowed,
            name,
        )])?;
    }
    let bare =
        node.ctl_output(&["policy", "trace", "--from", "shop/friend", "--to", vip, "--port", "8080"])?;
    let bare = String::from_utf8_lossy(&bare.stderr).into_owned();
    ensure!(bare.contains("say tcp/8080 or ip/8080"), "{bare}");
    let source = node.status()?["cluster"]["source"].clone();
    ensure!(source.as_str().is_some_and(|it| it.starts_with("dir ")), "{source}");
    Ok(())
}

#[test]
fn a_diff_names_the_live_flows_that_would_be_cut() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let scene = Scene::new(&node)?;
    let flow =
        scene.friend.tcp_flow(&scene.stranger, (scene.stranger.ipv4(), 8080), Duration::from_millis(5))?;
    let other =
        scene.friend.tcp_flow(&scene.stranger, (scene.stranger.ipv4(), 8081), Duration::from_millis(5))?;
    ensure!(flow.goes_on() && other.goes_on());
    let file = node.folder().join("new.yaml");
    fs::write(
        &file,
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { namespace: shop, name: new }\n\
         spec: { podSelector: { matchLabels: { app: stranger } }, ingress: [ { ports: [ { port: 8081 } ] } ] }\n",
    )?;
    let file = file.to_str().context("a path")?;
    let said = node.ctl_output(&["-o", "json", "policy", "diff", file])?;
    ensure!(said.status.code() == Some(1), "something changes: {said:?}");
    let diff: Value = serde_json::from_slice(&said.stdout)?;
    ensure!(diff["changed"] == 1 && diff["changes"][0]["flows"] == 1, "{diff:#}");
    let cut = text(&diff);
    ensure!(cut.contains("8080") && !cut.contains("8081"), "{diff:#}");
    ensure!(cut.contains("shop/friend") || (cut.contains("friend") && cut.contains("stranger")), "{diff:#}");
    // It was only asked.
    ensure!(flow.goes_on() && other.goes_on());
    ensure!(node.policy("shop", "new")?.is_none());
    fs::write(node.folder().join("same.yaml"), POLICIES)?;
    let same = node.folder().join("same.yaml");
    let ending =
        |file: &str| Ok::<_, anyhow::Error>(node.ctl_output(&["policy", "diff", file])?.status.code());
    ensure!(ending(same.to_str().context("a path")?)? == Some(0), "nothing changes");
    ensure!(ending("/nowhere.yaml")? == Some(2), "it is not known whether anything changes");
    let tap = scene.stranger.tap("nothing-of-it")?;
    ensure!(tap.end() == 0);
    Ok(())
}

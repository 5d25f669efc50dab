//! Who reaches whom under which policies: truth tables over nine pods in three namespaces, both families, TCP and UDP.

use std::net::IpAddr;

use anyhow::Result;
use integration::{
    needs_root,
    testbed::{
        FAR4, FAR6, Grid, Machine, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Node, Service, allowed, case,
        denied, hold, tcp, udp,
    },
};

const SERVICES: [Service; 4] = [tcp(80), tcp(81), udp(80), udp(81)];

/// A NetworkPolicy of namespace `x`.
fn network_policy(name: &str, spec: &str) -> String {
    policy_in("x", name, spec)
}

fn policy_in(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ namespace: {namespace}, name: {name} }}\n\
         spec: {spec}\n"
    )
}

fn calico(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{ name: {name} }}\nspec: {spec}\n")
}

fn cluster_policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{ name: {name} }}\n\
         spec: {spec}\n"
    )
}

/// The namespace of `x/a`.
fn ns(pod: &str) -> &str {
    pod.split('/').next().unwrap_or_default()
}

/// The name of `x/a`.
fn name(pod: &str) -> &str {
    pod.split('/').next_back().unwrap_or_default()
}

/// Puts each policy in force alone, and compares.
fn alone(
    node: &Node,
    grid: &Grid<'_>,
    policy: &str,
    truth: impl Fn(&str, &str, Service) -> bool,
) -> Result<()> {
    node.apply("policy.yaml", policy)?;
    grid.holds(truth).map_err(|error| error.context(policy.to_owned()))?;
    node.withdraw("policy.yaml")?;
    Ok(())
}

#[test]
fn network_policies_isolate_what_reaches_a_pod() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let grid = Grid::new(&node, &SERVICES)?;
    grid.holds(|_, _, _| true)?;
    alone(
        &node,
        &grid,
        &network_policy("deny", "{ podSelector: {}, policyTypes: [Ingress] }"),
        |_, to, _| ns(to) != "x",
    )?;
    alone(
        &node,
        &grid,
        &network_policy(
            "pods",
            "{ podSelector: { matchLabels: { pod: a } }, ingress: [ { from: [ { podSelector: { matchLabels: { pod: b } } } ] } ] }",
        ),
        |from, to, _| to != "x/a" || from == "x/b",
    )?;
    alone(
        &node,
        &grid,
        &network_policy(
            "namespaces",
            "{ podSelector: {}, ingress: [ { from: [ { namespaceSelector: { matchExpressions: [ { key: ns, operator: In, values: [y] } ] } } ] } ] }",
        ),
        |from, to, _| ns(to) != "x" || ns(from) == "y",
    )?;
    alone(
        &node,
        &grid,
        &network_policy(
            "both",
            "{ podSelector: {}, ingress: [ { from: [ { namespaceSelector: { matchLabels: { ns: y } }, podSelector: { matchLabels: { pod: a } } }, { podSelector: { matchLabels: { pod: c } } } ] } ] }",
        ),
        |from, to, _| ns(to) != "x" || from == "y/a" || from == "x/c",
    )?;
    grid.holds(|_, _, _| true)
}

#[test]
fn network_policies_isolate_what_a_pod_sends() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let grid = Grid::new(&node, &SERVICES)?;
    alone(
        &node,
        &grid,
        &network_policy("deny", "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Egress] }"),
        |from, _, _| from != "x/a",
    )?;
    alone(
        &node,
        &grid,
        &network_policy(
            "to-y",
            "{ podSelector: {}, policyTypes: [Egress], egress: [ { to: [ { namespaceSelector: { matchLabels: { ns: y } } } ] } ] }",
        ),
        |from, to, _| ns(from) != "x" || ns(to) == "y",
    )?;
    // Both ends have a say.
    let both = format!(
        "{}---\n{}",
        network_policy(
            "out",
            "{ podSelector: {}, policyTypes: [Egress], egress: [ { to: [ { namespaceSelector: {}, podSelector: { matchLabels: { pod: b } } } ] } ] }"
        ),
        policy_in(
            "y",
            "in",
            "{ podSelector: {}, ingress: [ { from: [ { namespaceSelector: { matchLabels: { ns: z } } }, { namespaceSelector: { matchLabels: { ns: x } }, podSelector: { matchLabels: { pod: a } } } ] } ] }"
        )
    );
    alone(&node, &grid, &both, |from, to, _| {
        let out = ns(from) != "x" || name(to) == "b";
        let into = ns(to) != "y" || ns(from) == "z" || from == "x/a";
        out && into
    })
}

#[test]
fn ports_are_taken_by_number_name_and_range() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let grid = Grid::new(&node, &SERVICES)?;
    alone(
        &node,
        &grid,
        &network_policy("number", "{ podSelector: {}, ingress: [ { ports: [ { port: 80 } ] } ] }"),
        |_, to, service| ns(to) != "x" || service == tcp(80),
    )?;
    alone(
        &node,
        &grid,
        &network_policy(
            "range",
            "{ podSelector: {}, ingress: [ { ports: [ { protocol: UDP, port: 70, endPort: 80 }, { protocol: TCP, port: 81, endPort: 90 } ] } ] }",
        ),
        |_, to, service| ns(to) != "x" || service == udp(80) || service == tcp(81),
    )?;
    // The same name is another port of each pod, and of some pods none.
    let pod = |name: &str, port: u16, protocol: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ namespace: x, name: {name} }}\n\
             spec: {{ containers: [ {{ name: main, ports: [ {{ name: web, containerPort: {port}, protocol: {protocol} }} ] }} ] }}\n---\n"
        )
    };
    node.apply("pods.yaml", &format!("{}{}", pod("a", 80, "TCP"), pod("b", 81, "TCP")))?;
    let named = |from: &str, to: &str, service: Service| match to {
        "x/a" => service == tcp(80),
        "x/b" => service == tcp(81),
        _ => ns(to) != "x" || from == to,
    };
    alone(
        &node,
        &grid,
        &network_policy("name", "{ podSelector: {}, ingress: [ { ports: [ { port: web } ] } ] }"),
        named,
    )?;
    // Of the pod that is reached, also where the sender's policy names it.
    alone(
        &node,
        &grid,
        &policy_in(
            "z",
            "name",
            "{ podSelector: {}, policyTypes: [Egress], egress: [ { ports: [ { port: web } ] } ] }",
        ),
        |from, to, service| ns(from) != "z" || (ns(to) == "x" && name(to) != "c" && named(from, to, service)),
    )
}

#[test]
fn blocks_of_addresses_hold_for_pods_and_for_other_machines() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let services = [tcp(80), udp(80)];
    let grid = Grid::new(&node, &services)?;
    let far = [IpAddr::from(FAR4), FAR6.into()];
    let near = [IpAddr::from(NEIGHBOUR4), NEIGHBOUR6.into()];
    let _neighbour = node.neighbour.serve(&[far, near].concat(), &services)?;
    node.neighbour.netns().ip(&format!("route add 10.88.0.0/16 via {NODE4}"))?;
    node.neighbour.netns().ip(&format!("-6 route add fd00:88::/64 via {NODE6}"))?;
    grid.holds_from(&node.neighbour, |_, _, _| true)?;
    // From the neighbour's network, but not from the neighbour; from one pod by its address.
    let b = grid.pod("y/b");
    let block = |neighbour: bool| {
        let except = if neighbour { "" } else { ", except: [192.0.2.1/32]" };
        let except6 = if neighbour { "" } else { ", except: [\"2001:db8::/127\"]" };
        network_policy(
            "blocks",
            &format!(
                "{{ podSelector: {{}}, ingress: [ {{ from: [ {{ ipBlock: {{ cidr: 192.0.2.0/24{except} }} }}, \
                 {{ ipBlock: {{ cidr: \"2001:db8::/64\"{except6} }} }}, {{ ipBlock: {{ cidr: {}/32 }} }}, \
                 {{ ipBlock: {{ cidr: \"{}/128\" }} }} ] }} ] }}",
                b.ipv4(),
                b.ipv6()
            ),
        )
    };
    for neighbour in [false, true] {
        node.apply("policy.yaml", &block(neighbour))?;
        grid.holds(|from, to, _| ns(to) != "x" || from == "y/b")?;
        grid.holds_from(&node.neighbour, |to, _, _| ns(to) != "x" || neighbour)?;
    }
    // Out: only to the far addresses.
    node.apply(
        "policy.yaml",
        &network_policy(
            "out",
            &format!(
                "{{ podSelector: {{}}, policyTypes: [Egress], egress: [ {{ to: [ {{ ipBlock: {{ cidr: 0.0.0.0/0, except: [192.0.2.0/24, 10.0.0.0/8] }} }}, \
                 {{ ipBlock: {{ cidr: \"{FAR6}/128\" }} }} ] }} ] }}"
            ),
        ),
    )?;
    grid.holds(|from, _, _| ns(from) != "x")?;
    grid.holds_towards(&node.neighbour, |from, _, _| ns(from) != "x")?;
    let one = grid.pod("x/a");
    hold(far.into_iter().flat_map(|to| services.map(|service| case(one, to, service, true, "far away"))))
}

#[test]
fn calico_rules_tell_icmp_from_the_rest() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let grid = Grid::new(&node, &SERVICES)?;
    let (a, b) = (grid.pod("x/a"), grid.pod("y/b"));
    node.apply(
        "policy.yaml",
        &calico(
            "GlobalNetworkPolicy",
            "echo",
            "{ selector: pod == 'a', types: [Ingress], ingress: [ { action: Allow, protocol: ICMP, icmp: { type: 8, code: 0 } }, { action: Allow, protocol: ICMPv6, icmp: { type: 128 } } ] }",
        ),
    )?;
    grid.holds(|_, to, _| name(to) != "a")?;
    assert!(b.reaches(a.ipv4())? && b.reaches(a.ipv6())?);
    node.apply(
        "policy.yaml",
        &calico(
            "GlobalNetworkPolicy",
            "echo",
            "{ selector: pod == 'a', types: [Ingress], ingress: [ { action: Deny, protocol: ICMP, icmp: { type: 8 } }, { action: Deny, protocol: ICMPv6, icmp: { type: 128 } }, { action: Allow } ] }",
        ),
    )?;
    grid.holds(|_, _, _| true)?;
    for to in [IpAddr::from(a.ipv4()), a.ipv6().into()] {
        assert_eq!(b.ping(to, &["-c2", "-i0.05", "-W0.3"])?.received, 0);
        // What it opens itself is answered, and the node reaches it.
        assert!(node.reaches(to)?);
    }
    assert!(a.reaches(b.ipv4())? && a.reaches(b.ipv6())?);
    Ok(())
}

#[test]
fn tiers_pass_and_decide_in_their_order() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let grid = Grid::new(&node, &SERVICES)?;
    let platform = calico("Tier", "platform", "{ order: 100 }");
    let passing = calico(
        "GlobalNetworkPolicy",
        "platform.first",
        "{ tier: platform, order: 1, selector: all(), types: [Ingress], ingress: [ \
         { action: Deny, source: { selector: pod == 'c', namespaceSelector: ns == 'z' } }, \
         { action: Allow, protocol: UDP, destination: { ports: ['80:81'] } }, \
         { action: Pass } ] }",
    );
    let allow = network_policy("allow", "{ podSelector: {}, ingress: [ {} ] }");
    let deny_y = policy_in("y", "deny", "{ podSelector: {}, policyTypes: [Ingress] }");
    let all = [&*platform, &passing, &allow, &deny_y].join("---\n");
    alone(&node, &grid, &all, |from, to, service| {
        let is_udp = service == udp(80) || service == udp(81);
        // The tier denies z/c, allows UDP, passes the rest on; in y NetworkPolicies deny that, in x they allow it.
        from != "z/c" && (is_udp || ns(to) != "y")
    })?;
    // A tier that does not decide denies.
    let deciding = calico(
        "GlobalNetworkPolicy",
        "platform.second",
        "{ tier: platform, order: 2, selector: pod == 'b', types: [Egress], egress: [ { action: Allow, destination: { selector: \"pod in { 'a', 'b' }\" } } ] }",
    );
    alone(&node, &grid, &[&*platform, &deciding, &allow].join("---\n"), |from, to, _| {
        name(from) != "b" || name(to) != "c"
    })
}

#[test]
fn cluster_policies_stand_before_and_behind_network_policies() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let grid = Grid::new(&node, &SERVICES)?;
    let admin = cluster_policy(
        "admin",
        "{ tier: Admin, priority: 10, subject: { namespaces: { matchLabels: { ns: x } } }, ingress: [ \
         { name: out, action: Deny, from: [ { namespaces: { matchLabels: { ns: z } } } ] }, \
         { name: through, action: Accept, from: [ { pods: { namespaceSelector: { matchLabels: { ns: y } }, podSelector: { matchLabels: { pod: a } } } } ] } ] }",
    );
    let baseline = cluster_policy(
        "baseline",
        "{ tier: Baseline, priority: 10, subject: { namespaces: {} }, ingress: [ { action: Deny, from: [ { namespaces: {} } ] } ] }",
    );
    let allow = network_policy("allow", "{ podSelector: { matchLabels: { pod: a } }, ingress: [ {} ] }");
    let deny = network_policy("deny", "{ podSelector: { matchLabels: { pod: b } }, policyTypes: [Ingress] }");
    let all = [&*admin, &baseline, &allow, &deny].join("---\n");
    alone(&node, &grid, &all, |from, to, _| match to {
        "x/a" => ns(from) != "z",
        "x/b" | "x/c" => from == "y/a",
        _ => false,
    })
}

#[test]
fn the_policies_of_the_issue_work_as_they_stand() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let services = [tcp(80), tcp(9999), udp(14444)];
    let (a, b) = (node.add_pod_of("shop/a", &[])?, node.add_pod_of("shop/b", &[])?);
    let _listeners = (a.serve(a.addresses(), &services)?, b.serve(b.addresses(), &services)?);
    let mining = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: { name: block-crypto-mining }\n\
                  spec:\n  selector: all()\n  ingress: [ { action: Deny, source: { nets: [185.130.104.0/24] } } ]\n  \
                  egress:  [ { action: Deny, destination: { ports: [9999, 14444] } } ]\n";
    // Alone, it leaves the rest to the tier's default, which is to deny.
    node.apply("mining.yaml", mining)?;
    hold(services.into_iter().flat_map(|service| denied(&a, &b, service)))?;
    let rest = "{ selector: all(), order: 5000, types: [Ingress, Egress], ingress: [ { action: Allow } ], egress: [ { action: Allow } ] }";
    node.apply("rest.yaml", &calico("GlobalNetworkPolicy", "rest", rest))?;
    // Without an order a policy is the last.
    hold(services.into_iter().flat_map(|service| allowed(&a, &b, service)))?;
    node.apply("mining.yaml", &mining.replace("selector: all()", "selector: all()\n  order: 1"))?;
    hold(allowed(&a, &b, tcp(80)))?;
    hold([tcp(9999), udp(14444)].into_iter().flat_map(|service| denied(&a, &b, service)))
}

//! What somebody else takes away, the daemon puts back.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use bpf::attach::Direction;
use integration::{
    needs_root,
    testbed::{FAR4, Machine, Node, Pod, Settings, eventually},
};

/// How soon.
const SECONDS: Duration = Duration::from_secs(10);

/// Does harm, and expects all to be well soon and the daemon to have said so.
fn healed(node: &Node, pod: &Pod<'_>, harm: &str, does: impl FnOnce() -> Result<()>) -> Result<()> {
    let said = node.log().len();
    does()?;
    let well = eventually(SECONDS, || {
        pod.check().is_ok()
            && node.ping(pod.ipv4(), &["-c1", "-W1"]).is_ok_and(|pings| pings.received == 1)
            && pod.ping(FAR4, &["-c1", "-W1"]).is_ok_and(|pings| pings.received == 1)
            && node.log().len() > said
    });
    ensure!(well, "after {harm}: CHECK says {:?}; the daemon said {:?}", pod.check(), &node.log()[said..]);
    Ok(())
}

#[test]
fn routes_neighbours_and_links_of_the_host() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let (link, v4, v6) = (pod.host_ifname(), pod.ipv4(), pod.ipv6());
    for harm in [
        format!("route delete {v4}"),
        format!("-6 route delete {v6}"),
        format!("neighbour delete {v4} dev {link}"),
        format!("link set {link} down"),
    ] {
        healed(&node, &pod, &harm, || node.netns().ip(&harm).map(drop))?;
    }
    Ok(())
}

#[test]
fn gateways_and_pool_routes() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    for harm in ["address delete 10.88.0.1/32 dev lo", "address delete fd00:88::1/128 dev lo"] {
        node.netns().ip(harm)?;
        let back = || {
            pod.ping("10.88.0.1".parse::<std::net::Ipv4Addr>().unwrap(), &["-c1", "-W1"])
                .is_ok_and(|p| p.received == 1)
                && pod
                    .ping("fd00:88::1".parse::<std::net::Ipv6Addr>().unwrap(), &["-c1", "-W1"])
                    .is_ok_and(|p| p.received == 1)
                && pod.check().is_ok()
        };
        ensure!(eventually(SECONDS, back), "after {harm}");
    }
    for (harm, show, expected) in [
        ("route delete unreachable 10.88.0.0/16", "route show", "unreachable 10.88.0.0/16"),
        ("-6 route delete unreachable fd00:88::/64", "-6 route show", "unreachable fd00:88::/64"),
    ] {
        node.netns().ip(harm)?;
        let back =
            eventually(SECONDS, || node.netns().ip(show).is_ok_and(|routes| routes.contains(expected)));
        ensure!(back, "after {harm}");
    }
    Ok(())
}

#[test]
fn programs_that_others_detach() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    for direction in [Direction::Ingress, Direction::Egress] {
        healed(&node, &pod, &format!("detaching the program at {direction:?}"), || pod.detach(direction))?;
    }
    Ok(())
}

#[test]
fn the_uplinks_pins() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let pins = fs::read_dir(node.bpffs().join("links"))?.flatten().map(|entry| entry.path());
    let pins: Vec<_> = pins.filter(|path| path.to_string_lossy().contains("uplink")).collect();
    ensure!(!pins.is_empty(), "no pins of the uplink");
    for pin in pins {
        healed(&node, &pod, &format!("removing {}", pin.display()), || Ok(fs::remove_file(&pin)?))?;
        ensure!(eventually(SECONDS, || pin.exists()), "{}", pin.display());
    }
    Ok(())
}

#[test]
fn pinned_programs_and_maps() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let mut pins = Vec::new();
    for kind in ["programs", "maps"] {
        pins.extend(fs::read_dir(node.bpffs().join(kind))?.flatten().map(|entry| entry.path()));
    }
    ensure!(pins.len() > 6, "{pins:?}");
    for pin in &pins {
        fs::remove_file(pin)?;
    }
    for pin in &pins {
        ensure!(eventually(SECONDS, || pin.exists()), "{} does not come back", pin.display());
    }
    pod.check()?;
    let other = node.add_pod("b")?;
    ensure!(pod.reaches(other.ipv4())? && node.reaches(other.ipv6())? && other.reaches(FAR4)?);
    Ok(())
}

#[test]
fn filters_where_there_is_no_tcx() -> Result<()> {
    needs_root!();
    let node = Node::start_with(Settings::default().flag("--attach=clsact"))?;
    let pod = node.add_pod("a")?;
    let link = pod.host_ifname();
    let harms: [(&str, &[&str]); 3] = [
        ("its filter", &["filter", "delete", "dev", &link, "ingress"]),
        ("its qdisc", &["qdisc", "delete", "dev", &link, "clsact"]),
        ("the uplink's qdisc", &["qdisc", "delete", "dev", "uplink", "clsact"]),
    ];
    for (harm, args) in harms {
        healed(&node, &pod, harm, || node.netns().run("tc", args).map(drop))?;
    }
    Ok(())
}

#[test]
fn forwarding() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    node.neighbour.netns().ip("route add 10.88.0.0/16 via 192.0.2.2")?;
    ensure!(node.neighbour.reaches(pod.ipv4())?, "before");
    node.netns().sysctl("net/ipv4/ip_forward", "0")?;
    let back = eventually(Duration::from_secs(40), || {
        node.netns().run("cat", &["/proc/sys/net/ipv4/ip_forward"]).is_ok_and(|value| value.trim() == "1")
    });
    ensure!(back, "net.ipv4.ip_forward stays 0");
    ensure!(node.neighbour.reaches(pod.ipv4())?, "after");
    Ok(())
}

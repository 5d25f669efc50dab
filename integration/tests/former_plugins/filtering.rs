//! Strict filtering by the way back is told of exactly where the kernel drops something for it.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Result, ensure};
use integration::{
    fleet::{Fleet, Place, Subnet},
    needs_root,
    testbed::{Machine as _, eventually, tcp},
};
use serde_json::json;

use super::machine::Machine;

const NEAR: Place = Place::new(Subnet::First, 11);
const FAR: Place = Place::new(Subnet::Second, 13);
/// How long a connection may take, on a machine that runs other tests.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one is waited for that does not come.
const IMPATIENCE: Duration = Duration::from_secs(2);

#[test]
fn it_is_told_of_where_sources_are_kept_and_the_overlay_is_used() -> Result<()> {
    needs_root!();
    let machine = Machine::new("rpfilter")?;
    machine.make_foreign_things()?;
    let outcome = |more: &str, all: u8, own: u8| -> Result<String> {
        machine.configure(more)?;
        let folder = "/proc/sys/net/ipv4/conf";
        machine
            .shell(&format!("echo {all} > {folder}/all/rp_filter; echo {own} > {folder}/up0/rp_filter"))?;
        Ok(machine.preflight(&["rp-filter"])?.into_iter().map(|finding| finding.outcome).collect())
    };
    let kept = "no-masquerade = [\"198.51.100.0/24\"]\n";
    for (more, all, own, expected) in [
        (kept, 0, 1, "warning"),
        (kept, 1, 0, "warning"),
        ("masquerade = false\n", 1, 0, "warning"),
        (kept, 2, 1, "ok"),
        (kept, 0, 0, "ok"),
        ("", 1, 1, "ok"),
        ("no-masquerade = [\"198.51.100.0/24\"]\nrouting = \"direct\"\n", 1, 1, "ok"),
    ] {
        let found = outcome(more, all, own)?;
        ensure!(found == expected, "{more} {all} {own}: {found}");
    }
    Ok(())
}

#[test]
fn what_is_told_of_it_is_what_the_kernel_does() -> Result<()> {
    needs_root!();
    for (flags, passes) in [(&[][..], true), (&["--no-masquerade=198.51.100.0/24"][..], false)] {
        let fleet = Fleet::new()?;
        let near = fleet.node("near", NEAR, flags)?;
        let far = fleet.node("far", FAR, flags)?;
        far.netns().sysctl("net/ipv4/conf/all/rp_filter", "1")?;
        let there =
            || far.netns().ip("route show proto 202").is_ok_and(|routes| routes.contains("cambric-overlay"));
        ensure!(eventually(PATIENCE, there), "{}", far.log());
        fleet.put(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "shop", "uid": "a"},
            "spec": {"nodeName": "near", "containers": []},
        }))?;
        let pod = near.kubelet_sandbox("shop/a", "a")?.add()?;
        let _listening = far.serve(&[FAR.ipv4().into()], &[tcp(443)])?;
        let target = SocketAddr::new(FAR.ipv4().into(), 443);
        let connect = |within| pod.netns().inside(|| TcpStream::connect_timeout(&target, within)).is_ok();
        ensure!(connect(if passes { PATIENCE } else { IMPATIENCE }) == passes, "strict, {flags:?}");
        far.netns().sysctl("net/ipv4/conf/all/rp_filter", "2")?;
        ensure!(connect(PATIENCE), "loose, {flags:?}");
    }
    Ok(())
}

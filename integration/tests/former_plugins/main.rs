//! What other network plugins have left is found and named with what removes it; looking changes nothing, and what the
//! findings say removes what was left and nothing else.

mod attached;
mod coexistence;
mod filtering;
mod leftovers;
mod machine;

use anyhow::{Context, Result, ensure};
use integration::needs_root;

use leftovers::{CALICO, CALICO_EBPF, CILIUM, FLANNEL, KUBE_ROUTER, Leftovers, WEAVE};
use machine::{Finding, Machine, similar};

/// The checks that look for other plugins' things. What is machine-wide may be a parallel test's.
const CHECKS: [&str; 7] =
    ["cni-conf", "other-plugins", "interfaces", "rules", "programs", "routes", "vxlan-port"];

/// Cambric's overlay, as it makes it in each family.
const IN_IPV4: &str = "id 51770 local 192.0.2.1 dstport 4789 nolearning";
const IN_IPV6: &str = "id 51770 local 2001:db8::1 dstport 4789 nolearning udp6zerocsumtx udp6zerocsumrx";

fn told(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{finding:?}")).collect::<Vec<_>>().join("\n")
}

/// Makes the leftovers beside things of others, has them found, and removes them as the findings say.
fn found_and_removed(leftovers: &Leftovers) -> Result<()> {
    let machine = Machine::new(leftovers.label)?;
    machine.make_foreign_things()?;
    let before = machine.state()?;
    for finding in machine.preflight(&CHECKS)? {
        ensure!(finding.outcome == "ok", "on a clean machine: {finding:?}");
    }

    for (name, text) in leftovers.files {
        machine.write(name, text)?;
    }
    machine.shell(leftovers.script)?;
    let with_leftovers = machine.state()?;
    let findings = machine.preflight(&CHECKS)?;
    let after = machine.state()?;
    ensure!(after == with_leftovers, "looking changed something:\n{}", similar(&with_leftovers, &after));
    let warned = findings.iter().filter(|finding| finding.outcome != "ok");
    let warned = warned.map(|finding| (&*finding.name, finding.detail.replace(&machine.shown(), "")));
    let warned = warned.collect::<Vec<_>>();
    let expected = leftovers.found.iter().map(|(name, detail)| (*name, (*detail).to_owned()));
    let expected = expected.collect::<Vec<_>>();
    ensure!(warned == expected, "found:\n{warned:#?}\nexpected:\n{expected:#?}");

    // Pods go when they are made anew.
    machine.shell(leftovers.pods_go)?;
    for finding in
        findings.iter().filter(|finding| finding.outcome != "ok" && finding.name != "other-plugins")
    {
        let (_, commands) = finding.remedy.split_once(": ").with_context(|| format!("{finding:?}"))?;
        machine.shell(&machine.on_this_machine(commands)).with_context(|| format!("{finding:?}"))?;
    }
    let findings = machine.preflight(&CHECKS)?;
    ensure!(findings.iter().all(|finding| finding.outcome == "ok"), "{}", told(&findings));
    let after = machine.state()?;
    ensure!(after == before, "not as before:\n{}", similar(&before, &after));
    Ok(())
}

#[test]
fn what_flannel_left_is_found_and_removed() -> Result<()> {
    needs_root!();
    found_and_removed(&FLANNEL)
}

#[test]
fn what_calico_left_is_found_and_removed() -> Result<()> {
    needs_root!();
    found_and_removed(&CALICO)
}

#[test]
fn what_calico_left_in_its_ebpf_mode_is_found_and_removed() -> Result<()> {
    needs_root!();
    found_and_removed(&CALICO_EBPF)
}

#[test]
fn what_cilium_left_is_found_and_removed() -> Result<()> {
    needs_root!();
    found_and_removed(&CILIUM)
}

#[test]
fn what_kube_router_and_weave_left_is_found_and_removed() -> Result<()> {
    needs_root!();
    found_and_removed(&KUBE_ROUTER)?;
    found_and_removed(&WEAVE)
}

#[test]
fn a_vxlan_interface_is_told_of_exactly_if_the_kernel_refuses_the_overlay_beside_it() -> Result<()> {
    needs_root!();
    for (other, overlay) in [
        ("id 4096 local 192.0.2.1 dstport 4789 nolearning", IN_IPV4),
        ("id 51770 local 192.0.2.1 dstport 4789", IN_IPV4),
        ("id 51770 local 192.0.2.1 dstport 8472", IN_IPV4),
        ("external dstport 4789 nolearning", IN_IPV4),
        ("external dstport 4789 nolearning", IN_IPV6),
        ("id 4096 local 192.0.2.1 dstport 4789 gbp", IN_IPV4),
        ("id 4096 local 192.0.2.1 dstport 4789 udp6zerocsumrx", IN_IPV4),
        ("id 4096 local 2001:db8::1 dstport 4789", IN_IPV6),
        ("id 4096 local 2001:db8::1 dstport 4789 udp6zerocsumrx", IN_IPV6),
    ] {
        let machine = Machine::new("vxlan")?;
        machine.make_foreign_things()?;
        machine.shell(&format!("ip link add other type vxlan {other}; ip link set other up"))?;
        let findings = machine.preflight(&["vxlan-port"])?;
        let [finding] = &findings[..] else { anyhow::bail!("{}", told(&findings)) };
        let made =
            format!("ip link add cambric-overlay type vxlan {overlay} && ip link set cambric-overlay up");
        let possible = machine.shell(&made).is_ok();
        ensure!(possible == (finding.outcome == "ok"), "{other} beside {overlay}: {possible}, {finding:?}");
        if !possible {
            ensure!(finding.remedy.starts_with("ip link delete other"), "{finding:?}");
        }
    }
    Ok(())
}

#[test]
fn what_belongs_to_a_plugin_that_cambric_is_chained_with_is_not_left() -> Result<()> {
    needs_root!();
    let machine = Machine::new("chained")?;
    machine.make_foreign_things()?;
    machine.shell(FLANNEL.script)?;
    let chain =
        r#"{"name": "cbr0", "cniVersion": "1.0.0", "plugins": [{"type": "flannel"}, {"type": "cambric"}]}"#;
    machine.write("chained.conflist", chain)?;
    let warnings = || -> Result<usize> {
        Ok(machine.preflight(&CHECKS)?.iter().filter(|finding| finding.outcome != "ok").count())
    };
    ensure!(warnings()? == 5, "{}", told(&machine.preflight(&CHECKS)?));
    machine.configure(&format!("cni-conflist = \"{}/chained.conflist\"\n", machine.shown()))?;
    let findings = machine.preflight(&CHECKS)?;
    ensure!(findings.iter().all(|finding| finding.outcome == "ok"), "{}", told(&findings));
    let rules = findings.iter().find(|finding| finding.name == "rules").context("rules")?;
    ensure!(
        rules.detail == "only of Flannel and the reference plugins, which Cambric is chained with",
        "{rules:?}"
    );
    Ok(())
}

#[test]
fn a_plugin_that_runs_is_named_with_its_process() -> Result<()> {
    needs_root!();
    let machine = Machine::new("runs")?;
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("flanneld");
    // A link, for a copy is busy as long as another thread's child holds it open.
    std::os::unix::fs::symlink("/bin/sleep", &program)?;
    let mut process = machine.netns().command(&program)?.arg("60").spawn()?;
    let findings = machine.preflight(&["other-plugins"]);
    process.kill()?;
    process.wait()?;
    let findings = findings?;
    let [finding] = &findings[..] else { anyhow::bail!("{}", told(&findings)) };
    ensure!(finding.outcome == "warning", "{finding:?}");
    ensure!(
        finding.detail == format!("Flannel runs here: flanneld (process {})", process.id()),
        "{finding:?}"
    );
    ensure!(finding.remedy.starts_with("two network plugins must not both have pods"), "{finding:?}");
    Ok(())
}

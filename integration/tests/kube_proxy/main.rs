//! What kube-proxy has left is found and removed, and nothing of anybody else's changes.

mod rules;

use std::{
    fmt::Write as _,
    io::Write,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Binaries, Netns, eventually},
};
use serde_json::Value;

use rules::{FILTER_CHAINS, FILTER_RULES, FOREIGN, NAT_CHAINS, NAT_RULES, NFTABLES};

/// The programs of both variants and families, without what follows (`-save`, `-restore`).
const PROGRAMS: [&str; 4] = ["iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft"];

/// A machine's rules.
struct Rules {
    netns: Netns,
    binaries: Binaries,
}

impl Rules {
    fn new(label: &str) -> Result<Self> {
        Ok(Self { netns: Netns::new(label)?, binaries: Binaries::find()? })
    }

    fn feed(&self, program: &str, args: &[&str], input: &str) -> Result<()> {
        let mut child =
            self.netns.command(program)?.args(args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("a pipe")?.write_all(input.as_bytes())?;
        let out = child.wait_with_output()?;
        ensure!(out.status.success(), "{program}: {}\n{input}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    }

    fn restore(&self, program: &str, input: &str) -> Result<()> {
        self.feed(&format!("{program}-restore"), &["--noflush"], input)
    }

    /// All rules of a program, without the comments that say when they were printed.
    fn saved(&self, program: &str) -> Result<String> {
        let saved = self.netns.run(&format!("{program}-save"), &[])?;
        Ok(saved.lines().filter(|line| !line.starts_with('#')).map(|line| line.to_owned() + "\n").collect())
    }

    /// All rules of everybody.
    fn all(&self) -> Result<String> {
        let mut all = PROGRAMS.iter().map(|program| self.saved(program)).collect::<Result<Vec<_>>>()?;
        for family in ["ip", "ip6"] {
            all.push(self.netns.run("nft", &["--stateless", "list", "ruleset", family])?);
        }
        all.push(self.netns.run("ipset", &["save"])?);
        Ok(all.concat())
    }

    fn ctl(&self, args: &[&str]) -> Result<(bool, String)> {
        let out = self.netns.command(self.binaries.ctl())?.arg("preflight").args(args).output()?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        Ok((out.status.success(), text))
    }

    /// What preflight says of kube-proxy: how it came out, and in what words.
    fn preflight(&self) -> Result<(String, String)> {
        let (_, text) = self.ctl(&["-o", "json"])?;
        let findings: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let finding =
            findings.as_array().context("a list")?.iter().find(|finding| finding["name"] == "kube-proxy");
        let finding = finding.context("a finding")?;
        let word = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        Ok((word("outcome"), format!("{}; {}", word("detail"), word("remedy"))))
    }

    fn clean_up(&self) -> Result<Value> {
        let (good, text) = self.ctl(&["--cleanup-kube-proxy", "-o", "json"])?;
        ensure!(good, "{text}");
        Ok(serde_json::from_str(&text)?)
    }
}

/// A text in the words of one family.
fn in_family(text: &str, ipv6: bool) -> String {
    let words = if ipv6 {
        [
            ("{host}", "128"),
            ("{ip}", "fd00:96::5"),
            ("{none}", "fd00:96::6"),
            ("{a_port}", "[fd00:88::a]:8080"),
            ("{b_port}", "[fd00:88::b]:8080"),
            ("{a}", "fd00:88::a"),
            ("{b}", "fd00:88::b"),
            ("{f}", "ip6"),
            ("{kind}", "ipv6"),
            ("{to}", "[fd00:88::a]:8080"),
        ]
    } else {
        [
            ("{host}", "32"),
            ("{ip}", "10.96.0.5"),
            ("{none}", "10.96.0.6"),
            ("{a_port}", "10.88.0.10:8080"),
            ("{b_port}", "10.88.0.11:8080"),
            ("{a}", "10.88.0.10"),
            ("{b}", "10.88.0.11"),
            ("{f}", "ip"),
            ("{kind}", "ipv4"),
            ("{to}", "10.88.0.10:8080"),
        ]
    };
    words.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// What kube-proxy writes in the mode iptables, as input of `iptables-restore`.
fn kube_proxys(program: &str) -> String {
    // Some jumps stand in front of those of others.
    let nat = NAT_RULES.replace("-A PREROUTING", "-I PREROUTING").replace("-A POSTROUTING", "-I POSTROUTING");
    let filter = FILTER_RULES.replace("-A INPUT", "-I INPUT");
    let text = format!(
        "*mangle\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n*nat\n{NAT_CHAINS}{nat}COMMIT\n*filter\n{FILTER_CHAINS}{filter}COMMIT\n"
    );
    in_family(&text, program.starts_with("ip6"))
}

#[test]
fn all_that_kube_proxy_left_goes_and_all_else_stays() -> Result<()> {
    needs_root!();
    let rules = Rules::new("kubeproxy")?;
    for program in PROGRAMS {
        rules.restore(program, FOREIGN)?;
    }
    let theirs = in_family(NFTABLES, false);
    rules.feed("nft", &["-f", "-"], &theirs[theirs.find("table ip mine").context("it")?..])?;
    rules.netns.run("ipset", &["create", "KUBE-SRC-ABCDEFGH", "hash:ip"])?;
    let before = rules.all()?;
    assert_eq!(rules.preflight()?, ("ok".to_owned(), "none of its rules are here; ".to_owned()));
    assert_eq!(rules.clean_up()?["removed"], serde_json::json!([]));
    assert_eq!(rules.all()?, before);

    for program in PROGRAMS {
        rules.restore(program, &kube_proxys(program))?;
    }
    for ipv6 in [false, true] {
        let text = in_family(NFTABLES, ipv6);
        rules.feed(
            "nft",
            &["-f", "-"],
            &text[..text.find("table ip mine").or(text.find("table ip6 mine")).context("it")?],
        )?;
    }
    rules.netns.run("ipset", &["create", "KUBE-CLUSTER-IP", "hash:ip,port"])?;
    rules.netns.run("ipset", &["create", "KUBE-6-CLUSTER-IP", "hash:ip,port", "family", "inet6"])?;
    rules.netns.run("ipset", &["add", "KUBE-CLUSTER-IP", "10.96.0.5,tcp:80"])?;
    let uses =
        "*nat\n-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ\nCOMMIT\n";
    rules.restore("iptables-nft", uses)?;
    // A bridge stands for the interface, which is of a kind that not every kernel has.
    rules.netns.ip("link add kube-ipvs0 type bridge")?;
    rules.netns.ip("address add 10.96.0.5/32 dev kube-ipvs0")?;
    let with_kube_proxy = rules.all()?;

    let (outcome, words) = rules.preflight()?;
    assert_eq!(outcome, "warning");
    // Ten in nat without the two that a kubelet may have made, six in filter, one in mangle.
    assert_eq!(
        words,
        "it has left 15 chains of iptables-legacy, 15 chains of ip6tables-legacy, 15 chains of iptables-nft, 15 chains of \
         ip6tables-nft, the nftables table ip kube-proxy, the nftables table ip6 kube-proxy, 2 ipsets and the interface \
         kube-ipvs0 with 0 IPVS services; once kube-proxy is stopped: cambricctl preflight --cleanup-kube-proxy"
    );
    assert_eq!(rules.all()?, with_kube_proxy, "looking changes nothing");

    let cleanup = rules.clean_up()?;
    assert_eq!((&cleanup["kept"], &cleanup["failed"]), (&serde_json::json!([]), &serde_json::json!([])));
    // Three tables of four programs, two of nftables, two sets, the interface.
    assert_eq!(cleanup["removed"].as_array().context("a list")?.len(), 17, "{cleanup}");
    assert!(
        cleanup
            .to_string()
            .contains(r#"{"place":"iptables-legacy nat","what":"10 chains, 15 rules, 3 jumps to them"}"#),
        "{cleanup}"
    );
    let after = rules.all()?;
    assert_eq!(after, before, "{}", similar(&before, &after));
    assert!(!rules.netns.links()?.contains(&"kube-ipvs0".to_owned()));
    assert_eq!(rules.preflight()?.0, "ok");
    assert_eq!(
        rules.ctl(&["--cleanup-kube-proxy"])?,
        (true, "kube-proxy has left nothing here\n".to_owned())
    );
    Ok(())
}

/// The lines that only one of two texts has.
fn similar(before: &str, after: &str) -> String {
    let only = |a: &str, b: &str, sign| {
        let lines = a.lines().filter(|line| !b.lines().any(|other| other == *line));
        lines.map(|line| format!("{sign} {line}")).collect::<Vec<_>>()
    };
    [only(before, after, '-'), only(after, before, '+')].concat().join("\n")
}

#[test]
fn chains_that_others_use_stay_and_it_is_said_why() -> Result<()> {
    needs_root!();
    let rules = Rules::new("shared")?;
    let portmap = "*nat\n:CNI-HOSTPORT-SETMARK - [0:0]\n-A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ\nCOMMIT\n";
    for program in ["iptables-legacy", "iptables-nft"] {
        rules.restore(program, &kube_proxys(program))?;
        rules.restore(program, portmap)?;
    }
    let cleanup = rules.clean_up()?;
    assert_eq!(cleanup["kept"].as_array().context("a list")?.len(), 4, "{cleanup}");
    assert!(cleanup.to_string().contains("in CNI-HOSTPORT-SETMARK, jumps to it"), "{cleanup}");
    for program in ["iptables-legacy", "iptables-nft"] {
        let saved = rules.saved(program)?;
        assert_eq!(saved.lines().filter(|line| line.starts_with(":KUBE-")).count(), 2, "{saved}");
        assert!(
            saved.contains("-j MASQUERADE") && saved.contains("-A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ"),
            "{saved}"
        );
    }
    assert_eq!(rules.preflight()?.0, "ok");
    Ok(())
}

#[test]
fn what_cannot_be_removed_is_left_whole_and_told() -> Result<()> {
    needs_root!();
    let rules = Rules::new("stuck")?;
    rules.restore("iptables-nft", &kube_proxys("iptables-nft"))?;
    rules.netns.run("ipset", &["create", "KUBE-CLUSTER-IP", "hash:ip,port"])?;
    let foreign = "*raw\n-A PREROUTING -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT\nCOMMIT\n";
    rules.restore("iptables-legacy", foreign)?;
    let (good, said) = rules.ctl(&["--cleanup-kube-proxy"])?;
    assert!(!good && said.contains("the ipset KUBE-CLUSTER-IP cannot be removed: a rule uses it"), "{said}");
    assert!(rules.saved("iptables-legacy")?.contains("KUBE-CLUSTER-IP"));
    assert!(!rules.saved("iptables-nft")?.contains("KUBE-"));

    // Without the programs, all stays.
    rules.restore("iptables-nft", &kube_proxys("iptables-nft"))?;
    let before = rules.all()?;
    let mut command = rules.netns.command("unshare")?;
    command.args([
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs none /usr/sbin && exec \"$0\" preflight --cleanup-kube-proxy",
    ]);
    let out = command.arg(rules.binaries.ctl()).output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    ensure!(!out.status.success(), "{said}");
    let why = "chains of iptables-nft cannot be removed: iptables-nft-save is not installed; install the package iptables";
    assert!(said.contains(why), "{said}");
    assert_eq!(rules.all()?, before);
    Ok(())
}

#[test]
fn a_kube_proxy_that_runs_is_noticed() -> Result<()> {
    needs_root!();
    let rules = Rules::new("running")?;
    rules.restore("iptables-nft", &kube_proxys("iptables-nft"))?;
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("kube-proxy");
    // A link, for a copy is busy as long as another thread's child holds it open.
    std::os::unix::fs::symlink("/bin/sleep", &program)?;
    let mut process = rules.netns.command(&program)?.arg("60").spawn()?;
    let running = format!("kube-proxy (process {})", process.id());
    let warned = rules.preflight();
    let before = rules.all();
    let refused = rules.ctl(&["--cleanup-kube-proxy"]);
    process.kill()?;
    process.wait()?;
    assert!(warned?.1.contains(&format!("stop {running}, then: ")));
    let (good, said) = refused?;
    assert!(!good && said.contains(&running.replace(" (", " runs (")), "{said}");
    assert_eq!(rules.all()?, before?);

    // One that cannot be seen puts its rules back.
    let (cleaned, put_back) = thread::scope(|scope| {
        let back = scope.spawn(|| {
            eventually(Duration::from_secs(10), || {
                rules.netns.run("iptables-nft", &["-t", "nat", "-N", "KUBE-SERVICES"]).is_ok()
            })
        });
        (rules.ctl(&["--cleanup-kube-proxy"]), back.join())
    });
    ensure!(put_back.unwrap_or_default(), "nothing was put back");
    let (good, said) = cleaned?;
    assert!(
        !good && said.contains("1 chain of iptables-nft came back: kube-proxy still runs; stop it"),
        "{said}"
    );
    Ok(())
}

#[test]
fn looking_at_ten_thousand_services_takes_no_time() -> Result<()> {
    needs_root!();
    let rules = Rules::new("many")?;
    let letters = |number: u32| {
        (0..16)
            .map(|digit| char::from(b'A' + u8::try_from((number >> ((digit * 4) % 32)) & 15).unwrap_or(0)))
            .collect::<String>()
    };
    let (mut chains, mut inside) = (String::new(), String::new());
    for number in 0..10_000_u32 {
        let hash = letters(number);
        writeln!(chains, ":KUBE-SVC-{hash} - [0:0]\n:KUBE-SEP-{hash} - [0:0]")?;
        writeln!(inside, "-A KUBE-SVC-{hash} -j KUBE-SEP-{hash}")?;
    }
    for program in ["iptables-legacy", "iptables-nft"] {
        rules.restore(program, &format!("*nat\n{chains}{inside}COMMIT\n"))?;
    }
    let began = Instant::now();
    let found = rules.netns.inside(ipamd_machine::kube_proxy::look)?;
    let took = began.elapsed();
    println!("looked at {found} in {took:?}");
    assert!(
        found.to_string().starts_with("20000 chains of iptables-legacy and 20000 chains of iptables-nft"),
        "{found}"
    );
    let began = Instant::now();
    rules.clean_up()?;
    println!("removed them in {:?}", began.elapsed());
    Ok(())
}

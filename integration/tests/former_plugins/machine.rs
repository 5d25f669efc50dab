//! A machine in a namespace of its own, with folders of its own for what is machine-wide.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use integration::testbed::{Binaries, Netns};
use serde_json::Value;
use tempfile::TempDir;

use super::attached::Cgroup;

/// Programs that print rules; their output is the same as long as the rules are.
const RULES: [&str; 4] =
    ["iptables-legacy-save", "ip6tables-legacy-save", "iptables-nft-save", "ip6tables-nft-save"];

pub struct Machine {
    netns: Netns,
    binaries: Binaries,
    cgroup: Cgroup,
    folder: TempDir,
}

/// What one check found.
#[derive(Clone, Debug)]
pub struct Finding {
    pub name: String,
    pub outcome: String,
    pub detail: String,
    pub remedy: String,
}

impl Machine {
    pub fn new(label: &str) -> Result<Self> {
        let (netns, binaries) = (Netns::new(label)?, Binaries::find()?);
        let machine = Self { netns, binaries, cgroup: Cgroup::new()?, folder: tempfile::tempdir()? };
        fs::create_dir_all(machine.path("net.d"))?;
        fs::create_dir_all(machine.path("root/sys/fs/bpf/cambric/maps"))?;
        fs::create_dir_all(machine.path("root/proc"))?;
        std::os::unix::fs::symlink("/proc/sys", machine.path("root/proc/sys"))?;
        machine.configure("")?;
        Ok(machine)
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder, as it is in findings.
    pub fn shown(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// Writes the daemon's configuration.
    pub fn configure(&self, more: &str) -> Result<()> {
        let (folder, cgroup) = (self.shown(), self.cgroup.path().display());
        let text = format!(
            "host-root = \"{folder}/root\"\nbpffs = \"{folder}/root/sys/fs/bpf/cambric\"\ncni-conf-dir = \"{folder}/net.d\"\n\
             cgroup = \"{cgroup}\"\n{more}"
        );
        Ok(fs::write(self.path("ipamd.toml"), text)?)
    }

    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        Ok(fs::write(path, text)?)
    }

    /// Runs commands as a person would; the first that fails ends it.
    pub fn shell(&self, script: &str) -> Result<String> {
        self.netns.run("bash", &["-e", "-o", "pipefail", "-c", script])
    }

    /// Commands for a node, as they are to be here.
    pub fn on_this_machine(&self, commands: &str) -> String {
        commands.replace("/sys/fs/bpf", &format!("{}/root/sys/fs/bpf", self.shown()))
    }

    /// What is there of others on any machine: an uplink, Docker's and an administrator's rules, a set, a route of a
    /// routing daemon's, a bridge with a container.
    pub fn make_foreign_things(&self) -> Result<()> {
        self.shell(
            r#"
            # No addresses that come by themselves, later.
            echo 1 > /proc/sys/net/ipv6/conf/default/addr_gen_mode
            ip link add up0 type veth peer name far; ip link set up0 up; ip link set far up
            ip address add 192.0.2.1/24 dev up0; ip address add 2001:db8::1/64 dev up0 nodad
            ip route add default via 192.0.2.254
            ip route add 198.51.100.0/24 via 192.0.2.253 proto static; ip route add blackhole 203.0.113.0/24 proto ospf
            ip link add docker0 type bridge; ip link add veth1 type veth peer name inner; ip link set veth1 master docker0
            for save in iptables-legacy ip6tables-legacy iptables-nft ip6tables-nft; do
                # Built-in chains stay where somebody has used them.
                printf '%s\n' '*raw' ':PREROUTING ACCEPT [0:0]' ':OUTPUT ACCEPT [0:0]' COMMIT \
                    '*mangle' ':PREROUTING ACCEPT [0:0]' ':INPUT ACCEPT [0:0]' ':FORWARD ACCEPT [0:0]' \
                    ':OUTPUT ACCEPT [0:0]' ':POSTROUTING ACCEPT [0:0]' COMMIT \
                    '*filter' ':INPUT ACCEPT [0:0]' ':FORWARD ACCEPT [0:0]' ':OUTPUT ACCEPT [0:0]' \
                    ':DOCKER - [0:0]' ':KUBE-FIREWALL - [0:0]' '-A FORWARD -j DOCKER' \
                    '-A INPUT -p tcp -m tcp --dport 22 -m comment --comment "not for calico" -j ACCEPT' COMMIT \
                    '*nat' ':PREROUTING ACCEPT [0:0]' ':INPUT ACCEPT [0:0]' ':OUTPUT ACCEPT [0:0]' \
                    ':POSTROUTING ACCEPT [0:0]' '-A POSTROUTING -o up0 -j MASQUERADE' COMMIT | $save-restore
            done
            nft add table ip mine; nft add chain ip mine cali-INPUT; nft add table inet calico
            ipset create mine hash:ip
            "#,
        )?;
        self.write("root/sys/fs/bpf/somebody/else", "")
    }

    /// All that looking could change: rules, sets, links, routes, files, programs.
    pub fn state(&self) -> Result<String> {
        let mut state = String::new();
        for program in RULES {
            let saved = self.netns.run(program, &[])?;
            state.extend(saved.lines().filter(|line| !line.starts_with('#')).map(without_counters));
        }
        state += &self.shell(
            // Timers go on, and carrier changes arrive at any time.
            "nft list tables | sort; nft --stateless list table ip mine; ipset save
             ip -o -d link | sed 's/<[^>]*>//; s/ state [A-Z]*//; s/[a-z_]*timer *[0-9.]*//g'
             ip address | grep inet; (ip route; ip -6 route) | sed 's/ linkdown//'
             for hook in ingress egress; do tc filter show dev up0 $hook 2>/dev/null || true; done",
        )?;
        // What is set aside is there still, by another name.
        Ok(state + &self.shell(&format!("find {} -type f ! -name '*.off' | sort", self.shown()))?)
    }

    /// What preflight says for these checks.
    pub fn preflight(&self, checks: &[&str]) -> Result<Vec<Finding>> {
        let mut command = self.netns.command(self.binaries.ctl())?;
        let out =
            command.args(["preflight", "-o", "json", "--config"]).arg(self.path("ipamd.toml")).output()?;
        let text = String::from_utf8_lossy(&out.stdout);
        let findings: Value = serde_json::from_str(&text)
            .with_context(|| format!("{text}{}", String::from_utf8_lossy(&out.stderr)))?;
        let word = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        let findings = findings.as_array().context("a list")?.iter().map(|finding| Finding {
            name: word(finding, "name"),
            outcome: word(finding, "outcome"),
            detail: word(finding, "detail"),
            remedy: word(finding, "remedy"),
        });
        let findings = findings.filter(|finding| checks.contains(&&*finding.name)).collect::<Vec<_>>();
        for check in checks {
            ensure!(findings.iter().any(|finding| finding.name == *check), "{check} says nothing");
        }
        Ok(findings)
    }
}

/// A line of rules; how often a chain was used may change.
fn without_counters(line: &str) -> String {
    let end = if line.starts_with(':') { line.find(" [") } else { None };
    format!("{}\n", &line[..end.unwrap_or(line.len())])
}

/// The lines that only one of two texts has.
pub fn similar(before: &str, after: &str) -> String {
    let only = |a: &str, b: &str, sign| {
        let lines = a.lines().filter(|line| !b.lines().any(|other| other == *line));
        lines.map(|line| format!("{sign} {line}")).collect::<Vec<_>>()
    };
    [only(before, after, '-'), only(after, before, '+')].concat().join("\n")
}

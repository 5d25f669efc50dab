//! Removes what kube-proxy has left, and nothing else.

use std::{fmt::Display, fs, io, net::IpAddr, thread, time::Duration};

use serde::Serialize;

use super::{
    iptables_save, ipvs,
    leftovers::{self, look},
    names,
    process::process,
    removal::{Reason, Removal},
    tools::{self, ToolError},
};
use ipamd_kernel::{
    netfilter::{Ruleset, Variant},
    netlink::{
        self,
        netfilter::{IPV4, IPV6, Netfilter},
    },
};

/// How long to wait before looking whether somebody has put it back.
const SETTLE: Duration = Duration::from_secs(1);
/// How many seconds `iptables-restore` waits for others who change rules.
const LOCK: &str = "10";

/// Something that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Where: a table, or a part of the kernel.
    pub place: String,
    /// What, counted.
    pub what: String,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cleanup {
    /// What was removed.
    pub removed: Vec<Removed>,
    /// What of kube-proxy was left because others use it: a sentence each.
    pub kept: Vec<String>,
    /// What could not be removed: a sentence each.
    pub failed: Vec<String>,
}

impl Cleanup {
    fn removed(&mut self, place: impl Display, what: impl Display) {
        self.removed.push(Removed { place: place.to_string(), what: what.to_string() });
    }
}

/// Removes what kube-proxy has left in the network namespace of the caller: each table as a whole or not at all.
///
/// # Errors
/// If it cannot be seen what there is. What cannot be removed is told in the result.
pub fn clean_up() -> io::Result<Cleanup> {
    let mut cleanup = Cleanup::default();
    let found = look()?;
    let chains = || found.chains.keys().chain(found.shared.keys());
    let mut rulesets = chains().copied().collect::<Vec<_>>();
    rulesets.sort_unstable();
    rulesets.dedup();
    for ruleset in rulesets {
        if let Err(error) = remove_chains(ruleset, &mut cleanup) {
            cleanup.failed.push(format!("chains of {ruleset} cannot be removed: {error}"));
        }
    }
    let mut netfilter = Netfilter::open()?;
    for ipv6 in &found.tables {
        let family = if *ipv6 { IPV6 } else { IPV4 };
        match netfilter.remove_table(family, names::TABLE) {
            Ok(true) => cleanup.removed("nftables", format!("table {}", leftovers::table(*ipv6))),
            Ok(false) => {}
            Err(error) => {
                cleanup.failed.push(format!(
                    "the nftables table {} cannot be removed: {error}",
                    leftovers::table(*ipv6)
                ));
            }
        }
    }
    if let Some(index) = found.interface {
        remove_ipvs(index, &mut cleanup);
    }
    // Behind the chains, whose rules use them.
    for set in &found.sets {
        match netfilter.remove_set(set) {
            Ok(true) => cleanup.removed("ipset", format!("set {set}")),
            Ok(false) => {}
            Err(error) => {
                cleanup.failed.push(format!("the ipset {set} cannot be removed: {}", set_error(&error)));
            }
        }
    }
    if !cleanup.removed.is_empty() && cleanup.failed.is_empty() {
        thread::sleep(SETTLE);
        let back = look()?;
        // What was kept is there still.
        if !back.is_empty() && cleanup.kept.is_empty() {
            let who = process().map_or_else(String::new, |process| format!(" (process {process})"));
            cleanup
                .failed
                .push(format!("{back} came back: kube-proxy still runs{who}; stop it, and run this again"));
        }
    }
    Ok(cleanup)
}

/// `ipset` has numbers of its own, beyond the kernel's others (`linux/netfilter/ipset/ip_set.h`).
fn set_error(error: &io::Error) -> String {
    const BUSY: i32 = 4100;
    match error.raw_os_error() {
        Some(BUSY) => "a rule uses it".to_owned(),
        _ => error.to_string(),
    }
}

/// Removes the chains of all tables of a variant and family.
fn remove_chains(ruleset: Ruleset, cleanup: &mut Cleanup) -> Result<(), String> {
    let (save, restore) =
        programs(ruleset).map_err(|error| format!("{error}; install the package iptables"))?;
    let text = tools::run(&save, &[], "").map_err(|error| error.to_string())?;
    for table in iptables_save::parse(&text).map_err(|error| error.to_string())? {
        let removal = Removal::of(&table);
        let place = format!("{ruleset} {}", table.name);
        for (chain, reason) in &removal.kept {
            let why = match reason {
                Reason::Kubelet => "the kubelet of this node is older than 1.28 and makes it too".to_owned(),
                Reason::UsedIn(user) => format!("a rule that is not kube-proxy's, in {user}, jumps to it"),
                Reason::NeededBy(user) => format!("{user} needs it"),
            };
            cleanup.kept.push(format!("{chain} of {place} stays: {why}"));
        }
        if removal.is_empty() {
            continue;
        }
        match tools::run(&restore, &["--noflush", "--wait", LOCK], &removal.transaction()) {
            Ok(_) => {
                let Removal { chains, rules, jumps, .. } = &removal;
                let what = format!("{} chains, {rules} rules, {} jumps to them", chains.len(), jumps.len());
                cleanup.removed(place, what);
            }
            Err(error) => cleanup.failed.push(format!("{place} is as it was: {error}")),
        }
    }
    Ok(())
}

/// The programs that read and write these rules: those named by their variant, or the plain ones if they are of it.
fn programs(ruleset: Ruleset) -> Result<(String, String), ToolError> {
    let named = ruleset.to_string();
    if let Ok(version) = tools::run(&format!("{named}-save"), &["--version"], "") {
        drop(version);
        return Ok((format!("{named}-save"), format!("{named}-restore")));
    }
    let plain = if ruleset.ipv6 { "ip6tables" } else { "iptables" };
    let missing = || ToolError::Missing { program: format!("{named}-save") };
    let version = tools::run(&format!("{plain}-save"), &["--version"], "").map_err(|_| missing())?;
    // Those from before there were variants do not say any.
    let variant = if version.contains("nf_tables") { Variant::Nft } else { Variant::Legacy };
    if variant != ruleset.variant {
        return Err(missing());
    }
    Ok((format!("{plain}-save"), format!("{plain}-restore")))
}

/// Removes the interface, and before it the virtual services at its addresses. Those at others, such as of node ports,
/// may be somebody else's.
fn remove_ipvs(index: u32, cleanup: &mut Cleanup) {
    let mut socket = match netlink::Socket::open() {
        Ok(socket) => socket,
        Err(error) => return cleanup.failed.push(error.to_string()),
    };
    let addresses = match socket.addresses() {
        Ok(addresses) => addresses,
        Err(error) => return cleanup.failed.push(error.to_string()),
    };
    let addresses = addresses.iter().filter(|address| address.ifindex == index);
    let addresses = addresses.map(|address| address.address).collect::<Vec<IpAddr>>();
    let list = fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap_or_default();
    let (at_it, others): (Vec<_>, Vec<_>) =
        ipvs::services(&list).into_iter().partition(|service| addresses.contains(&service.at.ip()));
    for service in at_it {
        match tools::run("ipvsadm", &["-D", service.flag, &service.at.to_string()], "") {
            Ok(_) => cleanup.removed("IPVS", format!("service {}", service.at)),
            Err(error) => {
                cleanup.failed.push(format!("the IPVS service {} cannot be removed: {error}", service.at));
            }
        }
    }
    for service in others {
        cleanup.kept.push(format!(
            "the IPVS service {at} stays, for its address is not one of {interface}; if it is kube-proxy's: ipvsadm -D \
             {flag} {at}",
            at = service.at,
            interface = names::INTERFACE,
            flag = service.flag
        ));
    }
    match socket.remove_link(index) {
        Ok(()) => cleanup.removed("interfaces", names::INTERFACE),
        Err(error) if error.is_not_found() => {}
        Err(error) => cleanup.failed.push(error.to_string()),
    }
}

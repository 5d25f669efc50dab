//! `cambricctl deny`.

use ipamd_api::{
    Reply, Request,
    wire::{DenySet, DenyStatus},
};

use super::{
    daemon::Daemon,
    output::{Output, fields, table},
};

pub(super) fn list(daemon: &mut Daemon, output: &Output) -> anyhow::Result<()> {
    let status = daemon.ask(Request::Status, |reply| match reply {
        Reply::Status(status) => Some(*status),
        _ => None,
    })?;
    output.print(&status.deny, text)
}

fn text(DenyStatus { sets, uplinks }: &DenyStatus) -> String {
    let uplinks: Vec<_> = uplinks.iter().map(|(name, mode)| format!("{name} ({mode})")).collect();
    let uplinks = if uplinks.is_empty() { "none".to_owned() } else { uplinks.join(", ") };
    let row = |DenySet { name, prefixes, packets, bytes }: &DenySet| {
        [name.clone(), prefixes.to_string(), packets.to_string(), bytes.to_string()]
    };
    let sets = table(["SET", "PREFIXES", "PACKETS", "BYTES"], sets.iter().map(row));
    format!("{}\n{sets}", fields([("Uplinks", uplinks)]).trim_end())
}

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
    output.print(&status.deny, |deny| text(deny, status.ready))
}

fn text(DenyStatus { sets, uplinks }: &DenyStatus, serves: bool) -> String {
    let uplinks: Vec<_> = uplinks.iter().map(|(name, mode)| format!("{name} ({mode})")).collect();
    let uplinks = match (uplinks.is_empty(), serves) {
        (false, _) => uplinks.join(", "),
        (true, true) => "none".to_owned(),
        (true, false) => {
            "not known: the daemon does not serve yet, and what an earlier one put in force stays".to_owned()
        }
    };
    let row = |DenySet { name, prefixes, packets, bytes }: &DenySet| {
        [name.clone(), prefixes.to_string(), packets.to_string(), bytes.to_string()]
    };
    let sets = table(["SET", "PREFIXES", "PACKETS", "BYTES"], sets.iter().map(row));
    format!("{}\n{sets}", fields([("Uplinks", uplinks)]).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_does_not_serve_yet_does_not_say_that_nothing_is_denied() {
        let none = DenyStatus::default();
        assert!(text(&none, true).contains("none"));
        let starting = text(&none, false);
        assert!(starting.contains("not known: the daemon does not serve yet"), "{starting}");
        let native = DenyStatus { uplinks: [("eth0".into(), "native".into())].into(), ..none };
        assert!(text(&native, false).contains("eth0 (native)"));
    }
}

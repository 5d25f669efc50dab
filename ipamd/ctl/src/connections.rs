//! `cambricctl ct`.

use std::net::IpAddr;

use clap::Args;
use ipamd_api::{
    Reply, Request,
    wire::{Connection, ConntrackFilter},
};

use super::{
    daemon::Daemon,
    output::{Output, table},
    status::duration,
};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// The protocols that have names here.
const PROTOCOLS: [(u8, &str); 6] =
    [(ICMP, "icmp"), (6, "tcp"), (17, "udp"), (ICMPV6, "icmpv6"), (132, "sctp"), (136, "udplite")];

/// Which connections; each flag that is given must match.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// An address of either side, before or after translation
    #[arg(long)]
    address: Option<IpAddr>,
    /// A port of either side, before or after translation
    #[arg(long)]
    port: Option<u16>,
    /// tcp, udp, icmp, icmpv6, sctp, udplite, or a number
    #[arg(long, value_parser = protocol)]
    protocol: Option<u8>,
    /// At most so many
    #[arg(long)]
    limit: Option<u64>,
}

/// The number of a protocol that is given by name or number.
pub(super) fn protocol(text: &str) -> Result<u8, String> {
    let named = PROTOCOLS.iter().find(|(_, name)| *name == text).map(|(number, _)| *number);
    named
        .or_else(|| text.parse().ok())
        .ok_or_else(|| "protocols are tcp, udp, icmp, icmpv6, sctp, udplite and 0 to 255".to_owned())
}

pub(super) fn list(daemon: &mut Daemon, filter: &Filter, output: &Output) -> anyhow::Result<()> {
    let Filter { address, port, protocol, limit } = *filter;
    let client = &mut daemon.client;
    client.send(Request::Conntrack(ConntrackFilter { address, port, protocol, limit }))?;
    let mut connections = Vec::new();
    loop {
        match client.receive()? {
            Reply::Conntrack(page) => {
                connections.extend(page.connections);
                if page.last {
                    break;
                }
            }
            _ => return Err(client.confused("the answer is of another sort".into()).into()),
        }
    }
    output.print(&connections, |connections| {
        let titles = ["PROTOCOL", "SOURCE", "DESTINATION", "MASQUERADE", "BACKEND", "STATE", "EXPIRES IN"];
        table(titles, connections.iter().map(row))
    })
}

fn row(connection: &Connection) -> [String; 7] {
    let icmp = matches!(connection.protocol, ICMP | ICMPV6);
    let [kind, code] = connection.destination_port.to_be_bytes();
    let name = protocol_name(connection.protocol);
    [
        if icmp { format!("{name}/{kind}/{code}") } else { name },
        side(connection.source, connection.source_port),
        if icmp {
            connection.destination.to_string()
        } else {
            side(connection.destination, connection.destination_port)
        },
        translated(connection.masquerade),
        translated(connection.backend),
        connection.state.clone(),
        duration(connection.expires_in),
    ]
}

/// A protocol's name, or its number if it has none here.
pub(super) fn protocol_name(number: u8) -> String {
    let name = PROTOCOLS.iter().find(|(known, _)| *known == number).map(|(_, name)| (*name).to_owned());
    name.unwrap_or_else(|| number.to_string())
}

fn translated(to: Option<(IpAddr, u16)>) -> String {
    to.map_or_else(|| "-".to_owned(), |(address, port)| side(address, port))
}

fn side(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_go_by_name_or_number() {
        assert_eq!(["tcp", "6", "icmpv6", "47"].map(|text| protocol(text).unwrap()), [6, 6, 58, 47]);
        assert!(protocol("tpc").is_err() && protocol("256").is_err());
    }

    #[test]
    fn an_echo_has_its_identifier_and_type() {
        let connection = Connection {
            protocol: ICMP,
            source: "10.0.0.1".parse().unwrap(),
            source_port: 77,
            destination: "10.0.0.2".parse().unwrap(),
            destination_port: 8 << 8,
            masquerade: None,
            backend: None,
            state: "new".into(),
            expires_in: 3,
        };
        assert_eq!(row(&connection)[..3], ["icmp/8/0", "10.0.0.1:77", "10.0.0.2"]);
        let question = Connection { protocol: 17, ..connection };
        assert_eq!(row(&question)[..3], ["udp", "10.0.0.1:77", "10.0.0.2:2048"]);
    }
}

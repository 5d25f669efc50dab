//! Whole tables of the kernel, each entry as a line for people: for a report, not for decisions.

use ipamd_netlink::NetlinkError;
use netlink_packet_route::{
    RouteNetlinkMessage as Message, address::AddressMessage, link::LinkMessage, neighbour::NeighbourMessage,
    route::RouteMessage, rule::RuleMessage, tc::TcMessage,
};

use super::socket::Socket;

/// A table of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Interfaces, with their counters.
    Links,
    /// Their addresses.
    Addresses,
    /// Routes of all routing tables and both families.
    Routes,
    /// Which routing table is asked.
    Rules,
    /// Who has which address on a link.
    Neighbours,
    /// Queueing disciplines.
    Qdiscs,
}

impl Table {
    /// Each of them.
    pub const ALL: [Self; 6] =
        [Self::Links, Self::Addresses, Self::Routes, Self::Rules, Self::Neighbours, Self::Qdiscs];

    /// What is in it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Links => "links",
            Self::Addresses => "addresses",
            Self::Routes => "routes",
            Self::Rules => "rules",
            Self::Neighbours => "neighbours",
            Self::Qdiscs => "qdiscs",
        }
    }

    fn query(self) -> Message {
        match self {
            Self::Links => Message::GetLink(LinkMessage::default()),
            Self::Addresses => Message::GetAddress(AddressMessage::default()),
            Self::Routes => Message::GetRoute(RouteMessage::default()),
            Self::Rules => Message::GetRule(RuleMessage::default()),
            Self::Neighbours => Message::GetNeighbour(NeighbourMessage::default()),
            Self::Qdiscs => Message::GetQueueDiscipline(TcMessage::default()),
        }
    }
}

impl Socket {
    /// The entries of a table, a line each, in the order in which the kernel tells them.
    pub fn table(&mut self, table: Table) -> Result<Vec<String>, NetlinkError> {
        self.dump(&table.query(), table.name(), |message| {
            Some(match message {
                Message::NewLink(it) => format!("{it:?}"),
                Message::NewAddress(it) => format!("{it:?}"),
                Message::NewRoute(it) => format!("{it:?}"),
                Message::NewRule(it) => format!("{it:?}"),
                Message::NewNeighbour(it) => format!("{it:?}"),
                Message::NewQueueDiscipline(it) => format!("{it:?}"),
                other => format!("{other:?}"),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_is_read_by_anybody() {
        let mut socket = Socket::open().unwrap();
        for table in Table::ALL {
            let entries = socket.table(table).unwrap();
            assert!(entries.iter().all(|entry| !entry.contains('\n')), "{}", table.name());
            if table == Table::Links {
                assert!(entries.iter().any(|entry| entry.contains("IfName(\"lo\")")), "{entries:?}");
            }
        }
    }
}

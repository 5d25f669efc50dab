//! BPF programs in tc filters of a clsact qdisc.

use std::fmt;

use ipamd_netlink::NetlinkError;
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use super::socket::Socket;

/// A clsact discipline's two places for filters. Shown as `tc` calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// What the interface receives.
    Ingress,
    /// What is sent through it.
    Egress,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// A filter that runs a BPF program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filter {
    /// Index of the interface.
    pub ifindex: u32,
    /// Where.
    pub hook: Hook,
    /// Filters of a smaller number run before it.
    pub preference: u32,
    /// Its number among those of its preference.
    pub handle: u32,
    /// The program's number.
    pub program: u32,
}

impl Filter {
    pub(super) fn from_message(message: &TcMessage, hook: Hook) -> Option<Self> {
        let program = message.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Options(options) => options.iter().find_map(|option| match option {
                TcOption::Bpf(TcFilterBpfOption::ProgId(number)) => Some(*number),
                _ => None,
            }),
            _ => None,
        })?;
        Some(Self {
            ifindex: u32::try_from(message.header.index).ok()?,
            hook,
            // Below it is the protocol.
            preference: message.header.info >> 16,
            handle: message.header.handle.into(),
            program,
        })
    }
}

impl Socket {
    /// The filters with programs at an interface's clsact discipline; none if it has no such discipline.
    pub fn filters(&mut self, ifindex: u32) -> Result<Vec<Filter>, NetlinkError> {
        let mut filters = Vec::new();
        for (hook, minor) in [(Hook::Ingress, TcHandle::MIN_INGRESS), (Hook::Egress, TcHandle::MIN_EGRESS)] {
            let mut query = TcMessage::default();
            query.header.index = ifindex.cast_signed();
            query.header.parent = TcHandle { major: TcHandle::CLSACT.major, minor };
            filters.extend(self.dump(
                &RouteNetlinkMessage::GetTrafficFilter(query),
                "filters",
                |message| match message {
                    RouteNetlinkMessage::NewTrafficFilter(message) => Filter::from_message(&message, hook),
                    _ => None,
                },
            )?);
        }
        Ok(filters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_in_a_filter_is_told_from_other_filters() {
        let mut message = TcMessage::default();
        message.header.index = 3;
        message.header.handle = TcHandle { major: 0, minor: 1 };
        message.header.info = 49_152 << 16 | 0x0300;
        assert_eq!(Filter::from_message(&message, Hook::Egress), None);
        let option = TcOption::Bpf(TcFilterBpfOption::ProgId(77));
        message.attributes = vec![TcAttribute::Kind("bpf".into()), TcAttribute::Options(vec![option])];
        let filter = Filter { ifindex: 3, hook: Hook::Egress, preference: 49_152, handle: 1, program: 77 };
        assert_eq!(Filter::from_message(&message, Hook::Egress), Some(filter));
    }
}

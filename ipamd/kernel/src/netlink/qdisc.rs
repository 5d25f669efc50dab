//! Queueing disciplines.

use ipamd_netlink::NetlinkError;
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage},
};

use super::socket::Socket;

/// A queueing discipline at the root of an interface, or at its ingress hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qdisc {
    /// Index of the interface.
    pub ifindex: u32,
    /// Its kind, such as `noqueue`, `tbf` or `ingress`.
    pub kind: String,
}

impl Qdisc {
    /// Whether packets must pass through it: it queues, or it hands what the container sends to something else.
    pub fn shapes(&self) -> bool {
        !matches!(self.kind.as_str(), "noqueue" | "clsact")
    }
}

impl Socket {
    /// The root and ingress queueing disciplines of all interfaces.
    pub fn qdiscs(&mut self) -> Result<Vec<Qdisc>, NetlinkError> {
        let query = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        self.dump(&query, "queueing disciplines", |message| {
            let RouteNetlinkMessage::NewQueueDiscipline(message) = message else { return None };
            // Children of a root discipline say nothing more.
            if ![TcHandle::ROOT, TcHandle::INGRESS].contains(&message.header.parent) {
                return None;
            }
            let kind = message.attributes.into_iter().find_map(|attribute| match attribute {
                TcAttribute::Kind(kind) => Some(kind),
                _ => None,
            })?;
            Some(Qdisc { ifindex: u32::try_from(message.header.index).ok()?, kind })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bandwidth_plugins_disciplines_shape_and_our_own_do_not() {
        let shapes = |kind: &str| Qdisc { ifindex: 1, kind: kind.into() }.shapes();
        assert!(shapes("tbf") && shapes("ingress") && shapes("htb"));
        assert!(!shapes("noqueue") && !shapes("clsact"));
    }
}

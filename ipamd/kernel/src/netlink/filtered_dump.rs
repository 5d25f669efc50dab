//! Dumps that are filtered by the first bytes of each message. A node has as many routes and neighbours as the cluster
//! has nodes; most are skipped before they are parsed.

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// As much as the kernel puts into one datagram of a dump, in bytes.
const DATAGRAM: usize = 32 << 10;
/// What each message begins with, in bytes (`struct nlmsghdr`).
const HEADER: usize = 16;

/// A netlink socket in the namespace of the thread that opened it, for dumps.
pub(super) struct FilteredDump {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl FilteredDump {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Kernels without it give more, which is filtered here.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Gives the entries that `concerns` says yes to, by the bytes of the kernel's message, to `each`. Returns whether they
    /// are of one moment.
    pub fn dump(
        &mut self,
        query: RouteNetlinkMessage,
        concerns: &dyn Fn(&[u8]) -> bool,
        each: &mut dyn FnMut(RouteNetlinkMessage),
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(query);
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut consistent = true;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                received => received?,
            };
            for answer in Messages(&self.buffer) {
                let (header, payload) = answer?;
                // Of a dump that was given up.
                if header.sequence_number != self.sequence {
                    continue;
                }
                consistent &= header.flags & NLM_F_DUMP_INTR == 0;
                match header.message_type {
                    NLMSG_NOOP => {}
                    NLMSG_DONE | NLMSG_ERROR => {
                        let code = payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                        let failed = || io::Error::from_raw_os_error(code.saturating_neg());
                        return if code < 0 { Err(failed()) } else { Ok(consistent) };
                    }
                    _ if !concerns(payload) => {}
                    _ => each(RouteNetlinkMessage::deserialize(&header, payload).map_err(io::Error::other)?),
                }
            }
        }
    }
}

/// The messages of a datagram: header and payload of each.
pub(super) struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<(NetlinkHeader, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let message = split(&mut self.0);
        if message.is_none() {
            self.0 = &[];
        }
        Some(message.ok_or_else(|| io::ErrorKind::InvalidData.into()))
    }
}

/// Takes the first message off; `None` if what is there is none.
fn split<'a>(rest: &mut &'a [u8]) -> Option<(NetlinkHeader, &'a [u8])> {
    let word = |at: usize| rest.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let half = |at: usize| rest.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
    let mut header = NetlinkHeader::default();
    header.length = word(0)?;
    header.message_type = half(4)?;
    header.flags = half(6)?;
    header.sequence_number = word(8)?;
    header.port_number = word(12)?;
    let length = usize::try_from(header.length).ok()?;
    let payload = rest.get(HEADER..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((header, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_taken_apart_and_what_is_cut_short_is_an_error() {
        let mut bytes = Vec::new();
        for (number, payload) in [(1_u32, &b"abcde"[..]), (2, b"")] {
            let length = u32::try_from(HEADER + payload.len()).unwrap();
            bytes.extend([length.to_ne_bytes(), [3, 0, 0, 0], number.to_ne_bytes(), [0; 4]].concat());
            bytes.extend(payload);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let read = |bytes| {
            Messages(bytes)
                .map(|it| it.map(|(header, payload)| (header.sequence_number, payload.len())).ok())
                .collect::<Vec<_>>()
        };
        assert_eq!(read(&bytes), [Some((1, 5)), Some((2, 0))]);
        assert_eq!(read(&bytes[..HEADER + 3]), [None]);
        assert_eq!(read(&[0; 64]), [None]);
    }
}

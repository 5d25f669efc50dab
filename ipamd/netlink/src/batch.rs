//! Requests that are sent together.

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkSerializable};

use crate::message::HEADER;

/// Requests that are sent together.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    requests: Vec<Request>,
}

/// One request of a batch.
#[derive(Debug)]
struct Request {
    asked: String,
    /// Where its header starts.
    at: usize,
}

impl Batch {
    /// A batch of one request so far. `asked` reads on from "cannot".
    pub fn of(asked: impl Into<String>, flags: u16, message: &impl NetlinkSerializable) -> Self {
        let mut batch = Self::default();
        batch.ask(asked, flags, message);
        batch
    }

    /// Adds a request.
    pub fn ask(&mut self, asked: impl Into<String>, flags: u16, message: &impl NetlinkSerializable) {
        let at = self.bytes.len();
        let end = at + HEADER + message.buffer_len();
        self.bytes.resize(end.next_multiple_of(4), 0);
        let mut header = NetlinkHeader::default();
        header.length = u32::try_from(end - at).unwrap_or(u32::MAX);
        header.message_type = message.message_type();
        header.flags = NLM_F_REQUEST | flags;
        header.emit(&mut self.bytes[at..at + HEADER]);
        message.serialize(&mut self.bytes[at + HEADER..end]);
        self.requests.push(Request { asked: asked.into(), at });
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// What the request at this place is for.
    pub(crate) fn asked(&self, index: usize) -> &str {
        self.requests.get(index).map_or("", |request| &request.asked)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Numbers the requests from `first` on, and asks for an acknowledgement of the last: the kernel works in order
    /// and reports every refusal unasked, so that one says that all are done.
    pub(crate) fn number(&mut self, first: u32) {
        for (number, request) in (0..).zip(&self.requests) {
            self.bytes[request.at + 8..request.at + 12]
                .copy_from_slice(&first.wrapping_add(number).to_ne_bytes());
        }
        if let Some(last) = self.requests.last() {
            let flags = &mut self.bytes[last.at + 6..last.at + 8];
            let acknowledged = u16::from_ne_bytes([flags[0], flags[1]]) | NLM_F_ACK;
            flags.copy_from_slice(&acknowledged.to_ne_bytes());
        }
    }

    /// Gives all requests the same number: they are one to who answers.
    pub(crate) fn number_as_one(&mut self, number: u32) {
        for request in &self.requests {
            self.bytes[request.at + 8..request.at + 12].copy_from_slice(&number.to_ne_bytes());
        }
    }
}

//! Messages as the kernel writes them (`struct nlmsghdr`), and the attributes in them (`struct nlattr`).

use std::io;

use netlink_packet_core::{
    NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSG_DONE, NLMSG_ERROR, NetlinkDeserializable, NetlinkHeader,
};
use nix::libc;

use crate::error::Refusal;

/// Bytes of a header.
pub(crate) const HEADER: usize = 16;
/// The attribute of an extended acknowledgement that has a sentence in it (`NLMSGERR_ATTR_MSG`).
const SENTENCE: u16 = 1;

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// What it begins with.
    pub header: NetlinkHeader,
    /// What follows.
    pub payload: &'a [u8],
}

impl Message<'_> {
    /// Reads what the message says.
    pub fn parse<M: NetlinkDeserializable>(&self) -> io::Result<M> {
        M::deserialize(&self.header, self.payload).map_err(|error| unreadable(&error))
    }

    /// The kernel's "no", if the message that ends an answer is one.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        let code = match self.payload.first_chunk() {
            Some(bytes) => i32::from_ne_bytes(*bytes),
            // Older kernels end a list without a code.
            None if self.header.message_type == NLMSG_DONE => 0,
            None => -libc::EBADMSG,
        };
        let reason = || io::Error::from_raw_os_error(code.saturating_abs());
        (code != 0).then(|| Refusal { reason: reason(), words: self.words() })
    }

    fn words(&self) -> Option<String> {
        if self.header.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let mut rest = self.payload.get(4..)?;
        if self.header.message_type == NLMSG_ERROR {
            // The request, or its header alone.
            let request = match self.header.flags & NLM_F_CAPPED {
                0 => usize::try_from(u32::from_ne_bytes(*rest.first_chunk()?)).ok()?,
                _ => HEADER,
            };
            rest = rest.get(request.checked_next_multiple_of(4)?..)?;
        }
        let (_, sentence) = Attributes(rest).find(|(kind, _)| *kind == SENTENCE)?;
        let text = sentence.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).trim_end_matches('.').to_owned())
    }
}

/// The messages of a datagram. Behind one that is cut short nothing is read.
#[derive(Clone, Debug)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<Message<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let message = split(&mut self.0);
        if message.is_none() {
            self.0 = &[];
        }
        Some(message.ok_or_else(|| unreadable(&"a message is cut short")))
    }
}

/// Takes the first message off; `None` if what is there is none.
fn split<'a>(rest: &mut &'a [u8]) -> Option<Message<'a>> {
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
    Some(Message { header, payload })
}

/// Kind and value of each attribute, up to one that is cut short.
#[derive(Clone, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.0.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        // The upper two bits are flags: nested, and in network order.
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The error of an answer that is none.
pub(crate) fn unreadable(why: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's answer cannot be read: {why}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
                .map(|it| it.map(|it| (it.header.sequence_number, it.payload.len())).ok())
                .collect::<Vec<_>>()
        };
        assert_eq!(read(&bytes), [Some((1, 5)), Some((2, 0))]);
        assert_eq!(read(&bytes[..HEADER + 3]), [None]);
        assert_eq!(read(&[0; 64]), [None]);
    }

    fn refusal(kind: u16, flags: u16, payload: &[u8]) -> Option<(Option<i32>, Option<String>)> {
        let mut header = NetlinkHeader::default();
        (header.message_type, header.flags) = (kind, flags);
        let refusal = Message { header, payload }.refusal()?;
        Some((refusal.reason.raw_os_error(), refusal.words))
    }

    #[test]
    fn the_kernels_words_are_found_behind_a_request_its_header_or_the_end_of_a_list() {
        let code = (-libc::EPERM).to_ne_bytes();
        let words = [&[9, 0, 1, 0][..], b"No.\0\0\0\0\0"].concat();
        // The request had 20 bytes and a word behind; of it the kernel gives all, or the header.
        let request = [&20_u32.to_ne_bytes()[..], &[0; 16]].concat();
        let said = Some((Some(libc::EPERM), Some("No".to_owned())));
        let whole = [&code[..], &request, &words].concat();
        assert_eq!(refusal(NLMSG_ERROR, NLM_F_ACK_TLVS, &whole), said);
        let capped = [&code[..], &request[..HEADER], &words].concat();
        assert_eq!(refusal(NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, &capped), said);
        assert_eq!(refusal(NLMSG_DONE, NLM_F_ACK_TLVS, &[&code[..], &words].concat()), said);
        assert_eq!(refusal(NLMSG_ERROR, NLM_F_CAPPED, &capped), Some((Some(libc::EPERM), None)));
    }

    #[test]
    fn a_refusal_is_one_wherever_it_comes_and_an_acknowledgement_is_none() {
        let number = |kind, code: i32| refusal(kind, 0, &code.to_ne_bytes()).and_then(|(number, _)| number);
        assert_eq!([NLMSG_ERROR, NLMSG_DONE].map(|kind| number(kind, -2)), [Some(2), Some(2)]);
        assert_eq!(number(NLMSG_ERROR, 0), None);
        assert_eq!(number(NLMSG_DONE, i32::MIN), Some(i32::MAX));
        assert_eq!(refusal(NLMSG_DONE, 0, &[]), None, "older kernels say no code");
        assert_eq!(refusal(NLMSG_ERROR, 0, &[0; 3]), Some((Some(libc::EBADMSG), None)));
    }

    proptest! {
        #[test]
        fn arbitrary_datagrams_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in Messages(&bytes).flatten() {
                let _ = message.refusal();
                let _ = Attributes(message.payload).count();
            }
        }

        #[test]
        fn arbitrary_refusals_never_panic(
            kind in prop_oneof![Just(NLMSG_ERROR), Just(NLMSG_DONE)],
            flags in any::<u16>(),
            payload in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let _ = refusal(kind, flags | NLM_F_ACK_TLVS, &payload);
        }
    }
}

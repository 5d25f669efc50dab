//! Parsing of sock_diag answers.

use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP_INTR, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    Parseable,
};
use netlink_packet_sock_diag::{SOCK_DIAG_BY_FAMILY, inet::InetResponseHeader};

/// A socket, without the attributes that follow: none is asked for, and they cost more to read than all else.
struct Entry(InetResponseHeader);

impl NetlinkDeserializable for Entry {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        if header.message_type != SOCK_DIAG_BY_FAMILY {
            return Err(format!("it is of type {}", header.message_type).into());
        }
        InetResponseHeader::parse(payload).map(Self)
    }
}

/// How far an answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Whether this was the last of it.
    pub(super) ended: bool,
    /// Whether it is of one moment, and nothing was left out.
    pub(super) consistent: bool,
}

/// Reads what came at once, gives each socket to `each`, and returns how far the answer to the request of this
/// `sequence` has come. What answers an older request is passed over.
pub(super) fn read(
    mut bytes: &[u8],
    sequence: u32,
    each: &mut impl FnMut(InetResponseHeader),
) -> io::Result<Progress> {
    let mut consistent = true;
    while !bytes.is_empty() {
        let message = NetlinkMessage::<Entry>::deserialize(bytes)
            .map_err(|error| invalid(format!("the kernel's answer cannot be read: {error}")))?;
        let length = message.header.length as usize;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        if message.header.sequence_number != sequence {
            continue;
        }
        consistent &= message.header.flags & NLM_F_DUMP_INTR == 0;
        match message.payload {
            NetlinkPayload::InnerMessage(Entry(header)) => each(header),
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
            NetlinkPayload::Done(done) if done.code != 0 => {
                return Err(io::Error::from_raw_os_error(done.code.saturating_abs()));
            }
            NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => {
                return Ok(Progress { ended: true, consistent });
            }
            NetlinkPayload::Overrun(_) => consistent = false,
            _ => {}
        }
    }
    Ok(Progress { ended: false, consistent })
}

/// The error of an answer that is none.
pub(super) fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

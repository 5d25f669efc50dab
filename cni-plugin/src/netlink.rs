//! A thin, typed rtnetlink socket: several requests go out in one call, and a refusal says what was asked.

use std::{fmt, io};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NLMSG_NOOP, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::{errno::Errno, libc};

/// The kernel fills a dump's datagrams up to this size, in bytes.
const RECEIVE_BUFFER: usize = 32 * 1024;
/// Bytes of a message header.
const HEADER: usize = 16;
/// The extended acknowledgement's attribute with a sentence in it (`NLMSGERR_ATTR_MSG`).
const ATTRIBUTE_MESSAGE: u16 = 1;
/// How often a dump that was disturbed by a change is begun again.
const DUMP_ATTEMPTS: usize = 5;

/// A request that failed, or the socket that did.
#[derive(Debug)]
pub struct NetlinkError {
    /// What was asked for: "create …".
    asked: String,
    /// The kernel's number for it.
    errno: Errno,
    /// The kernel's own words, where it has any.
    words: Option<String>,
    /// How many more requests of the same batch failed.
    others: usize,
}

impl NetlinkError {
    /// The kernel's number for it.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    fn of_socket(asked: &str, error: &io::Error) -> Self {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        Self { asked: asked.to_owned(), errno, words: None, others: 0 }
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.asked, self.errno.desc())?;
        if let Some(words) = &self.words {
            write!(f, " ({words})")?;
        }
        match self.others {
            0 => Ok(()),
            others => write!(f, "; {others} more requests failed with it"),
        }
    }
}

impl std::error::Error for NetlinkError {}

/// Requests that are sent together.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    requests: Vec<Asked>,
}

/// One request of a batch.
#[derive(Debug)]
struct Asked {
    what: String,
    /// Where its header starts.
    offset: usize,
}

impl Batch {
    /// Adds a request. `what` completes the sentence "cannot …".
    pub fn ask(&mut self, what: impl Into<String>, flags: u16, message: RouteNetlinkMessage) {
        let mut message =
            NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(message));
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let offset = self.bytes.len();
        self.bytes.resize(offset + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut self.bytes[offset..]);
        self.requests.push(Asked { what: what.into(), offset });
    }

    /// Numbers the requests from `first` on, and asks for an acknowledgement of the last: the kernel works in order
    /// and reports every refusal unasked, so that one says that all are done.
    fn number(&mut self, first: u32) {
        let last = self.requests.len().wrapping_sub(1);
        for (index, request) in self.requests.iter().enumerate() {
            let header = &mut self.bytes[request.offset..request.offset + HEADER];
            header[8..12]
                .copy_from_slice(&first.wrapping_add(u32::try_from(index).unwrap_or(0)).to_ne_bytes());
            if index == last {
                let flags = u16::from_ne_bytes([header[6], header[7]]) | NLM_F_ACK;
                header[6..8].copy_from_slice(&flags.to_ne_bytes());
            }
        }
    }
}

/// A socket in the network namespace where it was opened, wherever its thread goes afterwards.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let socket = Socket::new(NETLINK_ROUTE)?;
            // Refusals in words, and without the request in them.
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|error| NetlinkError::of_socket("open a netlink socket", &error))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::new() })
    }

    /// Sends the batch in one call and waits until the kernel has worked it off. The kernel goes on after a refusal;
    /// the error is the first one's.
    pub fn run(&mut self, batch: &mut Batch) -> Result<(), NetlinkError> {
        let Some(last) = batch.requests.len().checked_sub(1) else { return Ok(()) };
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(u32::try_from(batch.requests.len()).unwrap_or(0));
        batch.number(first);
        self.send(&batch.bytes, &batch.requests[0].what)?;
        let mut failed: Option<NetlinkError> = None;
        loop {
            self.receive(&batch.requests[0].what)?;
            for message in messages(&self.buffer) {
                let index = message.sequence.wrapping_sub(first) as usize;
                let Some(request) = batch.requests.get(index).filter(|_| message.kind == NLMSG_ERROR) else {
                    continue;
                };
                if let Some((errno, words)) = refusal(&message) {
                    match &mut failed {
                        Some(earlier) => earlier.others += 1,
                        None => {
                            failed =
                                Some(NetlinkError { asked: request.what.clone(), errno, words, others: 0 });
                        }
                    }
                }
                if index == last {
                    return failed.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Asks for one object.
    pub fn get(
        &mut self,
        what: &str,
        request: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        Ok(self.exchange(what, 0, request)?.unwrap_or_default().into_iter().next())
    }

    /// Asks for all objects that match. Kernels that cannot filter give more than that.
    pub fn dump(
        &mut self,
        what: &str,
        request: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        // Kernels without strict checking pass over the filter, which is as well.
        let _ = self.socket.set_netlink_get_strict_chk(true);
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(objects) = self.exchange(what, NLM_F_DUMP, request.clone())? {
                return Ok(objects);
            }
        }
        Err(NetlinkError {
            asked: what.to_owned(),
            errno: Errno::EINTR,
            words: Some("it keeps changing".to_owned()),
            others: 0,
        })
    }

    /// The objects of one answer; none if they changed while they were listed.
    fn exchange(
        &mut self,
        what: &str,
        flags: u16,
        request: RouteNetlinkMessage,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, NetlinkError> {
        let mut batch = Batch::default();
        // The acknowledgement that ends a lookup of one object; a dump ends itself.
        batch.ask(what, flags, request);
        self.sequence = self.sequence.wrapping_add(1);
        batch.number(self.sequence);
        self.send(&batch.bytes, what)?;
        let (mut objects, mut disturbed) = (Vec::new(), false);
        loop {
            self.receive(what)?;
            for message in messages(&self.buffer).filter(|message| message.sequence == self.sequence) {
                disturbed |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_NOOP => {}
                    NLMSG_DONE => return Ok((!disturbed).then_some(objects)),
                    NLMSG_ERROR => {
                        return match refusal(&message) {
                            Some((errno, words)) => {
                                Err(NetlinkError { asked: what.to_owned(), errno, words, others: 0 })
                            }
                            None => Ok(Some(objects)),
                        };
                    }
                    _ => match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message.whole)
                        .map(|message| message.payload)
                    {
                        Ok(NetlinkPayload::InnerMessage(object)) => objects.push(object),
                        Ok(_) => {}
                        Err(error) => {
                            return Err(NetlinkError {
                                asked: what.to_owned(),
                                errno: Errno::EBADMSG,
                                words: Some(error.to_string()),
                                others: 0,
                            });
                        }
                    },
                }
            }
        }
    }

    fn send(&self, bytes: &[u8], what: &str) -> Result<(), NetlinkError> {
        self.socket.send(bytes, 0).map(drop).map_err(|error| NetlinkError::of_socket(what, &error))
    }

    fn receive(&mut self, what: &str) -> Result<(), NetlinkError> {
        self.buffer.clear();
        self.buffer.reserve(RECEIVE_BUFFER);
        loop {
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(NetlinkError::of_socket(what, &error)),
            }
        }
    }
}

/// One message of a datagram.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
    whole: &'a [u8],
}

/// Takes a datagram apart, as far as it is well formed.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = rest.get(..HEADER)?;
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let length = word(0) as usize;
        let whole = rest.get(..length).filter(|_| length >= HEADER)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind: half(4), flags: half(6), sequence: word(8), payload: &whole[HEADER..], whole })
    })
}

/// Errno and words of an NLMSG_ERROR; none for an acknowledgement.
fn refusal(message: &Message) -> Option<(Errno, Option<String>)> {
    let code = i32::from_ne_bytes(message.payload.get(..4)?.try_into().ok()?);
    (code != 0).then(|| (Errno::from_raw(code.wrapping_neg()), words(message)))
}

fn words(message: &Message) -> Option<String> {
    if message.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request = message.payload.get(4..)?;
    let request_length = if message.flags & NLM_F_CAPPED != 0 {
        HEADER
    } else {
        u32::from_ne_bytes(request.get(..4)?.try_into().ok()?) as usize
    };
    let mut attributes = request.get(request_length.next_multiple_of(4)..)?;
    while let [l0, l1, k0, k1, ..] = *attributes {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([k0, k1]) & 0x3fff == ATTRIBUTE_MESSAGE {
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(text).trim_end_matches('.').to_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};
    use proptest::prelude::*;

    use super::*;

    fn named(name: &str) -> RouteNetlinkMessage {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        RouteNetlinkMessage::GetLink(link)
    }

    #[test]
    fn loopback_is_found_and_nonsense_is_refused_by_name() {
        let mut netlink = Netlink::open().unwrap();
        assert!(matches!(netlink.get("look at lo", named("lo")), Ok(Some(RouteNetlinkMessage::NewLink(_)))));
        let error = netlink.get("look at nothing0", named("nothing0")).unwrap_err();
        assert_eq!(error.errno(), Errno::ENODEV);
        assert!(error.to_string().starts_with("cannot look at nothing0: "), "{error}");
        // The socket is good for more after a refusal.
        assert!(netlink.get("look at lo", named("lo")).unwrap().is_some());
    }

    #[test]
    fn the_first_refusal_of_a_batch_is_told_and_the_others_are_counted() {
        let mut netlink = Netlink::open().unwrap();
        let mut batch = Batch::default();
        batch.ask("look at lo", 0, named("lo"));
        batch.ask("look at nothing0", 0, named("nothing0"));
        batch.ask("look at nothing1", 0, named("nothing1"));
        let text = netlink.run(&mut batch).unwrap_err().to_string();
        assert!(
            text.starts_with("cannot look at nothing0: ")
                && text.ends_with("; 1 more requests failed with it"),
            "{text}"
        );
        assert!(netlink.run(&mut Batch::default()).is_ok());
    }

    #[test]
    fn a_dump_lists_all() {
        let mut netlink = Netlink::open().unwrap();
        let links =
            netlink.dump("list the links", &RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap();
        assert!(!links.is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_datagrams_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                let _ = refusal(&message);
                let _ = words(&message);
            }
        }

        #[test]
        fn arbitrary_refusals_never_panic(payload in prop::collection::vec(any::<u8>(), 0..80), flags in any::<u16>()) {
            let message = Message { kind: NLMSG_ERROR, flags: flags | NLM_F_ACK_TLVS, sequence: 0, payload: &payload, whole: &[] };
            let _ = refusal(&message);
        }
    }
}

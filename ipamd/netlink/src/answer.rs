//! What of the kernel's datagrams answers a request.

use std::io;

use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_NOOP, NLMSG_OVERRUN};
use nix::errno::Errno;

use crate::message::{Message, Messages};

/// The answer to requests that are numbered in a row, as far as it has come.
#[derive(Debug)]
pub(crate) struct Answer {
    first: u32,
    count: usize,
    is_dump: bool,
    /// Whether it is of one moment, and nothing was lost.
    pub(crate) settled: bool,
}

impl Answer {
    /// To requests whose refusals must all be known.
    pub(crate) fn to(first: u32, count: usize) -> Self {
        Self { first, count, is_dump: false, settled: true }
    }

    /// To a dump, which goes on after a loss.
    pub(crate) fn to_dump(number: u32) -> Self {
        Self { is_dump: true, ..Self::to(number, 1) }
    }

    /// Takes what was received, and gives each message of the answer to `each` with the place of its request, until that
    /// has what it wants. What answers another request, one that was given up, is passed over.
    pub(crate) fn take<T>(
        &mut self,
        received: io::Result<&[u8]>,
        each: &mut impl FnMut(usize, Message<'_>) -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        let datagram = match received {
            Ok(datagram) => datagram,
            Err(error) => return self.failed(error).map(|()| None),
        };
        for message in Messages(datagram) {
            let message = message?;
            let place = message.header.sequence_number.wrapping_sub(self.first) as usize;
            if place >= self.count {
                continue;
            }
            self.settled &= message.header.flags & NLM_F_DUMP_INTR == 0;
            match message.header.message_type {
                NLMSG_NOOP => {}
                NLMSG_OVERRUN => self.settled = false,
                _ => {
                    if let Some(end) = each(place, message)? {
                        return Ok(Some(end));
                    }
                }
            }
        }
        Ok(None)
    }

    fn failed(&mut self, error: io::Error) -> io::Result<()> {
        match error.raw_os_error().map(Errno::from_raw) {
            // The rest is still to come.
            Some(Errno::ENOBUFS) if self.is_dump => {
                self.settled = false;
                Ok(())
            }
            Some(Errno::EAGAIN) => Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel does not answer")),
            _ => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR};
    use nix::libc;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Of the request that is answered.
    const SEQUENCE: u32 = 7;

    fn lost() -> io::Result<&'static [u8]> {
        Err(io::Error::from_raw_os_error(libc::ENOBUFS))
    }

    #[test]
    fn after_a_loss_a_dump_goes_on_and_is_not_settled_while_a_refusal_may_be_lost() {
        let each = &mut |_: usize, _: Message<'_>| Ok(Some(()));
        let mut dump = Answer::to_dump(SEQUENCE);
        assert_eq!(dump.take(lost(), each).unwrap(), None);
        assert!(!dump.settled);
        let error = Answer::to(SEQUENCE, 1).take(lost(), each).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
    }

    /// Types of messages, those that mean something oftener than others.
    fn kind() -> impl Strategy<Value = u16> {
        prop_oneof![Just(NLMSG_NOOP), Just(NLMSG_ERROR), Just(NLMSG_DONE), Just(NLMSG_OVERRUN), any::<u16>()]
    }

    proptest! {
        #[test]
        fn garbage_is_never_more_than_an_error(bytes in vec(any::<u8>(), 0..512)) {
            let mut each = |_: usize, message: Message<'_>| Ok(message.refusal().map(drop));
            let _ = Answer::to_dump(SEQUENCE).take(Ok(&bytes), &mut each);
        }

        #[test]
        fn well_framed_garbage_is_given_as_far_as_it_is_of_the_request(
            messages in vec((kind(), any::<u16>(), SEQUENCE - 1..SEQUENCE + 3, vec(0..12_u8, 0..160)), 0..6),
            tail in vec(any::<u8>(), 0..20),
        ) {
            let mut bytes = Vec::new();
            for (kind, flags, sequence, payload) in &messages {
                let length = u32::try_from(16 + payload.len()).unwrap();
                bytes.extend(length.to_ne_bytes());
                bytes.extend(kind.to_ne_bytes());
                bytes.extend(flags.to_ne_bytes());
                bytes.extend(sequence.to_ne_bytes());
                bytes.extend([0; 4]);
                bytes.extend(payload);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
            bytes.extend(&tail);
            let mut given = Vec::new();
            let mut each = |place, message: Message<'_>| {
                given.push((place, message.payload.to_vec()));
                Ok(None::<()>)
            };
            let read = Answer::to(SEQUENCE, 2).take(Ok(&bytes), &mut each);
            prop_assert!(read.is_ok() || !tail.is_empty());
            let meant = messages.iter().filter(|(kind, _, sequence, _)| {
                ![NLMSG_NOOP, NLMSG_OVERRUN].contains(kind) && (SEQUENCE..SEQUENCE + 2).contains(sequence)
            });
            let meant = meant.map(|(_, _, sequence, payload)| ((sequence - SEQUENCE) as usize, payload.clone()));
            prop_assert!(given.starts_with(&meant.collect::<Vec<_>>()));
        }
    }
}

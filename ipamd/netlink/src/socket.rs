//! The socket that requests are sent by.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, NetlinkDeserializable, NetlinkSerializable,
};
use netlink_sys::{
    Socket as RawSocket, SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG},
};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};

use crate::{answer::Answer, batch::Batch, datagrams::Datagrams, error::NetlinkError, message::Message};

/// How long the kernel may keep silent. It works on a request while that is sent, so after this the answer was lost.
const PATIENCE: TimeVal = TimeVal::new(10, 0);
/// How often a dump that was disturbed by a change is begun again.
const DUMP_ATTEMPTS: usize = 5;

/// Whom in the kernel a socket reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Interfaces, addresses, routes, neighbours, queueing disciplines.
    Route,
    /// Sockets.
    SockDiag,
    /// nftables and ipset.
    Netfilter,
}

/// A table of the kernel.
#[derive(Debug)]
pub struct Dump<T> {
    /// What was made of its entries.
    pub entries: Vec<T>,
    /// Whether they are of one moment. If not, the table changed during every attempt, and these are the last one's.
    pub settled: bool,
}

/// A socket in the network namespace of the thread that opened it, wherever that goes afterwards. It blocks its caller.
#[derive(Debug)]
pub struct Socket {
    datagrams: Datagrams,
    /// Of the last request.
    sequence: u32,
}

impl Socket {
    /// Opens a socket in the calling thread's namespace.
    pub fn open(family: Family) -> Result<Self, NetlinkError> {
        let open = || {
            let raw = RawSocket::new(match family {
                Family::Route => NETLINK_ROUTE,
                Family::SockDiag => NETLINK_SOCK_DIAG,
                Family::Netfilter => NETLINK_NETFILTER,
            })?;
            // Refusals in words, and without the request in them.
            raw.set_ext_ack(true)?;
            raw.set_cap_ack(true)?;
            if family == Family::Route {
                // A dump may then be narrowed by what the request says. Kernels without it give more.
                let _ = raw.set_netlink_get_strict_chk(true);
            }
            // Nobody but the kernel can then answer.
            raw.connect(&SocketAddr::new(0, 0))?;
            setsockopt(&raw, ReceiveTimeout, &PATIENCE)?;
            Ok(raw)
        };
        open().map(Self::over).map_err(|error| NetlinkError::new("open a netlink socket", error))
    }

    fn over(raw: RawSocket) -> Self {
        Self { datagrams: Datagrams::of(raw), sequence: 0 }
    }

    /// Sends the batch in one call and waits until the kernel has worked it off. The kernel goes on after a refusal;
    /// the error is the first one's.
    pub fn run(&mut self, batch: &mut Batch) -> Result<(), NetlinkError> {
        let Some(last) = batch.len().checked_sub(1) else { return Ok(()) };
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(u32::try_from(batch.len()).unwrap_or(0));
        batch.number(first);
        let mut failed: Option<NetlinkError> = None;
        let each = |place, message: Message<'_>| {
            if message.header.message_type != NLMSG_ERROR {
                return Ok(None);
            }
            if let Some(refusal) = message.refusal() {
                match &mut failed {
                    Some(earlier) => earlier.others += 1,
                    None => failed = Some(NetlinkError::refused(batch.asked(place), refusal)),
                }
            }
            Ok((place == last).then_some(()))
        };
        self.converse(batch, Answer::to(first, batch.len()), each)
            .map_err(|error| NetlinkError::new(batch.asked(0), error))?;
        failed.map_or(Ok(()), Err)
    }

    /// Sends messages that are one request together, as a transaction of netfilter is: the first of them that is answered
    /// ends it. One must ask for an acknowledgement.
    pub fn run_as_one(&mut self, batch: &mut Batch) -> Result<(), NetlinkError> {
        self.exchange(batch, false, &mut |_| Ok(())).map(drop)
    }

    /// Asks for one object. `what` reads on from "cannot", as it does for all that is asked.
    pub fn get<M>(&mut self, what: &str, request: &M) -> Result<Option<M>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut found = None;
        self.exchange(&mut Batch::of(what, NLM_F_ACK, request), false, &mut |message| {
            let object = message.parse()?;
            found.get_or_insert(object);
            Ok(())
        })?;
        Ok(found)
    }

    /// Asks for all objects that match, and returns what `read` makes of them. Kernels that cannot filter give more than
    /// that. They are asked for again if they changed meanwhile.
    pub fn dump<T>(
        &mut self,
        what: &str,
        query: &impl NetlinkSerializable,
        mut read: impl FnMut(Message<'_>) -> io::Result<Option<T>>,
    ) -> Result<Dump<T>, NetlinkError> {
        let mut entries = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            entries.clear();
            let settled = self.list(what, query, &mut |message| {
                entries.extend(read(message)?);
                Ok(())
            })?;
            if settled {
                return Ok(Dump { entries, settled });
            }
        }
        Ok(Dump { entries, settled: false })
    }

    /// Asks once for all objects that match, and gives them to `each` as they come. Returns whether they are of one moment.
    pub fn list(
        &mut self,
        what: &str,
        query: &impl NetlinkSerializable,
        each: &mut dyn FnMut(Message<'_>) -> io::Result<()>,
    ) -> Result<bool, NetlinkError> {
        self.exchange(&mut Batch::of(what, NLM_F_DUMP, query), true, each)
    }

    /// Sends the batch under one number and gives what is answered to `each`, up to the acknowledgement, a refusal or the
    /// end of the list. Returns whether the answer is of one moment.
    fn exchange(
        &mut self,
        batch: &mut Batch,
        is_dump: bool,
        each: &mut dyn FnMut(Message<'_>) -> io::Result<()>,
    ) -> Result<bool, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        batch.number_as_one(self.sequence);
        let answer = if is_dump { Answer::to_dump(self.sequence) } else { Answer::to(self.sequence, 1) };
        let mut unread = None;
        let end = self.converse(batch, answer, |_, message| {
            if matches!(message.header.message_type, NLMSG_ERROR | NLMSG_DONE) {
                return Ok(Some(message.refusal()));
            }
            // The answer is heard out: the kernel begins no dump on a socket that is in the midst of one.
            if unread.is_none() {
                unread = each(message).err();
            }
            Ok(None)
        });
        let failed = |error| NetlinkError::new(batch.asked(0), error);
        match end.map_err(failed)? {
            (Some(refusal), _) => Err(NetlinkError::refused(batch.asked(0), refusal)),
            (None, settled) => unread.map_or(Ok(settled), |error| Err(failed(error))),
        }
    }

    /// Sends the batch and reads until `each` has what it wants; with it comes whether the answer is of one moment.
    fn converse<T>(
        &mut self,
        batch: &Batch,
        mut answer: Answer,
        mut each: impl FnMut(usize, Message<'_>) -> io::Result<Option<T>>,
    ) -> io::Result<(T, bool)> {
        self.datagrams.send(batch.bytes())?;
        loop {
            if let Some(end) = answer.take(self.datagrams.next(), &mut each)? {
                return Ok((end, answer.settled));
            }
        }
    }
}

#[cfg(test)]
mod tests;

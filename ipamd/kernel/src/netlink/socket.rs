//! One blocking netlink socket: requests with their acknowledgements, and dumps.

use std::io;

use futures_util::StreamExt;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, sys::AsyncSocket};
use tokio::runtime::Runtime;

use super::filtered_dump::FilteredDump;

/// How often a dump is begun anew when the table changed meanwhile. After that many the last one is taken as it is.
const DUMP_ATTEMPTS: usize = 3;

/// A netlink request that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {source}")]
pub struct NetlinkError {
    action: String,
    source: io::Error,
}

impl NetlinkError {
    /// `action` reads on from "cannot".
    pub fn new(action: impl Into<String>, source: io::Error) -> Self {
        Self { action: action.into(), source }
    }

    /// Whether what was to be removed or changed is not there.
    pub fn is_not_found(&self) -> bool {
        const ESRCH: i32 = nix::errno::Errno::ESRCH as i32;
        const ENODEV: i32 = nix::errno::Errno::ENODEV as i32;
        const ENOENT: i32 = nix::errno::Errno::ENOENT as i32;
        const EADDRNOTAVAIL: i32 = nix::errno::Errno::EADDRNOTAVAIL as i32;
        matches!(self.source.raw_os_error(), Some(ESRCH | ENODEV | ENOENT | EADDRNOTAVAIL))
    }
}

/// A netlink socket in the namespace of the thread that opened it, for that thread or another to block on: rtnetlink's
/// connection, driven by a runtime of its own while a request is under way.
pub struct Socket {
    /// Always there, but for the drop.
    runtime: Option<Runtime>,
    handle: Handle,
    filtered: FilteredDump,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            let (mut connection, handle, _) = {
                let _inside = runtime.enter();
                rtnetlink::new_connection()?
            };
            // Dumps may then be narrowed by what the request says. Kernels without it give more, which is filtered here.
            let _ = connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true);
            runtime.spawn(connection);
            Ok(Self { runtime: Some(runtime), handle, filtered: FilteredDump::open()? })
        };
        open().map_err(|source| NetlinkError::new("open a netlink socket", source))
    }

    /// Sends one request with `flags` and waits for the kernel's acknowledgement. `action` reads on from "cannot".
    pub(super) fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        action: impl FnOnce() -> String,
    ) -> Result<(), NetlinkError> {
        self.exchange(message, NLM_F_ACK | flags, &mut |_| {})
            .map(drop)
            .map_err(|source| NetlinkError::new(action(), source))
    }

    /// Reads a whole table with `query` and gives each entry to `entry`. The table is read anew if it changed
    /// meanwhile.
    pub(super) fn dump<T>(
        &mut self,
        query: &RouteNetlinkMessage,
        what: &str,
        entry: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        whole(what, |table| {
            self.exchange(query.clone(), NLM_F_DUMP, &mut |message| table.extend(entry(message)))
        })
    }

    /// The same of those entries only that `concerns` says yes to, by the bytes of the kernel's message.
    pub(super) fn dump_some<T>(
        &mut self,
        query: &RouteNetlinkMessage,
        what: &str,
        concerns: impl Fn(&[u8]) -> bool,
        entry: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        whole(what, |table| {
            self.filtered.dump(query.clone(), &concerns, &mut |message| table.extend(entry(message)))
        })
    }

    /// Sends `message` and gives what is answered to `each`, up to the acknowledgement or the end of the dump.
    /// Returns whether the answer is of one moment.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        each: &mut dyn FnMut(RouteNetlinkMessage),
    ) -> io::Result<bool> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let mut answers = self.handle.request(request).map_err(io::Error::other)?;
        let runtime = self.runtime.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        runtime.block_on(async {
            let mut consistent = true;
            while let Some(answer) = answers.next().await {
                consistent &= answer.header.flags & NLM_F_DUMP_INTR == 0;
                match answer.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    _ => {}
                }
            }
            Ok(consistent)
        })
    }
}

/// Reads a table until it is of one moment; `read` returns whether it was.
fn whole<T>(
    what: &str,
    mut read: impl FnMut(&mut Vec<T>) -> io::Result<bool>,
) -> Result<Vec<T>, NetlinkError> {
    let mut table = Vec::new();
    for _ in 0..DUMP_ATTEMPTS {
        table.clear();
        let consistent = read(&mut table)
            .map_err(|source| NetlinkError::new(format!("read the kernel's {what}"), source))?;
        if consistent {
            break;
        }
    }
    Ok(table)
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Without waiting: the thread may be one that must not.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

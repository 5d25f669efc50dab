//! What the kernel sends.

use std::io;

use netlink_sys::Socket as RawSocket;
use nix::libc;

use crate::message::unreadable;

/// As much as the kernel puts into one datagram, in bytes.
const DATAGRAM: usize = 32 << 10;

/// A socket, and room for one datagram.
#[derive(Debug)]
pub(crate) struct Datagrams {
    pub(crate) raw: RawSocket,
    buffer: Vec<u8>,
}

impl Datagrams {
    pub(crate) fn of(raw: RawSocket) -> Self {
        Self { raw, buffer: Vec::new() }
    }

    /// The next one. A socket on which somebody waits with a bound is interrupted by every signal, so that is no error.
    pub(crate) fn next(&mut self) -> io::Result<&[u8]> {
        self.buffer.clear();
        self.buffer.reserve(DATAGRAM);
        let length = uninterrupted(|| self.raw.recv(&mut self.buffer, libc::MSG_TRUNC))?;
        if length > self.buffer.len() {
            return Err(unreadable(&format_args!("{length} bytes were cut short")));
        }
        Ok(&self.buffer)
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        uninterrupted(|| self.raw.send(bytes, 0)).map(drop)
    }
}

fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_signal_interrupts_is_tried_again_and_other_errors_stay() {
        let mut kinds = [io::ErrorKind::Interrupted, io::ErrorKind::Interrupted].into_iter();
        assert_eq!(uninterrupted(|| kinds.next().map_or(Ok(7), |kind| Err(kind.into()))).unwrap(), 7);
        let refused = uninterrupted(|| Err::<(), _>(io::ErrorKind::PermissionDenied.into())).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }
}

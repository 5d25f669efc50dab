//! Network namespaces other than the calling thread's.

use std::{io, os::fd::BorrowedFd, thread};

use ipamd_api::netns::cookie;
use nix::sched::{CloneFlags, setns};

/// The kernel's number of a network namespace, which none has had before since the machine began, and which programs
/// get by `bpf_get_netns_cookie`. Without a namespace it is that of the calling thread's.
pub fn netns_cookie(netns: Option<BorrowedFd<'_>>) -> io::Result<u64> {
    inside(netns, cookie)
}

/// Makes something that stays in the namespace it was made in, such as a socket: on a thread that enters `netns` and
/// ends, so that no other thread ever stands in it. Without a namespace it is made by the calling thread.
pub(super) fn inside<T: Send>(
    netns: Option<BorrowedFd<'_>>,
    make: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let Some(netns) = netns else { return make() };
    thread::scope(|scope| {
        thread::Builder::new()
            .spawn_scoped(scope, || {
                setns(netns, CloneFlags::CLONE_NEWNET)?;
                make()
            })?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread in the network namespace ended early")))
    })
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;

    #[test]
    fn a_namespace_has_one_cookie() {
        let cookie = netns_cookie(None).unwrap();
        assert_ne!(cookie, 0);
        assert_eq!(cookie, netns_cookie(None).unwrap());
    }

    #[test]
    fn what_is_no_namespace_cannot_be_entered() {
        let file = File::open("/dev/null").unwrap();
        assert!(netns_cookie(Some(file.as_fd())).is_err());
    }
}

//! Network namespaces: opening one by a path, and their cookies: numbers that the kernel gives each one for as long as the
//! machine runs.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        socket::{AddressFamily, SockFlag, SockType, socket},
        statfs::{NSFS_MAGIC, fstatfs},
    },
};

/// `NS_GET_NSTYPE` of `ioctl_ns(2)`: which sort of namespace a file stands for.
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

/// Opens the network namespace at `path`; `None` if something else is there. That is found out without opening it, for to
/// open a pipe is to wait, and to open a device is to have it act.
///
/// # Errors
/// The kernel's, as if there is nothing.
pub fn open(path: &Path) -> io::Result<Option<File>> {
    let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
    if fstatfs(&place)?.filesystem_type() != NSFS_MAGIC {
        return Ok(None);
    }
    // The very same file, whatever is at the path by now.
    let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
    // SAFETY: this ioctl takes no argument and only reads the open descriptor.
    let sort = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    Ok((sort == libc::CLONE_NEWNET).then_some(file))
}

/// The cookie of the namespace that the calling thread stands in.
///
/// # Errors
/// The kernel does not tell it: before Linux 5.14.
pub fn cookie() -> io::Result<u64> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of_val(&cookie)).unwrap_or(0);
    // SAFETY: `cookie` is as long as `length` says, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_network_namespace_is_opened_and_nothing_is_waited_for() {
        assert!(open(Path::new("/proc/self/ns/net")).unwrap().is_some());
        let pipe = std::env::temp_dir().join(format!("cambric-netns-pipe-{}", std::process::id()));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let others = ["/proc/self/ns/mnt", "/etc/passwd", "/etc", "/dev/zero", "/dev/tty"].map(Path::new);
        for other in others.into_iter().chain([pipe.as_path()]) {
            assert!(open(other).unwrap().is_none(), "{}", other.display());
        }
        std::fs::remove_file(&pipe).unwrap();
        assert_eq!(open(Path::new("/nonexistent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_namespace_keeps_its_cookie() {
        assert_eq!(cookie().unwrap(), cookie().unwrap());
    }
}

//! Network namespaces with names, as `ip netns` has them.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use super::super::run_name;
use ipamd_kernel::netlink::Socket;

/// Where `ip netns` looks for names.
const NAMED: &str = "/run/netns";

/// Where the namespace of that name is.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(NAMED).join(name)
}

/// Makes a namespace whose loopback is up.
pub(super) fn make(name: &str) -> io::Result<()> {
    fs::create_dir_all(NAMED)?;
    let path = path(name);
    File::create_new(&path)?;
    // A thread of its own: the namespace is that of the thread that makes it.
    let made = on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let lives = "/proc/thread-self/ns/net";
        mount(Some(lives), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        raise_loopback()
    });
    if made.is_err() {
        let _ = remove(name);
    }
    made
}

fn raise_loopback() -> io::Result<()> {
    // A namespace's loopback is its first interface.
    Socket::open().and_then(|mut socket| socket.set_link_up(1)).map_err(io::Error::other)
}

/// Removes a namespace's name; it goes with its last process. One that is not there is removed.
pub(super) fn remove(name: &str) -> io::Result<()> {
    let path = path(name);
    // What is not mounted is a file only.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The names of the namespaces that runs have made.
pub(super) fn of_runs() -> Vec<String> {
    let entries = fs::read_dir(NAMED).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| run_name::of(name).is_some()).collect();
    names.sort();
    names
}

/// What puts the process that calls it into a namespace.
pub(super) fn entering(name: &str) -> io::Result<impl FnMut() -> io::Result<()> + Send + Sync + use<>> {
    let file = File::open(path(name))?;
    Ok(move || Ok(setns(&file, CloneFlags::CLONE_NEWNET)?))
}

fn on_thread(act: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
    thread::scope(|scope| {
        let thread = scope.spawn(act);
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

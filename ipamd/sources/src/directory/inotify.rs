//! The inotify watches.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Reads of the queue before its events are handled. Somebody may write faster than it is read.
const READS: usize = 256;

/// The watches of directories, and of files that links point to.
#[derive(Debug)]
pub(super) struct Watches {
    queue: AsyncFd<Queue>,
    /// Several paths may lead to one.
    paths: HashMap<WatchDescriptor, Vec<Arc<Path>>>,
    numbers: BTreeMap<Arc<Path>, WatchDescriptor>,
}

#[derive(Debug)]
struct Queue(Inotify);

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watches {
    /// None yet. To be called in a runtime.
    pub fn new() -> io::Result<Self> {
        let queue = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // SAFETY: the queue owns its descriptor, which stays open and the same as long as the queue lives.
        let queue = unsafe { AsyncFd::register_with_interest(Queue(queue), Interest::READABLE)? };
        Ok(Self { queue, paths: HashMap::new(), numbers: BTreeMap::new() })
    }

    /// Watches what comes into a directory and what leaves it.
    pub fn add_directory(&mut self, path: &Path) -> io::Result<()> {
        self.add(
            path,
            AddWatchFlags::IN_ONLYDIR
                | AddWatchFlags::IN_CLOSE_WRITE
                | AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_MOVE
                | AddWatchFlags::IN_DELETE_SELF
                | AddWatchFlags::IN_MOVE_SELF,
        )
    }

    /// Watches the file that a link points to.
    pub fn add_target(&mut self, link: &Path) -> io::Result<()> {
        self.add(
            link,
            AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF,
        )
    }

    fn add(&mut self, path: &Path, events: AddWatchFlags) -> io::Result<()> {
        let number = self.queue.get_ref().0.add_watch(path, events)?;
        if self.numbers.get(path) != Some(&number) {
            self.forget(path);
            let path: Arc<Path> = path.into();
            self.paths.entry(number).or_default().push(Arc::clone(&path));
            self.numbers.insert(path, number);
        }
        Ok(())
    }

    /// Stops watching a path and all below it.
    pub fn forget_below(&mut self, path: &Path) {
        let from =
            self.numbers.range::<Path, _>((std::ops::Bound::Included(path), std::ops::Bound::Unbounded));
        let below: Vec<_> = from.map(|(it, _)| it).take_while(|it| it.starts_with(path)).cloned().collect();
        for path in below {
            self.forget(&path);
        }
    }

    fn forget(&mut self, path: &Path) {
        let Some(number) = self.numbers.remove(path) else { return };
        let Some(paths) = self.paths.get_mut(&number) else { return };
        paths.retain(|it| **it != *path);
        if paths.is_empty() {
            self.paths.remove(&number);
            // It is gone by itself if what it watched is.
            let _ = self.queue.get_ref().0.rm_watch(number);
        }
    }

    /// Takes note that the kernel has ended a watch.
    pub fn ended(&mut self, number: WatchDescriptor) {
        for path in self.paths.remove(&number).unwrap_or_default() {
            self.numbers.remove(&path);
        }
    }

    /// The paths that lead to what is watched.
    pub fn paths(&self, number: WatchDescriptor) -> Vec<PathBuf> {
        self.paths.get(&number).into_iter().flatten().map(|path| path.to_path_buf()).collect()
    }

    /// Waits for events and takes all that are queued.
    pub async fn events(&self) -> io::Result<Vec<InotifyEvent>> {
        loop {
            let mut ready = self.queue.readable().await?;
            if let Ok(events) = ready.try_io(|queue| drain(&queue.get_ref().0)) {
                return events;
            }
        }
    }
}

fn drain(queue: &Inotify) -> io::Result<Vec<InotifyEvent>> {
    let mut events = Vec::new();
    for _ in 0..READS {
        match queue.read_events() {
            Ok(more) => events.extend(more),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if !events.is_empty() => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(events)
}

//! What goes wrong, and what is done about it by somebody else than the daemon.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bpf::attach::Direction;
use integration::testbed::{Machine, NEIGHBOUR4, NEIGHBOUR6, NODE6, Node, eventually, time_passes};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::scene::{METRICS, Scene};

/// Something that goes wrong.
pub struct Fault {
    pub name: &'static str,
    /// What has to be so before the daemon starts.
    pub prepare: fn(&Node) -> Result<Vec<Mounted>>,
    /// Does the harm; the number of the cell says to which of several things.
    pub strike: fn(&Scene<'_>, usize) -> Result<()>,
    /// What a supervisor or a person does, if anybody has to.
    pub mend: fn(&Scene<'_>) -> Result<()>,
    /// Whether the node follows an API server, rather than a directory of manifests.
    pub api: bool,
    /// Whether operations wait until it is mended.
    pub hangs: bool,
    /// How long a good flow may be silent: who loses what the programs know has packets dropped until it is known again.
    pub silence: Duration,
    /// Words of the sentence that says what was.
    pub says: &'static str,
}

/// A file system that goes with this.
pub struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // One that is frozen would keep whoever writes to it for good.
        let _ = freeze(&self.0, "--unfreeze");
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

pub const NOTHING: Fault = Fault {
    name: "",
    prepare: |_| Ok(Vec::new()),
    strike: |_, _| Ok(()),
    mend: |_| Ok(()),
    api: false,
    hangs: false,
    silence: Duration::ZERO,
    says: "",
};

/// A daemon that is dead, and started again.
const DEAD: Fault = Fault { mend: |scene| scene.node.start_daemon(), says: "serving", ..NOTHING };

/// A dead daemon whose records are harmed: the next one moves them aside and goes on. Of what is not damage, as a missing snapshot,
/// nothing is said.
const ROBBED: Fault = Fault { says: "is moved aside as", ..DEAD };

pub const FAULTS: &[Fault] = &[
    Fault {
        name: "the daemon is killed",
        strike: |scene, _| {
            scene.node.kill_daemon();
            Ok(())
        },
        ..DEAD
    },
    Fault {
        name: "the daemon is killed again and again as it starts",
        strike: |scene, turn| {
            scene.node.kill_daemon();
            for attempt in 0..8 {
                scene.node.launch_daemon()?;
                time_passes(
                    Duration::from_millis(3 + 17 * attempt + 5 * turn as u64),
                    "each is killed at another step of its start",
                );
                scene.node.kill_daemon();
            }
            Ok(())
        },
        ..DEAD
    },
    Fault {
        name: "the daemon hangs",
        strike: |scene, _| signal(scene, "-STOP"),
        mend: |scene| signal(scene, "-CONT"),
        hangs: true,
        ..NOTHING
    },
    Fault {
        name: "the disk of the records is full",
        prepare: |node| tmpfs(&node.state_dir(), "size=6m"),
        strike: |scene, turn| {
            fill(&scene.node.state_dir())?;
            use_up_the_store(scene, turn)
        },
        mend: |scene| Ok(fs::remove_file(scene.node.state_dir().join("filler"))?),
        says: "cannot write to the store in",
        ..NOTHING
    },
    Fault {
        name: "the disk of the records hangs",
        prepare: |node| small_disk(&node.state_dir(), &node.folder().join("disk")),
        strike: |scene, _| freeze(&scene.node.state_dir(), "--freeze"),
        mend: |scene| freeze(&scene.node.state_dir(), "--unfreeze"),
        hangs: true,
        ..NOTHING
    },
    Fault {
        name: "the disk of the records hangs until all who are asked say so",
        prepare: |node| small_disk(&node.state_dir(), &node.folder().join("disk")),
        strike: |scene, turn| {
            freeze(&scene.node.state_dir(), "--freeze")?;
            all_say_that_the_disk_hangs(scene, turn)
        },
        says: "the disk of the state directory has not answered for",
        ..NOTHING
    },
    Fault {
        name: "the clock is set by a year while none runs",
        // Whose clock goes wrong is the machine's, and all others' on it: what is made otherwise here is the files, which are from the
        // future, or a year old.
        strike: |scene, turn| {
            scene.node.kill_daemon();
            let by = if turn % 2 == 0 { "+1 year" } else { "-1 year" };
            let run = scene.node.socket().with_file_name("");
            for file in [scene.node.state_dir(), run, scene.node.cluster()].iter().map(|it| files(it)) {
                for file in file?.iter().filter(|it| it.is_file()) {
                    let done = Command::new("touch").args(["-d", by]).arg(file).status()?;
                    ensure!(done.success(), "touch -d {by:?} {}: {done}", file.display());
                }
            }
            Ok(())
        },
        ..DEAD
    },
    Fault {
        name: "the daemon starts on a read-only disk",
        prepare: |node| tmpfs(&node.state_dir(), "size=64m"),
        strike: |scene, _| {
            scene.node.kill_daemon();
            remount(&scene.node.state_dir(), MsFlags::MS_RDONLY)?;
            start_unready(scene)
        },
        mend: |scene| remount(&scene.node.state_dir(), MsFlags::empty()),
        says: "Read-only file system",
        ..NOTHING
    },
    Fault {
        name: "the daemon starts on a full disk",
        prepare: |node| tmpfs(&node.state_dir(), "size=24m"),
        strike: |scene, _| {
            scene.node.kill_daemon();
            fill(&scene.node.state_dir())?;
            start_unready(scene)
        },
        mend: |scene| Ok(fs::remove_file(scene.node.state_dir().join("filler"))?),
        says: "No space left on device",
        ..NOTHING
    },
    Fault {
        name: "a file of the records is missing",
        strike: |scene, turn| {
            scene.node.kill_daemon();
            Ok(fs::remove_file(one_of(files(&scene.node.state_dir().join("store"))?, turn)?)?)
        },
        ..ROBBED
    },
    Fault {
        name: "a file of the records is cut in half",
        strike: |scene, turn| {
            scene.node.kill_daemon();
            let file = one_of(files(&scene.node.state_dir().join("store"))?, turn)?;
            let length = fs::metadata(&file)?.len();
            Ok(OpenOptions::new().write(true).open(file)?.set_len(length / 2)?)
        },
        ..ROBBED
    },
    Fault {
        name: "a file of the records is damaged",
        strike: |scene, turn| {
            scene.node.kill_daemon();
            damage(&one_of(files(&scene.node.state_dir().join("store"))?, turn)?)
        },
        ..ROBBED
    },
    Fault {
        name: "all records are missing",
        strike: |scene, _| {
            scene.node.kill_daemon();
            Ok(fs::remove_dir_all(scene.node.state_dir())?)
        },
        says: "is known by its file",
        ..DEAD
    },
    Fault {
        name: "the pin of a map is removed",
        strike: |scene, turn| {
            let maps = files(&scene.node.bpffs().join("maps"))?;
            // Others in each cell.
            Ok(fs::remove_file(one_of(maps, 7 * turn + 2)?)?)
        },
        says: "repaired: pinned",
        ..NOTHING
    },
    Fault {
        name: "the pin of a map is removed while none runs",
        strike: |scene, turn| {
            scene.node.kill_daemon();
            Ok(fs::remove_file(one_of(files(&scene.node.bpffs().join("maps"))?, 5 * turn + 1)?)?)
        },
        says: "has lost its pin",
        ..DEAD
    },
    Fault {
        name: "all pins are removed while none runs",
        strike: |scene, _| {
            scene.node.kill_daemon();
            // What polices the pods goes on with what it knows, until the next daemon has filled maps anew.
            Ok(fs::remove_dir_all(scene.node.bpffs())?)
        },
        silence: Duration::from_secs(5),
        ..DEAD
    },
    Fault {
        name: "the bpffs is unmounted, or another is mounted over it",
        prepare: |node| {
            fs::create_dir_all(node.bpffs())?;
            mounted(node.bpffs(), "bpf", "")
        },
        strike: |scene, turn| {
            let bpffs = scene.node.bpffs();
            if turn % 2 == 0 {
                return Ok(umount2(bpffs, MntFlags::MNT_DETACH)?);
            }
            // It is unmounted again by the next, or with the node.
            mounted(bpffs, "bpf", "").map(std::mem::forget)
        },
        says: "repaired: pinned",
        ..NOTHING
    },
    Fault {
        name: "others detach a pod's programs",
        strike: |scene, _| {
            let pod = &scene.pods[3];
            pod.detach(Direction::Ingress)?;
            pod.detach(Direction::Egress)
        },
        says: "is not attached to",
        ..NOTHING
    },
    Fault {
        name: "others remove the routes to a pod",
        strike: |scene, _| {
            let [.., d] = &scene.pods;
            scene.node.netns().ip(&format!("route del {}", d.ipv4()))?;
            scene.node.netns().ip(&format!("-6 route del {}", d.ipv6())).map(drop)
        },
        says: "put the route to",
        ..NOTHING
    },
    Fault {
        name: "the uplink goes down and comes up",
        strike: |scene, _| scene.node.netns().ip("link set uplink down").map(drop),
        mend: uplink_up,
        says: "uplink",
        ..NOTHING
    },
    Fault {
        name: "the socket is removed while none runs",
        strike: |scene, _| {
            scene.node.kill_daemon();
            Ok(fs::remove_file(scene.node.socket())?)
        },
        ..DEAD
    },
    Fault {
        name: "the directory of manifests is gone",
        strike: |scene, _| Ok(fs::rename(scene.node.cluster(), scene.node.folder().join("away"))?),
        mend: |scene| Ok(fs::rename(scene.node.folder().join("away"), scene.node.cluster())?),
        says: "cluster",
        ..NOTHING
    },
    Fault {
        name: "a file system is mounted over the directory of manifests",
        strike: |scene, turn| {
            let cluster = scene.node.cluster();
            let covered = mounted(&cluster, "tmpfs", "size=1m")?;
            // One that has nothing, and one that has something else.
            if turn % 2 == 1 {
                fs::write(
                    cluster.join("other.yaml"),
                    "{apiVersion: v1, kind: Namespace, metadata: {name: other}}",
                )?;
            }
            let is_told = || {
                scene.hear();
                scene.node.status().is_ok_and(|status| status["cluster"]["live"] == false)
            };
            ensure!(eventually(Duration::from_secs(10), is_told), "{:?}", scene.node.status());
            // It is unmounted when all is mended.
            std::mem::forget(covered);
            Ok(())
        },
        // A policy that came meanwhile comes with the former one.
        mend: |scene| {
            let file = scene.node.cluster().join("deny.yaml");
            let text = fs::read(&file).ok();
            umount2(&scene.node.cluster(), MntFlags::MNT_DETACH)?;
            Ok(text.map_or(Ok(()), |text| fs::write(file, text))?)
        },
        says: "another file system",
        ..NOTHING
    },
    Fault {
        name: "the manifest of a policy is a list without items",
        strike: |scene, _| {
            let file = scene.node.cluster().join("closed.yaml");
            fs::copy(&file, scene.node.folder().join("whole"))?;
            Ok(fs::write(file, "{apiVersion: v1, kind: List, items: null}")?)
        },
        mend: |scene| {
            Ok(fs::rename(scene.node.folder().join("whole"), scene.node.cluster().join("closed.yaml"))?)
        },
        says: "this list has no items",
        ..NOTHING
    },
    Fault {
        name: "the manifest of a policy is half written",
        strike: |scene, _| {
            let file = scene.node.cluster().join("closed.yaml");
            fs::copy(&file, scene.node.folder().join("whole"))?;
            Ok(fs::write(
                file,
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: clo",
            )?)
        },
        mend: |scene| {
            Ok(fs::rename(scene.node.folder().join("whole"), scene.node.cluster().join("closed.yaml"))?)
        },
        says: "closed.yaml",
        ..NOTHING
    },
];

/// Starts a daemon that cannot write, so is not ready, and answers all the same.
fn start_unready(scene: &Scene<'_>) -> Result<()> {
    scene.node.launch_daemon()?;
    let says_so = || scene.node.status().is_ok_and(|status| status["ready"] == false);
    ensure!(eventually(Duration::from_secs(30), says_so), "{:?}", scene.node.status());
    Ok(())
}

/// While an ADD waits for a frozen disk, which is let go afterwards, `status`, the probe and the plugin's STATUS tell why none is served.
fn all_say_that_the_disk_hangs(scene: &Scene<'_>, turn: usize) -> Result<()> {
    const WORDS: &str = "the disk of the state directory has not answered for";
    let sandbox = scene.node.sandbox_of(&format!("shop/hung{turn}"), &[("app", "new")])?;
    thread::scope(|scope| -> Result<()> {
        let adding = scope.spawn(|| sandbox.cni("ADD").run());
        let mut last = Ok(());
        let said = eventually(Duration::from_secs(12), || {
            last = (|| {
                scene.hear();
                let status = scene.node.status()?;
                ensure!(status["problems"].to_string().contains(WORDS), "status: {}", status["problems"]);
                let ready =
                    scene.node.netns().run("curl", &["-s", &format!("http://127.0.0.1:{METRICS}/readyz")])?;
                ensure!(ready.contains(WORDS), "/readyz: {ready}");
                let refusal = scene.node.cni("STATUS", "").refusal()?;
                ensure!(refusal.to_string().contains(WORDS), "STATUS: {refusal}");
                Ok(())
            })();
            last.is_ok()
        });
        freeze(&scene.node.state_dir(), "--unfreeze")?;
        // Whether it was in time or not is the plugin's affair.
        let _ = adding.join().expect("the ADD does not panic");
        if said { Ok(()) } else { last }
    })?;
    sandbox.cni("DEL").run().context("DEL always succeeds").map(drop)
}

/// What goes with an interface that goes down.
pub fn uplink_up(scene: &Scene<'_>) -> Result<()> {
    let node = scene.node.netns();
    node.ip("link set uplink up")?;
    node.ip(&format!("address replace {NODE6}/64 dev uplink nodad"))?;
    node.ip(&format!("route replace default via {NEIGHBOUR4}"))?;
    node.ip(&format!("-6 route replace default via {NEIGHBOUR6}")).map(drop)
}

fn signal(scene: &Scene<'_>, signal: &str) -> Result<()> {
    let pid = scene.node.daemon().as_ref().context("a daemon")?.pid();
    let done = Command::new("kill").args([signal, &pid.to_string()]).status()?;
    ensure!(done.success(), "kill {signal} {pid}: {done}");
    Ok(())
}

fn mounted(at: &Path, kind: &str, options: &str) -> Result<Vec<Mounted>> {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("mount {kind} at {}", at.display()))?;
    Ok(vec![Mounted(at.to_owned())])
}

fn tmpfs(at: &Path, options: &str) -> Result<Vec<Mounted>> {
    fs::create_dir_all(at)?;
    mounted(at, "tmpfs", options)
}

/// A file system of its own, which can be frozen as one is whose disk does not answer any more.
fn small_disk(at: &Path, image: &Path) -> Result<Vec<Mounted>> {
    fs::create_dir_all(at)?;
    File::create(image)?.set_len(64 << 20)?;
    let made = Command::new("mkfs.ext4").arg("-q").arg(image).status().context("run mkfs.ext4")?;
    ensure!(made.success(), "mkfs.ext4: {made}");
    let mounted =
        Command::new("mount").args(["-o", "loop"]).arg(image).arg(at).status().context("run mount")?;
    ensure!(mounted.success(), "mount {}: {mounted}", image.display());
    Ok(vec![Mounted(at.to_owned())])
}

/// Has nothing written to a file system, and nobody told, or lets it go on.
fn freeze(at: &Path, how: &str) -> Result<()> {
    let done = Command::new("fsfreeze").arg(how).arg(at).output().context("run fsfreeze")?;
    ensure!(
        done.status.success(),
        "fsfreeze {how} {}: {}",
        at.display(),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

fn remount(at: &Path, flags: MsFlags) -> Result<()> {
    let flags = flags | MsFlags::MS_REMOUNT;
    mount(None::<&str>, at, None::<&str>, flags | MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mount {} anew", at.display()))
}

/// Takes what is left of a file system.
fn fill(at: &Path) -> Result<()> {
    let mut filler = File::create(at.join("filler"))?;
    let block = [0xaa; 4096];
    loop {
        match filler.write_all(&block) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Has pods come and go until the store needs room that it has not taken yet.
fn use_up_the_store(scene: &Scene<'_>, turn: usize) -> Result<()> {
    for number in 0..400 {
        let sandbox = scene.node.sandbox_of(&format!("shop/full{turn}x{number}"), &[("app", "new")])?;
        let added = sandbox.cni("ADD").run();
        sandbox.cni("DEL").run().context("DEL always succeeds")?;
        if added.is_err() {
            return Ok(());
        }
    }
    bail!("the store never needed room")
}

/// All files below a folder, in order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}

fn one_of(files: Vec<PathBuf>, turn: usize) -> Result<PathBuf> {
    let count = files.len();
    files.into_iter().nth(turn % count.max(1)).context("no files")
}

/// Turns every bit of some bytes in the middle of a file around.
fn damage(path: &Path) -> Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let (at, mut bytes) = (length / 2, [0; 16]);
    file.seek(SeekFrom::Start(at))?;
    let read = file.read(&mut bytes)?;
    for byte in &mut bytes {
        *byte = !*byte;
    }
    file.seek(SeekFrom::Start(at))?;
    Ok(file.write_all(&bytes[..read])?)
}

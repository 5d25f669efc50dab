//! Attaching programs to interfaces: by tcx links where the kernel has them, by clsact filters where not.
//!
//! Every function acts on the network namespace that the calling thread stands in.

use std::{
    ffi::{CString, OsStr},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use libbpf_rs::{TC_EGRESS, TC_INGRESS, TcHook, TcHookBuilder};

/// The priority of Cambric's clsact filters. Filters of a smaller number run before them.
const CLSACT_PRIORITY: u32 = 1;
/// The handle of Cambric's clsact filters.
const CLSACT_HANDLE: u32 = 0xca;

/// Which of an interface's two TC hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the interface receives.
    Ingress,
    /// What is sent through it.
    Egress,
}

impl Direction {
    fn suffix(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    fn tcx(self) -> libbpf_sys::bpf_attach_type {
        match self {
            Self::Ingress => libbpf_sys::BPF_TCX_INGRESS,
            Self::Egress => libbpf_sys::BPF_TCX_EGRESS,
        }
    }
}

/// A step of attaching that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {}", reason(source))]
pub struct AttachError {
    step: String,
    source: io::Error,
}

impl AttachError {
    /// The kernel's reason.
    pub fn source(&self) -> &io::Error {
        &self.source
    }
}

/// The kernel's reason, in words where the usual text of its number misleads.
fn reason(source: &io::Error) -> String {
    match source.raw_os_error() {
        // Of a control group the first, of tcx the second.
        Some(E2BIG | ERANGE) => format!(
            "as many programs of others are there as the kernel takes ({MOST_PROGRAMS}); detach some (`bpftool cgroup tree`, `bpftool net`)"
        ),
        Some(ENOSPC) => {
            "there is no room for it; see whether the bpffs or the control group has a limit".to_owned()
        }
        Some(ENOMEM) => {
            "the kernel has no memory for it; free memory, or raise the memory limit of the control group"
                .to_owned()
        }
        _ => source.to_string(),
    }
}

/// How many programs the kernel takes at one hook.
const MOST_PROGRAMS: usize = 64;
const ENOMEM: i32 = 12;
const ENOSPC: i32 = 28;
const ERANGE: i32 = 34;
const E2BIG: i32 = 7;

fn failed(step: String) -> impl FnOnce(io::Error) -> AttachError {
    move |source| AttachError { step, source }
}

/// What the kernel says of the link of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The interface it is attached to; 0 once the interface is gone or somebody has detached the link.
    pub ifindex: u32,
    /// The program it runs.
    pub program_id: u32,
}

/// Takes the descriptor that a libbpf call returned, or its negative errno.
fn owned(result: i32) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

fn checked(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// Opens what is pinned at `path`: a program, a map or a link.
pub fn open_pinned(path: &Path) -> Result<OwnedFd, AttachError> {
    c_path(path)
        // SAFETY: the path is a valid C string for the length of the call.
        .and_then(|c_path| owned(unsafe { libbpf_sys::bpf_obj_get(c_path.as_ptr()) }))
        .map_err(failed(format!("open the BPF object pinned at {}", path.display())))
}

/// Pins a program, map or link at `path`, whose folder exists on a bpffs.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> Result<(), AttachError> {
    c_path(path)
        // SAFETY: the descriptor is open and the path a valid C string for the length of the call.
        .and_then(|c_path| checked(unsafe { libbpf_sys::bpf_obj_pin(object.as_raw_fd(), c_path.as_ptr()) }))
        .map_err(failed(format!("pin a BPF object at {}", path.display())))
}

/// Attaches `program` to a hook of an interface by a tcx link, which lives as long as the descriptor or a pin of it.
/// It runs behind the programs that are there already.
pub fn attach_tcx(
    program: BorrowedFd<'_>,
    ifindex: u32,
    direction: Direction,
) -> Result<OwnedFd, AttachError> {
    let step = failed(format!("attach a program by tcx to the {direction:?} of interface {ifindex}"));
    let ifindex = i32::try_from(ifindex).unwrap_or(i32::MAX);
    // SAFETY: the descriptor is open; no options are passed.
    owned(unsafe {
        libbpf_sys::bpf_link_create(program.as_raw_fd(), ifindex, direction.tcx(), std::ptr::null())
    })
    .map_err(step)
}

/// Detaches a tcx link's program before the link itself is gone: the kernel frees a link whose last pin is removed some time
/// later, and until then refuses to attach the same program there again (`EEXIST`).
pub fn detach_tcx(link: BorrowedFd<'_>) -> Result<(), AttachError> {
    // SAFETY: the descriptor is open for the length of the call.
    checked(unsafe { libbpf_sys::bpf_link_detach(link.as_raw_fd()) })
        .map_err(failed("detach a link".to_owned()))
}

/// Attaches `program` to a hook of an interface by tcx without a link: it stays until the interface goes, whatever becomes of the
/// bpffs. It runs behind the programs that are there already, or in the place of the program `former` that is attached so.
pub fn attach_tcx_program(
    program: BorrowedFd<'_>,
    ifindex: u32,
    direction: Direction,
    former: Option<u32>,
) -> Result<(), AttachError> {
    let step = failed(format!("attach a program by tcx to the {direction:?} of interface {ifindex}"));
    let mut options = libbpf_sys::bpf_prog_attach_opts {
        sz: size_of::<libbpf_sys::bpf_prog_attach_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    // SAFETY: the call takes a number and returns a new descriptor or an error.
    let former = former.map(|id| owned(unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) })).transpose();
    let former = match former {
        Ok(former) => former,
        Err(error) => return Err(step(error)),
    };
    if let Some(former) = &former {
        options.flags = libbpf_sys::BPF_F_REPLACE;
        options.__bindgen_anon_1.replace_prog_fd = former.as_raw_fd();
    }
    let target = i32::try_from(ifindex).unwrap_or(i32::MAX);
    // SAFETY: the descriptors are open, and `options` outlives the call.
    checked(unsafe {
        libbpf_sys::bpf_prog_attach_opts(program.as_raw_fd(), target, direction.tcx(), &raw const options)
    })
    .map_err(step)
}

/// Detaches the program of that number from a hook of an interface, where it is attached by tcx without a link.
pub fn detach_tcx_program(id: u32, ifindex: u32, direction: Direction) -> Result<(), AttachError> {
    let step = || failed(format!("detach a program from the {direction:?} of interface {ifindex}"));
    // SAFETY: the call takes a number and returns a new descriptor or an error.
    let program = owned(unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) }).map_err(step())?;
    let target = i32::try_from(ifindex).unwrap_or(i32::MAX);
    // SAFETY: the descriptor is open; no options are passed.
    checked(unsafe {
        libbpf_sys::bpf_prog_detach_opts(program.as_raw_fd(), target, direction.tcx(), std::ptr::null())
    })
    .map_err(step())
}

/// The numbers of the programs of that name that are attached to a hook of an interface by tcx without a link.
pub fn unlinked_tcx_programs(
    name: &str,
    ifindex: u32,
    direction: Direction,
) -> Result<Vec<u32>, AttachError> {
    let unlinked = tcx_attachments(ifindex, direction)?.into_iter().filter(|(_, link)| *link == 0);
    // The kernel keeps fifteen bytes of a name.
    let kept = name.get(..15).unwrap_or(name);
    let of_name = |id: &u32| program_name(*id).as_deref() == Some(kept);
    Ok(unlinked.map(|(id, _)| id).filter(of_name).collect())
}

/// What a tcx link is attached to.
pub fn link_info(link: BorrowedFd<'_>) -> Result<LinkInfo, AttachError> {
    let info = info_of(link, libbpf_sys::BPF_LINK_TYPE_TCX, "a tcx link")?;
    // SAFETY: the kernel fills this arm of the union for a tcx link.
    let ifindex = unsafe { info.__bindgen_anon_1.tcx.ifindex };
    Ok(LinkInfo { ifindex, program_id: info.prog_id })
}

/// Where a program of an interface runs by XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before there is a packet.
    Native,
    /// In the kernel's receive path, behind the driver.
    Generic,
}

/// Attaches a program to an interface by XDP with a link.
pub fn attach_xdp(program: BorrowedFd<'_>, ifindex: u32, mode: XdpMode) -> Result<OwnedFd, AttachError> {
    let target = i32::try_from(ifindex).unwrap_or(i32::MAX);
    let options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
        flags: match mode {
            XdpMode::Native => libbpf_sys::XDP_FLAGS_DRV_MODE,
            XdpMode::Generic => libbpf_sys::XDP_FLAGS_SKB_MODE,
        },
        ..Default::default()
    };
    // SAFETY: the program's descriptor is open, and `options` outlives the call.
    owned(unsafe {
        libbpf_sys::bpf_link_create(program.as_raw_fd(), target, libbpf_sys::BPF_XDP, &raw const options)
    })
    .map_err(failed(format!("attach a program by XDP ({mode:?}) to interface {ifindex}")))
}

/// How the program of an interface is attached by XDP. `None`: there is none, or it runs elsewhere.
pub fn xdp_mode(ifindex: u32) -> Result<Option<XdpMode>, AttachError> {
    let mut query = libbpf_sys::bpf_xdp_query_opts {
        sz: size_of::<libbpf_sys::bpf_xdp_query_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    let target = i32::try_from(ifindex).unwrap_or(i32::MAX);
    // SAFETY: `query` outlives the call.
    checked(unsafe { libbpf_sys::bpf_xdp_query(target, 0, &raw mut query) })
        .map_err(failed(format!("ask which program interface {ifindex} has by XDP")))?;
    Ok(match u32::from(query.attach_mode) {
        libbpf_sys::XDP_ATTACHED_DRV => Some(XdpMode::Native),
        libbpf_sys::XDP_ATTACHED_SKB => Some(XdpMode::Generic),
        _ => None,
    })
}

/// What an XDP link is attached to.
pub fn xdp_link_info(link: BorrowedFd<'_>) -> Result<LinkInfo, AttachError> {
    let info = info_of(link, libbpf_sys::BPF_LINK_TYPE_XDP, "an XDP link")?;
    // SAFETY: the kernel fills this arm of the union for an XDP link.
    let ifindex = unsafe { info.__bindgen_anon_1.xdp.ifindex };
    Ok(LinkInfo { ifindex, program_id: info.prog_id })
}

fn info_of(
    link: BorrowedFd<'_>,
    kind: libbpf_sys::bpf_link_type,
    named: &str,
) -> Result<libbpf_sys::bpf_link_info, AttachError> {
    let step = || failed(format!("ask what {named} is attached to"));
    let mut info = libbpf_sys::bpf_link_info::default();
    let mut length = u32::try_from(size_of_val(&info)).unwrap_or(0);
    // SAFETY: `info` is as long as `length` says and outlives the call.
    checked(unsafe {
        libbpf_sys::bpf_obj_get_info_by_fd(link.as_raw_fd(), (&raw mut info).cast(), &raw mut length)
    })
    .map_err(step())?;
    if info.type_ == kind { Ok(info) } else { Err(step()(io::ErrorKind::InvalidData.into())) }
}

/// The kernel's number of a loaded program.
pub fn program_id(program: BorrowedFd<'_>) -> Result<u32, AttachError> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = u32::try_from(size_of_val(&info)).unwrap_or(0);
    // SAFETY: `info` is as long as `length` says, outlives the call, and asks for no arrays.
    checked(unsafe {
        libbpf_sys::bpf_obj_get_info_by_fd(program.as_raw_fd(), (&raw mut info).cast(), &raw mut length)
    })
    .map_err(failed("ask for a program's number".to_owned()))?;
    Ok(info.id)
}

/// The name of a loaded program, of at most fifteen bytes, by its number. None if it is gone.
pub fn program_name(id: u32) -> Option<String> {
    // SAFETY: the call takes a number and returns a new descriptor or an error.
    let program = owned(unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) }).ok()?;
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = u32::try_from(size_of_val(&info)).unwrap_or(0);
    // SAFETY: `info` is as long as `length` says, outlives the call, and asks for no arrays.
    checked(unsafe {
        libbpf_sys::bpf_obj_get_info_by_fd(program.as_raw_fd(), (&raw mut info).cast(), &raw mut length)
    })
    .ok()?;
    let name = info.name.iter().flat_map(|letter| letter.to_ne_bytes()).take_while(|letter| *letter != 0);
    Some(String::from_utf8_lossy(&name.collect::<Vec<u8>>()).into_owned())
}

/// The numbers of the programs attached to a hook of an interface by tcx, in the order they run (at most 64).
pub fn tcx_programs(ifindex: u32, direction: Direction) -> Result<Vec<u32>, AttachError> {
    Ok(tcx_attachments(ifindex, direction)?.into_iter().map(|(program, _)| program).collect())
}

/// As [`tcx_programs`], each with the number of its link; 0 if it is attached without one.
pub fn tcx_attachments(ifindex: u32, direction: Direction) -> Result<Vec<(u32, u32)>, AttachError> {
    let (mut programs, mut links) = ([0u32; 64], [0u32; 64]);
    let mut query = libbpf_sys::bpf_prog_query_opts {
        sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as libbpf_sys::size_t,
        prog_ids: programs.as_mut_ptr(),
        link_ids: links.as_mut_ptr(),
        ..Default::default()
    };
    query.__bindgen_anon_1.count = 64;
    let target = i32::try_from(ifindex).unwrap_or(i32::MAX);
    // SAFETY: `query` points to arrays of the 64 entries it promises, and all outlive the call.
    checked(unsafe { libbpf_sys::bpf_prog_query_opts(target, direction.tcx(), &raw mut query) })
        .map_err(failed(format!("list the programs at the {direction:?} of interface {ifindex}")))?;
    // SAFETY: `count` is the one name of this union that the call fills; the other is an alias of it.
    let count = unsafe { query.__bindgen_anon_1.count } as usize;
    Ok(programs.into_iter().zip(links).take(count).collect())
}

/// Attaches `program` to a hook of an interface by a clsact filter, in the place of Cambric's own filter where there
/// is one.
pub fn attach_clsact(program: BorrowedFd<'_>, ifindex: u32, direction: Direction) -> Result<(), AttachError> {
    let step = failed(format!("attach a program by clsact to the {direction:?} of interface {ifindex}"));
    let mut hook = clsact_hook(program, ifindex, direction);
    hook.create().and_then(|mut hook| hook.attach()).map(drop).map_err(|error| step(into_io(&error)))
}

/// The number of the program in Cambric's clsact filter on a hook of an interface, if it is there.
pub fn clsact_program(ifindex: u32, direction: Direction) -> Result<Option<u32>, AttachError> {
    // A query needs no program; libbpf only wants a descriptor to carry along.
    let nothing = io::stdin();
    match clsact_hook(nothing.as_fd(), ifindex, direction).query() {
        Ok(id) => Ok(Some(id)),
        Err(error)
            if matches!(
                error.kind(),
                libbpf_rs::ErrorKind::NotFound | libbpf_rs::ErrorKind::InvalidInput
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(failed(format!("look for a filter at the {direction:?} of interface {ifindex}"))(
            into_io(&error),
        )),
    }
}

/// Removes Cambric's clsact filter from a hook of an interface; the qdisc stays, for it may serve others.
pub fn detach_clsact(ifindex: u32, direction: Direction) -> Result<(), AttachError> {
    if clsact_program(ifindex, direction)?.is_none() {
        return Ok(());
    }
    let step = failed(format!("remove a filter from the {direction:?} of interface {ifindex}"));
    let nothing = io::stdin();
    clsact_hook(nothing.as_fd(), ifindex, direction).detach().map_err(|error| step(into_io(&error)))
}

fn clsact_hook(program: BorrowedFd<'_>, ifindex: u32, direction: Direction) -> TcHook {
    // What it would print the caller gets as an error, or is none: that the qdisc is there already, or is not there.
    libbpf_rs::set_print(None);
    let point = match direction {
        Direction::Ingress => TC_INGRESS,
        Direction::Egress => TC_EGRESS,
    };
    TcHookBuilder::new(program)
        .ifindex(i32::try_from(ifindex).unwrap_or(i32::MAX))
        .replace(true)
        .handle(CLSACT_HANDLE)
        .priority(CLSACT_PRIORITY)
        .hook(point)
}

fn into_io(error: &libbpf_rs::Error) -> io::Error {
    io::Error::new(
        match error.kind() {
            libbpf_rs::ErrorKind::NotFound => io::ErrorKind::NotFound,
            libbpf_rs::ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            _ => io::ErrorKind::Other,
        },
        error.to_string(),
    )
}

/// The cgroup hooks, by the names of the programs that run at them.
pub const CGROUP_HOOKS: [(&str, libbpf_sys::bpf_attach_type); 9] = [
    // First: what is remembered of a socket from then on is forgotten with it.
    ("sock_release", libbpf_sys::BPF_CGROUP_INET_SOCK_RELEASE),
    ("connect4", libbpf_sys::BPF_CGROUP_INET4_CONNECT),
    ("connect6", libbpf_sys::BPF_CGROUP_INET6_CONNECT),
    ("sendmsg4", libbpf_sys::BPF_CGROUP_UDP4_SENDMSG),
    ("sendmsg6", libbpf_sys::BPF_CGROUP_UDP6_SENDMSG),
    ("recvmsg4", libbpf_sys::BPF_CGROUP_UDP4_RECVMSG),
    ("recvmsg6", libbpf_sys::BPF_CGROUP_UDP6_RECVMSG),
    ("getpeername4", libbpf_sys::BPF_CGROUP_INET4_GETPEERNAME),
    ("getpeername6", libbpf_sys::BPF_CGROUP_INET6_GETPEERNAME),
];

/// Attaches a program to a hook of a cgroup by a link. It runs beside the programs that others have there.
pub fn attach_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    hook: libbpf_sys::bpf_attach_type,
) -> Result<OwnedFd, AttachError> {
    // SAFETY: both descriptors are open; no options are passed.
    owned(unsafe {
        libbpf_sys::bpf_link_create(program.as_raw_fd(), cgroup.as_raw_fd(), hook, std::ptr::null())
    })
    .map_err(failed("attach a program to a cgroup".to_owned()))
}

/// The numbers of the programs at a hook of a cgroup itself, in the order they run (at most 64).
pub fn cgroup_programs(
    cgroup: BorrowedFd<'_>,
    hook: libbpf_sys::bpf_attach_type,
) -> Result<Vec<u32>, AttachError> {
    let mut ids = [0u32; MOST_PROGRAMS];
    let mut count = 64;
    // SAFETY: `ids` has the entries that `count` promises, and all pointers outlive the call.
    checked(unsafe {
        libbpf_sys::bpf_prog_query(
            cgroup.as_raw_fd(),
            hook,
            0,
            std::ptr::null_mut(),
            ids.as_mut_ptr(),
            &raw mut count,
        )
    })
    .map_err(failed("list the programs at a hook of a cgroup".to_owned()))?;
    Ok(ids[..(count as usize).min(ids.len())].to_vec())
}

/// The cgroup that a link is attached to, by its number (its directory's inode), and the program that it runs. The number
/// is 0 once the cgroup is gone.
pub fn cgroup_link(link: BorrowedFd<'_>) -> Result<(u64, u32), AttachError> {
    let info = info_of(link, libbpf_sys::BPF_LINK_TYPE_CGROUP, "a cgroup's link")?;
    // SAFETY: the kernel fills this arm of the union for a cgroup's link.
    let cgroup = unsafe { info.__bindgen_anon_1.cgroup.cgroup_id };
    Ok((cgroup, info.prog_id))
}

/// Puts `program` in the place of the one that a link runs, of whatever sort the link is; nothing passes between the two.
pub fn replace_in_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), AttachError> {
    // SAFETY: both descriptors are open; no options are passed.
    checked(unsafe { libbpf_sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null()) })
        .map_err(failed("put a new program into a link".to_owned()))
}

/// The folders and names of pinned objects below one bpffs directory (`--bpffs`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The names below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// `root` itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the programs.
    pub fn programs(&self) -> PathBuf {
        self.root.join("programs")
    }

    /// The folder of the maps.
    pub fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    /// The folder of the links.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// The folder of the links to the cgroup's hooks.
    pub fn socket_links(&self) -> PathBuf {
        self.root.join("sockets")
    }

    /// The folder of the links by which uplinks drop what deny sets name.
    pub fn deny_links(&self) -> PathBuf {
        self.root.join("deny")
    }

    /// Where such a link is pinned; its name is as those of [`Self::link`].
    pub fn deny_link(&self, ifname: &str) -> PathBuf {
        self.deny_links().join(ifname.replace('.', "%"))
    }

    /// Where the program of that name is pinned.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs().join(name)
    }

    /// Where the map of that name is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Where the link of a hook of an interface is pinned: `<interface>-ingress` or `<interface>-egress`. A bpffs takes
    /// no dots, so those of a VLAN's name become `%`, which no interface has.
    pub fn link(&self, ifname: &str, direction: Direction) -> PathBuf {
        self.links().join(format!("{}-{}", ifname.replace('.', "%"), direction.suffix()))
    }

    /// The interface and hook that a link's file name stands for.
    pub fn parse_link(file_name: &OsStr) -> Option<(String, Direction)> {
        let (ifname, suffix) = file_name.to_str()?.rsplit_once('-')?;
        let direction = [Direction::Ingress, Direction::Egress].into_iter().find(|d| d.suffix() == suffix)?;
        Some((ifname.replace('%', "."), direction))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_that_takes_no_more_programs_is_told_in_words() {
        for errno in [E2BIG, ERANGE, ENOSPC, ENOMEM] {
            let source = io::Error::from_raw_os_error(errno);
            let said = failed("attach a program to a cgroup".to_owned())(source).to_string();
            assert!(
                said.starts_with("cannot attach a program to a cgroup: ") && !said.contains("os error"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_links_pin_tells_its_hook() {
        let pins = Pins::new("/sys/fs/bpf/cambric");
        for (ifname, direction) in
            [("eth0", Direction::Ingress), ("eth0.100", Direction::Egress), ("br-lan", Direction::Egress)]
        {
            let path = pins.link(ifname, direction);
            let name = path.file_name().unwrap();
            assert!(!name.to_str().unwrap().contains('.'));
            assert_eq!(Pins::parse_link(name), Some((ifname.to_owned(), direction)));
        }
        assert_eq!(Pins::parse_link(OsStr::new("eth0")), None);
        assert_eq!(Pins::parse_link(OsStr::new("eth0-sideways")), None);
    }
}

//! Loads the programs: first with the maps that an earlier daemon left, later into the links that it left, without a
//! gap.

use std::{
    collections::BTreeMap,
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use bpf::{
    CambricSkelBuilder, OpenCambricSkel,
    attach::{self, Direction, Pins},
    layout::{FIB_LOOKUP_MARK, FIB_LOOKUP_SKIP_NEIGH},
};
use ipamd_api::{key::is_host_ifname, wire::AttachMode};
use libbpf_rs::{
    MapCore, MapHandle, MapType,
    skel::{OpenSkel, Skel, SkelBuilder},
};
use tracing::{debug, info, warn};

use super::{DatapathConfig, DatapathError, maps, services::mark_served};
use ipamd_model::uplink::OVERLAY;
use ipamd_runtime::supervisor;

/// The version of what is pinned: raised when an earlier release could not go on with it. A directory `layout_N` tells it.
const LAYOUT: u32 = 2;
const LAYOUT_NAME: &str = "layout_";

/// The maps of connections that forget none.
const EXACT: [&str; 2] = ["connections4", "connections6"];

/// The programs by name.
pub type Programs = BTreeMap<String, OwnedFd>;

/// A map that was made anew, by what it was and what it is.
#[derive(Debug)]
pub struct Renewed {
    name: String,
    former: MapHandle,
    now: MapHandle,
}

/// What [`load`] leaves: everything is pinned, and the object that it came from is freed.
pub struct Loaded {
    /// The programs.
    pub programs: Programs,
    /// The maps by name.
    pub maps: BTreeMap<String, MapHandle>,
    /// The maps that the programs write and that were made anew in another size: those of an earlier daemon write into the former
    /// ones until [`take_over`].
    pub renewed: Vec<Renewed>,
}

/// The program that forgets flows. It sleeps while it goes through maps that are not made whole at once, which Linux allows since
/// 6.1.
pub const AGE: &str = "age";

/// The program that belongs to a hook of an interface.
pub fn program_for(ifname: &str, direction: Direction) -> &'static str {
    match (is_host_ifname(ifname), direction) {
        (true, Direction::Ingress) => "from_endpoint",
        (true, Direction::Egress) => "to_endpoint",
        (false, Direction::Ingress) => "from_network",
        (false, Direction::Egress) => "to_network",
    }
}

/// How programs are attached where the configuration leaves it open.
pub fn probe_attach_mode() -> AttachMode {
    // The loopback interface is number 1 in every namespace; a kernel without tcx knows no such query.
    match attach::tcx_programs(1, Direction::Ingress) {
        Ok(_) => AttachMode::Tcx,
        Err(_) => AttachMode::Clsact,
    }
}

/// With which of its flags the programs look a route up: a kernel refuses every look-up with one that it does not know.
pub fn fib_lookup_flags() -> u32 {
    [(6, 3, FIB_LOOKUP_SKIP_NEIGH), (6, 10, FIB_LOOKUP_MARK)]
        .into_iter()
        .filter(|(major, minor, _)| kernel_at_least(*major, *minor))
        .fold(0, |flags, (_, _, flag)| flags | flag)
}

/// Loads the programs and pins them with their maps. Pinned maps are adopted; where one was made for another size its
/// entries are copied, where its layout was another it is replaced. Pinned links run the former programs until [`take_over`]: what
/// was made anew is to be filled first, or whoever is looked up there meanwhile is nobody.
pub fn load(config: &DatapathConfig) -> Result<Loaded, DatapathError> {
    let pins = &config.pins;
    for folder in [pins.programs(), pins.maps(), pins.links()] {
        fs::create_dir_all(&folder).map_err(DatapathError::pin(&folder))?;
    }
    refuse_newer(pins)?;
    libbpf_rs::set_print(Some((
        libbpf_rs::PrintLevel::Warn,
        |_, line| debug!(target: "libbpf", "{}", line.trim_end()),
    )));

    let mut object = MaybeUninit::uninit();
    let mut open = CambricSkelBuilder::default().open(&mut object).map_err(DatapathError::Load)?;
    configure(&mut open, config)?;
    let ages = kernel_at_least(6, 1);
    open.progs.age.set_autoload(ages);
    let mut old = adopt_maps(&mut open, pins)?;
    // The kernel verifies for as long as it takes, several seconds on a busy machine. Whoever ended the daemon for that would
    // have the next one begin anew; what does not come to its end is seen by the startup probe.
    let skeleton = supervisor::resting(|| open.load()).map_err(DatapathError::Load)?;
    put_layout(pins)?;

    let mut loaded = Loaded { programs: BTreeMap::new(), maps: BTreeMap::new(), renewed: Vec::new() };
    for map in skeleton.object().maps() {
        let name = map.name().to_string_lossy().into_owned();
        if name.ends_with(".rodata") {
            continue;
        }
        let handle = MapHandle::try_from(&map).map_err(DatapathError::map(&name))?;
        // Connections and endpoints go on; what was counted begins anew.
        let lasts =
            |old: &MapHandle| matches!(old.map_type(), MapType::Hash | MapType::LruHash | MapType::LpmTrie);
        let is_of_programs = map.map_type() == MapType::LruHash || EXACT.contains(&&*name);
        if let Some(former) = old.remove(&name).filter(lasts) {
            maps::copy_entries(&former, &handle, &name)?;
            if is_of_programs {
                let now = MapHandle::try_from(&map).map_err(DatapathError::map(&name))?;
                loaded.renewed.push(Renewed { name: name.clone(), former, now });
            }
        }
        put_pin(handle.as_fd(), &pins.map(&name))?;
        loaded.maps.insert(name, handle);
    }
    // Before the programs are pinned, for whoever finds them there may attach them.
    mark_served(pins)?;
    for program in skeleton.object().progs() {
        let name = program.name().to_string_lossy().into_owned();
        if name == AGE && !ages {
            continue;
        }
        let owned = program.as_fd().try_clone_to_owned().map_err(DatapathError::pin(&pins.program(&name)))?;
        put_pin(owned.as_fd(), &pins.program(&name))?;
        loaded.programs.insert(name, owned);
    }
    Ok(loaded)
}

/// Leaves alone what a newer release has pinned: the containers go on by it.
fn refuse_newer(pins: &Pins) -> Result<(), DatapathError> {
    let root = pins.root();
    let entries = fs::read_dir(root).map_err(DatapathError::pin(root))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    let layouts = names.filter_map(|name| name.to_str()?.strip_prefix(LAYOUT_NAME)?.parse::<u32>().ok());
    match layouts.max() {
        Some(found) if found > LAYOUT => {
            Err(DatapathError::Newer { path: root.to_owned(), found, known: LAYOUT })
        }
        _ => Ok(()),
    }
}

/// Says what is pinned.
pub fn put_layout(pins: &Pins) -> Result<(), DatapathError> {
    let layout = layout(pins);
    fs::create_dir_all(&layout).map_err(DatapathError::pin(&layout))
}

/// What is there if all maps of this release have been pinned before.
fn layout(pins: &Pins) -> PathBuf {
    pins.root().join(format!("{LAYOUT_NAME}{LAYOUT}"))
}

fn configure(open: &mut OpenCambricSkel<'_>, config: &DatapathConfig) -> Result<(), DatapathError> {
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        rodata.lifetimes = config.lifetimes;
        rodata.masquerade_port_first = *config.masquerade_ports.start();
        rodata.masquerade_port_count =
            config.masquerade_ports.end().saturating_sub(*config.masquerade_ports.start()).saturating_add(1);
        rodata.waiting_entries = config.sizes.waiting();
        rodata.fragment_entries = config.sizes.fragments;
        rodata.fib_lookup_flags = fib_lookup_flags();
        (rodata.overlay_port, rodata.overlay_id) =
            config.overlay.map_or((0, 0), |(port, id)| (port.to_be(), id));
    }
    let maps = &mut open.maps;
    let sizes = &config.sizes;
    for (map, entries) in [
        (&mut maps.conntrack4, sizes.conntrack),
        (&mut maps.conntrack6, sizes.conntrack),
        // They take memory as they are used.
        (&mut maps.connections4, sizes.conntrack),
        (&mut maps.connections6, sizes.conntrack),
        (&mut maps.waiting4, sizes.waiting()),
        (&mut maps.waiting6, sizes.waiting()),
        (&mut maps.sockets4, sizes.sockets),
        (&mut maps.sockets6, sizes.sockets),
        (&mut maps.affinities4, sizes.affinities),
        (&mut maps.affinities6, sizes.affinities),
        (&mut maps.fragments4, sizes.fragments),
        (&mut maps.fragments6, sizes.fragments),
        (&mut maps.no_masquerade4, sizes.prefixes),
        (&mut maps.no_masquerade6, sizes.prefixes),
        (&mut maps.machines4, sizes.prefixes),
        (&mut maps.machines6, sizes.prefixes),
        (&mut maps.node_prefixes4, sizes.prefixes),
        (&mut maps.node_prefixes6, sizes.prefixes),
        (&mut maps.node_macs4, sizes.prefixes),
        (&mut maps.node_macs6, sizes.prefixes),
    ] {
        map.set_max_entries(entries).map_err(DatapathError::Load)?;
    }
    open.maps.hits.set_max_entries(config.policy_rules).map_err(DatapathError::Load)?;
    Ok(())
}

/// Lets the object use the pinned maps that fit it, and returns those that do not but whose entries do.
fn adopt_maps(
    open: &mut OpenCambricSkel<'_>,
    pins: &Pins,
) -> Result<BTreeMap<String, MapHandle>, DatapathError> {
    let was_pinned = layout(pins).exists();
    let mut to_copy = BTreeMap::new();
    for mut map in open.open_object_mut().maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        let path = pins.map(&name);
        if !path.exists() {
            // The programs' constants are never pinned.
            if was_pinned && !name.ends_with(".rodata") {
                warn!(
                    map = name,
                    "the map {name} has lost its pin while no daemon ran: it is made anew, and filled before it is used"
                );
            }
            continue;
        }
        let pinned = MapHandle::from_pinned_path(&path).map_err(DatapathError::map(&name))?;
        let same_entries = pinned.map_type() == map.map_type()
            && pinned.key_size() == map.key_size()
            && pinned.value_size() == map.value_size();
        if same_entries && pinned.max_entries() == map.max_entries() {
            map.reuse_fd(pinned.as_fd()).map_err(DatapathError::map(&name))?;
        } else if same_entries {
            info!(
                map = name,
                from = pinned.max_entries(),
                to = map.max_entries(),
                "recreated the map with another size"
            );
            to_copy.insert(name, pinned);
        } else {
            info!(map = name, "recreated the map: its layout has changed in this version");
        }
    }
    Ok(to_copy)
}

/// Pins in the place of what may be pinned there, which never is missing meanwhile.
pub fn put_pin(object: BorrowedFd<'_>, path: &Path) -> Result<(), DatapathError> {
    // A bpffs takes no names with dots.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push("_new");
    let fresh = Path::new(&fresh);
    remove_pin(fresh)?;
    attach::pin(object, fresh)?;
    fs::rename(fresh, path).map_err(DatapathError::pin(path))
}

/// Removes a pin that may not be there.
pub fn remove_pin(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DatapathError::pin(path)(error)),
        _ => Ok(()),
    }
}

/// Has pinned links run the programs. What the former ones have written meanwhile comes along.
pub fn take_over(pins: &Pins, programs: &Programs, renewed: &[Renewed]) -> Result<(), DatapathError> {
    for map in renewed {
        maps::copy_entries(&map.former, &map.now, &map.name)?;
    }
    let mut replaced = 0;
    let mut links = pinned_links(pins)?;
    // What receives the overlay's packets asks whether an uplink has seen their frames, so it comes last.
    links.sort_by_key(|(ifname, _)| ifname == OVERLAY);
    for (ifname, direction) in links {
        let path = pins.link(&ifname, direction);
        let link = attach::open_pinned(&path)?;
        if attach::link_info(link.as_fd())?.ifindex == 0 {
            // Its interface is gone, or somebody detached it: for the reconciler to see to.
            continue;
        }
        if let Some(program) = programs.get(program_for(&ifname, direction)) {
            attach::replace_in_link(link.as_fd(), program.as_fd())?;
            replaced += 1;
        }
    }
    if replaced > 0 {
        info!(links = replaced, "adopted the links of an earlier daemon");
    }
    Ok(())
}

/// The hooks that have a pinned link.
pub fn pinned_links(pins: &Pins) -> Result<Vec<(String, Direction)>, DatapathError> {
    let folder = pins.links();
    let mut links = Vec::new();
    for entry in fs::read_dir(&folder).map_err(DatapathError::pin(&folder))? {
        let entry = entry.map_err(DatapathError::pin(&folder))?;
        links.extend(Pins::parse_link(&entry.file_name()));
    }
    Ok(links)
}

fn kernel_at_least(major: u32, minor: u32) -> bool {
    let Ok(names) = nix::sys::utsname::uname() else { return false };
    let release = names.release().to_string_lossy();
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hook_has_its_program() {
        assert_eq!(program_for("cmbrj6jmrja3ysc", Direction::Ingress), "from_endpoint");
        assert_eq!(program_for("cmbrj6jmrja3ysc", Direction::Egress), "to_endpoint");
        assert_eq!(program_for("eth0", Direction::Ingress), "from_network");
        assert_eq!(program_for("cmb0", Direction::Egress), "to_network");
    }

    #[test]
    fn what_a_newer_release_has_pinned_is_refused_with_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let pins = Pins::new(root.path());
        refuse_newer(&pins).unwrap();
        put_layout(&pins).unwrap();
        put_layout(&pins).unwrap();
        refuse_newer(&pins).unwrap();
        fs::create_dir(root.path().join("layout_10")).unwrap();
        fs::create_dir(root.path().join("layout_more")).unwrap();
        let refusal = refuse_newer(&pins).unwrap_err().to_string();
        let words = "of a newer Cambric (layout 10, this one knows 2); start that version, or drain the node";
        assert!(refusal.contains(words), "{refusal}");
    }

    #[test]
    fn kernel_releases_compare_by_number() {
        assert!(kernel_at_least(4, 19));
        assert!(!kernel_at_least(4000, 0));
    }
}

//! Loads the programs. They first take the maps that an earlier daemon left, and later its links, so that no packet misses them.

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

use super::{config::DatapathConfig, error::DatapathError, maps, services::served_marks::mark_served};
use ipamd_model::uplink::OVERLAY;
use ipamd_runtime::supervisor;

/// The version of what is pinned. It is raised when an earlier release could not work with what this one pins. The directory
/// `layout_N` among the pins tells the version.
const LAYOUT: u32 = 2;
const LAYOUT_NAME: &str = "layout_";

/// The maps of connections that evict no entry when they are full.
const EXACT: [&str; 2] = ["connections4", "connections6"];

/// The programs by name.
pub type Programs = BTreeMap<String, OwnedFd>;

/// A map that was made anew: the former one and the one that takes its place.
#[derive(Debug)]
pub struct Renewed {
    name: String,
    former: MapHandle,
    now: MapHandle,
}

/// What [`load`] returns. Everything is pinned, and the libbpf object is freed.
pub struct Loaded {
    /// The programs.
    pub programs: Programs,
    /// The maps by name.
    pub maps: BTreeMap<String, MapHandle>,
    /// The maps that the programs write into and that were made anew in another size. The programs of an earlier daemon write into the
    /// former maps until [`take_over`].
    pub renewed: Vec<Renewed>,
}

/// The program that removes expired flows. It iterates over maps that are not preallocated, which Linux allows a sleepable program
/// since 6.1.
pub const AGE: &str = "age";

/// The program that forgets what endpoints were told that are gone, and finds the patterns of each name again.
pub const SWEEP_NAMES: &str = "sweep_names";

/// The program that belongs to a hook of an interface: a container's, one that has policies only, or an uplink.
pub fn program_for(ifname: &str, direction: Direction, has_policies_only: bool) -> &'static str {
    match (is_host_ifname(ifname), direction) {
        (true, Direction::Ingress) => "from_endpoint",
        (true, Direction::Egress) => "to_endpoint",
        (false, Direction::Ingress) if has_policies_only => "from_host_link",
        (false, Direction::Egress) if has_policies_only => "to_host_link",
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

/// The flags with which the programs look up a route. A kernel refuses every look-up that has a flag which it does not know, so these are
/// only those of this kernel.
pub fn fib_lookup_flags() -> u32 {
    [(6, 3, FIB_LOOKUP_SKIP_NEIGH), (6, 10, FIB_LOOKUP_MARK)]
        .into_iter()
        .filter(|(major, minor, _)| kernel_at_least(*major, *minor))
        .fold(0, |flags, (_, _, flag)| flags | flag)
}

/// Loads the programs and pins them with their maps. Pinned maps are adopted. If a pinned map has another size, its entries are copied
/// into a new map; if it has another layout, an empty map takes its place. Pinned links run the former programs until [`take_over`],
/// because a map that was made anew must be filled before programs look anything up in it.
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
    // The kernel may verify for several seconds on a busy machine. The supervisor must not end the daemon meanwhile, because the next one
    // would begin again. If this never ends, the startup probe notices it.
    let skeleton = supervisor::resting(|| open.load()).map_err(DatapathError::Load)?;
    put_layout(pins)?;

    let mut loaded = Loaded { programs: BTreeMap::new(), maps: BTreeMap::new(), renewed: Vec::new() };
    for map in skeleton.object().maps() {
        let name = map.name().to_string_lossy().into_owned();
        if name.ends_with(".rodata") {
            continue;
        }
        let handle = MapHandle::try_from(&map).map_err(DatapathError::map(&name))?;
        // Connections and endpoints are kept; counters begin at zero.
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
    // This comes before the programs are pinned, because the plugin may attach them as soon as they are.
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

/// Refuses to touch what a newer release has pinned, because containers use it.
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

/// Writes down the version of what is pinned.
pub fn put_layout(pins: &Pins) -> Result<(), DatapathError> {
    let layout = layout(pins);
    fs::create_dir_all(&layout).map_err(DatapathError::pin(&layout))
}

/// The directory that exists once all maps of this release have been pinned.
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
        // A tick is 2^30 ns: a little more than a second.
        rodata.dns_least_lifetime = config.dns_least_lifetime - config.dns_least_lifetime / 16;
        rodata.fib_lookup_flags = fib_lookup_flags();
        (rodata.overlay_port, rodata.overlay_id) =
            config.overlay.map_or((0, 0), |(port, id)| (port.to_be(), id));
    }
    let maps = &mut open.maps;
    let sizes = &config.sizes;
    for (map, entries) in [
        (&mut maps.conntrack4, sizes.conntrack),
        (&mut maps.conntrack6, sizes.conntrack),
        // These take memory only as they are used.
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

/// Lets the object use the pinned maps that fit it. Returns the pinned maps of another size, whose entries are to be copied.
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
            // The programs' constants (`.rodata`) are never pinned.
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

/// Pins an object at a path. If something is pinned there already it is replaced by a rename, so that there is a pin at all times.
pub fn put_pin(object: BorrowedFd<'_>, path: &Path) -> Result<(), DatapathError> {
    // A bpffs refuses names with dots.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push("_new");
    let fresh = Path::new(&fresh);
    remove_pin(fresh)?;
    attach::pin(object, fresh)?;
    fs::rename(fresh, path).map_err(DatapathError::pin(path))
}

/// Removes a pin, if there is one.
pub fn remove_pin(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DatapathError::pin(path)(error)),
        _ => Ok(()),
    }
}

/// Puts the programs into the pinned links. What the former programs have written meanwhile is copied first.
/// `program_for` says which program belongs to a hook.
pub fn take_over(
    pins: &Pins,
    programs: &Programs,
    renewed: &[Renewed],
    program_for: impl Fn(&str, Direction) -> &'static str,
) -> Result<(), DatapathError> {
    for map in renewed {
        maps::copy_entries(&map.former, &map.now, &map.name)?;
    }
    let mut replaced = 0;
    let mut links = pinned_links(pins)?;
    // The overlay's program asks whether an uplink's program has seen the outer frame, so the overlay comes last.
    links.sort_by_key(|(ifname, _)| ifname == OVERLAY);
    for (ifname, direction) in links {
        let path = pins.link(&ifname, direction);
        let link = attach::open_pinned(&path)?;
        if attach::link_info(link.as_fd())?.ifindex == 0 {
            // Its interface is gone, or somebody detached it. The reconciler sees to that.
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
        assert_eq!(program_for("cmbrj6jmrja3ysc", Direction::Ingress, false), "from_endpoint");
        assert_eq!(program_for("cmbrj6jmrja3ysc", Direction::Egress, false), "to_endpoint");
        assert_eq!(program_for("eth0", Direction::Ingress, false), "from_network");
        assert_eq!(program_for("cmb0", Direction::Egress, false), "to_network");
        assert_eq!(program_for("eth1", Direction::Ingress, true), "from_host_link");
        assert_eq!(program_for("eth1", Direction::Egress, true), "to_host_link");
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

//! Removes what Cambric has in the kernel and on disk. Every step is tried, whatever the others come to.

use std::{fs, io, path::Path};

use bpf::attach::Pins;
use ipamd_api::key::is_host_ifname;

use crate::programs;
use crate::{
    footprint::{Footprint, FootprintFile},
    preflight,
};
use ipamd_api::files;
use ipamd_config::Locations;
use ipamd_kernel::{
    netlink::{Link, NetlinkError, Route, Routes, Socket},
    sysctl,
};
use ipamd_model::uplink::OVERLAY;
use ipamd_plan as plan;

/// What was removed, and what could not be: a sentence each.
#[derive(Debug, Default)]
pub struct Removal {
    /// What was removed.
    pub done: Vec<String>,
    /// What could not be.
    pub failed: Vec<String>,
}

impl Removal {
    fn note(&mut self, what: String, result: Result<(), impl std::fmt::Display>) {
        match result {
            Ok(()) => self.done.push(what),
            Err(error) => self.failed.push(format!("{what}: {error}")),
        }
    }
}

/// Removes everything of the daemon whose places those are, in the network namespace of the caller. The daemon must
/// have stopped.
pub fn uninstall(locations: &Locations) -> Removal {
    let mut removal = Removal::default();
    // First, so that nobody calls for what is being removed.
    for path in locations.cni.paths() {
        remove_path(&path, |path| fs::remove_file(path), &mut removal);
    }
    let footprint = match FootprintFile::open(&locations.state_dir) {
        Ok(file) => file.get().clone(),
        Err(error) => {
            removal.failed.push(format!("read what was changed on this machine: {error}"));
            Footprint::default()
        }
    };
    match Socket::open() {
        Ok(mut socket) => {
            remove_links(&mut socket, &mut removal);
            remove_routes(&mut socket, &mut removal);
            remove_pools(&mut socket, &footprint, &mut removal);
            remove_neighbours(&mut socket, &Pins::new(&locations.bpffs), &mut removal);
        }
        Err(error) => removal.failed.push(error.to_string()),
    }
    for (path, before) in &footprint.sysctls {
        restore_sysctl(path, before, &mut removal);
    }
    let pins = Pins::new(&locations.bpffs);
    if locations.bpffs.exists() {
        let shown = locations.bpffs.display();
        removal.note(format!("programs, maps and links below {shown}"), programs::remove_all(&pins));
    }
    match preflight::unmount_bpffs_of_node(&locations.bpffs) {
        Ok(None) => {}
        Ok(Some(point)) => {
            removal.done.push(format!("bpffs mounted at {}", point.display()));
            if point == locations.bpffs {
                remove_path(&point, |path| fs::remove_dir(path), &mut removal);
            }
        }
        Err(error) => removal.failed.push(error.to_string()),
    }
    remove_files(locations, &mut removal);
    removal
}

fn remove_links(socket: &mut Socket, removal: &mut Removal) {
    let links = match socket.links() {
        Ok(links) => links,
        Err(error) => return removal.failed.push(error.to_string()),
    };
    let ours = |link: &&Link| {
        link.veth && is_host_ifname(&link.name) || link.vxlan.is_some() && link.name == OVERLAY
    };
    for Link { name, index, .. } in links.iter().filter(ours) {
        removal.note(format!("interface {name}"), gone_is_fine(socket.remove_link(*index)));
    }
    // Those of other plugins, behind which Cambric stands in the chain, stay.
    for link in links.iter().filter(|link| link.veth) {
        for name in link.second_names.iter().filter(|name| is_host_ifname(name)) {
            if let Err(error) = programs::detach(link.index) {
                removal.failed.push(format!("programs of interface {}: {error}", link.name));
            }
            let removed = socket.remove_second_name(link.index, name);
            removal.note(format!("name {name} of interface {}", link.name), gone_is_fine(removed));
        }
    }
}

/// The routes to other nodes.
fn remove_routes(socket: &mut Socket, removal: &mut Removal) {
    let routes = match socket.routes(Routes::ToPeers) {
        Ok(routes) => routes,
        Err(error) => return removal.failed.push(error.to_string()),
    };
    for route in routes.iter().filter(|route| route.is_to_peer()) {
        removal.note(format!("route to {}", route.destination), gone_is_fine(socket.remove_route(route)));
    }
}

fn remove_pools(socket: &mut Socket, footprint: &Footprint, removal: &mut Removal) {
    for cidr in &footprint.unreachable {
        let removed = socket.remove_route(&Route::unreachable(*cidr));
        removal.note(format!("unreachable route to {cidr}"), gone_is_fine(removed));
    }
    let lo = match socket.links() {
        Ok(links) => links.into_iter().find(|link| link.name == "lo"),
        Err(error) => return removal.failed.push(error.to_string()),
    };
    for address in &footprint.gateways {
        if let Some(lo) = &lo {
            let removed = socket.remove_address(lo.index, *address);
            removal.note(format!("gateway address {address}"), gone_is_fine(removed));
        }
    }
}

/// The other nodes whose Ethernet addresses the kernel watches. Those that an administrator has put in stay.
fn remove_neighbours(socket: &mut Socket, pins: &Pins, removal: &mut Removal) {
    let nodes = programs::near_nodes(pins);
    if nodes.is_empty() {
        return;
    }
    let watched = match socket.watched_neighbours() {
        Ok(watched) => watched,
        Err(error) => return removal.failed.push(error.to_string()),
    };
    for (ifindex, address) in watched.into_iter().filter(|(_, address)| nodes.contains(address)) {
        removal.note(
            format!("neighbour {address} of interface {ifindex}"),
            gone_is_fine(socket.forget_neighbour(ifindex, address)),
        );
    }
}

fn gone_is_fine(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    result.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) })
}

/// Puts a setting back, unless somebody has changed it since.
fn restore_sysctl(path: &str, before: &str, removal: &mut Removal) {
    let ours = if path == plan::FORWARDING_V4 || path == plan::FORWARDING_V6 { "1" } else { "2" };
    if sysctl::read(path).as_deref() == Some(ours) {
        removal.note(format!("{} set back to {before}", path.replace('/', ".")), sysctl::write(path, before));
    }
}

fn remove_files(locations: &Locations, removal: &mut Removal) {
    let released = files::released(&locations.socket);
    let endpoints = files::endpoints(&locations.socket);
    let copy = files::copy_of_store(&locations.socket);
    for dir in [&locations.state_dir, &released, &endpoints, &copy] {
        remove_path(dir, |path| fs::remove_dir_all(path), removal);
    }
    remove_path(&locations.socket, |path| fs::remove_file(path), removal);
    // The directory of the socket only if nothing else is in it.
    if let Some(dir) = locations.socket.parent() {
        let _ = fs::remove_dir(dir);
    }
}

fn remove_path(path: &Path, remove: impl Fn(&Path) -> io::Result<()>, removal: &mut Removal) {
    match remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => removal.note(path.display().to_string(), result),
    }
}

//! The kernel of this machine as [`Kernel`]: loaded programs, interfaces of the daemon's namespace, and the thread that
//! removes interfaces.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    net::IpAddr,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bpf::attach::{Direction, Pins};
use ipamd_api::wire::{AttachMode, Connection, ConntrackFilter, DenySet, DenyStatus, NetnsId};

use crate::node::Kernel;
use ipamd_config::cni_chain::Configurations;
use ipamd_datapath::{Datapath, DatapathError, DenyUse, DnsName};
use ipamd_kernel::{
    kernel_files,
    link_reaper::Reaper,
    netlink::{Listener, SocketDiag, SocketDiagError, netns_cookie},
};
use ipamd_model::{concerned::Concerned, endpoint::EndpointEntry};

/// The kernel that the daemon runs on.
#[derive(Debug)]
pub struct Host {
    datapath: Arc<Datapath>,
    pins: Pins,
    reaper: Reaper,
    leads_endpoints: bool,
    configurations: Configurations,
}

impl Host {
    /// The loaded programs, their pins, what removes interfaces, whether sockets of endpoints are led to backends, and what
    /// the runtime's networks are made of.
    pub fn new(
        datapath: Arc<Datapath>,
        pins: Pins,
        reaper: Reaper,
        leads_endpoints: bool,
        configurations: Configurations,
    ) -> Self {
        Self { datapath, pins, reaper, leads_endpoints, configurations }
    }
}

impl Kernel for Host {
    fn attach_mode(&self) -> AttachMode {
        self.datapath.attach_mode()
    }

    fn attach_mode_in(&self, network: &str) -> AttachMode {
        let (usual, quick) = (self.datapath.attach_mode(), self.datapath.quick_mode());
        if usual != quick && self.configurations.need_no_qdisc(network) { quick } else { usual }
    }

    fn program_path(&self, name: &str) -> PathBuf {
        kernel_files::on_node(self.datapath.program_path(name))
    }

    fn has_program(&self, name: &str) -> bool {
        self.pins.program(name).exists()
    }

    fn link_pins(&self, ifname: &str) -> [PathBuf; 2] {
        [Direction::Ingress, Direction::Egress]
            .map(|direction| kernel_files::on_node(self.pins.link(ifname, direction)))
    }

    fn put_endpoint(&self, address: IpAddr, entry: &EndpointEntry) -> Result<(), DatapathError> {
        self.datapath.put_endpoint(address, entry)
    }

    fn remove_endpoint(&self, address: IpAddr) -> Result<(), DatapathError> {
        self.datapath.remove_endpoint(address)
    }

    fn endpoints(&self) -> Result<BTreeMap<IpAddr, EndpointEntry>, DatapathError> {
        self.datapath.endpoints()
    }

    fn raise_epoch(&self, concerned: &Concerned) -> Result<(), DatapathError> {
        self.datapath.raise_epoch(concerned)
    }

    fn attachment_faults(&self, ifname: &str, ifindex: u32) -> Vec<String> {
        self.datapath.attachment_faults(ifname, ifindex)
    }

    fn heal_programs(&self, ifname: &str, ifindex: u32) -> Result<Vec<String>, DatapathError> {
        self.datapath.heal_interface(ifname, ifindex)
    }

    fn unpin_links(&self, ifname: &str) {
        self.datapath.unpin_links(ifname);
    }

    fn drops(&self) -> Result<BTreeMap<String, u64>, DatapathError> {
        self.datapath.drops()
    }

    fn untracked(&self) -> Result<u64, DatapathError> {
        self.datapath.untracked()
    }

    fn events_missed(&self) -> Result<(u64, u64), DatapathError> {
        self.datapath.events_missed()
    }

    fn answers_suppressed(&self) -> Result<u64, DatapathError> {
        self.datapath.answers_suppressed()
    }

    fn deny(&self) -> Result<DenyStatus, DatapathError> {
        let deny = self.datapath.deny();
        let set = |DenyUse { name, prefixes, packets, bytes }| DenySet { name, prefixes, packets, bytes };
        let uplinks = deny.attached().into_iter().map(|(ifname, mode)| (ifname, mode.name().to_owned()));
        Ok(DenyStatus { sets: deny.uses()?.into_iter().map(set).collect(), uplinks: uplinks.collect() })
    }

    fn conntrack(
        &self,
        filter: &ConntrackFilter,
        page: &mut dyn FnMut(Vec<Connection>) -> bool,
    ) -> Result<(), DatapathError> {
        self.datapath.conntrack(filter, page)
    }

    fn dns_names_of(&self, endpoint: IpAddr, address: IpAddr) -> Result<Vec<String>, DatapathError> {
        self.datapath.dns_names_of(endpoint, address)
    }

    fn dns_names(&self) -> Result<Vec<DnsName>, DatapathError> {
        self.datapath.dns_names()
    }

    fn link_index(&self, ifname: &str) -> Option<u32> {
        nix::net::if_::if_nametoindex(ifname).ok()
    }

    fn own_link_index(&self, ifname: &str) -> Option<u32> {
        let index = self.link_index(ifname)?;
        nix::net::if_::if_indextoname(index)
            .is_ok_and(|first| first.to_bytes() == ifname.as_bytes())
            .then_some(index)
    }

    fn remove_link(&self, _ifname: &str, ifindex: u32) {
        self.reaper.remove(ifindex);
    }

    fn put_namespace(&self, cookie: u64) -> Result<(), DatapathError> {
        if self.leads_endpoints { self.datapath.put_namespace(cookie) } else { Ok(()) }
    }

    fn remove_namespace(&self, cookie: u64) -> Result<(), DatapathError> {
        self.datapath.remove_namespace(cookie)
    }

    fn netns_at(&self, path: &Path) -> Option<NetnsId> {
        netns_at(path)
    }

    fn listeners(&self) -> Result<Vec<Listener>, SocketDiagError> {
        match SocketDiag::open(None)?.listeners() {
            // Then nobody can say; it is not worth a container.
            Err(SocketDiagError::NoList(_)) => Ok(Vec::new()),
            answer => answer,
        }
    }

    fn netns_cookie_at(&self, path: &Path, id: NetnsId) -> Option<u64> {
        netns_cookie_at(path, id)
    }
}

fn netns_at(path: &Path) -> Option<NetnsId> {
    fs::metadata(path).ok().as_ref().map(netns_id)
}

fn netns_cookie_at(path: &Path, id: NetnsId) -> Option<u64> {
    let file = ipamd_api::netns::open(path).ok()??;
    let opened = netns_id(&file.metadata().ok()?);
    if opened == id { netns_cookie(Some(file.as_fd())).ok() } else { None }
}

fn netns_id(metadata: &Metadata) -> NetnsId {
    NetnsId { dev: metadata.dev(), ino: metadata.ino() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_namespace_that_is_meant_tells_its_cookie() {
        let own = Path::new("/proc/self/ns/net");
        let id = netns_at(own).unwrap();
        // Entering it takes root.
        let expected = nix::unistd::geteuid().is_root().then(|| netns_cookie(None).unwrap());
        assert_eq!(netns_cookie_at(own, id), expected);
        assert_eq!(netns_cookie_at(own, NetnsId { ino: id.ino + 1, ..id }), None);
        assert_eq!(netns_cookie_at(Path::new("/proc/self/ns/none"), id), None);
        let other = Path::new("/dev/null");
        assert_eq!(netns_cookie_at(other, netns_at(other).unwrap()), None);
    }
}

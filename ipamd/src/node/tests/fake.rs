//! A kernel in memory.

use std::path::{Path, PathBuf};

use bpf::attach::Pins;
use ipamd_api::wire::{AttachMode, Connection, ConntrackFilter, DenyStatus, NetnsId};

use super::*;
use ipamd_datapath::{DatapathError, DnsName};
use ipamd_kernel::netlink::{Listener, SocketDiagError};
use ipamd_model::endpoint::EndpointEntry;
use ipamd_runtime::queued_lock::locked;

/// A kernel of its own: interfaces by name, the endpoints map, namespaces by path, and what was done to it.
#[derive(Debug, Default)]
pub struct Fake {
    pub links: BTreeMap<String, u32>,
    /// Names of those that another plugin made.
    pub second_names: BTreeSet<String>,
    pub endpoints: BTreeMap<IpAddr, EndpointEntry>,
    pub netns: BTreeMap<PathBuf, NetnsId>,
    /// Cookies of those whose sockets are led.
    pub namespaces: BTreeSet<u64>,
    pub concerned: Concerned,
    pub unpinned: Vec<String>,
    /// Which address can be neither written nor removed.
    pub refuses: Option<IpAddr>,
    pub listeners: Vec<Listener>,
    /// Removed interfaces stay in sight.
    pub lingering: bool,
    /// Interfaces whose programs somebody has taken away.
    pub unattached: BTreeSet<String>,
    /// Nothing can be attached.
    pub takes_no_programs: bool,
    /// The programs' pins are gone.
    pub unpinned_programs: bool,
}

#[derive(Clone, Debug, Default)]
pub struct FakeKernel(Arc<Mutex<Fake>>);

impl FakeKernel {
    pub fn lock(&self) -> MutexGuard<'_, Fake> {
        locked(&self.0)
    }

    fn refused() -> DatapathError {
        DatapathError::Layout { map: "endpoints".into() }
    }
}

impl Kernel for FakeKernel {
    fn attach_mode(&self) -> AttachMode {
        AttachMode::Tcx
    }

    fn attach_mode_in(&self, _: &str) -> AttachMode {
        AttachMode::Tcx
    }
    fn program_path(&self, name: &str) -> PathBuf {
        Pins::new("/b").program(name)
    }
    fn link_pins(&self, ifname: &str) -> [PathBuf; 2] {
        ["ingress", "egress"].map(|hook| format!("/b/links/{ifname}-{hook}").into())
    }
    fn put_endpoint(&self, address: IpAddr, entry: &EndpointEntry) -> Result<(), DatapathError> {
        let mut fake = self.lock();
        if fake.refuses == Some(address) {
            return Err(Self::refused());
        }
        fake.endpoints.insert(address, *entry);
        Ok(())
    }
    fn remove_endpoint(&self, address: IpAddr) -> Result<(), DatapathError> {
        let mut fake = self.lock();
        if fake.refuses == Some(address) {
            return Err(Self::refused());
        }
        fake.endpoints.remove(&address);
        Ok(())
    }
    fn endpoints(&self) -> Result<BTreeMap<IpAddr, EndpointEntry>, DatapathError> {
        Ok(self.lock().endpoints.clone())
    }
    fn raise_epoch(&self, concerned: &Concerned) -> Result<(), DatapathError> {
        self.lock().concerned.add(concerned.clone());
        Ok(())
    }
    fn attachment_faults(&self, ifname: &str, _: u32) -> Vec<String> {
        let is_unattached = self.lock().unattached.contains(ifname);
        is_unattached
            .then(|| format!("the program from_endpoint is not attached to {ifname}"))
            .into_iter()
            .collect()
    }
    fn heal_programs(&self, ifname: &str, ifindex: u32) -> Result<Vec<String>, DatapathError> {
        let mut fake = self.lock();
        if fake.links.get(ifname) != Some(&ifindex) || fake.takes_no_programs {
            return Err(Self::refused());
        }
        let was_unattached = fake.unattached.remove(ifname);
        Ok(was_unattached.then(|| format!("attached from_endpoint to {ifname}")).into_iter().collect())
    }
    fn has_program(&self, _: &str) -> bool {
        !self.lock().unpinned_programs
    }
    fn unpin_links(&self, ifname: &str) {
        self.lock().unpinned.push(ifname.to_owned());
    }
    fn drops(&self) -> Result<BTreeMap<String, u64>, DatapathError> {
        Ok(BTreeMap::new())
    }
    fn untracked(&self) -> Result<u64, DatapathError> {
        Ok(0)
    }
    fn events_missed(&self) -> Result<(u64, u64), DatapathError> {
        Ok((0, 0))
    }
    fn answers_suppressed(&self) -> Result<u64, DatapathError> {
        Ok(0)
    }
    fn deny(&self) -> Result<DenyStatus, DatapathError> {
        Ok(DenyStatus::default())
    }
    fn conntrack(
        &self,
        _: &ConntrackFilter,
        _: &mut dyn FnMut(Vec<Connection>) -> bool,
    ) -> Result<(), DatapathError> {
        Ok(())
    }
    fn dns_names_of(&self, _: IpAddr, _: IpAddr) -> Result<Vec<String>, DatapathError> {
        Ok(Vec::new())
    }
    fn dns_names(&self) -> Result<Vec<DnsName>, DatapathError> {
        Ok(Vec::new())
    }
    fn link_index(&self, ifname: &str) -> Option<u32> {
        self.lock().links.get(ifname).copied()
    }
    fn own_link_index(&self, ifname: &str) -> Option<u32> {
        let is_second = self.lock().second_names.contains(ifname);
        self.link_index(ifname).filter(|_| !is_second)
    }
    fn remove_link(&self, ifname: &str, ifindex: u32) {
        let mut fake = self.lock();
        if !fake.lingering && fake.links.get(ifname) == Some(&ifindex) {
            fake.links.remove(ifname);
        }
    }
    fn put_namespace(&self, cookie: u64) -> Result<(), DatapathError> {
        self.lock().namespaces.insert(cookie);
        Ok(())
    }
    fn remove_namespace(&self, cookie: u64) -> Result<(), DatapathError> {
        self.lock().namespaces.remove(&cookie);
        Ok(())
    }
    fn listeners(&self) -> Result<Vec<Listener>, SocketDiagError> {
        Ok(self.lock().listeners.clone())
    }
    fn netns_at(&self, path: &Path) -> Option<NetnsId> {
        self.lock().netns.get(path).copied()
    }
    fn netns_cookie_at(&self, path: &Path, id: NetnsId) -> Option<u64> {
        (self.netns_at(path)? == id).then_some(id.ino + 1)
    }
}

//! The links by which the program is attached to uplinks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bpf::attach::{self, AttachError, Pins, XdpMode};
use ipamd_model::deny::DenyMode;

use super::{
    super::{error::DatapathError, repairs::Repairs},
    program::Program,
};

/// The links of this daemon, and the pins of all.
#[derive(Debug)]
pub(super) struct Links {
    pins: Pins,
    mode: DenyMode,
    /// Held open, so a link goes on if somebody deletes its pin.
    held: Mutex<BTreeMap<String, OwnedFd>>,
}

impl Links {
    pub fn new(pins: Pins, mode: DenyMode) -> Self {
        Self { pins, mode, held: Mutex::default() }
    }

    /// Attaches the program to these interfaces, by name and index, and to no others. What is attached anew at one of the `known` is a repair.
    pub fn attach(
        &self,
        program: &Program,
        interfaces: &[(String, u32)],
        known: &[(String, u32)],
    ) -> (Repairs, Vec<DatapathError>) {
        let (mut repairs, mut failures) = (Repairs::new(), Vec::new());
        for interface in interfaces {
            match self.attach_to(program, interface) {
                Ok(Some(done)) if known.contains(interface) => repairs.push(done),
                Ok(_) => {}
                Err(error) => failures.push(error),
            }
        }
        let names = interfaces.iter().map(|(name, _)| name.clone()).collect();
        failures.extend(self.detach_but(&names).err());
        (repairs, failures)
    }

    /// Attaches it to one interface. Returns what was done, a sentence.
    fn attach_to(
        &self,
        program: &Program,
        (ifname, ifindex): &(String, u32),
    ) -> Result<Option<String>, DatapathError> {
        let path = self.pins.deny_link(ifname);
        let mut held = self.held();
        if !held.contains_key(ifname)
            && let Ok(link) = attach::open_pinned(&path)
        {
            held.insert(ifname.clone(), link);
        }
        if let Some(link) = held.get(ifname)
            && let Ok(info) = attach::xdp_link_info(link.as_fd())
            && info.ifindex == *ifindex
            && let Some(mode) = attach::xdp_mode(*ifindex)?.filter(|mode| self.allows(*mode))
        {
            let (form, id) = program.of(mode);
            if info.program_id != id {
                attach::replace_in_link(link.as_fd(), form)?;
            }
            if path.exists() {
                return Ok(None);
            }
            self.pin(link, ifname)?;
            return Ok(Some(format!("pinned the link {}", path.display())));
        }
        // The interface is another one, somebody has detached the link, or it is to run elsewhere.
        held.remove(ifname);
        remove_pin(&path)?;
        let link = self.attach_anew(program, *ifindex).map_err(|error| refused(ifname, error))?;
        self.pin(&link, ifname)?;
        held.insert(ifname.clone(), link);
        Ok(Some(format!("attached the program of the deny sets to {ifname}")))
    }

    fn attach_anew(&self, program: &Program, ifindex: u32) -> Result<OwnedFd, AttachError> {
        let attached = |mode| attach::attach_xdp(program.of(mode).0, ifindex, mode);
        match self.mode {
            DenyMode::Native => attached(XdpMode::Native),
            DenyMode::Generic => attached(XdpMode::Generic),
            DenyMode::Auto => attached(XdpMode::Native).or_else(|_| attached(XdpMode::Generic)),
        }
    }

    fn allows(&self, mode: XdpMode) -> bool {
        match self.mode {
            DenyMode::Auto => true,
            DenyMode::Native => mode == XdpMode::Native,
            DenyMode::Generic => mode == XdpMode::Generic,
        }
    }

    fn pin(&self, link: &OwnedFd, ifname: &str) -> Result<(), DatapathError> {
        let folder = self.pins.deny_links();
        fs::create_dir_all(&folder).map_err(DatapathError::pin(&folder))?;
        Ok(attach::pin(link.as_fd(), &self.pins.deny_link(ifname))?)
    }

    /// Detaches the program from all interfaces except these.
    pub fn detach_but(&self, ifnames: &BTreeSet<String>) -> Result<(), DatapathError> {
        self.held().retain(|name, _| ifnames.contains(name));
        let folder = self.pins.deny_links();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(DatapathError::pin(&folder)(error)),
        };
        let stay: BTreeSet<_> = ifnames.iter().map(|name| self.pins.deny_link(name)).collect();
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| !stay.contains(path)) {
            remove_pin(&path)?;
        }
        Ok(())
    }

    /// Whether there is a link, be it an earlier daemon's.
    pub fn are_pinned(&self) -> bool {
        fs::read_dir(self.pins.deny_links()).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Where the program runs, by the interfaces' names; also where it is an earlier daemon's.
    pub fn modes(&self) -> BTreeMap<String, DenyMode> {
        let entries = fs::read_dir(self.pins.deny_links()).into_iter().flatten().flatten();
        let modes = entries.filter_map(|entry| {
            let name = entry.file_name().to_str()?.replace('%', ".");
            let link = attach::open_pinned(&entry.path()).ok()?;
            let ifindex = attach::xdp_link_info(link.as_fd()).ok()?.ifindex;
            let mode = match attach::xdp_mode(ifindex).ok()?? {
                XdpMode::Native => DenyMode::Native,
                XdpMode::Generic => DenyMode::Generic,
            };
            Some((name, mode))
        });
        modes.collect()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(ifname: &str, error: AttachError) -> DatapathError {
    DatapathError::Deny { ifname: ifname.to_owned(), source: error }
}

fn remove_pin(path: &std::path::Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DatapathError::pin(path)(error)),
        _ => Ok(()),
    }
}

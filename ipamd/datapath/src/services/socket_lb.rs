//! Socket load balancing: the programs at the cgroup's hooks, and the namespaces whose sockets they translate.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

use bpf::{
    attach::{self, AttachError, CGROUP_HOOKS, program_id},
    layout::{NAMESPACE_ENDPOINT, NAMESPACE_NODE, Plain},
};
use libbpf_rs::{MapCore, MapHandle};

use crate::{datapath::Datapath, error::DatapathError, load, repairs::Repairs, writes};

impl Datapath {
    /// Attaches the programs to the cgroup's hooks by pinned links; without a cgroup it removes the links. Returns the
    /// repairs.
    pub fn attach_socket_lb(&self, cgroup: Option<&Path>) -> Result<Repairs, DatapathError> {
        let folder = self.pins.socket_links();
        let Some(path) = cgroup else {
            return match fs::remove_dir_all(&folder) {
                Ok(()) => Ok(vec![format!("took the links in {} away", folder.display())]),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
                Err(error) => Err(DatapathError::pin(&folder)(error)),
            };
        };
        fs::create_dir_all(&folder).map_err(DatapathError::pin(&folder))?;
        let cgroup = File::open(path).map_err(DatapathError::pin(path))?;
        let number = cgroup.metadata().map_err(DatapathError::pin(path))?.ino();
        let mut repairs = Vec::new();
        for (name, hook) in CGROUP_HOOKS {
            let Some(program) = self.programs.get(name) else { continue };
            let pin = folder.join(name);
            if let Some((link, id)) = attached_link(&pin, number)? {
                if id != program_id(program.as_fd())? {
                    attach::replace_in_link(link.as_fd(), program.as_fd())?;
                }
            } else {
                let link = attach::attach_cgroup(program.as_fd(), cgroup.as_fd(), hook)?;
                load::put_pin(link.as_fd(), &pin)?;
                repairs.push(format!("attached {name} to {}", path.display()));
            }
        }
        Ok(repairs)
    }

    /// Sets the namespaces whose sockets are translated: the node's own and its endpoints'.
    pub fn set_namespaces(&self, node: Option<u64>, endpoints: &[u64]) -> Result<(), DatapathError> {
        let map = self.namespaces()?;
        let wanted: BTreeMap<u64, u32> = endpoints
            .iter()
            .map(|cookie| (*cookie, NAMESPACE_ENDPOINT))
            .chain(node.map(|cookie| (cookie, NAMESPACE_NODE)))
            .collect();
        for (cookie, kind) in &wanted {
            writes::put(map, NAMESPACES, cookie.as_bytes(), kind.as_bytes())?;
        }
        let stale: Vec<_> = map
            .keys()
            .filter(|key| u64::from_bytes(key).is_none_or(|key| !wanted.contains_key(&key)))
            .collect();
        Ok(stale.iter().try_for_each(|key| writes::remove(map, NAMESPACES, key))?)
    }

    /// Starts translating an endpoint's sockets.
    pub fn put_namespace(&self, cookie: u64) -> Result<(), DatapathError> {
        Ok(writes::put(self.namespaces()?, NAMESPACES, cookie.as_bytes(), NAMESPACE_ENDPOINT.as_bytes())?)
    }

    /// Stops translating an endpoint's sockets.
    pub fn remove_namespace(&self, cookie: u64) -> Result<(), DatapathError> {
        Ok(writes::remove(self.namespaces()?, NAMESPACES, cookie.as_bytes())?)
    }

    fn namespaces(&self) -> Result<&MapHandle, DatapathError> {
        self.others.get(NAMESPACES).ok_or_else(|| DatapathError::Layout { map: NAMESPACES.to_owned() })
    }
}

const NAMESPACES: &str = "namespaces";

/// The pinned link, if it is attached to the cgroup of that number, and the program that it runs.
fn attached_link(pin: &Path, cgroup: u64) -> Result<Option<(std::os::fd::OwnedFd, u32)>, AttachError> {
    if !pin.exists() {
        return Ok(None);
    }
    let link = attach::open_pinned(pin)?;
    let (attached, program) = attach::cgroup_link(link.as_fd())?;
    Ok((attached == cgroup).then_some((link, program)))
}

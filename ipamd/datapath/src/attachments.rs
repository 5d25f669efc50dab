//! Checks the programs on interfaces, their links and their pins, and puts back what somebody removed.
//!
//! The upgrade of interfaces that are there already happens here, too: once, `take_over` puts this daemon's programs into
//! the pinned links that an earlier daemon left ([`load::take_over`]); `heal_interface` replaces an earlier daemon's program
//! where it is attached without a link, or by a filter.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::PoisonError,
};

use bpf::attach::{self, Direction};
use ipamd_api::{key::is_host_ifname, wire::AttachMode};
use libbpf_rs::MapHandle;

use ipamd_runtime::supervisor;

use super::{
    datapath::{Datapath, HOOKS},
    error::DatapathError,
    load,
    repairs::Repairs,
};

/// How a program is attached to a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attached {
    /// By a tcx link. It lives as long as its pin or this daemon.
    Link,
    /// By tcx without a link. It lives as long as the interface.
    Program,
    /// By a filter. It lives as long as the interface, too.
    Filter,
}

impl Datapath {
    /// Puts back what is missing of the host ends (by name and index): their programs and the pins of their links. Does the same for the
    /// pins of maps and programs.
    ///
    /// A failure does not stop the other repairs. The failures are returned beside the repairs.
    pub fn heal_attachments(&self, host_ends: &[(String, u32)]) -> (Repairs, Vec<DatapathError>) {
        let healed = host_ends.iter().map(|(ifname, ifindex)| {
            supervisor::beat();
            self.heal_interface(ifname, *ifindex)
        });
        let (mut repairs, mut failures) = (Repairs::new(), Vec::new());
        for result in [self.heal_pins()].into_iter().chain(healed) {
            match result {
                Ok(made) => repairs.extend(made),
                Err(error) => failures.push(error),
            }
        }
        (repairs, failures)
    }

    /// Puts this daemon's programs into the links that an earlier daemon left. Only the first call does so. By then all that these
    /// programs look up has been written. Every flow is judged again, because the former programs have judged it.
    pub(super) fn take_over(&self) -> Result<(), DatapathError> {
        let renewed = self.to_take_over.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(renewed) = renewed else { return Ok(()) };
        load::take_over(&self.pins, &self.programs, &renewed, |ifname, direction| {
            self.program_for(ifname, direction)
        })?;
        self.raise_every_place()
    }

    /// What is wrong with the programs of one host end, a sentence each.
    pub fn attachment_faults(&self, ifname: &str, ifindex: u32) -> Vec<String> {
        let mut faults = Vec::new();
        for direction in HOOKS {
            let name = self.program_for(ifname, direction);
            let attached = match self.attached_by(ifname, ifindex, direction) {
                Ok(attached) => attached,
                Err(error) => {
                    faults.push(format!("cannot see whether {name} is attached to {ifname}: {error}"));
                    continue;
                }
            };
            let pin = self.pins.link(ifname, direction);
            if attached.is_none() {
                faults.push(format!("the program {name} is not attached to {ifname}"));
            } else if attached == Some(Attached::Link) && !pin.exists() {
                faults.push(format!("the link of {name} is not pinned at {}", pin.display()));
            }
        }
        faults
    }

    /// Removes the link pins of an interface that is gone or about to go.
    pub fn unpin_links(&self, ifname: &str) {
        for direction in HOOKS {
            self.links().remove(&(ifname.to_owned(), hook(direction)));
            if let Err(error) = load::remove_pin(&self.pins.link(ifname, direction)) {
                tracing::warn!(interface = ifname, %error, "cannot remove a link's pin");
            }
        }
    }

    /// Detaches the programs from an interface that stays. It may get them again at once.
    pub(super) fn detach_links(&self, ifname: &str) {
        for direction in HOOKS {
            let pinned = attach::open_pinned(&self.pins.link(ifname, direction));
            // Without a pinned link there is nothing to detach. If the interface is gone, its link is detached already.
            if let Err(error) = pinned.and_then(|link| attach::detach_tcx(link.as_fd())) {
                tracing::debug!(interface = ifname, %error, "cannot detach a link");
            }
        }
    }

    /// Names of the interfaces that have pinned links.
    pub fn pinned_interfaces(&self) -> Vec<String> {
        let mut names: Vec<_> =
            load::pinned_links(&self.pins).unwrap_or_default().into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Attaches the programs that are missing at the two hooks of an interface. Returns what was done, a sentence each.
    ///
    /// # Errors
    /// Why the first hook that failed could not be looked at, or its program not be attached.
    pub fn heal_interface(&self, ifname: &str, ifindex: u32) -> Result<Repairs, DatapathError> {
        // A commit and a pass of the reconciliation may come here at once. Without the lock both would attach, and one fail (`EEXIST`).
        let _alone = self.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        let mut repairs = Vec::new();
        for direction in HOOKS {
            let name = self.program_for(ifname, direction);
            let attached = self.attached_by(ifname, ifindex, direction)?;
            match self.attach_mode {
                AttachMode::Tcx if matches!(attached, Some(Attached::Filter | Attached::Program)) => {}
                // The filter runs an older program. It is replaced there, so that every packet meets exactly one of the two.
                AttachMode::Tcx
                    if attached.is_none()
                        && self.may_have_filter(ifname)
                        && attach::clsact_program(ifindex, direction)?.is_some() =>
                {
                    attach::attach_clsact(self.program(name)?.as_fd(), ifindex, direction)?;
                    repairs.push(format!("attached {name} to {ifname}"));
                }
                // The program of an endpoint must stay as long as its host end, so it is attached without a link, which could be closed.
                AttachMode::Tcx if attached.is_none() && is_host_ifname(ifname) => {
                    let former = attach::unlinked_tcx_programs(name, ifindex, direction)?;
                    let program = self.program(name)?;
                    attach::attach_tcx_program(program.as_fd(), ifindex, direction, former.first().copied())?;
                    self.links().remove(&(ifname.to_owned(), hook(direction)));
                    load::remove_pin(&self.pins.link(ifname, direction))?;
                    attach::detach_clsact(ifindex, direction)?;
                    repairs.push(format!("attached {name} to {ifname}"));
                }
                AttachMode::Tcx => {
                    if attached.is_none() {
                        let link = attach::attach_tcx(self.program(name)?.as_fd(), ifindex, direction)?;
                        load::remove_pin(&self.pins.link(ifname, direction))?;
                        self.hold_link(ifname, direction, link);
                        attach::detach_clsact(ifindex, direction)?;
                        repairs.push(format!("attached {name} to {ifname}"));
                    }
                    repairs.extend(self.heal_link_pin(ifname, ifindex, direction)?);
                }
                AttachMode::Clsact => {
                    if attached.is_none() {
                        attach::attach_clsact(self.program(name)?.as_fd(), ifindex, direction)?;
                        repairs.push(format!("attached {name} to {ifname}"));
                    }
                    let pin = self.pins.link(ifname, direction);
                    if pin.exists() {
                        // An earlier daemon attached by tcx and left the link.
                        self.links().remove(&(ifname.to_owned(), hook(direction)));
                        load::remove_pin(&pin)?;
                    }
                    if is_host_ifname(ifname) {
                        // An earlier daemon may also have attached by tcx without a link. A kernel without tcx gives an error here.
                        let unlinked = attach::unlinked_tcx_programs(name, ifindex, direction);
                        for id in unlinked.unwrap_or_default() {
                            attach::detach_tcx_program(id, ifindex, direction)?;
                        }
                    }
                }
            }
        }
        Ok(repairs)
    }

    /// How the program that belongs to a hook is attached there. `None` if it is not.
    fn attached_by(
        &self,
        ifname: &str,
        ifindex: u32,
        direction: Direction,
    ) -> Result<Option<Attached>, DatapathError> {
        let wanted = self.program_ids.get(self.program_for(ifname, direction)).copied();
        if self.attach_mode == AttachMode::Tcx {
            if self.has_link(ifname, ifindex, direction) {
                return Ok(Some(Attached::Link));
            }
            let attachments = attach::tcx_attachments(ifindex, direction)?;
            if is_host_ifname(ifname)
                && attachments.iter().any(|(id, link)| *link == 0 && Some(*id) == wanted)
            {
                return Ok(Some(Attached::Program));
            }
        }
        if !self.may_have_filter(ifname) {
            return Ok(None);
        }
        let is_wanted = attach::clsact_program(ifindex, direction)?.is_some_and(|id| Some(id) == wanted);
        Ok(is_wanted.then_some(Attached::Filter))
    }

    /// Whether the programs of that interface may be attached by filters.
    fn may_have_filter(&self, ifname: &str) -> bool {
        self.attach_mode == AttachMode::Clsact || self.takes_filters && is_host_ifname(ifname)
    }

    fn has_link(&self, ifname: &str, ifindex: u32, direction: Direction) -> bool {
        let wanted = self.program_ids.get(self.program_for(ifname, direction)).copied();
        let held = |this: &Self| {
            let links = this.links();
            let info =
                links.get(&(ifname.to_owned(), hook(direction))).map(|link| attach::link_info(link.as_fd()));
            info.and_then(Result::ok)
                .is_some_and(|info| info.ifindex == ifindex && Some(info.program_id) == wanted)
        };
        if held(self) {
            return true;
        }
        // Perhaps the plugin has made and pinned a new link.
        match attach::open_pinned(&self.pins.link(ifname, direction)) {
            Ok(link) => {
                self.hold_link(ifname, direction, link);
                held(self)
            }
            Err(_) => false,
        }
    }

    fn hold_link(&self, ifname: &str, direction: Direction, link: OwnedFd) {
        self.links().insert((ifname.to_owned(), hook(direction)), link);
    }

    fn heal_link_pin(
        &self,
        ifname: &str,
        ifindex: u32,
        direction: Direction,
    ) -> Result<Option<String>, DatapathError> {
        let path = self.pins.link(ifname, direction);
        if path.exists() {
            return Ok(None);
        }
        let links = self.links();
        let Some(link) = links.get(&(ifname.to_owned(), hook(direction))) else { return Ok(None) };
        // If the interface is gone, a DEL that is under way has removed the pin, and it must not come back.
        if !attach::link_info(link.as_fd()).is_ok_and(|info| info.ifindex == ifindex) {
            return Ok(None);
        }
        attach::pin(link.as_fd(), &path)?;
        Ok(Some(format!("pinned the link {}", path.display())))
    }

    fn heal_pins(&self) -> Result<Repairs, DatapathError> {
        let mut repairs = Vec::new();
        for folder in [self.pins.programs(), self.pins.maps(), self.pins.links()] {
            std::fs::create_dir_all(&folder).map_err(DatapathError::pin(&folder))?;
        }
        load::put_layout(&self.pins)?;
        let typed: [(&str, &MapHandle); 26] = [
            (self.node.name(), self.node.handle()),
            (self.uplinks.name(), self.uplinks.handle()),
            (self.host_policies.name(), self.host_policies.handle()),
            (self.endpoints4.name(), self.endpoints4.handle()),
            (self.endpoints6.name(), self.endpoints6.handle()),
            (self.no_masquerade4.name(), self.no_masquerade4.handle()),
            (self.no_masquerade6.name(), self.no_masquerade6.handle()),
            (self.machines4.name(), self.machines4.handle()),
            (self.machines6.name(), self.machines6.handle()),
            (self.node_prefixes4.name(), self.node_prefixes4.handle()),
            (self.node_prefixes6.name(), self.node_prefixes6.handle()),
            (self.node_macs4.name(), self.node_macs4.handle()),
            (self.node_macs6.name(), self.node_macs6.handle()),
            (self.host_ends.name(), self.host_ends.handle()),
            (self.domains.name(), self.domains.handle()),
            (self.resolvers.name(), self.resolvers.handle()),
            (self.dns_records.name(), self.dns_records.handle()),
            (self.dns_settings.name(), self.dns_settings.handle()),
            (self.plain_routes.name(), self.plain_routes.handle()),
            (self.conntrack4.name(), self.conntrack4.handle()),
            (self.conntrack6.name(), self.conntrack6.handle()),
            (self.wall_clock.name(), self.wall_clock.handle()),
            (self.changes.name(), self.changes.handle()),
            ("held_ports", &self.held_ports),
            ("drops", &self.drops),
            ("counters", &self.counters),
        ];
        let maps = typed.into_iter().chain(self.others.iter().map(|(name, map)| (name.as_str(), map)));
        for (path, object) in maps
            .map(|(name, map)| (self.pins.map(name), map.as_fd()))
            .chain(self.programs.iter().map(|(name, program)| (self.pins.program(name), program.as_fd())))
        {
            if !path.exists() {
                attach::pin(object, &path)?;
                repairs.push(format!("pinned {}", path.display()));
            }
        }
        Ok(repairs)
    }
}

fn hook(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

//! The programs on interfaces, their links and pins: checked, and restored if somebody removed them.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::PoisonError,
};

use bpf::attach::{self, Direction};
use ipamd_api::{key::is_host_ifname, wire::AttachMode};
use libbpf_rs::MapHandle;

use ipamd_runtime::supervisor;

use super::{
    Datapath, DatapathError, HOOKS, Repairs,
    load::{self, program_for},
};

/// By what a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attached {
    /// By a tcx link, which lives as long as its pin or this daemon.
    Link,
    /// By tcx without a link: as long as the interface.
    Program,
    /// By a filter: as long as the interface, too.
    Filter,
}

impl Datapath {
    /// Checks and puts back the programs and link pins of the host ends named (name, index), and the pins of maps and
    /// programs.
    ///
    /// A failure does not stop the other repairs: the failures are returned beside the repairs.
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

    /// Once for this daemon, has the links that an earlier one left run its programs. All that these look up has been written; what
    /// those before have judged is judged again.
    pub(super) fn take_over(&self) -> Result<(), DatapathError> {
        let renewed = self.to_take_over.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(renewed) = renewed else { return Ok(()) };
        load::take_over(&self.pins, &self.programs, &renewed)?;
        self.raise_every_place()
    }

    /// What is wrong with the programs of one host end, a sentence each.
    pub fn attachment_faults(&self, ifname: &str, ifindex: u32) -> Vec<String> {
        let mut faults = Vec::new();
        for direction in HOOKS {
            let name = program_for(ifname, direction);
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

    /// Removes the link pins of an interface that is gone or going.
    pub fn unpin_links(&self, ifname: &str) {
        for direction in HOOKS {
            self.links().remove(&(ifname.to_owned(), hook(direction)));
            if let Err(error) = load::remove_pin(&self.pins.link(ifname, direction)) {
                tracing::warn!(interface = ifname, %error, "cannot remove a link's pin");
            }
        }
    }

    /// Detaches the programs of an interface that stays, and may get them again at once.
    pub(super) fn detach_links(&self, ifname: &str) {
        for direction in HOOKS {
            let pinned = attach::open_pinned(&self.pins.link(ifname, direction));
            // Without one there is nothing to detach; the link of an interface that is gone is detached already.
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

    /// Attaches what is not attached to an interface's two hooks. Returns what was done, a sentence each.
    ///
    /// # Errors
    /// The first that cannot be attached or looked at.
    pub fn heal_interface(&self, ifname: &str, ifindex: u32) -> Result<Repairs, DatapathError> {
        // A commit and a pass of the reconciliation may meet here: the second would attach what the first just has (`EEXIST`).
        let _alone = self.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        let mut repairs = Vec::new();
        for direction in HOOKS {
            let name = program_for(ifname, direction);
            let attached = self.attached_by(ifname, ifindex, direction)?;
            match self.attach_mode {
                AttachMode::Tcx if matches!(attached, Some(Attached::Filter | Attached::Program)) => {}
                // An older program is in the filter: it is replaced there, so that no packet meets both or neither.
                AttachMode::Tcx
                    if attached.is_none()
                        && self.may_have_filter(ifname)
                        && attach::clsact_program(ifindex, direction)?.is_some() =>
                {
                    attach::attach_clsact(self.program(name)?.as_fd(), ifindex, direction)?;
                    repairs.push(format!("attached {name} to {ifname}"));
                }
                // On an endpoint's host end nothing may end what polices it but its own end.
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
                        // Left by a daemon that attached by tcx.
                        self.links().remove(&(ifname.to_owned(), hook(direction)));
                        load::remove_pin(&pin)?;
                    }
                    if is_host_ifname(ifname) {
                        // The same without a link. A kernel without tcx has none.
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

    /// By what the program that belongs on a hook is attached there; `None`: it is not.
    fn attached_by(
        &self,
        ifname: &str,
        ifindex: u32,
        direction: Direction,
    ) -> Result<Option<Attached>, DatapathError> {
        let wanted = self.program_ids.get(program_for(ifname, direction)).copied();
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

    /// Whether a filter on that interface is as good as what programs are attached by.
    fn may_have_filter(&self, ifname: &str) -> bool {
        self.attach_mode == AttachMode::Clsact || self.takes_filters && is_host_ifname(ifname)
    }

    fn has_link(&self, ifname: &str, ifindex: u32, direction: Direction) -> bool {
        let wanted = self.program_ids.get(program_for(ifname, direction)).copied();
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
        // The plugin has made a new one, perhaps.
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
        // A DEL that is under way has taken the pin away because the interface is gone; the kernel says so of the link.
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
        let typed: [(&str, &MapHandle); 21] = [
            (self.node.name(), self.node.handle()),
            (self.uplinks.name(), self.uplinks.handle()),
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

    pub(super) fn program(&self, name: &str) -> Result<&OwnedFd, DatapathError> {
        self.programs.get(name).ok_or_else(|| DatapathError::Layout { map: name.to_owned() })
    }
}

fn hook(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

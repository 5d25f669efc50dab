//! Short grace periods while an interface is being made or removed.
//!
//! Attaching a program by tcx waits for an RCU grace period under the rtnl lock (`tcx_entry_sync`), 10 to 15 ms each,
//! where all else of an ADD takes one. The kernel expedites the grace periods of its own changes to network devices;
//! this has it expedite those too, by `/sys/kernel/rcu_expedited`, but only between an ADD's reservation and its
//! commit, and while a link is deleted. Where the file cannot be written, nothing but time is lost.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::{debug, warn};

use crate::kernel_files;

const KNOB: &str = "/sys/kernel/rcu_expedited";

/// Name of the marker in the state directory.
pub const MARKER: &str = "rcu-expedited";

/// The kernel's switch, and how many want it on.
#[derive(Debug)]
pub struct Expedite {
    knob: PathBuf,
    /// Exists while the switch is on by this daemon's doing, so that one that follows a kill -9 turns it off.
    marker: PathBuf,
    wanted: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    holders: u32,
    raised: bool,
}

/// Keeps grace periods short until it is dropped.
#[derive(Debug)]
pub struct Hold(Option<Arc<Expedite>>);

impl Expedite {
    /// The switch of this machine. `marker` is a file of this daemon's own on a file system that a reboot empties or
    /// whose content a reboot makes harmless; if it exists, an earlier daemon left the switch on, and it is turned off.
    /// Unless `wanted`, it is not turned on again.
    pub fn new(marker: PathBuf, wanted: bool) -> Arc<Self> {
        Self::with_knob(kernel_files::of_node(KNOB), marker, wanted)
    }

    fn with_knob(knob: PathBuf, marker: PathBuf, wanted: bool) -> Arc<Self> {
        let expedite = Self { knob, marker, wanted, state: Mutex::default() };
        if expedite.marker.exists() {
            expedite.lower();
        }
        Arc::new(expedite)
    }

    /// Turns the switch on, unless that is not wanted or somebody else has it on already.
    pub fn hold(self: &Arc<Self>) -> Hold {
        if !self.wanted {
            return Hold(None);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.holders += 1;
        if state.holders == 1 {
            state.raised = self.raise();
        }
        Hold(Some(Arc::clone(self)))
    }

    fn raise(&self) -> bool {
        match fs::read_to_string(&self.knob) {
            Ok(value) if value.trim() == "0" => {}
            // An administrator's choice, or that of another daemon on this machine: theirs to take back.
            Ok(_) => return false,
            Err(error) => {
                debug!(%error, "grace periods cannot be expedited");
                return false;
            }
        }
        let raised = fs::write(&self.marker, "").and_then(|()| fs::write(&self.knob, "1"));
        if let Err(error) = &raised {
            debug!(%error, "grace periods cannot be expedited");
        }
        raised.is_ok()
    }

    fn lower(&self) {
        if let Err(error) = fs::write(&self.knob, "0") {
            warn!(%error, "{} could not be set back to 0", self.knob.display());
            return;
        }
        if let Err(error) = fs::remove_file(&self.marker) {
            warn!(%error, "{} could not be removed", self.marker.display());
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(expedite) = &self.0 else { return };
        let mut state = expedite.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.holders -= 1;
        if state.holders == 0 && std::mem::take(&mut state.raised) {
            expedite.lower();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(knob: &str) -> (tempfile::TempDir, Arc<Expedite>) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("knob"), knob).unwrap();
        let expedite = Expedite::with_knob(dir.path().join("knob"), dir.path().join("marker"), true);
        (dir, expedite)
    }

    fn knob(dir: &tempfile::TempDir) -> String {
        fs::read_to_string(dir.path().join("knob")).unwrap().trim().to_owned()
    }

    #[test]
    fn the_switch_is_on_while_anybody_holds_it() {
        let (dir, expedite) = machine("0\n");
        let first = expedite.hold();
        let second = expedite.hold();
        assert_eq!(knob(&dir), "1");
        drop(first);
        assert_eq!(knob(&dir), "1");
        drop(second);
        assert_eq!(knob(&dir), "0");
        assert!(!dir.path().join("marker").exists());
    }

    #[test]
    fn a_switch_that_another_turned_on_is_left_on() {
        let (dir, expedite) = machine("1\n");
        drop(expedite.hold());
        assert_eq!(knob(&dir), "1");
    }

    #[test]
    fn who_does_not_want_it_does_not_touch_it() {
        let (dir, _) = machine("0\n");
        let expedite = Expedite::with_knob(dir.path().join("knob"), dir.path().join("marker"), false);
        let _hold = expedite.hold();
        assert_eq!(knob(&dir), "0");
    }

    #[test]
    fn a_killed_daemons_successor_turns_it_off() {
        let (dir, expedite) = machine("0\n");
        std::mem::forget(expedite.hold());
        let _next = Expedite::with_knob(dir.path().join("knob"), dir.path().join("marker"), true);
        assert_eq!(knob(&dir), "0");
        assert!(!dir.path().join("marker").exists());
    }

    #[test]
    fn a_machine_without_the_switch_goes_on_without() {
        let dir = tempfile::tempdir().unwrap();
        let expedite = Expedite::with_knob(dir.path().join("absent/knob"), dir.path().join("marker"), true);
        drop(expedite.hold());
    }
}

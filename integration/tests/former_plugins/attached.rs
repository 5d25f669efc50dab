//! Programs of another plugin that are still attached: to an uplink by tcx, clsact and XDP, and to a cgroup.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use bpf::attach::{CGROUP_HOOKS, Direction, attach_cgroup, attach_clsact, attach_tcx};
use integration::needs_root;
use libbpf_rs::libbpf_sys;

use super::machine::Machine;

/// A cgroup of its own, so that programs at the machine's root are not touched.
pub struct Cgroup(PathBuf);

impl Cgroup {
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let root = ipamd_machine::preflight::cgroup_root(None).context("a cgroup v2 hierarchy")?;
        let name = format!("cambric-test-{}-former-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = root.join(name);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Loads a program of that name which does nothing but return.
fn load(name: &str, kind: u32, attach: u32, returns: i32) -> Result<OwnedFd> {
    let instruction = |code, imm| libbpf_sys::bpf_insn { code, imm, ..Default::default() };
    // r0 = returns; exit
    let code = [instruction(0xb7, returns), instruction(0x95, 0)];
    let (name, license) = (CString::new(name)?, CString::new("GPL")?);
    let options = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as libbpf_sys::size_t,
        expected_attach_type: attach,
        ..Default::default()
    };
    // SAFETY: the instructions, the names and the options outlive the call.
    let program = unsafe {
        libbpf_sys::bpf_prog_load(
            kind,
            name.as_ptr(),
            license.as_ptr(),
            code.as_ptr(),
            code.len() as _,
            (&raw const options).cast_mut(),
        )
    };
    ensure!(program >= 0, "load {name:?}: {}", io::Error::from_raw_os_error(-program));
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

#[test]
fn programs_that_are_still_attached_are_named_with_their_places() -> Result<()> {
    needs_root!();
    let machine = Machine::new("programs")?;
    machine.make_foreign_things()?;
    let state = machine.state()?;
    let index = machine.netns().inside(|| nix::net::if_::if_nametoindex("up0"))?;
    let tc = load("cali_tc_preamble", libbpf_sys::BPF_PROG_TYPE_SCHED_CLS, 0, -1)?;
    let of_others = load("somebody", libbpf_sys::BPF_PROG_TYPE_SCHED_CLS, 0, -1)?;
    let xdp = load("xdp_cali_entryp", libbpf_sys::BPF_PROG_TYPE_XDP, 0, 2)?;
    let (hook, kind) = *CGROUP_HOOKS.iter().find(|(hook, _)| *hook == "connect4").context("a hook")?;
    let connect = load("calico_connect_v4", libbpf_sys::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, kind, 1)?;
    let cgroup = File::open(machine.cgroup().path())?;
    let in_cgroup = attach_cgroup(connect.as_fd(), cgroup.as_fd(), kind)?;
    let by_tcx = machine.netns().inside(|| -> Result<_> {
        attach_clsact(tc.as_fd(), index, Direction::Egress)?;
        // SAFETY: the descriptor is open; no options are passed.
        let attached = unsafe {
            libbpf_sys::bpf_xdp_attach(index.cast_signed(), xdp.as_raw_fd(), 1 << 1, std::ptr::null())
        };
        ensure!(attached == 0, "attach by XDP: {}", io::Error::from_raw_os_error(-attached));
        Ok([
            attach_tcx(of_others.as_fd(), index, Direction::Ingress)?,
            attach_tcx(tc.as_fd(), index, Direction::Ingress)?,
        ])
    })?;

    let findings = machine.preflight(&["programs"])?;
    let [finding] = &findings[..] else { anyhow::bail!("{findings:?}") };
    let cgroup = machine.cgroup().path().display();
    assert_eq!(
        finding.detail,
        format!(
            "Calico has left cali_tc_preambl at the ingress of up0 (tcx), cali_tc_preambl at the egress of up0 (clsact), \
             xdp_cali_entryp at up0 (XDP) and calico_connect_ at {hook} of {cgroup}"
        )
    );
    let (_, commands) = finding.remedy.split_once(": ").context("commands")?;
    let commands = commands.split("; ").collect::<Vec<_>>();
    let [of_tcx, of_clsact, of_xdp, of_cgroup] = commands[..] else { anyhow::bail!("{commands:?}") };
    ensure!(of_tcx.starts_with("bpftool link detach id ") && !of_tcx.ends_with(" 0"), "{of_tcx}");
    ensure!(of_cgroup.starts_with(&format!("bpftool cgroup detach {cgroup} {hook} id ")), "{of_cgroup}");

    machine.shell(of_clsact)?;
    machine.shell(of_xdp)?;
    drop((by_tcx, in_cgroup));
    let findings = machine.preflight(&["programs"])?;
    ensure!(findings.iter().all(|finding| finding.outcome == "ok"), "{findings:?}");
    machine.shell("tc qdisc delete dev up0 clsact")?;
    assert_eq!(machine.state()?, state);
    Ok(())
}

//! What the verifier walks through for each program, held against what was written down: a program that becomes heavier is
//! seen, long before a kernel refuses it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd},
};

use bpf::CambricSkelBuilder;
use libbpf_rs::{
    libbpf_sys,
    skel::{OpenSkel, Skel, SkelBuilder},
};

/// A line for each kernel and program: `6.18 from_endpoint 23456`. `CAMBRIC_WEIGHT=print` prints them as they are now.
const WRITTEN_DOWN: &str = include_str!("weight.txt");
/// How much heavier than written down a program may be, in percent: compilers differ.
const TOLERANCE: u32 = 25;
/// No kernel takes more than a million. On one that nothing was written down for, a program may use half.
const MOST: u32 = 500_000;

/// The kernel as `6.18`.
fn kernel() -> String {
    let names = nix::sys::utsname::uname().unwrap();
    names.release().to_string_lossy().split('.').take(2).collect::<Vec<_>>().join(".")
}

fn verified(program: impl AsFd) -> u32 {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = u32::try_from(size_of_val(&info)).unwrap();
    // SAFETY: `info` is as long as `length` says, outlives the call, and asks for no arrays.
    let result = unsafe {
        libbpf_sys::bpf_obj_get_info_by_fd(
            program.as_fd().as_raw_fd(),
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0);
    info.verified_insns
}

#[test]
fn no_program_is_much_heavier_than_written_down() {
    let mut object = MaybeUninit::uninit();
    let skeleton = CambricSkelBuilder::default().open(&mut object).unwrap().load().unwrap();
    let kernel = kernel();
    let known: BTreeMap<&str, u32> = WRITTEN_DOWN
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == kernel).then_some(())?;
            Some((words.next()?, words.next()?.parse().unwrap()))
        })
        .collect();
    let mut lines = String::new();
    let mut heavy = Vec::new();
    for program in skeleton.object().progs() {
        let name = program.name().to_string_lossy().into_owned();
        let now = verified(&program);
        assert!(now > 0, "the kernel does not say what it verified of {name}");
        writeln!(lines, "{kernel} {name} {now}").unwrap();
        let most = known.get(&*name).map_or(MOST, |known| known + known * TOLERANCE / 100);
        if now > most {
            heavy.push(format!("{name}: {now} instructions, at most {most}"));
        }
    }
    if std::env::var_os("CAMBRIC_WEIGHT").is_some() {
        println!("{lines}");
    }
    assert!(heavy.is_empty(), "{heavy:?}; if that is meant, write into weight.txt:\n{lines}");
}

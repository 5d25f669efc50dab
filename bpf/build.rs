//! Compiles the programs and generates their skeletons.

use std::{env, error::Error, ffi::OsString, path::PathBuf};

use libbpf_cargo::SkeletonBuilder;

const PROGRAMS: &str = "progs";
/// The objects: `progs/NAME.bpf.c` becomes `NAME.skel.rs`.
const OBJECTS: [&str; 2] = ["cambric", "deny"];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    // Debian keeps <asm/types.h> in a folder of the architecture, which clang does not search for a BPF target.
    let include = format!("-I/usr/include/{arch}-linux-gnu");
    // Instruction set v3 (Linux 5.1): 32-bit operations and jumps make smaller programs.
    let arguments =
        ["-mcpu=v3", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", &include].map(OsString::from);
    for object in OBJECTS {
        SkeletonBuilder::new()
            .source(format!("{PROGRAMS}/{object}.bpf.c"))
            .clang_args(&arguments)
            .build_and_generate(out.join(format!("{object}.skel.rs")))?;
    }
    println!("cargo:rerun-if-changed={PROGRAMS}");
    Ok(())
}

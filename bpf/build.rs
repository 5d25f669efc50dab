//! Compiles the programs and generates their skeleton.

use std::{env, error::Error, ffi::OsString, path::PathBuf};

use libbpf_cargo::SkeletonBuilder;

const PROGRAMS: &str = "progs";
const SOURCE: &str = "progs/cambric.bpf.c";

fn main() -> Result<(), Box<dyn Error>> {
    let skeleton = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("cambric.skel.rs");
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    // Debian keeps <asm/types.h> in a folder of the architecture, which clang does not search for a BPF target.
    let include = format!("-I/usr/include/{arch}-linux-gnu");
    // Instruction set v3 (Linux 5.1): 32-bit operations and jumps make smaller programs.
    let arguments =
        ["-mcpu=v3", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", &include].map(OsString::from);
    SkeletonBuilder::new().source(SOURCE).clang_args(arguments).build_and_generate(&skeleton)?;
    println!("cargo:rerun-if-changed={PROGRAMS}");
    Ok(())
}

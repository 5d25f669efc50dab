//! Generates the messages and services of `proto/`. The compiler of `.proto` files is a crate, so no `protoc` is needed.

use std::{env, error::Error};

const PROTOCOL: &str = "proto";
const FILES: [&str; 3] = ["observer/observer.proto", "peer/peer.proto", "health/health.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let files = protox::compile(FILES, [PROTOCOL])?;
    tonic_prost_build::configure()
        .build_client(env::var_os("CARGO_FEATURE_CLIENT").is_some())
        .build_transport(false)
        .codec_path("crate::codec::StrictCodec")
        .compile_fds(files)?;
    println!("cargo:rerun-if-changed={PROTOCOL}");
    Ok(())
}

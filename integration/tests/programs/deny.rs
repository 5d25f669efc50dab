//! The program of the deny sets.

use std::{mem::MaybeUninit, net::IpAddr};

use bpf::{
    DenySkelBuilder,
    layout::{Denied4, Denied6, DenyCount, Plain},
};
use etherparse::{EtherType, PacketBuilder};
use integration::{
    needs_root,
    programs::{FAR4, FAR6, NODE6},
};
use libbpf_rs::{
    MapCore, MapFlags, ProgramInput,
    skel::{OpenSkel, SkelBuilder},
};

use anyhow::{Result, ensure};

/// `XDP_DROP`.
const DROP: u32 = 1;
/// `XDP_PASS`.
const PASS: u32 = 2;

/// A frame with a datagram from an address, with these tags before it.
fn frame(from: IpAddr, tags: &[u16]) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let builder = match from {
        IpAddr::V4(from) => builder.ipv4(from.octets(), [192, 0, 2, 2], 64),
        IpAddr::V6(from) => builder.ipv6(from.octets(), NODE6.octets(), 64),
    };
    let mut plain = Vec::new();
    builder.udp(1, 2).write(&mut plain, b"payload")?;
    let mut frame = plain[..12].to_vec();
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 7]);
    }
    frame.extend(&plain[12..]);
    Ok(frame)
}

#[test]
fn frames_are_told_by_their_source_address_behind_any_tags() -> Result<()> {
    needs_root!();
    let mut object = MaybeUninit::uninit();
    let skeleton = DenySkelBuilder::default().open(&mut object)?.load()?;
    let put4 = |address: [u8; 4], bits, number: u32| {
        let key = Denied4 { bits, address };
        skeleton.maps.deny4.update(key.as_bytes(), number.as_bytes(), MapFlags::ANY)
    };
    put4([198, 51, 100, 0], 24, 3)?;
    put4([198, 51, 100, 1], 32, 0)?;
    let key = Denied6 { bits: 32, address: [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] };
    skeleton.maps.deny6.update(key.as_bytes(), 4_u32.as_bytes(), MapFlags::ANY)?;
    let run = |frame: &[u8]| -> Result<u32> {
        let input = || ProgramInput { data_in: Some(frame), ..ProgramInput::default() };
        let native = skeleton.progs.deny_native.test_run(input())?.return_value;
        let generic = skeleton.progs.deny_generic.test_run(input())?.return_value;
        ensure!(native == generic, "{native} is not {generic}");
        Ok(native)
    };
    let (customer, service) = (EtherType::VLAN_TAGGED_FRAME.0, EtherType::PROVIDER_BRIDGING.0);
    let (v4, v6): (IpAddr, IpAddr) = ([198, 51, 100, 9].into(), FAR6.into());
    for (from, tags, wanted) in [
        (v4, &[][..], DROP),
        (v6, &[], DROP),
        (v4, &[customer], DROP),
        (v6, &[customer], DROP),
        (v4, &[service, customer], DROP),
        (v6, &[service, customer], DROP),
        (v4, &[service, service, customer], DROP),
        (v6, &[customer; 8], DROP),
        ([198, 51, 101, 9].into(), &[customer; 8], PASS),
        // Nobody has so many.
        ([198, 51, 101, 9].into(), &[customer; 9], DROP),
        ([198, 51, 101, 9].into(), &[], PASS),
        // No set may deny it.
        (FAR4.into(), &[], PASS),
        ("2001:db9::1".parse()?, &[], PASS),
    ] {
        ensure!(run(&frame(from, tags)?)? == wanted, "{from} {tags:x?}");
    }
    // What is cut short is left to those behind.
    for length in 14..34 {
        ensure!(run(&frame(v4, &[])?[..length])? == PASS, "{length} bytes");
    }
    let count = |number: u32| -> Result<u64> {
        let per_cpu = skeleton.maps.deny_counts.lookup_percpu(number.as_bytes(), MapFlags::ANY)?;
        let first = per_cpu.iter().flatten().filter_map(|it| DenyCount::from_bytes(it));
        Ok(first.map(|it| it.packets).sum())
    };
    ensure!((count(0)?, count(3)?, count(4)?) == (2, 8, 8), "{} {} {}", count(0)?, count(3)?, count(4)?);
    Ok(())
}

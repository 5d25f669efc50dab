//! The stack of the programs, by the rule of older kernels: Linux before 6.4 rounds each function's frame up to 32 bytes,
//! and the frames of a chain of calls share 512.

use std::{collections::BTreeMap, mem::MaybeUninit};

use bpf::CambricSkelBuilder;
use libbpf_rs::{
    Program,
    libbpf_sys::bpf_insn,
    skel::{OpenSkel, Skel, SkelBuilder},
};

/// What a chain of calls may use, in bytes.
const LIMIT: usize = 512;
const ROUNDED_TO: usize = 32;

const FRAME_POINTER: u8 = 10;
const PSEUDO_CALL: u8 = 1;
const CALL: u8 = 0x85;
const MOVE: u8 = 0xbf;
const ADD_IMMEDIATE: u8 = 0x07;
const CLASS: u8 = 0x07;
const LOAD: u8 = 0x01;
const STORE_IMMEDIATE: u8 = 0x02;
const STORE: u8 = 0x03;

#[test]
fn every_chain_of_calls_fits_the_stack_of_older_kernels() {
    let mut object = MaybeUninit::uninit();
    let skeleton = CambricSkelBuilder::default().open(&mut object).unwrap().load().unwrap();
    let mut seen = 0;
    for program in skeleton.object().progs() {
        let functions = functions(&program);
        let (deepest, chain) = deepest_chain(&functions, 0);
        let name = program.name();
        assert!(deepest <= LIMIT, "{name:?} uses {deepest} bytes of stack: (instruction, frame) {chain:?}");
        seen += functions.len();
    }
    assert!(seen > 20, "the programs have {seen} functions: their calls were not understood");
}

/// A function's frame in bytes, and the functions that it calls.
#[derive(Debug, Default)]
struct Function {
    frame: usize,
    calls: Vec<usize>,
}

/// The functions of a loaded program, by their first instruction.
fn functions(program: &Program<'_>) -> BTreeMap<usize, Function> {
    let instructions = program.insns();
    let targets = instructions.iter().enumerate().filter_map(|(at, instruction)| called(at, *instruction));
    let mut functions: BTreeMap<usize, Function> =
        targets.chain([0]).map(|first| (first, Function::default())).collect();
    let mut copied_frame_pointer = None;
    for (at, instruction) in instructions.iter().enumerate() {
        let Some((_, function)) = functions.range_mut(..=at).next_back() else { continue };
        function.calls.extend(called(at, *instruction));
        let (to, from) = (instruction.dst_reg(), instruction.src_reg());
        let base = match instruction.code & CLASS {
            LOAD => from,
            STORE | STORE_IMMEDIATE => to,
            _ => 0,
        };
        let reaches = if base == FRAME_POINTER {
            i32::from(instruction.off)
        } else if instruction.code == ADD_IMMEDIATE && copied_frame_pointer == Some(to) {
            instruction.imm
        } else {
            0
        };
        copied_frame_pointer = (instruction.code == MOVE && from == FRAME_POINTER).then_some(to);
        function.frame = function.frame.max(usize::try_from(-reaches).unwrap_or(0));
    }
    functions
}

/// The first instruction of the function that an instruction calls.
fn called(at: usize, instruction: bpf_insn) -> Option<usize> {
    let calls = instruction.code == CALL && instruction.src_reg() == PSEUDO_CALL;
    calls.then(|| at.checked_add_signed(instruction.imm as isize + 1)).flatten()
}

/// The deepest chain of calls from a function: the bytes that it uses, and the frame of each function with the number of its first
/// instruction.
fn deepest_chain(functions: &BTreeMap<usize, Function>, first: usize) -> (usize, Vec<(usize, usize)>) {
    let function = &functions[&first];
    let below = function.calls.iter().map(|called| deepest_chain(functions, *called)).max();
    let (bytes, mut chain) = below.unwrap_or_default();
    chain.insert(0, (first, function.frame));
    (function.frame.max(1).next_multiple_of(ROUNDED_TO) + bytes, chain)
}

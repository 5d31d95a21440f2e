//! The attack: a guest sets a data breakpoint on memory that the hypervisor reads and writes for it, so that the debug
//! exception comes in ring 0. The refused twins: breakpoints on the hypervisor's own memory, general detect.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::version::XENVER_GET_FEATURES;
use claim::hypercall::command;
use claim::{ask, call, say};

claim::claim!(run);

/// Breakpoint 0: reads and writes of eight bytes; local and global enable.
const WATCH: u64 = 0b1011 << 16 | 0b11;
const GENERAL_DETECT: u64 = 1 << 13;

fn set(register: u64, value: u64) -> i64 {
    call(Hypercall::SetDebugreg, &[register, value])
}

fn run() {
    ask!("breakpoint in the hypervisor", set(0, 0xffff_8300_0000_0000));
    ask!("general detect", set(7, GENERAL_DETECT));
    let mut info = claim::abi::version::XenFeatureInfo { submap_idx: 0, submap: 0 };
    ask!("breakpoint on my own memory", set(0, (&raw mut info).addr() as u64));
    let watched = set(7, WATCH);
    let answer = command(Hypercall::XenVersion, XENVER_GET_FEATURES, &mut info);
    let unwatched = set(7, 0);
    ask!("watching", watched);
    ask!("a call that reads and writes it", answer);
    ask!("watching no more", unwatched);
    say!("still here, and the answer arrived: {}", info.submap != 0);
}

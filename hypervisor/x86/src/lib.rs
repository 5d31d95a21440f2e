//! The machine room: everything that touches the processor, its tables and its devices.
//!
//! It implements the core's ports and decides nothing about ownership. Lock order and the invariants that the
//! `SAFETY` comments cite are in `docs/`.
#![no_std]
// A guest read is one instruction that may fault to a label; without outputs beside labels each read would cost a
// flag and a test. The image is built with the bootstrap switch for build-std anyway.
#![feature(asm_goto_with_outputs)]

extern crate alloc;

pub mod alone;
pub mod boot;
pub mod calls;
pub mod console;
pub mod context;
pub mod control;
pub mod cpu;
pub mod cpuid;
pub mod deliver;
pub mod desc;
pub mod dev;
pub mod dom0;
pub mod domain;
pub mod emulate;
pub mod entry;
pub mod features;
pub mod fpu;
pub mod guest;
pub mod heap;
pub mod host;
pub mod hub;
pub mod hypercall;
pub mod interrupt;
pub mod ipi;
pub mod layout;
pub mod life;
pub mod machine;
pub mod mem;
pub mod paging;
pub mod panic;
pub mod parking;
pub mod percpu;
pub mod ports;
pub mod power;
pub mod quick;
pub mod smp;
pub mod snapshot;
pub mod start;
pub mod switch;
pub mod tlb;
pub mod topology;
pub mod trap;
pub mod vcpu;
pub mod watchdog;
pub mod work;

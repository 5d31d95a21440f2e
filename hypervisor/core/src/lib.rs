//! The security-critical core: who owns what, and who may do what to whom. No hardware.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

pub mod access;
pub mod call;
pub mod console;
pub mod control;
pub mod domain;
pub mod event;
pub mod fallible;
pub mod frame;
pub mod grant;
pub mod heap;
pub mod memory_op;
pub mod mmu;
pub mod options;
pub mod physdev;
pub mod pirq;
pub mod platform;
pub mod port;
pub mod sched;
mod sync;
pub mod time;
pub mod vcpu;
pub mod version;
pub mod wire;

#[cfg(all(test, feature = "loom"))]
mod interleavings;
#[cfg(test)]
mod testing;

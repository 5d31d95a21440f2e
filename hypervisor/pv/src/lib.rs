//! x86 paravirtualisation rules without hardware: what a guest's registers, descriptors, traps and privileged
//! instructions mean, as pure data and functions over narrow ports.
//!
//! The x86 room fills [`Regs`] at each entry, asks a rule here, and carries the answer out.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod bounce;
pub mod code;
pub mod control;
pub mod cpuid;
pub mod debug;
pub mod descriptor;
pub mod emulate;
pub mod iret;
pub mod msr;
pub mod ptwr;
pub mod ptwr_string;
pub mod regs;
pub mod trap;

pub use bounce::{Frame, Origin};
pub use cpuid::CpuidPolicy;
pub use debug::DebugRegisters;
pub use descriptor::{CodeSegment, SegmentBase, SegmentDescriptor};
pub use iret::IretFrame;
pub use regs::{Mode, Regs};
pub use trap::{Event, Handler, TrapEntry};

//! The wire contract between guests and the hypervisor: numbers, structures, errors, ELF notes and the one
//! hypercall table.
//!
//! One module a public header of Xen's `xen/include/public`, under the header's names in Rust's spelling:
//! `EVTCHNOP_bind_virq` is [`event_channel::EVTCHNOP_BIND_VIRQ`], `struct evtchn_bind_virq` is
//! [`event_channel::EvtchnBindVirq`]. Structures have the C layout of x86-64 with explicit padding, so that every
//! one can be read from bytes and written to bytes; guest handles are `u64` guest linear addresses. The layout
//! tests compile a C program against the headers and compare every constant, size and offset.
//!
//! Nothing here decides anything: values are whatever a guest wrote.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[macro_use]
mod macros;

#[macro_use]
pub mod call;
pub mod callback;
pub mod control;
pub mod elfnote;
pub mod errno;
pub mod event_channel;
pub mod features;
pub mod grant_table;
pub mod io;
#[cfg(test)]
mod layout;
pub mod memory;
pub mod nmi;
pub mod physdev;
pub mod platform;
pub mod sched;
pub mod vcpu;
pub mod version;
pub mod vga;
pub mod x86_64;
pub mod xen;

pub use call::Hypercall;
pub use errno::Errno;

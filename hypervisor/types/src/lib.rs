//! The nouns of the hypervisor: frame numbers, domain numbers, ports, guest addresses.
//!
//! A number that came from a guest stays a bare integer until one of these constructors has looked at it.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod number;

pub use number::{
    DomId, Gfn, GrantRef, GuestVa, Mfn, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, Pirq, Port, VcpuId, WORDS_PER_PAGE,
};

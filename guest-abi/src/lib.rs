//! The wire contract between guests and the hypervisor.
#![no_std]
#![forbid(unsafe_code)]

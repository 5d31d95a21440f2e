//! Boots real systems in QEMU through GRUB and drives them by the serial line: unmodified Debian kernels, a Debian
//! root disk, the failures an administrator can cause.
//!
//! `cargo test -p tests-system` runs all of it on Xenolith; with `XENOLITH_HV=xen` on Debian's Xen 4.17, which shows
//! that a test asks for what a PV dom0 gets there too.
#![cfg(test)]
#![forbid(unsafe_code)]

mod boot;
mod disk;
mod domains;
mod endings;
mod failing;
mod guest;
mod hardware;
mod hostile;
mod hotplug;
mod inside;
mod network;
mod programs;
mod smp;

//! A simulated machine and an oracle for the security-critical core.
//!
//! [`Sim`] has memory, CPUs with adversarial TLBs, and domains. [`World`] lets domains act on it. [`oracle`] counts
//! all references again from nothing but page tables, pins and roots, and asserts the invariants of
//! `docs/invariants.md` by name.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod machine;
mod world;

pub mod oracle;

pub use machine::{Buffer, Sim};
pub use world::{Act, Answer, World};

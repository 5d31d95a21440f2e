//! Images of paravirtual kernels: formats, decompression, notes, the build plan.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

//! The command `lith`.
#![forbid(unsafe_code)]

//! A simulated machine and an oracle for the security-critical core.
#![forbid(unsafe_code)]

//! The store through which domains and tools find each other: wire codec, state, and the daemon around them.
#![forbid(unsafe_code)]

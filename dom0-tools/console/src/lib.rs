//! The console daemon: history of every domain, and who is attached.
#![forbid(unsafe_code)]

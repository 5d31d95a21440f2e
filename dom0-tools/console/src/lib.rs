//! The consoles of domains: what they write is kept, also when they are gone; who wants to be on one attaches.
//!
//! The daemon ([`daemon::Daemon`]) maps the console ring of each domain that the store tells of, appends what comes to a
//! file ([`history`]), and passes it to those who are attached ([`protocol`]). A domain that writes without end is read
//! no faster than its share ([`limit`]): it waits, and nobody else does. The daemon keeps nothing that is not in a ring or
//! a file, so that one that was killed goes on where it was.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod clients;
pub mod daemon;
pub mod directory;
pub mod history;
pub mod limit;
pub mod protocol;
pub mod ring;
mod xen;

//! The store through which domains and tools find each other: its state, and the daemon around it.
//!
//! The state is a pure machine ([`Machine`]): bytes of a connection go in, bytes for connections come out, and the
//! same input gives the same state. The daemon ([`daemon::Daemon`]) adds sockets, rings and a journal of the input
//! ([`journal`]), from which a daemon that was killed goes on where it was, without a guest noticing.
//!
//! Who floods the store is made to wait: requests of one connection are taken in turn with those of others, what one
//! domain can have in the store is bounded ([`Limits`]), and so is what waits for a reader that does not read.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod codec;
mod connection;
mod control;
pub mod daemon;
pub mod journal;
mod limits;
mod machine;
mod path;
mod requests;
pub mod ring;
mod snapshot;
mod transaction;
mod tree;
mod watches;

pub use connection::{ConnectionId, Peer};
pub use limits::Limits;
pub use machine::{Machine, Outside, Step};
pub use path::NodePath;
pub use tree::{Caller, Tree};

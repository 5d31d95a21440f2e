//! Typed access to what Linux offers a tool stack in dom0: privcmd, evtchn, gntdev, the store.
//!
//! This is the only room of the tools with `unsafe` in it. Three rules keep that sound for its callers:
//! a hypercall's buffers are pages of this crate that nothing else refers to ([`buffer`]); memory that another
//! domain can change is a [`Mapping`], copied from and to byte by byte and never referenced; a descriptor has one
//! owner.
//!
//! | door | device | here |
//! |---|---|---|
//! | hypercalls, other domains' frames | `/dev/xen/privcmd`, `/dev/xen/hypercall` | [`Privcmd`] |
//! | event channels | `/dev/xen/evtchn` | [`Evtchn`] |
//! | granted frames | `/dev/xen/gntdev` | [`Gntdev`] |
//! | the store | its sockets, `/dev/xen/xenbus` | [`Store`] |
//! | the kernel's own store ring, for the store's daemon | `/dev/xen/xenbus_backend` | [`backend`] |
#![deny(missing_docs)]

pub mod backend;
pub mod buffer;
mod calls;
pub mod control;
mod error;
mod evtchn;
mod gntdev;
mod mapping;
mod memory;
pub mod os;
mod privcmd;
mod rings;
pub mod store;
mod sys;
pub mod wire;

pub use error::{Error, Result};
pub use evtchn::Evtchn;
pub use gntdev::{Gntdev, Granted};
pub use mapping::{Mapping, SharedPage};
pub use memory::Extents;
pub use privcmd::{ForeignFrames, Privcmd, Resource};
pub use rings::{RingPage, Rings};
pub use store::{Permission, Store, StoreError, WatchEvent};

/// Bytes of a page.
pub const PAGE: usize = 4096;

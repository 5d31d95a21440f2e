//! Hypercalls of this architecture, and the bridge to the core's.

pub mod console;
pub mod control;
pub mod devices;
pub mod entry_points;
pub mod multicall;
pub mod sysctl;
pub mod version;

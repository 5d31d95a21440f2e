//! Hypercalls of this architecture, and the bridge to the core's.

pub mod console;
pub mod devices;
pub mod entry_points;
pub mod memory;
pub mod multicall;
pub mod version;

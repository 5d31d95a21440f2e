//! What the ACPI tables say; see [`hv_firmware`].

pub use hv_firmware::*;

//! The platform under the hypervisor: what dom0 asks of it (`platform_op`), and the arithmetic of its drivers.

pub mod clock;
pub mod line;
pub mod memtype;
pub mod op;
pub mod topology;

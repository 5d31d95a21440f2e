//! Who uses which interrupt vector. Below 0x20 are exceptions; 0x20..0x2f and 0x80 are left to guests' software
//! interrupts and to the spurious interrupts of the old controller.

/// First vector that a device's line can have.
pub const DEVICE_FIRST: u8 = 0x30;
/// Last vector that a device's line can have.
pub const DEVICE_LAST: u8 = 0xdf;
/// Where the old interrupt controller's spurious interrupts arrive.
pub const PIC: u8 = 0x20;
/// A guest's system call by `int 0x80`: never a device's.
pub const INT80: u8 = 0x80;
/// Received characters.
pub const SERIAL: u8 = 0xf0;
/// Another CPU asks to look at its work.
pub const WAKE: u8 = 0xfb;
/// The local timer.
pub const TIMER: u8 = 0xfd;
/// The local APIC found an error.
pub const ERROR: u8 = 0xfe;
/// The local APIC had nothing to deliver after all.
pub const SPURIOUS: u8 = 0xff;

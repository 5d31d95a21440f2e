//! The devices that the hypervisor owns: interrupt controllers, clocks, the console, and what firmware says of them.

pub mod acpi;
pub mod apic;
pub mod efi;
pub mod firmware;
pub mod font;
pub mod ioapic;
pub mod irq;
pub mod mca;
pub mod mmio;
pub mod pci;
pub mod pic;
pub mod rtc;
pub mod serial;
pub mod sleep;
pub mod time;
pub mod tsc;
pub mod vector;
pub mod vga;

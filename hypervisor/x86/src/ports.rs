//! I/O ports that dom0 may and may not touch, and those that the hypervisor answers in its place.

use hv_pv::emulate::port::VirtualPort;
use spin::Mutex;

use crate::cpu;
use crate::dev::pci;
use crate::vcpu::Vcpu;

/// Ports that the hypervisor keeps: both interrupt controllers and their trigger registers, the timer, the first
/// serial line.
const KEPT: &[(u16, u16)] = &[
    (0x20, 0x21),
    (0xa0, 0xa1),
    (0x40, 0x43),
    (0x61, 0x61),
    (0x70, 0x71),
    (0x4d0, 0x4d1),
    (0x3f8, 0x3ff),
    (0xcf8, 0xcff),
];

/// First of the four data ports of PCI configuration space.
const PCI_DATA: u16 = 0xcfc;

/// True if none of the ports is the hypervisor's.
pub fn dom0_may(port: u16, bytes: u8) -> bool {
    let last = u32::from(port) + u32::from(bytes) - 1;
    last <= 0xffff && KEPT.iter().all(|(first, end)| last < u32::from(*first) || port > *end)
}

/// Serialises the clock's index and data.
static CLOCK: Mutex<u8> = Mutex::new(0);

/// All ones, as a bus answers that nobody drives.
const fn nothing(bytes: u8) -> u32 {
    match bytes {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}

/// Reads a port that the hypervisor answers.
pub fn virtual_input(vcpu: &Vcpu, port: VirtualPort, bytes: u8) -> u32 {
    let domain = vcpu.domain;
    if !domain.privileged {
        return nothing(bytes);
    }
    match port {
        VirtualPort::PciAddress => domain.pci_address.load(core::sync::atomic::Ordering::Relaxed),
        VirtualPort::PciData(offset) => {
            let address = domain.pci_address.load(core::sync::atomic::Ordering::Relaxed);
            pci::guest_read(address, PCI_DATA + u16::from(offset & 3), bytes)
        }
        VirtualPort::Clock(0x70) => (*CLOCK.lock()).into(),
        VirtualPort::Clock(_) => {
            let index = CLOCK.lock();
            // SAFETY: index and data under the lock; the clock is dom0's to read.
            unsafe {
                cpu::outb(0x70, *index & 0x7f);
                cpu::inb(0x71).into()
            }
        }
        // SAFETY: reads timer channel 2 or its gate, which have no side effect on channel 0.
        VirtualPort::Timer(port) => unsafe { cpu::inb(port).into() },
    }
}

/// Writes a port that the hypervisor answers.
pub fn virtual_output(vcpu: &Vcpu, port: VirtualPort, bytes: u8, value: u32) {
    let domain = vcpu.domain;
    if !domain.privileged {
        return;
    }
    match port {
        VirtualPort::PciAddress => domain.pci_address.store(value, core::sync::atomic::Ordering::Relaxed),
        VirtualPort::PciData(offset) => {
            let address = domain.pci_address.load(core::sync::atomic::Ordering::Relaxed);
            pci::guest_write(address, PCI_DATA + u16::from(offset & 3), bytes, value);
        }
        VirtualPort::Clock(0x70) => *CLOCK.lock() = value as u8 & 0x7f,
        VirtualPort::Clock(_) => {
            let index = CLOCK.lock();
            // SAFETY: index and data under the lock; the clock is dom0's to set.
            unsafe {
                cpu::outb(0x70, *index & 0x7f);
                cpu::outb(0x71, value as u8);
            }
        }
        // Only channel 2 and the speaker's gate; the rule has filtered commands for other channels.
        // SAFETY: channel 2 is dom0's.
        VirtualPort::Timer(port) => unsafe { cpu::outb(port, value as u8) },
    }
}

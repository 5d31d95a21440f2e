//! I/O ports that dom0 may and may not touch, and those that the hypervisor answers in its place.

use hv_pv::emulate::port::VirtualPort;
use spin::Mutex;

use crate::cpu;
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

/// True if none of the ports is the hypervisor's.
pub fn dom0_may(port: u16, bytes: u8) -> bool {
    let last = u32::from(port) + u32::from(bytes) - 1;
    last <= 0xffff && KEPT.iter().all(|(first, end)| last < u32::from(*first) || port > *end)
}

/// Serialises the two-step access to PCI configuration space by ports.
static PCI: Mutex<u32> = Mutex::new(0);
/// Serialises the clock's index and data.
static CLOCK: Mutex<u8> = Mutex::new(0);

/// Reads configuration space of the function and register in `address`.
pub fn pci_read(address: u32, offset: u8, bytes: u8) -> u32 {
    let _held = PCI.lock();
    // SAFETY: the lock makes address and data one access; a configuration read is dom0's right.
    unsafe {
        cpu::outl(0xcf8, address & !3 | 1 << 31);
        let port = 0xcfc + u16::from(offset & 3);
        match bytes {
            1 => cpu::inb(port).into(),
            2 => cpu::inw(port).into(),
            _ => cpu::inl(port),
        }
    }
}

/// Writes configuration space.
pub fn pci_write(address: u32, offset: u8, bytes: u8, value: u32) {
    let _held = PCI.lock();
    // SAFETY: as for `pci_read`; devices are dom0's (docs/caveats.md: without an IOMMU it is trusted with DMA).
    unsafe {
        cpu::outl(0xcf8, address & !3 | 1 << 31);
        let port = 0xcfc + u16::from(offset & 3);
        match bytes {
            1 => cpu::outb(port, value as u8),
            2 => cpu::outw(port, value as u16),
            _ => cpu::outl(port, value),
        }
    }
}

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
            if address >> 31 == 0 { nothing(bytes) } else { pci_read(address, offset, bytes) }
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
            if address >> 31 != 0 {
                pci_write(address, offset, bytes, value);
            }
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

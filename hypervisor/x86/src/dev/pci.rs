//! PCI configuration space: through the ports 0xcf8 and 0xcfc, or through memory where ACPI names a range.

use arrayvec::ArrayVec;
use hv_core::physdev::Sbdf;
use spin::Mutex;

use super::acpi::MmConfig;
use super::mmio::Block;
use crate::cpu;

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;

/// A range in memory and the buses that are mapped of it.
struct Range {
    config: MmConfig,
    usable: bool,
    buses: ArrayVec<(u8, Block), 64>,
}

/// The address register is one for all CPUs, and dom0 uses it too: who holds this lock may set it.
static PORTS: Mutex<()> = Mutex::new(());
static RANGES: Mutex<ArrayVec<Range, 16>> = Mutex::new(ArrayVec::new_const());

/// Remembers the ranges that ACPI names. Each becomes usable when dom0 says that it is reserved.
pub fn init(ranges: &[MmConfig]) {
    let mut all = RANGES.lock();
    for config in ranges {
        let range = Range { config: *config, usable: false, buses: ArrayVec::new_const() };
        let _ = all.try_push(range);
    }
}

/// dom0 has found the range to be reserved. False if ACPI does not name it.
pub fn allow(address: u64, segment: u16, (first, last): (u8, u8)) -> bool {
    let mut ranges = RANGES.lock();
    let same = |c: &MmConfig| (c.address, c.segment, c.first, c.last) == (address, segment, first, last);
    let found = ranges.iter_mut().find(|range| same(&range.config));
    found.map(|range| range.usable = true).is_some()
}

fn legacy(device: Sbdf, offset: u16) -> u32 {
    ENABLE | u32::from(device.bus) << 16 | u32::from(device.devfn) << 8 | u32::from(offset & 0xfc)
}

/// The registers of a bus in memory.
fn memory(device: Sbdf) -> Option<Block> {
    let mut ranges = RANGES.lock();
    let range = ranges.iter_mut().find(|range| {
        let c = range.config;
        range.usable && c.segment == device.segment && (c.first..=c.last).contains(&device.bus)
    })?;
    if let Some((_, block)) = range.buses.iter().find(|(bus, _)| *bus == device.bus) {
        return Some(*block);
    }
    let address = range.config.address.checked_add(u64::from(device.bus) << 20)?;
    // SAFETY: ACPI and dom0 agree that this is configuration space.
    let block = unsafe { Block::map(address, 1 << 20) }?;
    range.buses.try_push((device.bus, block)).ok()?;
    Some(block)
}

/// Reads 32 bits at a multiple of 4. All ones where nothing answers.
pub fn read32(device: Sbdf, offset: u16) -> u32 {
    if device.segment == 0 && offset < 256 {
        let _guard = PORTS.lock();
        // SAFETY: the lock makes address and data belong together; reading configuration registers of the kinds
        // read here (headers, capabilities) has no side effect.
        return unsafe {
            cpu::outl(ADDRESS, legacy(device, offset));
            cpu::inl(DATA)
        };
    }
    let at = usize::from(device.devfn) << 12 | usize::from(offset & 0xffc);
    memory(device).map_or(u32::MAX, |block| block.read32(at))
}

/// Writes 32 bits at a multiple of 4.
pub fn write32(device: Sbdf, offset: u16, value: u32) {
    if device.segment == 0 && offset < 256 {
        let _guard = PORTS.lock();
        // SAFETY: as for `read32`; what is written are message capabilities, whose vectors are the hypervisor's.
        unsafe {
            cpu::outl(ADDRESS, legacy(device, offset));
            cpu::outl(DATA, value);
        }
        return;
    }
    let at = usize::from(device.devfn) << 12 | usize::from(offset & 0xffc);
    if let Some(block) = memory(device) {
        block.write32(at, value);
    }
}

/// Reads 16 bits at a multiple of 2.
pub fn read16(device: Sbdf, offset: u16) -> u16 {
    (read32(device, offset & !3) >> (8 * (offset & 2))) as u16
}

/// Writes 16 bits at a multiple of 2, and nothing beside them (a neighbour may hold bits that a write clears).
pub fn write16(device: Sbdf, offset: u16, value: u16) {
    if device.segment == 0 && offset < 256 {
        let _guard = PORTS.lock();
        // SAFETY: as for `write32`.
        unsafe {
            cpu::outl(ADDRESS, legacy(device, offset));
            cpu::outw(DATA + (offset & 2), value);
        }
        return;
    }
    let at = usize::from(device.devfn) << 12 | usize::from(offset & 0xffe);
    if let Some(block) = memory(device) {
        block.write16(at, value);
    }
}

/// A guest's read of the data port: `address` is its own address register, `port` 0xcfc to 0xcff, `width` 1, 2 or 4
/// bytes. All ones without the enable bit.
pub fn guest_read(address: u32, port: u16, width: u8) -> u32 {
    if address & ENABLE == 0 {
        return u32::MAX >> (32 - 8 * u32::from(width.clamp(1, 4)));
    }
    let _guard = PORTS.lock();
    // SAFETY: the lock makes address and data belong together; dom0 drives the devices, and reads as it would alone.
    unsafe {
        cpu::outl(ADDRESS, address);
        match width {
            1 => cpu::inb(port).into(),
            2 => cpu::inw(port).into(),
            _ => cpu::inl(port),
        }
    }
}

/// A guest's write of the data port, as for [`guest_read`].
pub fn guest_write(address: u32, port: u16, width: u8, value: u32) {
    if address & ENABLE == 0 {
        return;
    }
    let _guard = PORTS.lock();
    // SAFETY: as for `guest_read`; dom0 drives the devices.
    unsafe {
        cpu::outl(ADDRESS, address);
        match width {
            1 => cpu::outb(port, value as u8),
            2 => cpu::outw(port, value as u16),
            _ => cpu::outl(port, value),
        }
    }
}

/// Offset of a capability of the device in its first 256 bytes.
pub fn capability(device: Sbdf, id: u8) -> Option<u16> {
    const STATUS_LIST: u32 = 1 << 20;
    if read32(device, 0) == u32::MAX || read32(device, 4) & STATUS_LIST == 0 {
        return None;
    }
    let is_bridge = read32(device, 0x0c) >> 16 & 0x7f == 2;
    let mut at = read32(device, if is_bridge { 0x14 } else { 0x34 }) as u16 & 0xfc;
    // At most so many capabilities fit.
    for _ in 0..48 {
        if at < 0x40 {
            return None;
        }
        let head = read32(device, at);
        if head as u8 == id {
            return Some(at);
        }
        at = (head >> 8) as u16 & 0xfc;
    }
    None
}

/// Machine address of a memory BAR; `None` for an I/O BAR or one that is not set.
pub fn memory_bar(device: Sbdf, index: u8) -> Option<u64> {
    if index > 5 {
        return None;
    }
    let at = 0x10 + 4 * u16::from(index);
    let low = read32(device, at);
    if low & 1 != 0 {
        return None;
    }
    let high = if low >> 1 & 3 == 2 && index < 5 { read32(device, at + 4) } else { 0 };
    let address = u64::from(high) << 32 | u64::from(low & !0xf);
    (address != 0).then_some(address)
}

//! Device interrupts: vectors for lines, and lines made of I/O APIC pins and of messages.
//!
//! [`Board`] is the machine as `hv_core::physdev` sees it. All vectors are the same on every CPU; a line goes to one
//! CPU. Pins get a vector when they are bound, messages when they are made, because several messages of one MSI
//! capability need vectors in a row.

use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use arrayvec::ArrayVec;
use guest_abi::Errno;
use hv_core::physdev::{MessageKind, Messages, Polarity, Routing, Sbdf};
use hv_core::pirq::{Controller, Irq, Lines, MAX_IRQS, Trigger};
use hv_types::{DomId, Pirq};
use spin::Mutex;

use super::acpi::Platform;
use super::ioapic::{self, Pin};
use super::mmio::Block;
use super::{apic, pci, vector};

/// What a line is made of.
#[derive(Clone, Copy)]
enum Source {
    /// Nothing.
    None,
    /// A pin of an I/O APIC. `said`: somebody told how it is wired. `own`: the hypervisor's.
    Pin { pin: Pin, trigger: Trigger, polarity: Polarity, said: bool, own: bool },
    /// Message `index` of `count` of an MSI capability.
    Msi { device: Sbdf, capability: u16, index: u8, count: u8 },
    /// An entry of an MSI-X table; the block is the whole table.
    MsiX { device: Sbdf, table: Block, entry: u16 },
}

#[derive(Clone, Copy)]
struct Line {
    source: Source,
    /// 0: none.
    vector: u8,
    /// Number of the local APIC that receives it.
    target: u32,
}

struct Table {
    lines: [Line; MAX_IRQS],
    gsis: u16,
    /// MSI-X tables that are mapped: mappings are for good, devices come back.
    tables: ArrayVec<(u64, usize, Block), 128>,
}

const NO_LINE: Line = Line { source: Source::None, vector: 0, target: 0 };
const FREE: u16 = u16::MAX;

static TABLE: Mutex<Table> =
    Mutex::new(Table { lines: [NO_LINE; MAX_IRQS], gsis: 0, tables: ArrayVec::new_const() });
/// Which line a vector is.
static IRQ_OF: [AtomicU16; 256] = [const { AtomicU16::new(FREE) }; 256];
/// The local APIC that receives lines unless somebody says otherwise.
static DEFAULT_TARGET: AtomicU32 = AtomicU32::new(0);

/// Who receives which line.
pub static LINES: Lines = Lines::new();

/// The machine's interrupt lines.
#[derive(Clone, Copy, Debug)]
pub struct Board;

/// Opens the I/O APICs. Device interrupts go to the local APIC of the CPU that calls. Returns the number of GSIs.
pub fn init(platform: &Platform) -> u32 {
    let gsis = ioapic::init(platform).min(MAX_IRQS as u32 / 2);
    DEFAULT_TARGET.store(apic::id(), Ordering::Relaxed);
    let mut table = TABLE.lock();
    table.gsis = gsis as u16;
    // The timer's pin stays with the hypervisor, as on Xen: no guest has a use for the 8254.
    let timer = platform.isa(0).0;
    for gsi in 0..gsis {
        let Some(pin) = ioapic::pin(gsi) else { continue };
        let (trigger, polarity) = platform.default_wiring(gsi);
        let own = gsi == timer || platform.nmi_gsis.contains(&gsi);
        let source = Source::Pin { pin, trigger, polarity, said: false, own };
        table.lines[gsi as usize] = Line { source, vector: 0, target: apic::id() };
    }
    gsis
}

/// An interrupt of a device vector is in service on this CPU: acknowledges it and names the pirq to notify.
#[inline]
pub fn arrive(vector: u8) -> Option<(DomId, Pirq)> {
    let irq = IRQ_OF[usize::from(vector)].load(Ordering::Acquire);
    if irq == FREE {
        apic::eoi();
        return None;
    }
    LINES.arrive(Irq(irq), &Board)
}

/// Takes an ISA interrupt for the hypervisor and routes it, unmasked, to a vector outside the devices' range.
pub fn claim_isa(platform: &Platform, irq: u8, vector: u8) -> Result<(), Errno> {
    let (gsi, trigger, polarity) = platform.isa(irq);
    let mut table = TABLE.lock();
    let line = table.lines.get_mut(gsi as usize).ok_or(Errno::EINVAL)?;
    let Source::Pin { pin, own: false, .. } = line.source else { return Err(Errno::EBUSY) };
    line.source = Source::Pin { pin, trigger, polarity, said: true, own: true };
    pin.route(vector, line.target, trigger, polarity);
    pin.unmask();
    Ok(())
}

/// Highest local APIC that a message or an entry of an I/O APIC can name: they have 8 bits for it, of which all set are everybody
/// (Intel SDM 3, 12.11.1).
const LAST_REACHABLE: u32 = 0xfe;

/// Sends a line's interrupts to another CPU's local APIC. Of a line without vector, from when it gets one. `is_open` says whether
/// that CPU takes interrupts, and is asked when [`move_all`] cannot pass unseen. To one that devices cannot reach nothing is sent: the
/// line stays where it is, and its CPU tells the other.
pub fn set_target(irq: Irq, apic_id: u32, is_open: impl FnOnce() -> bool) {
    if apic_id > LAST_REACHABLE {
        return;
    }
    let mut table = TABLE.lock();
    if let Some(line) = table.lines.get_mut(usize::from(irq.0))
        && is_open()
    {
        line.aim(apic_id);
    }
}

/// Sends all that one local APIC receives to another. What is on its way still comes to the first.
pub fn move_all(from: u32, to: u32) {
    let mut table = TABLE.lock();
    for line in table.lines.iter_mut().filter(|line| line.target == from) {
        line.aim(to);
    }
}

/// The first of `count` free device vectors in a row, aligned to `count` (a power of two).
fn free_vectors(count: usize) -> Option<u8> {
    let is_free = |v: usize| v != usize::from(vector::INT80) && IRQ_OF[v].load(Ordering::Relaxed) == FREE;
    (usize::from(vector::DEVICE_FIRST)..=usize::from(vector::DEVICE_LAST) + 1 - count)
        .filter(|first| first.is_multiple_of(count))
        .find(|first| (*first..first + count).all(is_free))
        .map(|first| first as u8)
}

fn publish(vector: u8, irq: u16) {
    IRQ_OF[usize::from(vector)].store(irq, Ordering::Release);
}

mod msi {
    //! Offsets in an MSI capability.
    pub const ID: u8 = 0x05;
    pub const CONTROL: u16 = 2;
    pub const ADDRESS: u16 = 4;
    pub const WIDE: u16 = 1 << 7;
    pub const MASKABLE: u16 = 1 << 8;
    pub const ENABLE: u16 = 1;
}

mod msix {
    //! Offsets in an MSI-X capability and its table.
    pub const ID: u8 = 0x11;
    pub const CONTROL: u16 = 2;
    pub const TABLE: u16 = 4;
    pub const ENTRY: usize = 16;
    pub const VECTOR_CONTROL: usize = 12;
}

/// Where a message goes: fixed delivery to a local APIC, physical destination.
fn message_address(target: u32) -> u32 {
    0xfee0_0000 | (target & 0xff) << 12
}

impl Line {
    fn aim(&mut self, apic_id: u32) {
        if matches!(self.source, Source::Msi { index: 1.., .. }) {
            // All messages of one capability go where the first one goes.
            return;
        }
        self.target = apic_id;
        if self.vector != 0 {
            match self.source {
                Source::Pin { pin, .. } => pin.redirect(apic_id),
                Source::Msi { .. } | Source::MsiX { .. } => self.write_message(),
                Source::None => {}
            }
        }
    }

    fn set_mask(&self, masked: bool) {
        match self.source {
            Source::None => {}
            Source::Pin { own: true, .. } => {}
            Source::Pin { pin, .. } => {
                if masked {
                    pin.mask();
                } else {
                    pin.unmask();
                }
            }
            Source::Msi { device, capability, index, .. } => {
                let control = pci::read16(device, capability + msi::CONTROL);
                if control & msi::MASKABLE == 0 || control == u16::MAX {
                    return;
                }
                let at = capability + if control & msi::WIDE != 0 { 16 } else { 12 };
                let bits = pci::read32(device, at);
                let bit = 1 << index;
                pci::write32(device, at, if masked { bits | bit } else { bits & !bit });
            }
            Source::MsiX { table, entry, .. } => {
                let at = usize::from(entry) * msix::ENTRY + msix::VECTOR_CONTROL;
                let control = table.read32(at);
                table.write32(at, if masked { control | 1 } else { control & !1 });
                // The read makes sure that the device has seen the write.
                let _ = table.read32(at);
            }
        }
    }

    /// Writes address and data of the message. Of MSI, the first one's are those of all.
    fn write_message(&self) {
        let address = message_address(self.target);
        match self.source {
            Source::Msi { device, capability, index: 0, count } => {
                let control = pci::read16(device, capability + msi::CONTROL);
                let wide = control & msi::WIDE != 0;
                pci::write32(device, capability + msi::ADDRESS, address);
                if wide {
                    pci::write32(device, capability + 8, 0);
                }
                let data = capability + if wide { 12 } else { 8 };
                pci::write16(device, data, self.vector.into());
                let number = (count.trailing_zeros() as u16) << 4;
                pci::write16(device, capability + msi::CONTROL, control & !0x70 | number);
            }
            Source::MsiX { table, entry, .. } => {
                let at = usize::from(entry) * msix::ENTRY;
                let control = table.read32(at + msix::VECTOR_CONTROL);
                table.write32(at + msix::VECTOR_CONTROL, control | 1);
                table.write32(at, address);
                table.write32(at + 4, 0);
                table.write32(at + 8, self.vector.into());
                table.write32(at + msix::VECTOR_CONTROL, control);
            }
            Source::None | Source::Pin { .. } | Source::Msi { .. } => {}
        }
    }

    fn device(&self) -> Option<Sbdf> {
        match self.source {
            Source::Msi { device, .. } | Source::MsiX { device, .. } => Some(device),
            Source::None | Source::Pin { .. } => None,
        }
    }
}

impl Table {
    fn line(&mut self, irq: Irq) -> Option<&mut Line> {
        self.lines.get_mut(usize::from(irq.0))
    }

    /// The first of `count` unused lines in a row, behind the pins.
    fn free_lines(&self, count: usize) -> Option<usize> {
        let unused = |line: &Line| matches!(line.source, Source::None);
        (usize::from(self.gsis)..=MAX_IRQS - count)
            .find(|first| self.lines[*first..first + count].iter().all(unused))
    }

    fn make_msi(&mut self, device: Sbdf, count: u16) -> Result<Irq, Errno> {
        let capability = pci::capability(device, msi::ID).ok_or(Errno::ENODEV)?;
        let is_same = |l: &Line| matches!(l.source, Source::Msi { device: d, .. } if d == device);
        if self.lines.iter().any(is_same) {
            return Err(Errno::EEXIST);
        }
        let control = pci::read16(device, capability + msi::CONTROL);
        if count > 1 << (control >> 1 & 7) {
            return Err(Errno::EINVAL);
        }
        let count = usize::from(count);
        let first = self.free_lines(count).ok_or(Errno::ENOSPC)?;
        let vector = free_vectors(count).ok_or(Errno::ENOSPC)?;
        pci::write16(device, capability + msi::CONTROL, control & !msi::ENABLE);
        let target = DEFAULT_TARGET.load(Ordering::Relaxed);
        for n in 0..count {
            let source = Source::Msi { device, capability, index: n as u8, count: count as u8 };
            let line = Line { source, vector: vector + n as u8, target };
            line.set_mask(true);
            line.write_message();
            self.lines[first + n] = line;
            publish(line.vector, (first + n) as u16);
        }
        Ok(Irq(first as u16))
    }

    fn make_msix(&mut self, device: Sbdf, entry: u16, bar: u64) -> Result<Irq, Errno> {
        let capability = pci::capability(device, msix::ID).ok_or(Errno::ENODEV)?;
        let is_same = |l: &Line| matches!(l.source, Source::MsiX { device: d, entry: e, .. } if d == device && e == entry);
        if self.lines.iter().any(is_same) {
            return Err(Errno::EEXIST);
        }
        let entries = (pci::read16(device, capability + msix::CONTROL) & 0x7ff) + 1;
        if entry >= entries {
            return Err(Errno::EINVAL);
        }
        let place = pci::read32(device, capability + msix::TABLE);
        // The device's own register says where the table is; a guest that says otherwise is mistaken.
        let own = pci::memory_bar(device, (place & 7) as u8).ok_or(Errno::ENXIO)?;
        if own != bar {
            return Err(Errno::EINVAL);
        }
        let address = own.checked_add(u64::from(place & !7)).ok_or(Errno::EINVAL)?;
        let table = self.map_table(address, usize::from(entries) * msix::ENTRY)?;
        let irq = self.free_lines(1).ok_or(Errno::ENOSPC)?;
        let vector = free_vectors(1).ok_or(Errno::ENOSPC)?;
        let target = DEFAULT_TARGET.load(Ordering::Relaxed);
        let line = Line { source: Source::MsiX { device, table, entry }, vector, target };
        with_memory_decoding(device, || {
            line.set_mask(true);
            line.write_message();
        });
        self.lines[irq] = line;
        publish(vector, irq as u16);
        Ok(Irq(irq as u16))
    }

    fn map_table(&mut self, address: u64, len: usize) -> Result<Block, Errno> {
        if let Some((.., block)) = self.tables.iter().find(|(a, l, _)| *a == address && *l >= len) {
            return Ok(*block);
        }
        if self.tables.is_full() {
            return Err(Errno::ENOSPC);
        }
        // SAFETY: the device's BAR and capability say that its MSI-X table is here.
        let block = unsafe { Block::map(address, len) }.ok_or(Errno::ENOMEM)?;
        self.tables.push((address, len, block));
        Ok(block)
    }
}

/// Does something with a device's memory while its BARs answer.
fn with_memory_decoding(device: Sbdf, f: impl FnOnce()) {
    const COMMAND: u16 = 4;
    const MEMORY: u16 = 2;
    let command = pci::read16(device, COMMAND);
    if command & MEMORY == 0 {
        pci::write16(device, COMMAND, command | MEMORY);
    }
    f();
    if command & MEMORY == 0 {
        pci::write16(device, COMMAND, command);
    }
}

impl Controller for Board {
    fn mask(&self, irq: Irq) {
        if let Some(line) = TABLE.lock().line(irq) {
            line.set_mask(true);
        }
    }

    fn unmask(&self, irq: Irq) {
        if let Some(line) = TABLE.lock().line(irq) {
            line.set_mask(false);
        }
    }

    #[inline]
    fn acknowledge(&self) {
        apic::eoi();
    }
}

impl Routing for Board {
    fn gsi_count(&self) -> u32 {
        TABLE.lock().gsis.into()
    }

    fn trigger(&self, irq: Irq) -> Option<Trigger> {
        match TABLE.lock().line(irq)?.source {
            Source::None | Source::Pin { own: true, .. } => None,
            Source::Pin { trigger, .. } => Some(trigger),
            Source::Msi { .. } | Source::MsiX { .. } => Some(Trigger::Edge),
        }
    }

    fn setup_gsi(&self, gsi: u32, trigger: Trigger, polarity: Polarity) -> Result<(), Errno> {
        let mut table = TABLE.lock();
        let line = table.lines.get_mut(gsi as usize).ok_or(Errno::EINVAL)?;
        let Source::Pin { pin, said, own, .. } = line.source else { return Err(Errno::EINVAL) };
        if said || own || line.vector != 0 {
            return Err(Errno::EEXIST);
        }
        line.source = Source::Pin { pin, trigger, polarity, said: true, own };
        Ok(())
    }

    fn start(&self, irq: Irq) -> Result<(), Errno> {
        let mut table = TABLE.lock();
        let line = table.line(irq).ok_or(Errno::EINVAL)?;
        if let Source::Pin { pin, trigger, polarity, .. } = line.source
            && line.vector == 0
        {
            line.vector = free_vectors(1).ok_or(Errno::ENOSPC)?;
            publish(line.vector, irq.0);
            pin.route(line.vector, line.target, trigger, polarity);
        }
        line.set_mask(false);
        Ok(())
    }

    fn stop(&self, irq: Irq) {
        let mut table = TABLE.lock();
        let Some(line) = table.line(irq) else { return };
        line.set_mask(true);
        if let Source::Pin { own: false, .. } = line.source
            && line.vector != 0
        {
            publish(line.vector, FREE);
            line.vector = 0;
        }
    }

    fn apic_read(&self, address: u64, register: u32) -> Result<u32, Errno> {
        ioapic::read(address, register).ok_or(Errno::EINVAL)
    }

    fn apic_write(&self, address: u64, register: u32, value: u32) -> Result<(), Errno> {
        const MASKED: u32 = 1 << 16;
        if !ioapic::exists(address) {
            return Err(Errno::EINVAL);
        }
        // Only an entry that is to interrupt says how its pin is wired; vector and destination are the hypervisor's.
        if let Some(gsi) = ioapic::gsi_of_register(address, register)
            && value & MASKED == 0
        {
            let trigger = if value & 1 << 15 != 0 { Trigger::Level } else { Trigger::Edge };
            let polarity = if value & 1 << 13 != 0 { Polarity::Low } else { Polarity::High };
            match self.setup_gsi(gsi, trigger, polarity) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

impl Messages for Board {
    fn allocate(&self, device: Sbdf, kind: MessageKind) -> Result<Irq, Errno> {
        let mut table = TABLE.lock();
        match kind {
            MessageKind::Msi { count } => table.make_msi(device, count),
            MessageKind::MsiX { entry, bar } => table.make_msix(device, entry, bar),
        }
    }

    fn release(&self, irq: Irq) {
        let mut table = TABLE.lock();
        let Some(line) = table.line(irq) else { return };
        let Some(device) = line.device() else { return };
        with_memory_decoding(device, || line.set_mask(true));
        if let Source::Msi { capability, index: 0, .. } = line.source {
            let control = pci::read16(device, capability + msi::CONTROL);
            pci::write16(device, capability + msi::CONTROL, control & !msi::ENABLE);
        }
        publish(line.vector, FREE);
        *line = NO_LINE;
    }

    fn restore(&self, device: Sbdf) -> Result<(), Errno> {
        let mut table = TABLE.lock();
        let mut found = false;
        let mine = |line: &&mut Line| line.device() == Some(device);
        for line in table.lines.iter_mut().filter(mine) {
            found = true;
            line.write_message();
            line.set_mask(false);
        }
        if found { Ok(()) } else { Err(Errno::ENODEV) }
    }

    fn mmcfg_reserved(&self, address: u64, segment: u16, buses: (u8, u8)) -> Result<(), Errno> {
        if pci::allow(address, segment, buses) { Ok(()) } else { Err(Errno::ENODEV) }
    }
}

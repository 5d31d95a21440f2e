//! What the ACPI tables say about the machine, as plain data.
//!
//! The tables are read through the `acpi` crate's types, which believe lengths and entries. So each table is looked at
//! here before: it can be mapped, its length makes sense, its checksum is right, its entries fit. A bad table is
//! reported and passed over; only the root table and the MADT are needed to go on.
//!
//! A crate of its own, because it runs on the host as well and firmware's tables are worth being fuzzed. The `acpi`
//! crate needs the compiler's bootstrap switch, so its tests are run by `cargo xtask test host`.

#![cfg_attr(not(test), no_std)]
#![deny(missing_docs)]

use core::pin::Pin;

use acpi::address::{AddressSpace, GenericAddress};
use acpi::rsdp::Rsdp;
use acpi::sdt::fadt::Fadt;
use acpi::sdt::hpet::HpetTable;
use acpi::sdt::madt::{self, Madt, MadtEntry};
use acpi::sdt::mcfg::{Mcfg, McfgEntry};
use acpi::sdt::{SdtHeader, Signature};
use arrayvec::ArrayVec;
use hv_core::physdev::Polarity;
use hv_core::pirq::Trigger;

/// A processor in the MADT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Number in its local APIC.
    pub apic_id: u32,
    /// Number in the ACPI namespace.
    pub acpi_id: u32,
    /// It can be started.
    pub usable: bool,
}

/// An I/O APIC in the MADT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its number.
    pub id: u8,
    /// Machine address of its registers.
    pub address: u64,
    /// GSI of its first pin.
    pub gsi_base: u32,
}

/// An ISA interrupt that is wired differently from the ISA bus's custom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// The ISA interrupt.
    pub irq: u8,
    /// The GSI it is.
    pub gsi: u32,
    /// Trigger.
    pub trigger: Trigger,
    /// Polarity.
    pub polarity: Polarity,
}

/// A local APIC's pin that is wired to NMI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalNmi {
    /// The processor's ACPI number; `u32::MAX`: all of them.
    pub acpi_id: u32,
    /// LINT0 or LINT1.
    pub pin: u8,
    /// Polarity.
    pub polarity: Polarity,
    /// Trigger.
    pub trigger: Trigger,
}

/// A range of memory-mapped configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmConfig {
    /// Machine address of bus 0, even if the range begins later.
    pub address: u64,
    /// Segment.
    pub segment: u16,
    /// First bus.
    pub first: u8,
    /// Last bus.
    pub last: u8,
}

/// A register of the fixed hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// An I/O port.
    Port(u16),
    /// A machine address.
    Memory(u64),
}

/// What the tables say.
#[derive(Debug, PartialEq, Eq)]
pub struct Platform {
    /// Machine address of the local APICs.
    pub local_apic: u64,
    /// Old interrupt controllers exist.
    pub has_pic: bool,
    /// Processors, in the order of the table.
    pub processors: ArrayVec<Processor, 512>,
    /// I/O APICs.
    pub io_apics: ArrayVec<IoApic, 16>,
    /// ISA interrupts that are wired differently.
    pub overrides: ArrayVec<Override, 16>,
    /// GSIs that are NMIs.
    pub nmi_gsis: ArrayVec<u32, 8>,
    /// Local pins that are NMIs.
    pub local_nmis: ArrayVec<LocalNmi, 16>,
    /// Power-management timer: port, and whether it counts 32 bits instead of 24.
    pub pm_timer: Option<(Register, bool)>,
    /// Machine address of the HPET.
    pub hpet: Option<u64>,
    /// Memory-mapped configuration space.
    pub mm_configs: ArrayVec<MmConfig, 16>,
    /// PM1a and PM1b control registers.
    pub pm1_control: [Option<Register>; 2],
    /// PM1a and PM1b event blocks.
    pub pm1_event: [Option<Register>; 2],
    /// Sleep control register of hardware-reduced ACPI.
    pub sleep_control: Option<Register>,
    /// Reset register and what to write there.
    pub reset: Option<(Register, u8)>,
    /// GSI of the system control interrupt.
    pub sci: u16,
    /// CMOS register of the century.
    pub century: Option<u8>,
    /// The firmware says that there is no VGA to probe.
    pub no_vga: bool,
    /// The firmware says that there is no CMOS clock.
    pub no_cmos_clock: bool,
}

/// Why the tables cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The loader passed no root pointer and the BIOS area has none.
    NoRootPointer,
    /// The root pointer's signature or checksum is wrong.
    BadRootPointer,
    /// The RSDT or XSDT cannot be read, or its signature, length or checksum is wrong.
    BadRootTable,
    /// There is no usable MADT, so that interrupts cannot be routed.
    NoMadt,
}

/// Longest table that is believed; real ones with many processors have some tens of KiB.
const MAX_TABLE: usize = 1 << 20;
/// Tables behind one root table.
const MAX_TABLES: usize = 256;

/// Where tables are read: machine address and length to what can be read there.
pub trait Source {
    /// `len` bytes at a machine address; `None` if that is not possible. Stays mapped for as long as the source lives.
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]>;
}

fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

/// The root pointer from its bytes: revision and address of the root table.
fn root_pointer(bytes: &[u8]) -> Result<(u8, u64), Error> {
    let mut copy = [0u8; size_of::<Rsdp>()];
    let len = bytes.len().min(copy.len());
    copy[..len].copy_from_slice(&bytes[..len]);
    // SAFETY: any bytes are an `Rsdp`, which is packed and holds integers only.
    let rsdp: Rsdp = unsafe { core::ptr::read_unaligned(copy.as_ptr().cast()) };
    let is_new = rsdp.revision > 0 && len == copy.len();
    let fits = if is_new { rsdp.length as usize == copy.len() && sums_to_zero(&copy) } else { true };
    if len < 20 || &rsdp.signature != b"RSD PTR " || !sums_to_zero(&copy[..20]) || !fits {
        return Err(Error::BadRootPointer);
    }
    if is_new && rsdp.xsdt_address != 0 {
        return Ok((rsdp.revision, rsdp.xsdt_address));
    }
    Ok((0, rsdp.rsdt_address.into()))
}

/// Looks for the root pointer where a BIOS puts it: the first KiB of the extended data area, then the BIOS itself.
fn scan(source: &impl Source) -> Option<[u8; 36]> {
    let segment = source.bytes(0x40e, 2).map_or(0, |b| u64::from(u16::from_le_bytes([b[0], b[1]])));
    let ebda = segment << 4;
    let areas = [(ebda, 1024), (0xe_0000, 0x2_0000)];
    for (start, len) in areas.into_iter().filter(|(start, _)| (0x8_0000..0x10_0000).contains(start)) {
        let Some(bytes) = source.bytes(start, len) else { continue };
        for at in (0..len - 36 + 1).step_by(16) {
            let candidate = &bytes[at..at + 36];
            if candidate.starts_with(b"RSD PTR ") && root_pointer(candidate).is_ok() {
                return candidate.try_into().ok();
            }
        }
    }
    None
}

/// The whole of a table whose length and checksum are right.
fn table(source: &impl Source, address: u64) -> Option<(SdtHeader, &[u8])> {
    const HEADER: usize = size_of::<SdtHeader>();
    let head = source.bytes(address, HEADER)?;
    // SAFETY: any bytes are an `SdtHeader`, which is packed and holds integers only.
    let header: SdtHeader = unsafe { core::ptr::read_unaligned(head.as_ptr().cast()) };
    let len = header.length as usize;
    if !(HEADER..=MAX_TABLE).contains(&len) {
        return None;
    }
    let bytes = source.bytes(address, len)?;
    sums_to_zero(bytes).then_some((header, bytes))
}

impl Platform {
    /// Nothing is known. As a constant, because the record is too large for a stack.
    pub const EMPTY: Platform = Platform {
        local_apic: 0,
        has_pic: true,
        processors: ArrayVec::new_const(),
        io_apics: ArrayVec::new_const(),
        overrides: ArrayVec::new_const(),
        nmi_gsis: ArrayVec::new_const(),
        local_nmis: ArrayVec::new_const(),
        pm_timer: None,
        hpet: None,
        mm_configs: ArrayVec::new_const(),
        pm1_control: [None; 2],
        pm1_event: [None; 2],
        sleep_control: None,
        reset: None,
        sci: 0,
        century: None,
        no_vga: false,
        no_cmos_clock: false,
    };

    /// Reads the tables. `rsdp` is the root pointer that the loader copied; without one the BIOS area is searched.
    pub fn discover(&mut self, rsdp: &[u8], source: &impl Source) -> Result<(), Error> {
        let (revision, root) = if rsdp.is_empty() {
            root_pointer(&scan(source).ok_or(Error::NoRootPointer)?)?
        } else {
            root_pointer(rsdp)?
        };
        let (header, bytes) = table(source, root).ok_or(Error::BadRootTable)?;
        let (signature, width) = if revision == 0 { (Signature::RSDT, 4) } else { (Signature::XSDT, 8) };
        if header.signature != signature {
            return Err(Error::BadRootTable);
        }
        let mut has_madt = false;
        for entry in bytes[size_of::<SdtHeader>()..].chunks_exact(width).take(MAX_TABLES) {
            let mut address = [0; 8];
            address[..width].copy_from_slice(entry);
            has_madt |= self.read_table(source, u64::from_le_bytes(address), has_madt);
        }
        if has_madt { Ok(()) } else { Err(Error::NoMadt) }
    }

    /// Reads the table at an address, if it is one of interest. True for a usable MADT; only the first one counts.
    fn read_table(&mut self, source: &impl Source, address: u64, has_madt: bool) -> bool {
        let Some((header, bytes)) = table(source, address) else {
            log::warn!("ACPI: the table at {address:#x} is damaged and is ignored");
            return false;
        };
        let is_madt = header.signature == Signature::MADT && !has_madt;
        let used = match header.signature {
            Signature::MADT if is_madt => self.read_madt(bytes),
            Signature::FADT => self.read_fadt(bytes),
            Signature::HPET if self.hpet.is_none() => self.read_hpet(bytes),
            Signature::MCFG => self.read_mcfg(bytes),
            _ => true,
        };
        if !used {
            log::warn!("ACPI: the table at {address:#x} makes no sense and is ignored");
        }
        used && is_madt
    }

    fn read_madt(&mut self, bytes: &[u8]) -> bool {
        if !madt_is_sound(bytes) {
            return false;
        }
        // SAFETY: at least the table's fixed part, packed integers; all entries are within the bytes and no shorter
        // than their types, and the reference does not outlive them. Nothing is moved.
        let madt = unsafe { Pin::new_unchecked(&*bytes.as_ptr().cast::<Madt>()) };
        self.local_apic = madt.local_apic_address.into();
        self.has_pic = madt.supports_8259();
        for entry in madt.entries() {
            self.take_entry(entry);
        }
        self.local_apic != 0
    }

    fn take_entry(&mut self, entry: MadtEntry<'_>) {
        match entry {
            MadtEntry::LocalApic(e) => self.add_processor(e.apic_id.into(), e.processor_id.into(), e.flags),
            MadtEntry::LocalX2Apic(e) => self.add_processor(e.x2apic_id, e.processor_uid, e.flags),
            MadtEntry::IoApic(e) => {
                let io_apic = IoApic {
                    id: e.io_apic_id,
                    address: e.io_apic_address.into(),
                    gsi_base: e.global_system_interrupt_base,
                };
                let _ = self.io_apics.try_push(io_apic);
            }
            MadtEntry::InterruptSourceOverride(e) if e.bus == 0 && e.irq < 16 => {
                let (trigger, polarity) = wiring(e.flags, Trigger::Edge, Polarity::High);
                let gsi = e.global_system_interrupt;
                let _ = self.overrides.try_push(Override { irq: e.irq, gsi, trigger, polarity });
            }
            MadtEntry::NmiSource(e) => {
                let _ = self.nmi_gsis.try_push(e.global_system_interrupt);
            }
            MadtEntry::LocalApicNmi(e) => {
                let acpi_id = if e.processor_id == 0xff { u32::MAX } else { e.processor_id.into() };
                self.add_local_nmi(acpi_id, e.nmi_line, e.flags);
            }
            MadtEntry::X2ApicNmi(e) => self.add_local_nmi(e.processor_uid, e.nmi_line, e.flags),
            MadtEntry::LocalApicAddressOverride(e) => self.local_apic = e.local_apic_address,
            _ => {}
        }
    }

    fn add_processor(&mut self, apic_id: u32, acpi_id: u32, flags: u32) {
        // Firmware lists sockets that are empty with an id of all ones.
        let usable = flags & 1 != 0;
        if usable || (apic_id != 0xff && apic_id != u32::MAX && flags & 2 != 0) {
            let known = self.processors.iter().any(|p| p.apic_id == apic_id);
            if !known && self.processors.try_push(Processor { apic_id, acpi_id, usable }).is_err() {
                log::warn!("ACPI: more than {} processors", self.processors.capacity());
            }
        }
    }

    fn add_local_nmi(&mut self, acpi_id: u32, pin: u8, flags: u16) {
        let (trigger, polarity) = wiring(flags, Trigger::Edge, Polarity::High);
        if pin < 2 {
            let _ = self.local_nmis.try_push(LocalNmi { acpi_id, pin, trigger, polarity });
        }
    }

    fn read_fadt(&mut self, bytes: &[u8]) -> bool {
        // ACPI 1.0's table ends before the reset register. What a shorter table does not have reads as zero.
        if bytes.len() < 116 {
            return false;
        }
        let mut copy = [0u8; size_of::<Fadt>()];
        let len = bytes.len().min(copy.len());
        copy[..len].copy_from_slice(&bytes[..len]);
        // SAFETY: any bytes are a `Fadt`: packed, integers and wrapped integers only.
        let mut fadt: Fadt = unsafe { core::ptr::read_unaligned(copy.as_ptr().cast()) };
        // The crate multiplies these as bytes; their customary values are all that is needed.
        (fadt.pm1_event_length, fadt.pm1_control_length) = (4, 2);
        fadt.pm_timer_length = fadt.pm_timer_length.min(4);
        let flags = fadt.flags;
        if let Ok(Some(timer)) = fadt.pm_timer_block() {
            self.pm_timer = register(&timer).map(|timer| (timer, flags.pm_timer_is_32_bit()));
        }
        self.pm1_control = [
            fadt.pm1a_control_block().ok().and_then(|r| register(&r)),
            fadt.pm1b_control_block().ok().flatten().and_then(|r| register(&r)),
        ];
        self.pm1_event = [
            fadt.pm1a_event_block().ok().and_then(|r| register(&r)),
            fadt.pm1b_event_block().ok().flatten().and_then(|r| register(&r)),
        ];
        self.sleep_control = fadt.sleep_control_register().ok().flatten().and_then(|r| register(&r));
        if flags.supports_system_reset_via_fadt() {
            let at = fadt.reset_register().ok().and_then(|r| register(&r));
            self.reset = at.map(|at| (at, fadt.reset_value));
        }
        self.sci = fadt.sci_interrupt;
        self.century = Some(fadt.century).filter(|register| (0x0e..0x80).contains(register));
        // The boot flags exist from the second revision on.
        if fadt.header.revision >= 2 {
            let boot = fadt.iapc_boot_arch;
            self.no_vga = boot.dont_probe_vga();
            self.no_cmos_clock = boot.use_time_and_alarm_namespace_for_rtc();
        }
        true
    }

    fn read_hpet(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() < size_of::<HpetTable>() {
            return false;
        }
        // SAFETY: long enough, and any bytes are an `HpetTable`.
        let hpet: HpetTable = unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) };
        let at = hpet.base_address;
        if at.address_space != 0 || at.address == 0 {
            return false;
        }
        self.hpet = Some(at.address);
        true
    }

    fn read_mcfg(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() < size_of::<Mcfg>() {
            return false;
        }
        // SAFETY: at least the table's fixed part, packed integers; its length in the header is that of the bytes, and
        // the reference does not outlive them.
        let mcfg = unsafe { &*bytes.as_ptr().cast::<Mcfg>() };
        for entry in mcfg.entries() {
            let McfgEntry { base_address: address, pci_segment_group: segment, .. } = *entry;
            let (first, last) = (entry.bus_number_start, entry.bus_number_end);
            if address != 0 && first <= last {
                let _ = self.mm_configs.try_push(MmConfig { address, segment, first, last });
            }
        }
        true
    }

    /// How an ISA interrupt is wired: GSI, trigger, polarity.
    pub fn isa(&self, irq: u8) -> (u32, Trigger, Polarity) {
        match self.overrides.iter().find(|o| o.irq == irq) {
            Some(o) => (o.gsi, o.trigger, o.polarity),
            None => (irq.into(), Trigger::Edge, Polarity::High),
        }
    }

    /// How a GSI is wired unless somebody says otherwise: ISA's by the overrides, others as PCI's.
    pub fn default_wiring(&self, gsi: u32) -> (Trigger, Polarity) {
        if let Some(o) = self.overrides.iter().find(|o| o.gsi == gsi) {
            return (o.trigger, o.polarity);
        }
        if gsi < 16 { (Trigger::Edge, Polarity::High) } else { (Trigger::Level, Polarity::Low) }
    }
}

/// Trigger and polarity from the flags of the MultiProcessor specification; the bus's custom where they say so or
/// mean nothing.
fn wiring(flags: u16, trigger: Trigger, polarity: Polarity) -> (Trigger, Polarity) {
    let polarity = match flags & 3 {
        1 => Polarity::High,
        3 => Polarity::Low,
        _ => polarity,
    };
    let trigger = match flags >> 2 & 3 {
        1 => Trigger::Edge,
        3 => Trigger::Level,
        _ => trigger,
    };
    (trigger, polarity)
}

fn register(address: &GenericAddress) -> Option<Register> {
    match address.address_space {
        _ if address.address == 0 => None,
        AddressSpace::SystemIo => u16::try_from(address.address).ok().map(Register::Port),
        AddressSpace::SystemMemory => Some(Register::Memory(address.address)),
        _ => None,
    }
}

/// Smallest length of the MADT's entry types.
const ENTRY_SIZES: [usize; 17] = [
    size_of::<madt::LocalApicEntry>(),
    size_of::<madt::IoApicEntry>(),
    size_of::<madt::InterruptSourceOverrideEntry>(),
    size_of::<madt::NmiSourceEntry>(),
    size_of::<madt::LocalApicNmiEntry>(),
    size_of::<madt::LocalApicAddressOverrideEntry>(),
    size_of::<madt::IoSapicEntry>(),
    size_of::<madt::LocalSapicEntry>(),
    size_of::<madt::PlatformInterruptSourceEntry>(),
    size_of::<madt::LocalX2ApicEntry>(),
    size_of::<madt::X2ApicNmiEntry>(),
    size_of::<madt::GiccEntry>(),
    size_of::<madt::GicdEntry>(),
    size_of::<madt::GicMsiFrameEntry>(),
    size_of::<madt::GicRedistributorEntry>(),
    size_of::<madt::GicInterruptTranslationServiceEntry>(),
    size_of::<madt::MultiprocessorWakeupEntry>(),
];

/// Every entry of the MADT is as long as its type, and they end where the table does.
fn madt_is_sound(bytes: &[u8]) -> bool {
    let Some(mut rest) = bytes.get(size_of::<Madt>()..) else { return false };
    while let &[kind, len, ..] = rest {
        let least = ENTRY_SIZES.get(usize::from(kind)).copied().unwrap_or(2);
        if usize::from(len) < least || usize::from(len) > rest.len() {
            return false;
        }
        rest = &rest[usize::from(len)..];
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests;

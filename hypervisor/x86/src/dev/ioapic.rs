//! I/O APICs: one redirection entry a pin.

use hv_core::physdev::Polarity;
use hv_core::pirq::Trigger;
use spin::{Mutex, Once};

use super::acpi;
use super::mmio::Block;

const SELECT: usize = 0x00;
const WINDOW: usize = 0x10;
const VERSION: u32 = 0x01;
const ENTRIES: u32 = 0x10;
/// Pins that one I/O APIC can have.
const MAX_PINS: usize = 240;

const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const ACTIVE_LOW: u32 = 1 << 13;

struct Io {
    registers: Block,
    /// Low words of the entries as written last, so that masking needs no read.
    low: [u32; MAX_PINS],
}

impl Io {
    fn read(&self, register: u32) -> u32 {
        self.registers.write32(SELECT, register);
        self.registers.read32(WINDOW)
    }

    fn write(&self, register: u32, value: u32) {
        self.registers.write32(SELECT, register);
        self.registers.write32(WINDOW, value);
    }

    fn write_low(&mut self, pin: usize, value: u32) {
        self.low[pin] = value;
        self.write(ENTRIES + 2 * pin as u32, value);
    }
}

struct IoApic {
    address: u64,
    gsi_base: u32,
    pins: u32,
    io: Mutex<Io>,
}

/// A pin of an I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    apic: u8,
    pin: u8,
}

/// One place each, because the records are too large for a stack together.
static IO_APICS: [Once<IoApic>; 16] = [const { Once::new() }; 16];

fn io_apics() -> impl Iterator<Item = &'static IoApic> {
    IO_APICS.iter().map_while(Once::get)
}

/// Maps all I/O APICs and masks every pin. Returns how many GSIs there are: one more than the highest.
pub fn init(platform: &acpi::Platform) -> u32 {
    let mut places = IO_APICS.iter();
    for apic in platform.io_apics.iter().filter_map(open) {
        if let Some(place) = places.next() {
            place.call_once(|| apic);
        }
    }
    io_apics().map(|apic| apic.gsi_base.saturating_add(apic.pins)).max().unwrap_or(0)
}

fn open(found: &acpi::IoApic) -> Option<IoApic> {
    // SAFETY: ACPI names these as an I/O APIC's registers, which are the hypervisor's.
    let registers = unsafe { Block::map(found.address, 0x20) }?;
    let mut io = Io { registers, low: [MASKED; MAX_PINS] };
    let version = io.read(VERSION);
    if version == u32::MAX {
        log::warn!("I/O APIC {} at {:#x} does not answer", found.id, found.address);
        return None;
    }
    let pins = ((version >> 16 & 0xff) + 1).min(MAX_PINS as u32);
    for pin in 0..pins {
        // An NMI or an SMI that the firmware routed is left alone.
        if matches!(io.read(ENTRIES + 2 * pin) >> 8 & 7, 2 | 4) {
            continue;
        }
        io.write_low(pin as usize, MASKED);
    }
    Some(IoApic { address: found.address, gsi_base: found.gsi_base, pins, io: Mutex::new(io) })
}

/// The pin of a GSI.
pub fn pin(gsi: u32) -> Option<Pin> {
    io_apics().enumerate().find_map(|(n, apic)| {
        let pin = gsi.checked_sub(apic.gsi_base).filter(|pin| *pin < apic.pins)?;
        Some(Pin { apic: n as u8, pin: pin as u8 })
    })
}

impl Pin {
    fn with(self, f: impl FnOnce(&mut Io, usize)) {
        if let Some(apic) = IO_APICS.get(usize::from(self.apic)).and_then(Once::get) {
            f(&mut apic.io.lock(), usize::from(self.pin));
        }
    }

    /// Keeps the pin from interrupting.
    #[inline]
    pub fn mask(self) {
        self.with(|io, pin| io.write_low(pin, io.low[pin] | MASKED));
    }

    /// Lets the pin interrupt.
    #[inline]
    pub fn unmask(self) {
        self.with(|io, pin| io.write_low(pin, io.low[pin] & !MASKED));
    }

    /// Routes the pin, masked, to a vector of one CPU (fixed delivery, physical destination).
    pub fn route(self, vector: u8, apic_id: u32, trigger: Trigger, polarity: Polarity) {
        let level = if trigger == Trigger::Level { LEVEL } else { 0 };
        let low = if polarity == Polarity::Low { ACTIVE_LOW } else { 0 };
        self.with(|io, pin| {
            io.write_low(pin, MASKED);
            io.write(ENTRIES + 2 * pin as u32 + 1, apic_id << 24);
            io.write_low(pin, MASKED | level | low | u32::from(vector));
        });
    }

    /// Sends the pin's interrupts to another CPU.
    pub fn redirect(self, apic_id: u32) {
        self.with(|io, pin| io.write(ENTRIES + 2 * pin as u32 + 1, apic_id << 24));
    }
}

/// Reads a register of the I/O APIC at a machine address, for dom0; `None`: there is none.
pub fn read(address: u64, register: u32) -> Option<u32> {
    let apic = io_apics().find(|apic| apic.address == address)?;
    (register < ENTRIES + 2 * apic.pins).then(|| apic.io.lock().read(register))
}

/// The GSI whose entry's low word is this register; `None` for another register.
pub fn gsi_of_register(address: u64, register: u32) -> Option<u32> {
    let apic = io_apics().find(|apic| apic.address == address)?;
    let index = register.checked_sub(ENTRIES).filter(|n| n / 2 < apic.pins)?;
    index.is_multiple_of(2).then_some(apic.gsi_base + index / 2)
}

/// True if there is an I/O APIC at this machine address.
pub fn exists(address: u64) -> bool {
    io_apics().any(|apic| apic.address == address)
}

/// Machine addresses of the pages that dom0 must not map writable.
pub fn pages() -> impl Iterator<Item = u64> {
    io_apics().map(|apic| apic.address & !0xfff)
}

//! The local APIC of each CPU, through its registers in memory (xAPIC) or its MSRs (x2APIC).
//!
//! Everything here is for the CPU that calls, except sending. Interrupts are off in the hypervisor, so that a
//! sequence of register accesses needs no lock.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hv_core::physdev::Polarity;
use hv_core::pirq::Trigger;
use hv_core::platform::clock::Rate;
use spin::Once;

use super::acpi::Platform;
use super::mmio::Block;
use super::vector;
use crate::cpu;

const ID: u32 = 0x02;
const TASK_PRIORITY: u32 = 0x08;
const EOI: u32 = 0x0b;
const LOGICAL_DESTINATION: u32 = 0x0d;
const DESTINATION_FORMAT: u32 = 0x0e;
const SPURIOUS: u32 = 0x0f;
const IN_SERVICE: u32 = 0x10;
const ERROR_STATUS: u32 = 0x28;
const LVT_CMCI: u32 = 0x2f;
const COMMAND: u32 = 0x30;
const COMMAND_HIGH: u32 = 0x31;
const LVT_TIMER: u32 = 0x32;
const LVT_THERMAL: u32 = 0x33;
const LVT_COUNTER: u32 = 0x34;
const LVT_LINT: [u32; 2] = [0x35, 0x36];
const LVT_ERROR: u32 = 0x37;
const TIMER_INITIAL: u32 = 0x38;
const TIMER_CURRENT: u32 = 0x39;
const TIMER_DIVIDE: u32 = 0x3e;
const VERSION: u32 = 0x03;

const MASKED: u32 = 1 << 16;
const DEADLINE_MODE: u32 = 2 << 17;
const DIVIDE_BY_1: u32 = 0b1011;

const MSR_BASE: u32 = 0x1b;
const MSR_X2APIC: u32 = 0x800;
const MSR_DEADLINE: u32 = 0x6e0;
const BASE_ENABLED: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;

/// Registers in memory; unset while the MSRs are used.
static REGISTERS: Once<Block> = Once::new();
static X2APIC: AtomicBool = AtomicBool::new(false);
static DEADLINE: AtomicBool = AtomicBool::new(false);
/// [`Rate`] of the timer's count.
static TIMER_RATE: AtomicU64 = AtomicU64::new(0);
static ERRORS: AtomicU64 = AtomicU64::new(0);

/// Why there is no local APIC to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The processor has none.
    None,
    /// Its registers could not be mapped.
    Unmappable,
}

#[inline]
fn read(register: u32) -> u32 {
    match REGISTERS.get() {
        Some(registers) => registers.read32((register as usize) << 4),
        // SAFETY: x2APIC mode is on (`init`), and only registers that exist are named here.
        None => unsafe { cpu::rdmsr(MSR_X2APIC + register) as u32 },
    }
}

#[inline]
fn write(register: u32, value: u32) {
    match REGISTERS.get() {
        Some(registers) => registers.write32((register as usize) << 4, value),
        // SAFETY: as for `read`; the values are valid for their registers, and none reaches memory.
        None => unsafe { cpu::wrmsr(MSR_X2APIC + register, value.into()) },
    }
}

/// Finds out which interface is used, for all CPUs; then [`init_cpu`] can run on each. x2APIC is used where the firmware
/// has switched it on, which cannot be undone safely, where a processor's number needs it, and where it is `wanted`.
pub fn init(platform: &Platform, wanted: bool) -> Result<(), Error> {
    let leaf = cpu::cpuid(1, 0);
    if leaf.edx & 1 << 9 == 0 {
        return Err(Error::None);
    }
    // SAFETY: the processor has a local APIC, and so this MSR.
    let base = unsafe { cpu::rdmsr(MSR_BASE) };
    let has_x2apic = leaf.ecx & 1 << 21 != 0;
    let needs_x2apic = platform.processors.iter().any(|p| p.usable && p.apic_id >= 0xff);
    let x2apic = base & BASE_X2APIC != 0 || (has_x2apic && (wanted || needs_x2apic));
    if !x2apic {
        // SAFETY: the address that ACPI names is the local APICs'.
        let block = unsafe { Block::map(platform.local_apic, 0x1000) }.ok_or(Error::Unmappable)?;
        REGISTERS.call_once(|| block);
    }
    X2APIC.store(x2apic, Ordering::Relaxed);
    DEADLINE.store(leaf.ecx & 1 << 24 != 0, Ordering::Relaxed);
    Ok(())
}

/// Switches this CPU's local APIC on with everything masked. `acpi_id` picks its NMI pins from the platform's.
pub fn init_cpu(platform: &Platform, acpi_id: u32) {
    let mode = if X2APIC.load(Ordering::Relaxed) { BASE_X2APIC } else { 0 };
    // SAFETY: enabling the local APIC in the mode that `init` chose; its address is not changed.
    unsafe {
        let base = cpu::rdmsr(MSR_BASE);
        cpu::wrmsr(MSR_BASE, base | BASE_ENABLED);
        cpu::wrmsr(MSR_BASE, base | BASE_ENABLED | mode);
    }
    let last_lvt = read(VERSION) >> 16 & 0xff;
    for (lvt, least) in [(LVT_TIMER, 0), (LVT_COUNTER, 4), (LVT_THERMAL, 5), (LVT_CMCI, 6)] {
        if last_lvt >= least {
            write(lvt, MASKED);
        }
    }
    for (pin, lvt) in LVT_LINT.into_iter().enumerate() {
        write(lvt, local_pin(platform, acpi_id, pin as u8));
    }
    if mode == 0 {
        write(DESTINATION_FORMAT, u32::MAX);
        write(LOGICAL_DESTINATION, 0);
    }
    write(TASK_PRIORITY, 0);
    write(SPURIOUS, 1 << 8 | u32::from(vector::SPURIOUS));
    write(ERROR_STATUS, 0);
    write(LVT_ERROR, vector::ERROR.into());
    drain();
    write(TIMER_DIVIDE, DIVIDE_BY_1);
    write(TIMER_INITIAL, 0);
    write(LVT_TIMER, timer_entry());
}

fn timer_entry() -> u32 {
    let mode = if has_deadline() { DEADLINE_MODE } else { 0 };
    mode | u32::from(vector::TIMER)
}

/// Ends what the firmware left in service, so that it does not block lower priorities for ever.
fn drain() {
    for _ in 0..256 {
        if (0..8).all(|n| read(IN_SERVICE + n) == 0) {
            break;
        }
        write(EOI, 0);
    }
}

fn local_pin(platform: &Platform, acpi_id: u32, pin: u8) -> u32 {
    const NMI: u32 = 4 << 8;
    let mine = |nmi: &&super::acpi::LocalNmi| nmi.pin == pin && [acpi_id, u32::MAX].contains(&nmi.acpi_id);
    match platform.local_nmis.iter().find(mine) {
        None => MASKED,
        Some(nmi) => {
            let low = if nmi.polarity == Polarity::Low { 1 << 13 } else { 0 };
            // An NMI is an edge whatever the table says; a level would repeat it.
            debug_assert!(matches!(nmi.trigger, Trigger::Edge | Trigger::Level));
            NMI | low
        }
    }
}

/// Number of this CPU's local APIC.
pub fn id() -> u32 {
    let id = read(ID);
    if X2APIC.load(Ordering::Relaxed) { id } else { id >> 24 }
}

/// True if numbers have 32 bits.
pub fn is_x2apic() -> bool {
    X2APIC.load(Ordering::Relaxed)
}

/// Lets this CPU take no interrupt but those of the hypervisor's own vectors behind the devices', or all of them. Others wait.
pub fn block_devices(blocked: bool) {
    // The upper half is a class of vectors: this and lower ones wait.
    const DEVICES: u32 = vector::DEVICE_LAST as u32 + 1;
    write(TASK_PRIORITY, if blocked { DEVICES } else { 0 });
}

/// The interrupt in service is done with.
#[inline]
pub fn eoi() {
    write(EOI, 0);
}

fn send(destination: u32, command: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: x2APIC mode is on; what is sent was chosen below.
        unsafe { cpu::wrmsr(MSR_X2APIC + COMMAND, u64::from(destination) << 32 | u64::from(command)) };
        return;
    }
    wait_until_sent();
    write(COMMAND_HIGH, destination << 24);
    write(COMMAND, command);
}

/// Waits until the registers in memory take another command.
fn wait_until_sent() {
    const SENDING: u32 = 1 << 12;
    for _ in 0..100_000 {
        if read(COMMAND) & SENDING == 0 {
            break;
        }
    }
}

/// Interrupts another CPU.
#[inline]
pub fn send_ipi(apic_id: u32, vector: u8) {
    const ASSERT: u32 = 1 << 14;
    send(apic_id, ASSERT | u32::from(vector));
}

/// Sends what `f` sends, in the handler of an NMI, which may have come between the two writes of somebody who was sending: his
/// destination is still there afterwards.
pub fn send_between(f: impl FnOnce()) {
    if X2APIC.load(Ordering::Relaxed) {
        return f();
    }
    let destination = read(COMMAND_HIGH);
    f();
    wait_until_sent();
    write(COMMAND_HIGH, destination);
}

/// Interrupts another CPU although it has interrupts off.
pub fn send_nmi(apic_id: u32) {
    send(apic_id, 1 << 14 | 4 << 8);
}

/// Resets another CPU, which then waits for [`send_startup`].
pub fn send_init(apic_id: u32) {
    send(apic_id, 1 << 14 | 5 << 8);
}

/// Starts a CPU that waits, in real mode at `page` (a machine address below 1 MiB, in pages).
pub fn send_startup(apic_id: u32, page: u8) {
    send(apic_id, 1 << 14 | 6 << 8 | u32::from(page));
}

/// The error interrupt: which errors there were, as the error status register has them. Counted, and reported the
/// first times.
pub fn on_error() {
    write(ERROR_STATUS, 0);
    let status = read(ERROR_STATUS);
    if ERRORS.fetch_add(1, Ordering::Relaxed) < 8 {
        log::warn!("local APIC {}: error status {status:#x}", id());
    }
    eoi();
}

/// The timer takes deadlines of the TSC.
#[inline]
pub fn has_deadline() -> bool {
    DEADLINE.load(Ordering::Relaxed)
}

/// How fast the timer counts, once measured.
pub fn set_timer_hz(hz: u64) {
    TIMER_RATE.store(Rate::from_hz(hz).0, Ordering::Relaxed);
}

/// Lets the timer interrupt (vector [`vector::TIMER`]) in `nanoseconds`, when the TSC shows `tsc`: both say the same, and
/// the timer takes the form it knows. A past deadline interrupts at once; a far one early, to be armed again.
#[inline]
pub fn arm_timer(nanoseconds: u64, tsc: u64) {
    if has_deadline() {
        // SAFETY: CPUID shows the MSR, and the timer is in deadline mode. 0 would disarm it.
        unsafe { cpu::wrmsr(MSR_DEADLINE, tsc.max(1)) };
    } else {
        let ticks = Rate(TIMER_RATE.load(Ordering::Relaxed)).ticks(nanoseconds);
        write(TIMER_INITIAL, ticks.clamp(1, u32::MAX.into()) as u32);
    }
}

/// No timer interrupt is wanted.
#[inline]
pub fn disarm_timer() {
    if has_deadline() {
        // SAFETY: as for `arm_timer`.
        unsafe { cpu::wrmsr(MSR_DEADLINE, 0) };
    } else {
        write(TIMER_INITIAL, 0);
    }
}

/// Starts the counter from its top, silently, to measure it.
pub(super) fn start_count() {
    write(LVT_TIMER, MASKED);
    write(TIMER_INITIAL, u32::MAX);
}

/// Ticks since [`start_count`].
pub(super) fn counted() -> u32 {
    u32::MAX - read(TIMER_CURRENT)
}

/// Ends the measurement.
pub(super) fn stop_count() {
    write(TIMER_INITIAL, 0);
    write(LVT_TIMER, timer_entry());
}

//! The paravirtual clock.

use crate::event::shared;
use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};
use guest_abi::xen::VcpuTimeInfo;
use guest_abi::xen::vcpu_offset;

static START: AtomicU64 = AtomicU64::new(0);

/// For the entry code: the guest's first instructions run.
pub(crate) fn note_start() {
    // SAFETY: every x86-64 CPU has it; where it is trapped it is emulated.
    START.store(unsafe { _rdtsc() }, Ordering::Relaxed);
}

/// The time-stamp counter at the guest's first instructions.
pub fn started() -> u64 {
    START.load(Ordering::Relaxed)
}

/// A consistent copy of the first vCPU's clock.
pub fn clock() -> VcpuTimeInfo {
    let at = (shared() + vcpu_offset::TIME as u64) as *const VcpuTimeInfo;
    loop {
        // SAFETY: the shared page stays mapped; a torn copy is detected by its version.
        let (before, after) = unsafe { (at.read_volatile(), at.read_volatile()) };
        if before == after && before.version & 1 == 0 {
            return before;
        }
    }
}

/// System time now, in ns.
pub fn now() -> u64 {
    loop {
        let clock = clock();
        // SAFETY: every x86-64 CPU has it; where it is trapped it is emulated.
        let tsc = unsafe { _rdtsc() };
        if clock == self::clock() {
            return at(&clock, tsc);
        }
    }
}

/// System time at a TSC value, by a copy of the clock.
pub fn at(clock: &VcpuTimeInfo, tsc: u64) -> u64 {
    let ticks = tsc.wrapping_sub(clock.tsc_timestamp);
    let ticks = match clock.tsc_shift {
        shift @ 0.. => ticks << shift,
        shift => ticks >> shift.unsigned_abs(),
    };
    let ns = (u128::from(ticks) * u128::from(clock.tsc_to_system_mul)) >> 32;
    clock.system_time.wrapping_add(ns as u64)
}

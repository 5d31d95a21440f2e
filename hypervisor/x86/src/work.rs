//! Work between a guest's exit and its return: timers, choosing who runs, idling.

use core::sync::atomic::Ordering;

use hv_pv::regs::Regs;

use crate::percpu::{this_cpu, work};
use crate::vcpu::Vcpu;

/// Asks this CPU to look for work before it returns to a guest.
pub fn raise(bits: u32) {
    this_cpu().work.fetch_or(bits, Ordering::Relaxed);
}

/// The vCPU does not go on for now: something else runs before this CPU returns.
pub fn leave(_vcpu: &Vcpu) {
    raise(work::SCHEDULE);
}

/// Does what was raised.
#[inline(never)]
pub fn run(_regs: &mut Regs) {
    this_cpu().work.swap(0, Ordering::Relaxed);
}

//! Interrupts by vector.

use hv_pv::regs::Regs;

use crate::panic;

/// Handles one interrupt.
pub fn handle(vector: u8) {
    let _ = vector;
}

/// NMI: a watchdog or a hardware error; reported, and ignored where nothing is known to be wrong.
pub fn nmi(regs: &mut Regs) {
    log::warn!("NMI at {:#x}", regs.rip);
}

/// A machine check is fatal: what the processor computed cannot be trusted.
pub fn machine_check(regs: &mut Regs) {
    panic::fatal(regs, "machine check")
}

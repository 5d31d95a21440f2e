//! Interrupts by vector.

use core::sync::atomic::Ordering;

use guest_abi::xen::VIRQ_CONSOLE;
use hv_pv::regs::Regs;
use hv_types::DomId;

use crate::dev::{apic, serial, vector};
use crate::machine::Machine;
use crate::percpu::{this_cpu, work};
use crate::{domain, hub, ipi, panic};

/// Handles one interrupt.
pub fn handle(number: u8) {
    match number {
        vector::DEVICE_FIRST..=vector::DEVICE_LAST => hub::device_interrupt(number),
        vector::TIMER => {
            apic::eoi();
            this_cpu().work.fetch_or(work::TIMER, Ordering::AcqRel);
        }
        vector::SERIAL => {
            apic::eoi();
            console_input(serial::on_interrupt());
        }
        vector::WAKE => apic::eoi(),
        vector::ERROR => apic::on_error(),
        // The local APIC had nothing after all, or the legacy controllers did not hear that they are masked: no EOI.
        vector::SPURIOUS | ..vector::DEVICE_FIRST => {}
        _ => apic::eoi(),
    }
}

/// Tells dom0 that characters wait.
pub fn console_input(some: bool) {
    if some && let Some(dom0) = domain::find(DomId::DOM0) {
        dom0.events.send_global_virq(&Machine, VIRQ_CONSOLE);
    }
}

/// NMI: another CPU's request, or a watchdog or a hardware error; reported, and ignored where nothing is known to be wrong.
pub fn nmi(regs: &mut Regs) {
    if ipi::serve(regs) {
        return;
    }
    // Whoever was interrupted may hold the log's lock.
    this_cpu().strange_nmi.store(regs.rip, Ordering::Relaxed);
    this_cpu().work.fetch_or(work::NMI, Ordering::AcqRel);
}

/// A machine check is fatal: what the processor computed cannot be trusted.
pub fn machine_check(regs: &mut Regs) {
    panic::hardware(regs)
}

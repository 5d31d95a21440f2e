//! Work between a guest's exit and its return: timers, choosing who runs, idling.

use core::arch::asm;
use core::sync::atomic::Ordering;

use hv_core::sched::{Reasons, Unit, VcpuSched};
use hv_pv::regs::Regs;
use hv_types::VcpuId;

use crate::dev::time;
use crate::percpu::{Cpu, count_by, this_cpu, work};
use crate::vcpu::{Vcpu, current};
use crate::{deliver, hub, switch};

/// A vCPU's name in a CPU's queue.
#[derive(Clone, Copy)]
pub struct Runner(pub &'static Vcpu);

impl Unit for Runner {
    fn sched(&self) -> &VcpuSched {
        &self.0.sched
    }
}

/// Asks this CPU to look for work before it returns to a guest.
pub fn raise(bits: u32) {
    this_cpu().work.fetch_or(bits, Ordering::AcqRel);
}

/// The vCPU does not go on: something else runs before this CPU returns.
pub fn leave(vcpu: &Vcpu) {
    vcpu.sched.hold(Reasons::SHUTDOWN);
    raise(work::SCHEDULE);
}

/// Does what was raised.
#[inline(never)]
pub fn run(regs: &mut Regs) {
    let cpu = this_cpu();
    loop {
        let bits = cpu.work.swap(0, Ordering::AcqRel);
        if bits == 0 {
            return;
        }
        if bits & work::TIMER != 0 {
            hub::run_timers();
        }
        if bits & work::SCHEDULE != 0 {
            choose(cpu, regs);
        }
    }
}

/// Puts the vCPU that comes first on this CPU; with none, idles until there is one.
fn choose(cpu: &'static Cpu, regs: &mut Regs) {
    let before = current();
    let next = loop {
        let pick = cpu.queue.lock().pick(time::now());
        match pick.run {
            Some(Runner(next)) => break next,
            None => idle(cpu),
        }
    };
    if !core::ptr::eq(before, next) {
        switch::to(cpu, regs, next);
    }
    if next.polls.replace(false) {
        let slot = next.timers.lock().poll;
        cpu.timers.lock().stop(slot);
    }
    next.domain.events.stop_poll(VcpuId(next.id));
    hub::write_runstate(next);
    if next.nmi_pending.swap(false, Ordering::AcqRel) {
        deliver::nmi(regs, next);
    }
}

/// Halts until an interrupt brings work.
fn idle(cpu: &Cpu) {
    let start = time::now();
    loop {
        let bits = cpu.work.swap(0, Ordering::AcqRel);
        if bits & work::TIMER != 0 {
            hub::run_timers();
        }
        if bits & work::SCHEDULE != 0 || cpu.work.load(Ordering::Acquire) & work::SCHEDULE != 0 {
            break;
        }
        if bits == 0 {
            // SAFETY: STI takes effect behind HLT, so that no interrupt is lost between the look and the halt. The
            // handlers know that ring 0 was interrupted here.
            unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
        }
    }
    count_by(&cpu.idle_ns, time::now().saturating_sub(start));
}

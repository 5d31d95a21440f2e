//! `sched=null`: who waits for a CPU of his own, and which CPU is free. The rule is [`CpuQueue`]'s; here CPUs are told.
//!
//! A vCPU that has to wait says so before it looks for a free CPU, and a CPU that becomes free says so before it looks who waits: so
//! that they cannot miss each other.

use core::sync::atomic::{AtomicBool, Ordering};

use hv_core::mmu::{CpuSet, SharedCpuSet};
use hv_core::sched::CpuQueue;

use crate::ipi;
use crate::percpu::{Cpu, cpu_record, work};
use crate::vcpu::Vcpu;
use crate::work::{Runner, allowed, take_from, with_queue};

static ON: AtomicBool = AtomicBool::new(false);
/// CPUs that nobody has.
static FREE: SharedCpuSet = SharedCpuSet::new();
/// CPUs in whose queue somebody waits.
static WAITING: SharedCpuSet = SharedCpuSet::new();

/// Each vCPU gets a CPU of its own from here on. Before there are any.
pub fn switch_on() {
    ON.store(true, Ordering::Relaxed);
}

/// True if each vCPU has a CPU of its own.
#[inline]
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// A CPU comes, and is free.
pub fn begin(cpu: &Cpu) {
    if is_on() {
        with_queue(cpu, CpuQueue::set_alone);
    }
}

/// Something has changed in a CPU's queue, which is locked.
#[cold]
pub fn note(cpu: &Cpu, queue: &CpuQueue<Runner>) {
    match (queue.has_spare(), WAITING.contains(cpu.id)) {
        (true, false) => WAITING.insert(cpu.id),
        (false, true) => WAITING.remove(cpu.id),
        _ => {}
    }
    match (queue.has_room(), FREE.contains(cpu.id)) {
        (true, false) => {
            FREE.insert(cpu.id);
            if !WAITING.snapshot().is_empty() {
                ipi::raise(cpu, work::SCHEDULE);
            }
        }
        (false, true) => FREE.remove(cpu.id),
        _ => {}
    }
}

/// A vCPU waits: those free CPUs look that it may have.
pub fn call_for(vcpu: &Vcpu) {
    let free = FREE.snapshot().intersection(&allowed(vcpu));
    free.iter().filter_map(|id| cpu_record(id as usize)).for_each(|cpu| ipi::raise(cpu, work::SCHEDULE));
}

/// The free CPU, of these, that a vCPU had better be moved to; `None`: there is none.
pub fn free_one_of(may: &CpuSet) -> Option<&'static Cpu> {
    cpu_record(FREE.first_of(may)? as usize)
}

/// True if a CPU can go offline: nobody has it, or there is another that nobody has.
pub fn can_spare(cpu: &Cpu) -> bool {
    let mut others = FREE.snapshot();
    let free = others.contains(cpu.id);
    others.remove(cpu.id);
    !is_on() || free || !others.is_empty()
}

/// This CPU, if it is free, takes one in that waits elsewhere.
#[cold]
pub fn take_one(cpu: &'static Cpu, now: u64) -> bool {
    if !FREE.contains(cpu.id) {
        return false;
    }
    let waiting = WAITING.snapshot();
    let others = waiting.iter().filter(|id| *id != cpu.id).filter_map(|id| cpu_record(id as usize));
    let taken = others.map(|other| take_from(cpu, other, now)).find(Option::is_some).flatten();
    if let Some(Runner(vcpu)) = taken
        && !with_queue(cpu, |queue| queue.slot_of(&Runner(vcpu)).is_some_and(|slot| !queue.is_spare(slot)))
    {
        // Somebody else has come between.
        call_for(vcpu);
    }
    taken.is_some()
}

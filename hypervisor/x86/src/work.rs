//! Work between a guest's exit and its return: timers, choosing who runs, idling.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use hv_core::sched::{Pick, Reasons, Unit, VcpuSched};
use hv_pv::regs::Regs;
use hv_types::VcpuId;

use crate::dev::time;
use crate::percpu::{Cpu, MAX_CPUS, NEVER, count_by, cpu_record, online, this_cpu, work};
use crate::vcpu::Vcpu;
use crate::{deliver, hub, ipi, switch};

/// A vCPU's name in a CPU's queue.
#[derive(Clone, Copy)]
pub struct Runner(pub &'static Vcpu);

impl Unit for Runner {
    fn sched(&self) -> &VcpuSched {
        &self.0.sched
    }

    fn may_go_to(&self, cpu: u32) -> bool {
        self.0.cpu().is_none() && self.0.affinity.lock().contains(cpu)
    }
}

/// CPUs that idle, one bit each.
static IDLE: [AtomicU64; MAX_CPUS / 64] = [const { AtomicU64::new(0) }; MAX_CPUS / 64];

fn idle_word(cpu: &Cpu) -> (&'static AtomicU64, u64) {
    (&IDLE[cpu.id as usize / 64 % IDLE.len()], 1 << (cpu.id % 64))
}

/// An idle CPU on which the vCPU may run.
fn idle_cpu_for(vcpu: &Vcpu) -> Option<&'static Cpu> {
    let affinity = *vcpu.affinity.lock();
    IDLE.iter().zip(affinity.words()).enumerate().find_map(|(n, (idle, allowed))| {
        let fits = idle.load(Ordering::SeqCst) & allowed;
        (fits != 0).then(|| cpu_record(n * 64 + fits.trailing_zeros() as usize)).flatten()
    })
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

/// The CPU where the vCPU waits, runs or sleeps, which may be another one as soon as this returns.
fn home(vcpu: &Vcpu) -> &'static Cpu {
    cpu_record(vcpu.sched.cpu() as usize).unwrap_or(this_cpu())
}

/// The vCPU's last reason not to run is gone: it is queued, and a CPU told.
pub fn wake(vcpu: &'static Vcpu) {
    loop {
        let home = home(vcpu);
        let mut queue = home.queue.lock();
        let Some(slot) = queue.slot_of(&Runner(vcpu)) else {
            if vcpu.sched.cpu() == home.id {
                return;
            }
            continue;
        };
        let comes_first = queue.wake(slot, time::now());
        let busy = queue.running().is_some();
        drop(queue);
        return match idle_cpu_for(vcpu) {
            Some(idle) if busy && idle.id != home.id => ipi::raise(idle, work::SCHEDULE),
            _ if comes_first => ipi::raise(home, work::SCHEDULE),
            // The one that runs must have an end.
            _ if home.slice.load(Ordering::Acquire) == NEVER => ipi::raise(home, work::TIMER),
            _ => {}
        };
    }
}

/// The vCPU may not run any more: its CPU lets go of it.
pub fn stop(vcpu: &'static Vcpu) {
    loop {
        let home = home(vcpu);
        let mut queue = home.queue.lock();
        let slot = queue.slot_of(&Runner(vcpu));
        let Some(slot) = slot else {
            if vcpu.sched.cpu() == home.id {
                return;
            }
            continue;
        };
        let runs = queue.sleep(slot, time::now());
        drop(queue);
        if runs {
            ipi::raise(home, work::SCHEDULE);
        }
        return;
    }
}

/// Events are pending for a vCPU: if another CPU runs it, that one looks.
#[inline]
pub fn knock(vcpu: &Vcpu) {
    if let Some(cpu) = vcpu.cpu()
        && cpu != this_cpu().id
        && let Some(cpu) = cpu_record(cpu as usize)
    {
        ipi::raise(cpu, work::LOOK);
    }
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
        if bits & work::NMI != 0 {
            log::warn!("CPU {}: NMI at {:#x}", cpu.id, cpu.strange_nmi.load(Ordering::Relaxed));
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
    // SAFETY: a vCPU that a CPU names is not freed.
    let before = unsafe { cpu.current.load(Ordering::Relaxed).as_ref() };
    let pick = pick(cpu);
    if let (Some(before), Some(Runner(next))) = (before, pick.run)
        && core::ptr::eq(before, next)
    {
        return went_on(regs, next);
    }
    if let Some(before) = before {
        switch::save(regs, before);
    }
    let (next, rested) = match pick.run {
        Some(Runner(next)) => (next, false),
        None => (idle(cpu), true),
    };
    take(cpu, next, rested);
    *regs = next.saved.get();
    went_on(regs, next);
}

/// Loads a vCPU that this CPU's queue has chosen.
fn take(cpu: &'static Cpu, next: &'static Vcpu, rested: bool) {
    // The CPU that had it may still be saving it; it does nothing else before it has.
    while next.cpu().is_some() {
        core::hint::spin_loop();
    }
    switch::load(cpu, next, rested);
}

/// What a vCPU finds when it continues.
fn went_on(regs: &mut Regs, vcpu: &'static Vcpu) {
    if vcpu.polls.replace(false) {
        hub::stop_poll_timer(vcpu);
    }
    vcpu.domain.events.stop_poll(VcpuId(vcpu.id));
    hub::write_runstate(vcpu);
    if vcpu.nmi_pending.swap(false, Ordering::AcqRel) {
        deliver::nmi(regs, vcpu);
    }
}

/// The next vCPU of this CPU's queue, or one that waits elsewhere.
fn pick(cpu: &'static Cpu) -> Pick<Runner> {
    let now = time::now();
    let mut pick = cpu.queue.lock().pick(now);
    if pick.run.is_none() && steal(cpu, now) {
        pick = cpu.queue.lock().pick(now);
    }
    let slice = pick.until.unwrap_or(NEVER);
    if cpu.slice.swap(slice, Ordering::AcqRel) > slice {
        hub::arm_timer();
    }
    pick
}

/// Takes a waiting vCPU from another CPU, beginning with the next one. Queues are locked in the order of their numbers.
fn steal(cpu: &'static Cpu, now: u64) -> bool {
    let others = online().filter(|other| other.id > cpu.id).chain(online().filter(|other| other.id < cpu.id));
    for victim in others {
        if victim.waiting() == 0 {
            continue;
        }
        let (mut mine, mut theirs);
        if cpu.id < victim.id {
            mine = cpu.queue.lock();
            theirs = victim.queue.lock();
        } else {
            theirs = victim.queue.lock();
            mine = cpu.queue.lock();
        }
        if theirs.give_one(&mut mine, now).is_some() {
            return true;
        }
    }
    false
}

/// Halts until there is something to run.
fn idle(cpu: &'static Cpu) -> &'static Vcpu {
    let start = time::now();
    switch::rest(cpu);
    let (word, bit) = idle_word(cpu);
    let next = loop {
        word.fetch_or(bit, Ordering::SeqCst);
        if let Some(Runner(next)) = pick(cpu).run {
            break next;
        }
        wait_for_work(cpu);
    };
    word.fetch_and(!bit, Ordering::SeqCst);
    count_by(&cpu.idle_ns, time::now().saturating_sub(start));
    next
}

/// Halts until this CPU is asked to choose again.
fn wait_for_work(cpu: &Cpu) {
    loop {
        let bits = cpu.work.swap(0, Ordering::AcqRel);
        if bits & work::TIMER != 0 {
            hub::run_timers();
        }
        if (bits | cpu.work.load(Ordering::Acquire)) & work::SCHEDULE != 0 {
            return;
        }
        if bits == 0 {
            // SAFETY: STI takes effect behind HLT, so that no interrupt is lost between the look and the halt. The
            // handlers know that ring 0 was interrupted here.
            unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
        }
    }
}

/// The life of a CPU that has not run a vCPU yet: waits for one, and answers it loaded.
pub fn first(cpu: &'static Cpu) -> &'static Vcpu {
    let next = idle(cpu);
    take(cpu, next, true);
    next
}

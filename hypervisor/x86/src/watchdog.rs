//! CPUs look after each other (`watchdog`): each looks once a second whether the next one has looked at its timers lately. One
//! that has not is stuck in the hypervisor, where interrupts are off; an NMI makes it say where, and that is the end.

use core::sync::atomic::{AtomicBool, Ordering};

use hv_pv::regs::Regs;

use crate::percpu::{Cpu, NEVER, online};
use crate::{dev::time, ipi, panic};

/// How often each looks, in ns.
const INTERVAL: u64 = 1_000_000_000;
/// After how long without a sign of life a CPU is stuck, in ns.
const PATIENCE: u64 = 5 * INTERVAL;

static ON: AtomicBool = AtomicBool::new(false);

/// From here on CPUs look after each other.
pub fn start() {
    let now = time::now();
    for cpu in online() {
        show_life(cpu, now, now + INTERVAL);
        ipi::raise(cpu, crate::percpu::work::TIMER);
    }
    ON.store(true, Ordering::Release);
    log::info!("watchdog: a CPU that is stuck for {} s says where", PATIENCE / INTERVAL);
}

fn show_life(cpu: &Cpu, now: u64, next: u64) {
    cpu.alive.store(now, Ordering::Release);
    cpu.next_look.store(next, Ordering::Release);
}

/// This CPU takes part from `now` on.
pub fn begin(cpu: &Cpu, now: u64) {
    show_life(cpu, now, if ON.load(Ordering::Acquire) { now + INTERVAL } else { NEVER });
}

/// Part of this CPU's looking at its timers.
#[inline]
pub fn look(cpu: &Cpu, now: u64) {
    if now >= cpu.next_look.load(Ordering::Relaxed) {
        look_at_next(cpu, now);
    }
}

#[cold]
fn look_at_next(cpu: &Cpu, now: u64) {
    begin(cpu, now);
    let next = online().find(|other| other.id > cpu.id).or_else(|| online().next());
    let Some(next) = next.filter(|next| next.id != cpu.id) else { return };
    if now.saturating_sub(next.alive.load(Ordering::Acquire)) > PATIENCE {
        ipi::ask_where(next);
    }
}

/// This CPU was asked where it is stuck.
pub fn report(regs: &Regs) -> ! {
    panic::fatal(regs, "the watchdog found this CPU stuck")
}

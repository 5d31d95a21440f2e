//! vCPUs in the queues of many CPUs: each is found wherever it is by now, and goes where it may be as soon as no CPU has it.
//!
//! A vCPU that is to move is held for it ([`Reasons::MOVING`]). Whoever holds it moves it, or, while a CPU has its registers, that CPU
//! when it has saved them: it looks at the reasons after that, and the reason was there before its queue was last locked. Nobody
//! waits for anybody but a CPU that is saving registers.

use super::{CpuQueue, Reasons, Unit};
use crate::mmu::CpuSet;
use crate::time::Slot;

/// The CPUs of a machine and their queues.
pub trait Cpus {
    /// A vCPU.
    type Unit: Unit;
    /// A CPU.
    type Cpu: Copy;

    /// The CPU of that number, if there is one.
    fn cpu(&self, number: u32) -> Option<Self::Cpu>;
    /// Its number.
    fn number(&self, cpu: Self::Cpu) -> u32;
    /// Works on a CPU's queue under its lock.
    fn with_queue<R>(&self, cpu: Self::Cpu, f: impl FnOnce(&mut CpuQueue<Self::Unit>) -> R) -> R;
    /// Works on the queues of two CPUs under both locks.
    fn with_both<R>(
        &self,
        one: Self::Cpu,
        other: Self::Cpu,
        f: impl FnOnce(&mut CpuQueue<Self::Unit>, &mut CpuQueue<Self::Unit>) -> R,
    ) -> R;
    /// True if no CPU has the vCPU's registers.
    fn is_saved(&self, unit: Self::Unit) -> bool;
    /// Waits a moment for a CPU that is saving registers.
    fn relax(&self);
    /// Where a vCPU may be now.
    fn allowed(&self, unit: Self::Unit) -> CpuSet;
    /// Of these CPUs, one that is open.
    fn open_one_of(&self, allowed: &CpuSet) -> Option<Self::Cpu>;
    /// The CPU chooses again who runs, soon.
    fn choose_again(&self, cpu: Self::Cpu);
    /// The vCPU's last reason not to run is gone.
    fn wake(&self, unit: Self::Unit);
    /// The vCPU has moved because it might not stay, and these were the CPUs where it may be.
    fn has_moved(&self, unit: Self::Unit, allowed: &CpuSet);
    /// System time.
    fn now(&self) -> u64;
}

/// The CPU where the vCPU waits, runs or sleeps, which may be another one as soon as this returns; `None`: it is gone.
#[inline]
pub fn home<C: Cpus>(cpus: &C, unit: C::Unit) -> Option<C::Cpu> {
    cpus.cpu(unit.sched().cpu()?)
}

/// Works on the queue that the vCPU is in, wherever it has gone meanwhile; `None`: it is in none any more.
#[inline]
pub fn at_home<C: Cpus, R>(
    cpus: &C,
    unit: C::Unit,
    mut f: impl FnMut(C::Cpu, &mut CpuQueue<C::Unit>, Slot) -> R,
) -> Option<R> {
    loop {
        let home = home(cpus, unit)?;
        let done = cpus.with_queue(home, |queue| queue.slot_of(&unit).map(|slot| f(home, queue, slot)));
        if done.is_some() {
            return done;
        }
    }
}

/// The vCPU may not run any more: its CPU lets go of it.
pub fn stop<C: Cpus>(cpus: &C, unit: C::Unit) {
    if let Some((home, true)) = at_home(cpus, unit, |home, queue, slot| (home, queue.sleep(slot, cpus.now())))
    {
        cpus.choose_again(home);
    }
}

/// The vCPU may not be where its affinity lets it: then it moves, at once, or as soon as the CPU that runs it has saved it.
/// Nobody waits for that; a vCPU may be moved by a call of its own.
pub fn settle<C: Cpus>(cpus: &C, unit: C::Unit) {
    // Under the lock of its queue, so that a thief who has seen the old affinity has come and gone.
    while at_home(cpus, unit, |home, _, _| cpus.allowed(unit).contains(cpus.number(home))) == Some(false) {
        unit.sched().hold(Reasons::MOVING);
        stop(cpus, unit);
        if !move_held(cpus, unit) {
            return;
        }
    }
}

/// The CPU that ran the vCPU has saved it: if it is to move, it does so now.
#[inline]
pub fn was_saved<C: Cpus>(cpus: &C, unit: C::Unit) {
    if unit.sched().reasons().contains(Reasons::MOVING) && move_held(cpus, unit) {
        settle(cpus, unit);
    }
}

/// Moves a vCPU that is held for it, and lets it go. False: it stays, because there is nowhere to go, or a CPU runs it, and
/// calls this when it has saved it. Several may do so at once.
fn move_held<C: Cpus>(cpus: &C, unit: C::Unit) -> bool {
    loop {
        match at_home(cpus, unit, |_, queue, slot| queue.running() == Some(slot)) {
            Some(false) => {}
            // That it is held was said before this queue was last locked: its CPU sees it when it chooses.
            Some(true) | None => return false,
        }
        // Its CPU is saving it and does nothing else before it has; or somebody has moved it meanwhile, and another one has begun to
        // run it.
        if !cpus.is_saved(unit) {
            cpus.relax();
            continue;
        }
        let Some(from) = home(cpus, unit) else { return false };
        let allowed = cpus.allowed(unit);
        let stays = allowed.contains(cpus.number(from));
        let is_off =
            |queue: &CpuQueue<C::Unit>, slot: &Slot| queue.running() != Some(*slot) && cpus.is_saved(unit);
        // In the queue's lock, so that whoever holds it once more, for another affinity, does so after this.
        let let_go = || unit.sched().release(Reasons::MOVING);
        let to = cpus.open_one_of(&allowed).filter(|_| !stays);
        let moved = match to {
            Some(to) => cpus.with_both(from, to, |theirs, its| {
                let slot = theirs.slot_of(&unit).filter(|slot| is_off(theirs, slot))?;
                Some((theirs.give(slot, its, cpus.now()).is_some(), let_go()))
            }),
            None => cpus.with_queue(from, |queue| {
                queue.slot_of(&unit).filter(|slot| is_off(queue, slot)).map(|_| (stays, let_go()))
            }),
        };
        if let Some((moved, may_run)) = moved {
            if let Some(to) = to.filter(|_| moved) {
                cpus.has_moved(unit, &allowed);
                // Somebody else may have let it go before, and then it has come as one that may run.
                cpus.choose_again(to);
            }
            if may_run {
                cpus.wake(unit);
            }
            return moved;
        }
    }
}

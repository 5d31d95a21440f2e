//! `sched=null`: a CPU for each vCPU.
//!
//! A vCPU that wants to run gets a CPU that nobody has, and keeps it, also while it sleeps, until it goes down or away, or its affinity takes
//! it elsewhere. Nobody shares a CPU, so there are no slices, weights and caps. With no CPU left a vCPU waits, in the queue of
//! the CPU where it lives, until one is free: who has waited longest there comes first.

use super::{CpuQueue, Pick, Reasons, Runstate, Unit};
use crate::time::Slot;

/// Reasons with which a vCPU gives up its CPU: it may not come back.
const GONE: Reasons = Reasons::DOWN.union(Reasons::SHUTDOWN);

impl<V: Unit> CpuQueue<V> {
    /// From here on the CPU is one vCPU's. Before any is here.
    pub fn set_alone(&mut self) {
        self.alone = true;
    }

    /// The vCPU that has the CPU.
    fn holder(&self) -> Option<Slot> {
        self.holder.filter(|slot| {
            self.ready.owner(*slot).is_some_and(|unit| !unit.sched().reasons().intersects(GONE))
        })
    }

    /// True if nobody has the CPU and somebody may.
    pub fn has_room(&self) -> bool {
        self.alone && self.open && self.holder().is_none()
    }

    /// True if somebody waits here for a CPU of his own.
    pub fn has_spare(&self) -> bool {
        self.alone && !self.ready.is_empty()
    }

    /// True if this vCPU does.
    pub fn is_spare(&self, slot: Slot) -> bool {
        self.alone && self.ready.key(slot).is_some()
    }

    /// [`CpuQueue::wake`] of a vCPU that may run and does not.
    #[cold]
    pub(super) fn wake_alone(&mut self, slot: Slot, now: u64) -> bool {
        let Some(unit) = self.ready.owner(slot) else { return false };
        unit.sched().enter(Runstate::Runnable, now);
        if self.has_room() && self.ready.is_empty() {
            self.holder = Some(slot);
        }
        if self.holder() == Some(slot) {
            return self.running.is_none();
        }
        self.ready.set(slot, now);
        false
    }

    /// A vCPU leaves.
    pub(super) fn let_go(&mut self, slot: Slot) {
        self.holder = self.holder.filter(|holder| *holder != slot);
    }

    /// Takes out the one who has waited longest of those that may run.
    fn first_spare(&mut self, now: u64) -> Option<Slot> {
        while let Some((_, slot)) = self.ready.first() {
            self.ready.take(slot);
            let Some(unit) = self.ready.owner(slot) else { continue };
            if unit.sched().may_run() {
                return Some(slot);
            }
            unit.sched().rest(now);
        }
        None
    }

    /// [`CpuQueue::pick`]: the one that has the CPU, or nobody.
    #[cold]
    pub(super) fn pick_alone(&mut self, now: u64) -> Pick<V> {
        let previous = self.running.take().map(|(slot, _)| slot);
        self.holder = self.holder().or_else(|| self.first_spare(now));
        let may_run = |slot: &Slot| self.ready.owner(*slot).is_some_and(|unit| unit.sched().may_run());
        let next = self.holder.filter(may_run);
        if let Some(unit) =
            previous.filter(|slot| next != Some(*slot)).and_then(|slot| self.ready.owner(slot))
        {
            unit.sched().rest(now);
        }
        self.running = next.map(|slot| (slot, now));
        let run = next.and_then(|slot| self.ready.owner(slot));
        if let Some(unit) = run {
            unit.sched().enter(Runstate::Running, now);
        }
        Pick { run, until: None }
    }
}

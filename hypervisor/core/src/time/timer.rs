//! Timers of vCPUs and domains: a queue a CPU, a slot a timer.

use super::heap::{Heap, Slot};
use super::{MILLISECOND, SECOND};
use guest_abi::Errno;
use hv_types::{DomId, VcpuId};

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerKind {
    /// `VCPUOP_set_singleshot_timer` and `set_timer_op`: raises `VIRQ_TIMER`.
    Singleshot,
    /// `VCPUOP_set_periodic_timer`: raises `VIRQ_TIMER` again and again.
    Periodic,
    /// The timeout of `SCHEDOP_poll`: the vCPU stops polling.
    Poll,
    /// `SCHEDOP_watchdog`: the domain is shut down with that reason.
    Watchdog,
}

/// A timer that expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fired {
    /// Whose.
    pub dom: DomId,
    /// Which vCPU's (a watchdog: the one that set it first).
    pub vcpu: VcpuId,
    /// What for.
    pub kind: TimerKind,
}

/// The timers of one CPU. Its lock comes after event locks: nothing that expires is acted upon under it.
#[derive(Default)]
pub struct TimerQueue {
    heap: Heap<Fired>,
}

impl TimerQueue {
    /// A queue without timers.
    pub const fn new() -> Self {
        TimerQueue { heap: Heap::new() }
    }

    /// A new timer, not running. `-ENOMEM`: no room.
    pub fn add(&mut self, owner: Fired) -> Result<Slot, Errno> {
        self.heap.add(owner)
    }

    /// Removes a timer; returns when it would have fired.
    pub fn remove(&mut self, slot: Slot) -> Option<u64> {
        self.heap.remove(slot)
    }

    /// Starts a timer, or changes when it fires.
    #[inline]
    pub fn start(&mut self, slot: Slot, deadline: u64) {
        self.heap.set(slot, deadline);
    }

    /// Stops a timer; harmless if it does not run.
    #[inline]
    pub fn stop(&mut self, slot: Slot) {
        self.heap.take(slot);
    }

    /// Whose timers are here, whether they run or not: one of them. Nobody's, once all have moved.
    pub fn anybody(&self) -> Option<Fired> {
        self.heap.owners().next().map(|(_, owner)| owner)
    }

    /// When the next timer fires: what the CPU's hardware timer is set to.
    #[inline]
    pub fn deadline(&self) -> Option<u64> {
        self.heap.first().map(|(deadline, _)| deadline)
    }

    /// Takes one timer that has fired by `now`, with when it was due. Call until there is none.
    #[inline]
    pub fn expire(&mut self, now: u64) -> Option<(Slot, u64, Fired)> {
        let (deadline, slot) = self.heap.first()?;
        if deadline > now {
            return None;
        }
        self.heap.take(slot);
        Some((slot, deadline, self.heap.owner(slot)?))
    }
}

/// The timers of a vCPU in the queue of the CPU where it lives.
#[derive(Clone, Copy, Debug)]
pub struct VcpuTimers {
    /// [`TimerKind::Singleshot`].
    pub singleshot: Slot,
    /// [`TimerKind::Periodic`].
    pub periodic: Slot,
    /// [`TimerKind::Poll`].
    pub poll: Slot,
    /// Period of the periodic timer in ns; 0: stopped.
    period: u64,
}

/// Period that a vCPU has until it asks for another, or for none.
const FIRST_PERIOD: u64 = 10 * MILLISECOND;
/// Shortest period of a periodic timer.
const MIN_PERIOD: u64 = MILLISECOND;
/// Longest period: what is left of a signed system time (`STIME_DELTA_MAX` for tools that look).
const MAX_PERIOD: u64 = (1 << 63) / 2 - 1;

impl VcpuTimers {
    /// Adds a vCPU's timers to a queue, none of them running. `-ENOMEM`: no room, and nothing added.
    pub fn add(queue: &mut TimerQueue, dom: DomId, vcpu: VcpuId) -> Result<VcpuTimers, Errno> {
        let owner = |kind| Fired { dom, vcpu, kind };
        let singleshot = queue.add(owner(TimerKind::Singleshot))?;
        let periodic = queue.add(owner(TimerKind::Periodic)).inspect_err(|_| {
            queue.remove(singleshot);
        })?;
        let poll = queue.add(owner(TimerKind::Poll)).inspect_err(|_| {
            queue.remove(singleshot);
            queue.remove(periodic);
        })?;
        Ok(VcpuTimers { singleshot, periodic, poll, period: FIRST_PERIOD })
    }

    /// Removes them, as when the vCPU goes.
    pub fn remove(self, queue: &mut TimerQueue) {
        for slot in [self.singleshot, self.periodic, self.poll] {
            queue.remove(slot);
        }
    }

    /// Moves them to another CPU's queue with whatever runs. `-ENOMEM`: no room there, and nothing moved.
    pub fn migrate(&mut self, from: &mut TimerQueue, to: &mut TimerQueue) -> Result<(), Errno> {
        let Some(owner) = from.heap.owner(self.singleshot) else { return Err(Errno::EINVAL) };
        let new = VcpuTimers { period: self.period, ..VcpuTimers::add(to, owner.dom, owner.vcpu)? };
        let pairs = [(self.singleshot, new.singleshot), (self.periodic, new.periodic), (self.poll, new.poll)];
        for (old, new) in pairs {
            if let Some(deadline) = from.remove(old) {
                to.start(new, deadline);
            }
        }
        *self = new;
        Ok(())
    }

    /// The vCPU comes up: its periodic timer runs, unless the guest has stopped it.
    pub fn come_up(&self, queue: &mut TimerQueue, now: u64) {
        if self.period != 0 && queue.heap.key(self.periodic).is_none() {
            queue.start(self.periodic, now.saturating_add(self.period));
        }
    }

    /// `VCPUOP_set_periodic_timer`; `-EINVAL` if the period is below 1 ms or absurd.
    pub fn set_periodic(&mut self, queue: &mut TimerQueue, now: u64, period: u64) -> Result<(), Errno> {
        if !(MIN_PERIOD..=MAX_PERIOD).contains(&period) {
            return Err(Errno::EINVAL);
        }
        self.period = period;
        queue.start(self.periodic, now.saturating_add(period));
        Ok(())
    }

    /// `VCPUOP_stop_periodic_timer`.
    pub fn stop_periodic(&mut self, queue: &mut TimerQueue) {
        self.period = 0;
        queue.stop(self.periodic);
    }

    /// The periodic timer due at `deadline` has fired: starts it for the next period that is not over yet.
    pub fn renew_periodic(&mut self, queue: &mut TimerQueue, deadline: u64, now: u64) {
        if self.period != 0 {
            let late = now.saturating_sub(deadline) % self.period;
            queue.start(self.periodic, now.saturating_add(self.period - late));
        }
    }
}

/// What `set_timer_op` does to the one-shot timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerCommand {
    /// Stop it.
    Stop,
    /// Start it for this system time (perhaps past: it fires at once).
    Start(u64),
}

/// Timeouts further ahead than this are a guest's wrapped arithmetic, not a wish: about 13 days.
const FAR: u64 = 1 << 50;

/// `HYPERVISOR_set_timer_op(timeout)` at system time `now`: 0 stops; negative or absurdly late timeouts, which
/// wrapped jiffies produce, become 100 ms from now.
pub fn timer_op(timeout: u64, now: u64) -> TimerCommand {
    if timeout == 0 {
        TimerCommand::Stop
    } else if timeout >> 63 != 0 || timeout.saturating_sub(now) >= FAR {
        TimerCommand::Start(now.saturating_add(100 * MILLISECOND))
    } else {
        TimerCommand::Start(timeout)
    }
}

/// Watchdogs a domain may have.
const WATCHDOGS: usize = 2;

/// A domain's watchdogs: when each fires, 0 for one that is free.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watchdogs {
    slots: [Option<Slot>; WATCHDOGS],
    used: [bool; WATCHDOGS],
}

impl Watchdogs {
    /// Adds a domain's watchdogs to a queue. `-ENOMEM`: no room, and nothing added.
    pub fn add(queue: &mut TimerQueue, dom: DomId) -> Result<Watchdogs, Errno> {
        let owner = Fired { dom, vcpu: VcpuId(0), kind: TimerKind::Watchdog };
        let first = queue.add(owner)?;
        let second = queue.add(owner).inspect_err(|_| {
            queue.remove(first);
        })?;
        Ok(Watchdogs { slots: [Some(first), Some(second)], used: [false; WATCHDOGS] })
    }

    /// Moves them to another CPU's queue with whatever runs. `-ENOMEM`: no room there, and nothing moved.
    pub fn migrate(&mut self, from: &mut TimerQueue, to: &mut TimerQueue) -> Result<(), Errno> {
        let owner =
            self.slots.iter().flatten().find_map(|slot| from.heap.owner(*slot)).ok_or(Errno::EINVAL)?;
        let new = Watchdogs { used: self.used, ..Watchdogs::add(to, owner.dom)? };
        for (old, new) in self.slots.into_iter().zip(new.slots) {
            if let (Some(old), Some(new)) = (old, new)
                && let Some(deadline) = from.remove(old)
            {
                to.start(new, deadline);
            }
        }
        *self = new;
        Ok(())
    }

    /// Removes them, as when the domain goes.
    pub fn remove(self, queue: &mut TimerQueue) {
        for slot in self.slots.into_iter().flatten() {
            queue.remove(slot);
        }
    }

    /// `SCHEDOP_watchdog`: id 0 takes a free one and answers its number (with timeout 0 it fires at once); else
    /// changes or (timeout 0) frees one. `-EINVAL`: no such watchdog; `-ENOSPC`: none is free.
    pub fn set(&mut self, queue: &mut TimerQueue, now: u64, id: u32, timeout: u32) -> Result<i64, Errno> {
        let deadline = now.saturating_add(u64::from(timeout) * SECOND);
        if id == 0 {
            let index = self.used.iter().position(|used| !used).ok_or(Errno::ENOSPC)?;
            return self.start(queue, index, deadline).map(|()| index as i64 + 1);
        }
        let index = id as usize - 1;
        if !self.used.get(index).copied().unwrap_or(false) {
            return Err(Errno::EINVAL);
        }
        if timeout != 0 {
            return self.start(queue, index, deadline).map(|()| 0);
        }
        if let (Some(Some(slot)), Some(used)) = (self.slots.get(index), self.used.get_mut(index)) {
            queue.stop(*slot);
            *used = false;
        }
        Ok(0)
    }

    fn start(&mut self, queue: &mut TimerQueue, index: usize, deadline: u64) -> Result<(), Errno> {
        let slot = self.slots.get(index).copied().flatten().ok_or(Errno::ENOSPC)?;
        if let Some(used) = self.used.get_mut(index) {
            *used = true;
        }
        queue.start(slot, deadline);
        Ok(())
    }
}

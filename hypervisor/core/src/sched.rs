//! Who runs: why a vCPU may not, where its time went, and in which order those that may are given a CPU.
//!
//! A vCPU has a set of [`Reasons`] not to run; it may run while the set is empty. Whoever takes the last reason
//! away queues it. Blocking is: add [`Reasons::BLOCKED`], then look for events, then take the reason back if there are
//! some; so no wake is lost, whatever the order in which two CPUs do it.
//!
//! Locks: a CPU's queue lock comes after event and queue locks of events; a vCPU's account after it.

mod alone;
pub mod moves;
mod near;
mod op;
mod queue;

pub use near::{idle_core, idle_cpu, seen};
pub use op::{SchedCaller, SchedPorts, sched_op};
pub use queue::{CpuQueue, DEFAULT_WEIGHT, PERIOD, Pick, Unit, worth_taking};

use crate::mmu::CpuSet;
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Mutex, const_unless_explored};
use core::sync::atomic::Ordering;
use guest_abi::vcpu::{
    RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING, VcpuRunstateInfo,
};

bitflags::bitflags! {
    /// Why a vCPU does not run.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Reasons: u32 {
        /// It waits for an event (`SCHEDOP_block`, `SCHEDOP_poll`).
        const BLOCKED = 1 << 0;
        /// It is down (`VCPUOP_down`), or never came up.
        const DOWN = 1 << 1;
        /// A control domain holds it.
        const PAUSED = 1 << 2;
        /// Its domain has shut down.
        const SHUTDOWN = 1 << 3;
        /// It is on its way to a CPU of its affinity.
        const MOVING = 1 << 4;
        /// Its registers are being read.
        const READ = 1 << 5;
    }
}

/// Where a vCPU may run: those of its affinity that are open to vCPUs; all of these while none is in its affinity, which comes
/// into force again with the first that is.
pub fn allowed(affinity: &CpuSet, open: &CpuSet) -> CpuSet {
    let both = affinity.intersection(open);
    if both.is_empty() { *open } else { both }
}

/// What a vCPU is doing (`RUNSTATE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Runstate {
    /// On a CPU.
    Running = RUNSTATE_RUNNING,
    /// Wants a CPU.
    Runnable = RUNSTATE_RUNNABLE,
    /// Waits for an event.
    Blocked = RUNSTATE_BLOCKED,
    /// Neither.
    Offline = RUNSTATE_OFFLINE,
}

/// Time spent in each state, in ns. The sum is always the time since the vCPU began.
#[derive(Clone, Copy, Debug)]
struct Account {
    state: Runstate,
    entered: u64,
    spent: [u64; 4],
}

impl Account {
    /// Time that ran backwards counts as none.
    fn enter(&mut self, state: Runstate, now: u64) {
        if state == self.state {
            return;
        }
        let now = now.max(self.entered);
        if let Some(spent) = self.spent.get_mut(self.state as usize) {
            *spent += now - self.entered;
        }
        (self.state, self.entered) = (state, now);
    }
}

/// A vCPU as the scheduler sees it; the machine embeds one in each vCPU.
pub struct VcpuSched {
    reasons: AtomicU32,
    account: Mutex<Account>,
    /// CPU (high half) and slot in its queue.
    home: AtomicU64,
}

impl VcpuSched {
    /// A vCPU that begins at system time `now` with these reasons not to run.
    pub fn new(reasons: Reasons, now: u64) -> Self {
        let state = VcpuSched::resting(reasons);
        VcpuSched {
            reasons: AtomicU32::new(reasons.bits()),
            account: Mutex::new(Account { state, entered: now, spent: [0; 4] }),
            home: AtomicU64::new(NOWHERE),
        }
    }

    /// The state of a vCPU that is not on a CPU.
    fn resting(reasons: Reasons) -> Runstate {
        if reasons.is_empty() {
            Runstate::Runnable
        } else if reasons.contains(Reasons::BLOCKED) {
            Runstate::Blocked
        } else {
            Runstate::Offline
        }
    }

    /// Why it may not run now.
    #[inline]
    pub fn reasons(&self) -> Reasons {
        Reasons::from_bits_retain(self.reasons.load(Ordering::SeqCst))
    }

    /// True if it may run.
    #[inline]
    pub fn may_run(&self) -> bool {
        self.reasons().is_empty()
    }

    /// Adds a reason not to run; true if there was none, that is: [`CpuQueue::sleep`] is due, or (of the running
    /// vCPU) a new choice.
    #[inline]
    pub fn hold(&self, reason: Reasons) -> bool {
        self.reasons.fetch_or(reason.bits(), Ordering::SeqCst) == 0
    }

    /// Takes a reason away; true if it was the last one, that is: [`CpuQueue::wake`] is due.
    #[inline]
    pub fn release(&self, reason: Reasons) -> bool {
        let old = self.reasons.fetch_and(!reason.bits(), Ordering::SeqCst);
        old != 0 && old & !reason.bits() == 0
    }

    /// Where its time went until `now`.
    pub fn runstate(&self, now: u64) -> VcpuRunstateInfo {
        let mut account = *self.account.lock();
        let (state, entered) = (account.state, account.entered);
        if let Some(spent) = account.spent.get_mut(state as usize) {
            *spent += now.saturating_sub(entered);
        }
        VcpuRunstateInfo {
            state: state as u32,
            state_entry_time: entered,
            time: account.spent,
            ..Default::default()
        }
    }

    /// What it is doing.
    pub fn state(&self) -> Runstate {
        self.account.lock().state
    }

    fn enter(&self, state: Runstate, now: u64) {
        self.account.lock().enter(state, now);
    }

    /// Records that it is off its CPU, in the state that its reasons say.
    fn rest(&self, now: u64) {
        self.enter(VcpuSched::resting(self.reasons()), now);
    }

    /// The CPU whose queue it is in; `None` before it is in one, and once it has left for ever.
    pub fn cpu(&self) -> Option<u32> {
        self.home().map(|(cpu, _)| cpu)
    }

    /// That CPU, and its place in the queue as [`Slot::index`](crate::time::Slot::index): read at once.
    fn home(&self) -> Option<(u32, u32)> {
        let home = self.home.load(Ordering::Acquire);
        (home != NOWHERE).then_some(((home >> 32) as u32, home as u32))
    }

    fn set_home(&self, cpu: u32, slot: u32) {
        self.home.store(u64::from(cpu) << 32 | u64::from(slot), Ordering::Release);
    }

    fn leave_home(&self) {
        self.home.store(NOWHERE, Ordering::Release);
    }
}

/// In no queue.
const NOWHERE: u64 = u64::MAX;

/// How a domain ends: the first code stays.
pub struct Shutdown {
    code: AtomicU8,
    begun: AtomicBool,
}

/// No code yet.
const NO_CODE: u8 = u8::MAX;

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    const_unless_explored! {
        /// A domain that runs.
        pub fn new() -> Self {
            Shutdown { code: AtomicU8::new(NO_CODE), begun: AtomicBool::new(false) }
        }
    }

    /// `SCHEDOP_shutdown_code`: the code of a later shutdown, unless there is one already.
    pub fn latch(&self, code: u8) {
        let _ = self.code.compare_exchange(NO_CODE, code, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The domain shuts down: answers the code that counts, and whether this is the first time.
    pub fn begin(&self, code: u8) -> (u8, bool) {
        self.latch(code);
        (self.code.load(Ordering::Acquire), !self.begun.swap(true, Ordering::AcqRel))
    }

    /// The code, once the domain has shut down.
    pub fn code(&self) -> Option<u8> {
        if self.begun.load(Ordering::Acquire) { Some(self.code.load(Ordering::Acquire)) } else { None }
    }
}

#[cfg(test)]
mod alone_tests;
#[cfg(test)]
mod offline_tests;
#[cfg(test)]
mod shares_tests;
#[cfg(test)]
mod tests;

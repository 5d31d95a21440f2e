//! The vCPUs of one CPU: shares by weight, short waits for those that sleep a lot, nobody starves.
//!
//! Each vCPU has a virtual time that advances with its running time, the slower the greater its weight; the one that
//! is behind runs next. A vCPU that wakes is at most a little behind the others, so that it runs soon but
//! cannot have saved up the past. Virtual times of all CPUs can be compared: a CPU whose next vCPU is further ahead than one
//! that waits elsewhere takes that one ([`worth_taking`]), so that shares hold across CPUs.
//!
//! A vCPU with a cap has a budget for each [`PERIOD`]; with it spent, the vCPU is parked until the next one.

use super::{Runstate, VcpuSched};
use crate::time::{Heap, MILLISECOND, Slot};
use alloc::vec::Vec;
use guest_abi::Errno;

/// Something that runs: a cheap name of a vCPU.
pub trait Unit: Copy {
    /// The vCPU as the scheduler sees it.
    fn sched(&self) -> &VcpuSched;
    /// True if CPU `cpu` may take the vCPU: its affinity allows it, and no CPU holds its registers any more.
    fn may_go_to(&self, cpu: u32) -> bool;
    /// True if the vCPU likes CPU `cpu` (its soft affinity).
    fn prefers(&self, cpu: u32) -> bool;
}

/// Weight of a vCPU whose virtual time is real time.
pub const DEFAULT_WEIGHT: u16 = 256;
/// How long a vCPU runs while others wait.
const SLICE: u64 = 10 * MILLISECOND;
/// How far behind the others a vCPU may be that wakes.
const SLEEPER_BONUS: u64 = 5 * MILLISECOND;
/// How far behind the running vCPU one that wakes must be to take its place.
const PREEMPT_LEAD: u64 = MILLISECOND / 2;
/// A vCPU that was given the CPU keeps it so long, whoever wakes. Two that wake each other for each piece of their work, as a guest and
/// the domain of its devices do, would otherwise do one piece at a time, and a switch for each.
pub(super) const LEAST_TURN: u64 = MILLISECOND;
/// How far from the others a vCPU may arrive from another CPU.
const MOST_APART: u64 = 100 * MILLISECOND;
/// How many waiting vCPUs a thief looks at.
const LOOKED_AT: usize = 16;
/// One that wakes and is about even with the running vCPU waits so long.
const SOON: u64 = MILLISECOND;
/// Virtual times above this are lowered together.
const REBASE: u64 = 1 << 60;

/// A cap's budget is renewed so often.
pub const PERIOD: u64 = 10 * MILLISECOND;
/// How far a vCPU elsewhere must be behind before it is worth moving.
const MOVE_LEAD: u64 = 5 * MILLISECOND;

/// True if a vCPU that waits elsewhere, with virtual time `theirs`, ought to be taken by a CPU whose own next vCPU has
/// virtual time `own`.
pub const fn worth_taking(own: Option<u64>, theirs: u64) -> bool {
    match own {
        None => true,
        Some(own) => theirs.saturating_add(MOVE_LEAD) < own,
    }
}

#[derive(Clone, Copy)]
struct Share {
    weight: u16,
    time: u64,
    /// Running time in each period, in ns; 0: no cap.
    cap: u64,
    /// What is left of it, and when the next period begins.
    left: u64,
    renewed: u64,
    parked: bool,
}

impl Share {
    fn new(weight: u16, time: u64) -> Share {
        Share { weight: weight.max(1), time, cap: 0, left: 0, renewed: 0, parked: false }
    }

    /// Begins a new period if the old one is over.
    fn renew(&mut self, now: u64) {
        if now >= self.renewed {
            self.left = self.cap;
            self.renewed = now - now % PERIOD + PERIOD;
        }
    }

    fn is_spent(&mut self, now: u64) -> bool {
        if self.cap == 0 {
            return false;
        }
        self.renew(now);
        self.left < LEAST_RUN
    }
}

/// A vCPU is not put on a CPU for less than this.
const LEAST_RUN: u64 = MILLISECOND / 10;

/// What a CPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick<V> {
    /// Who runs; nobody: the CPU idles.
    pub run: Option<V>,
    /// System time of the next choice, if others wait.
    pub until: Option<u64>,
}

/// The vCPUs that live on one CPU; behind that CPU's queue lock.
pub struct CpuQueue<V> {
    cpu: u32,
    pub(super) ready: Heap<V>,
    shares: Vec<Share>,
    pub(super) running: Option<(Slot, u64)>,
    /// vCPUs whose budget is spent.
    parked: Vec<Slot>,
    /// No vCPU that wants to run is further back, but for the bonus.
    floor: u64,
    /// vCPUs may come here.
    pub(super) open: bool,
    /// The CPU is one vCPU's, and whose. That one is never ready: who is waits for a CPU.
    pub(super) alone: bool,
    pub(super) holder: Option<Slot>,
}

impl<V: Unit> CpuQueue<V> {
    /// The queue of CPU `cpu`.
    pub const fn new(cpu: u32) -> Self {
        CpuQueue {
            cpu,
            ready: Heap::new(),
            shares: Vec::new(),
            running: None,
            parked: Vec::new(),
            floor: 0,
            open: true,
            alone: false,
            holder: None,
        }
    }

    /// Lets vCPUs come here, or no more of them. Those that are here stay, and run, until each is given away.
    pub fn set_open(&mut self, open: bool) {
        self.open = open;
    }

    /// A vCPU that lives here; the one that runs only if there is no other. Nobody, of a queue that is not open: nobody ever, until
    /// it is open again.
    pub fn anybody(&self) -> Option<V> {
        let running = self.running();
        let waits = self.ready.owners().find(|(slot, _)| Some(*slot) != running).map(|(_, unit)| unit);
        waits.or_else(|| self.ready.owner(running?))
    }

    /// Takes a vCPU in, and queues it if it may run. Weight 0 counts as 1. `-ENOMEM`: no room; `-EAGAIN`: the queue is not open.
    pub fn add(&mut self, unit: V, weight: u16, now: u64) -> Result<Slot, Errno> {
        if !self.open {
            return Err(Errno::EAGAIN);
        }
        let slot = self.ready.add(unit)?;
        let share = Share::new(weight, self.floor);
        if let Err(errno) = self.put_share(slot, share) {
            self.ready.remove(slot);
            return Err(errno);
        }
        unit.sched().set_home(self.cpu, slot.index() as u32);
        if unit.sched().may_run() {
            self.wake(slot, now);
        }
        Ok(slot)
    }

    /// Lets a vCPU go for ever. It must not be the running one: false, and nothing happens, if it is.
    pub fn remove(&mut self, slot: Slot) -> bool {
        if self.running.is_some_and(|(running, _)| running == slot) {
            return false;
        }
        if let Some(unit) = self.ready.owner(slot) {
            unit.sched().leave_home();
        }
        self.unpark(slot);
        self.let_go(slot);
        self.ready.remove(slot);
        true
    }

    /// Moves the waiting vCPU that comes first of those that may go to `to`'s CPU there. Answers it. Both queues are locked, in the order of their CPUs' numbers.
    pub fn give_one(&mut self, to: &mut CpuQueue<V>, now: u64) -> Option<V> {
        let slot = self.first_for(to.cpu)?;
        self.give(slot, to, now)
    }

    /// Moves one vCPU, waiting or not, to another CPU. `None`: it runs here, or there is no room there, or none may come there; then
    /// nothing happened.
    pub fn give(&mut self, slot: Slot, to: &mut CpuQueue<V>, now: u64) -> Option<V> {
        if !to.open || self.running.is_some_and(|(running, _)| running == slot) {
            return None;
        }
        let unit = self.ready.owner(slot)?;
        let share = *self.shares.get(slot.index())?;
        // Who waited is owed what it is behind.
        let most_behind = if self.ready.key(slot).is_some() { MOST_APART } else { SLEEPER_BONUS };
        let theirs = to.ready.add(unit).ok()?;
        let time = share.time.clamp(to.floor.saturating_sub(MOST_APART), to.floor + MOST_APART);
        if to.put_share(theirs, Share { time, parked: false, ..share }).is_err() {
            to.ready.remove(theirs);
            return None;
        }
        self.unpark(slot);
        self.let_go(slot);
        self.ready.remove(slot);
        unit.sched().set_home(to.cpu, theirs.index() as u32);
        to.enter(theirs, most_behind, now);
        Some(unit)
    }

    /// The first waiting vCPU that may go to a CPU, those that like it there before others. Only the front of the queue is
    /// looked at: a thief must not hold up the owner.
    fn first_for(&self, cpu: u32) -> Option<Slot> {
        let fits = |slot: &Slot| self.ready.owner(*slot).is_some_and(|unit| unit.may_go_to(cpu));
        let likes = |slot: &Slot| self.ready.owner(*slot).is_some_and(|unit| unit.prefers(cpu));
        self.ready.front(LOOKED_AT).filter(fits).min_by_key(|slot| (!likes(slot), self.ready.key(*slot)))
    }

    /// True if a vCPU with the virtual time `time` is so far behind the running one that it takes its place.
    fn comes_first(&self, time: u64, now: u64) -> bool {
        let Some((running, since)) = self.running else { return true };
        time.saturating_add(PREEMPT_LEAD) < self.time_at(running, since, now)
    }

    /// How long the running vCPU may go on when another has woken that does not take its place at once: until it would, if
    /// that is soon. Nothing: to the end of its slice.
    pub fn soon(&self, woken: Slot, now: u64) -> Option<u64> {
        let (running, since) = self.running?;
        let time = self.ready.key(woken)?;
        if self.comes_first(time, now) {
            return Some(since.saturating_add(LEAST_TURN));
        }
        let behind = time.saturating_sub(self.time_at(running, since, now));
        (behind < SOON).then(|| now.saturating_add(SOON))
    }

    /// Virtual time of the first vCPU that waits.
    pub fn front(&self) -> Option<u64> {
        self.ready.first().map(|(time, _)| time)
    }

    /// Virtual time of the vCPU that [`CpuQueue::pick`] would choose.
    pub fn next_time(&self, now: u64) -> Option<u64> {
        let running = self.running.and_then(|(slot, since)| {
            let runs = self.ready.owner(slot)?.sched().may_run();
            runs.then(|| self.time_at(slot, since, now))
        });
        self.front().into_iter().chain(running).min()
    }

    /// The virtual time that this CPU has come to.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// A CPU without anybody follows the others' virtual time, so that who wakes here has not saved up the past.
    pub fn follow(&mut self, others: u64) {
        if self.running.is_none() && self.ready.is_empty() {
            self.floor = self.floor.max(others.saturating_sub(MOST_APART));
        }
    }

    /// Sets how much of a CPU a vCPU may use, in per cent; 0: all of it.
    pub fn set_cap(&mut self, slot: Slot, percent: u32, now: u64) {
        let Some(share) = self.shares.get_mut(slot.index()).filter(|_| !self.alone) else { return };
        share.cap = if percent >= 100 { 0 } else { PERIOD / 100 * u64::from(percent) };
        (share.left, share.renewed) = (share.cap, now - now % PERIOD + PERIOD);
    }

    fn unpark(&mut self, slot: Slot) {
        if let Some(share) = self.shares.get_mut(slot.index())
            && core::mem::take(&mut share.parked)
        {
            self.parked.retain(|parked| *parked != slot);
        }
    }

    /// Sets a vCPU aside whose budget is spent; false if it is not, or if there is no room to remember it.
    fn park(&mut self, slot: Slot, now: u64) -> bool {
        let Some(share) = self.shares.get_mut(slot.index()) else { return false };
        if !share.is_spent(now) || self.parked.try_reserve(1).is_err() {
            return false;
        }
        share.parked = true;
        self.parked.push(slot);
        true
    }

    /// Queues those again whose next period has begun; answers when the next of the others is due.
    fn renew_budgets(&mut self, now: u64) -> Option<u64> {
        let mut index = 0;
        let mut next = None;
        while let Some(&slot) = self.parked.get(index) {
            let Some(share) = self.shares.get_mut(slot.index()) else { break };
            if now < share.renewed {
                next = Some(next.unwrap_or(u64::MAX).min(share.renewed));
                index += 1;
                continue;
            }
            share.renew(now);
            share.parked = false;
            let time = share.time;
            self.parked.swap_remove(index);
            if self.ready.owner(slot).is_some_and(|unit| unit.sched().may_run()) {
                self.ready.set(slot, time);
            }
        }
        next
    }

    /// When the running vCPU's budget ends.
    fn budget_ends(&self, slot: Slot, now: u64) -> Option<u64> {
        let share = self.shares.get(slot.index()).filter(|share| share.cap != 0)?;
        // With the next period a new budget comes, before this one is spent.
        Some(now.saturating_add(share.left).min(share.renewed.max(now + LEAST_RUN)))
    }

    /// True if a vCPU waits for this CPU.
    pub fn has_waiting(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many vCPUs live here, whether they may run or not.
    pub fn members(&self) -> usize {
        self.ready.slots()
    }

    /// How many vCPUs wait or run here.
    pub fn load(&self) -> usize {
        self.ready.len() + usize::from(self.running.is_some())
    }

    fn put_share(&mut self, slot: Slot, share: Share) -> Result<(), Errno> {
        match self.shares.get_mut(slot.index()) {
            Some(old) => *old = share,
            None => {
                self.shares.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                self.shares.push(share);
            }
        }
        Ok(())
    }

    /// Changes a vCPU's weight.
    pub fn set_weight(&mut self, slot: Slot, weight: u16) {
        if let Some(share) = self.shares.get_mut(slot.index()) {
            share.weight = weight.max(1);
        }
    }

    /// A vCPU that may run again wants to. True: this CPU should choose again, because the vCPU comes before the
    /// running one. Harmless if it is queued or running already, or may not run after all.
    pub fn wake(&mut self, slot: Slot, now: u64) -> bool {
        self.enter(slot, SLEEPER_BONUS, now)
    }

    /// As [`CpuQueue::wake`]; the vCPU is at most `most_behind` behind the others.
    fn enter(&mut self, slot: Slot, most_behind: u64, now: u64) -> bool {
        let Some(unit) = self.ready.owner(slot) else { return false };
        let running = self.running;
        let is_parked = self.shares.get(slot.index()).is_some_and(|share| share.parked);
        let is_running = running.is_some_and(|(running, _)| running == slot);
        if is_running || is_parked || self.ready.key(slot).is_some() {
            return false;
        }
        if !unit.sched().may_run() {
            return false;
        }
        if self.alone {
            return self.wake_alone(slot, now);
        }
        let Some(share) = self.shares.get_mut(slot.index()) else { return false };
        share.time = share.time.max(self.floor.saturating_sub(most_behind));
        let time = share.time;
        self.ready.set(slot, time);
        unit.sched().enter(Runstate::Runnable, now);
        match running {
            None => true,
            Some((_, since)) => self.comes_first(time, now) && now >= since.saturating_add(LEAST_TURN),
        }
    }

    /// A vCPU may not run any more. True: it is the running one, and its CPU must choose again.
    pub fn sleep(&mut self, slot: Slot, now: u64) -> bool {
        if self.running.is_some_and(|(running, _)| running == slot) {
            return true;
        }
        if let Some(unit) = self.ready.owner(slot)
            && !unit.sched().may_run()
        {
            self.ready.take(slot);
            unit.sched().rest(now);
        }
        false
    }

    /// The running vCPU lets the next one go first (`SCHEDOP_yield`); then choose.
    pub fn give_way(&mut self, now: u64) {
        let Some((current, since)) = self.running.filter(|_| !self.alone) else { return };
        self.charge(current, since, now);
        self.running = Some((current, now));
        if let (Some((next, _)), Some(share)) = (self.ready.first(), self.shares.get_mut(current.index())) {
            share.time = share.time.max(next + 1);
        }
    }

    /// Chooses who runs from `now` on.
    pub fn pick(&mut self, now: u64) -> Pick<V> {
        if self.alone {
            return self.pick_alone(now);
        }
        let previous = self.running.take();
        if let Some((slot, since)) = previous {
            self.charge(slot, since, now);
            self.put_back(slot);
        }
        let renewal = if self.parked.is_empty() { None } else { self.renew_budgets(now) };
        let next = self.first_that_may_run(now);
        let renewal = if self.parked.is_empty() { renewal } else { self.renew_budgets(now) };
        if let (Some((slot, _)), Some(unit)) = (previous, previous.and_then(|(s, _)| self.ready.owner(s)))
            && next != Some(slot)
        {
            unit.sched().rest(now);
        }
        let Some(slot) = next else { return Pick { run: None, until: renewal } };
        self.running = Some((slot, now));
        self.raise_floor(slot);
        let run = self.ready.owner(slot);
        if let Some(unit) = run {
            unit.sched().enter(Runstate::Running, now);
        }
        let slice = if self.ready.is_empty() { None } else { Some(now.saturating_add(SLICE)) };
        let ends = [slice, renewal, self.budget_ends(slot, now)];
        Pick { run, until: ends.into_iter().flatten().min() }
    }

    /// The running vCPU's slot.
    pub fn running(&self) -> Option<Slot> {
        self.running.map(|(slot, _)| slot)
    }

    /// The slot of one of this CPU's vCPUs; `None` if it lives elsewhere by now.
    pub fn slot_of(&self, unit: &V) -> Option<Slot> {
        let (cpu, slot) = unit.sched().home()?;
        if cpu == self.cpu { self.ready.slot(slot) } else { None }
    }

    /// Takes the first of the queue that may run; the mechanism does not believe the queue.
    fn first_that_may_run(&mut self, now: u64) -> Option<Slot> {
        while let Some((_, slot)) = self.ready.first() {
            self.ready.take(slot);
            let Some(unit) = self.ready.owner(slot) else { continue };
            if !unit.sched().may_run() {
                unit.sched().rest(now);
            } else if !self.park(slot, now) {
                return Some(slot);
            }
        }
        None
    }

    fn put_back(&mut self, slot: Slot) {
        if let (Some(unit), Some(share)) = (self.ready.owner(slot), self.shares.get(slot.index()))
            && unit.sched().may_run()
        {
            self.ready.set(slot, share.time);
        }
    }

    /// A vCPU's virtual time if it has been running since `since`.
    fn time_at(&self, slot: Slot, since: u64, now: u64) -> u64 {
        let Some(share) = self.shares.get(slot.index()) else { return 0 };
        let ran = now.saturating_sub(since).min(REBASE / u64::from(u16::MAX));
        share.time + ran * u64::from(DEFAULT_WEIGHT) / u64::from(share.weight)
    }

    fn charge(&mut self, slot: Slot, since: u64, now: u64) {
        let time = self.time_at(slot, since, now);
        if let Some(share) = self.shares.get_mut(slot.index()) {
            share.time = time;
            if share.cap != 0 {
                share.left = share.left.saturating_sub(now.saturating_sub(since));
            }
        }
    }

    /// The chosen one is the furthest behind: the floor follows it.
    fn raise_floor(&mut self, slot: Slot) {
        let Some(share) = self.shares.get(slot.index()) else { return };
        self.floor = self.floor.max(share.time);
        if self.floor > REBASE {
            let by = self.floor;
            self.floor = 0;
            self.shares.iter_mut().for_each(|share| share.time = share.time.saturating_sub(by));
            self.ready.lower(by);
        }
    }
}

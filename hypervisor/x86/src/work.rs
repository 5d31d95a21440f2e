//! Work between a guest's exit and its return: timers, choosing who runs, idling.

use core::sync::atomic::{AtomicU64, Ordering};

use hv_core::mmu::{CpuSet, SharedCpuSet};
use hv_core::sched::{self, CpuQueue, Pick, Reasons, Unit, VcpuSched, moves, seen, worth_taking};
use hv_core::time::Slot;
use hv_pv::regs::Regs;
use hv_types::VcpuId;

use crate::dev::{time, tsc};
use crate::machine::Machine;
use crate::percpu::{Cpu, NEVER, OPEN, count_by, cpu_record, online, open, this_cpu, work};
use crate::vcpu::{Vcpu, current};
use crate::{alone, cpu, deliver, hub, ipi, life, parking, switch};

/// A vCPU's name in a CPU's queue.
#[derive(Clone, Copy)]
pub struct Runner(pub &'static Vcpu);

impl Unit for Runner {
    fn sched(&self) -> &VcpuSched {
        &self.0.sched
    }

    fn may_go_to(&self, cpu: u32) -> bool {
        self.0.cpu().is_none() && allowed(self.0).contains(cpu)
    }

    fn prefers(&self, cpu: u32) -> bool {
        self.0.soft_affinity.lock().contains(cpu)
    }
}

/// Where the vCPU may run now.
pub fn allowed(vcpu: &Vcpu) -> CpuSet {
    sched::allowed(&vcpu.affinity.lock(), &OPEN.snapshot())
}

/// CPUs that idle.
static IDLE: SharedCpuSet = SharedCpuSet::new();

/// Who does nothing and who does something, for a vCPU that has woken.
struct Idlers {
    idle: CpuSet,
    busy: CpuSet,
    /// Where the vCPU may run, and where it likes to.
    hard: CpuSet,
    soft: CpuSet,
}

impl Idlers {
    /// Nothing if no CPU idles.
    fn look(vcpu: &Vcpu) -> Option<Idlers> {
        let idle = IDLE.snapshot();
        if idle.is_empty() {
            return None;
        }
        let open = OPEN.snapshot();
        let hard = sched::allowed(&vcpu.affinity.lock(), &open);
        let soft = hard.intersection(&vcpu.soft_affinity.lock());
        Some(Idlers { idle, busy: open.without(&idle), hard, soft })
    }

    /// An idle CPU on which the vCPU may run, rather one that it likes, and of these the best for one that ran at `home`.
    fn cpu(&self, home: &Cpu) -> Option<&'static Cpu> {
        let near = home.neighbours.cache();
        let best_of = |may| sched::idle_cpu(&self.idle, &self.busy, may, &near, siblings);
        cpu_record(best_of(&self.soft).or_else(|| best_of(&self.hard))? as usize)
    }

    /// A better CPU than `home`, which is idle but one thread of several.
    fn core(&self, home: &Cpu) -> Option<&'static Cpu> {
        let may = if self.soft.contains(home.id) { &self.soft } else { &self.hard };
        let near = home.neighbours.cache();
        cpu_record(sched::idle_core(home.id, &self.idle, &self.busy, may, &near, siblings)? as usize)
    }
}

fn siblings(cpu: u32) -> CpuSet {
    cpu_record(cpu as usize).map_or(CpuSet::EMPTY, |cpu| cpu.neighbours.core())
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

/// The CPU where the vCPU waits, runs or sleeps, which may be another one as soon as this returns; `None`: it is gone.
pub fn home(vcpu: &'static Vcpu) -> Option<&'static Cpu> {
    moves::home(&Machine, Runner(vcpu))
}

/// Works on the queue that the vCPU is in, wherever it has gone meanwhile; `None`: it is in none any more.
pub fn at_home<R>(
    vcpu: &'static Vcpu,
    f: impl FnMut(&'static Cpu, &mut CpuQueue<Runner>, Slot) -> R,
) -> Option<R> {
    moves::at_home(&Machine, Runner(vcpu), f)
}

impl moves::Cpus for Machine {
    type Unit = Runner;
    type Cpu = &'static Cpu;

    #[inline(always)]
    fn cpu(&self, number: u32) -> Option<&'static Cpu> {
        cpu_record(number as usize)
    }

    #[inline(always)]
    fn number(&self, cpu: &'static Cpu) -> u32 {
        cpu.id
    }

    #[inline(always)]
    fn with_queue<R>(&self, cpu: &'static Cpu, f: impl FnOnce(&mut CpuQueue<Runner>) -> R) -> R {
        with_queue(cpu, f)
    }

    fn with_both<R>(
        &self,
        one: &'static Cpu,
        other: &'static Cpu,
        f: impl FnOnce(&mut CpuQueue<Runner>, &mut CpuQueue<Runner>) -> R,
    ) -> R {
        with_both(one, other, f)
    }

    fn is_saved(&self, Runner(vcpu): Runner) -> bool {
        vcpu.cpu().is_none()
    }

    fn relax(&self) {
        core::hint::spin_loop();
    }

    fn allowed(&self, Runner(vcpu): Runner) -> CpuSet {
        allowed(vcpu)
    }

    fn open_one_of(&self, allowed: &CpuSet) -> Option<&'static Cpu> {
        alone::free_one_of(allowed).or_else(|| open().find(|cpu| allowed.contains(cpu.id)))
    }

    fn choose_again(&self, cpu: &'static Cpu) {
        ipi::raise(cpu, work::SCHEDULE);
    }

    fn wake(&self, Runner(vcpu): Runner) {
        wake(vcpu);
    }

    fn has_moved(&self, Runner(vcpu): Runner, allowed: &CpuSet) {
        if vcpu.affinity.lock().intersection(allowed).is_empty() {
            let dom = vcpu.domain.id.0;
            log::warn!("d{dom}v{}: no CPU of its affinity is online; it runs on others", vcpu.id);
        }
    }

    fn now(&self) -> u64 {
        time::now()
    }
}

/// The vCPU's last reason not to run is gone: it is queued, and a CPU told.
pub fn wake(vcpu: &'static Vcpu) {
    let woken = at_home(vcpu, |home, queue, slot| {
        queue.follow(FURTHEST.load(Ordering::Relaxed));
        let now = time::now();
        let comes_first = queue.wake(slot, now);
        (home, comes_first, queue.running().is_some(), queue.soon(slot, now), queue.is_spare(slot))
    });
    let Some((home, comes_first, busy, soon, is_spare)) = woken else { return };
    if alone::is_on() {
        if is_spare {
            alone::call_for(vcpu);
        } else if comes_first {
            ipi::raise(home, work::SCHEDULE);
        }
        return;
    }
    if !busy && home.neighbours.has_siblings() && move_to_idle_core(vcpu, home) {
        return;
    }
    let idle = if busy { Idlers::look(vcpu).and_then(|idlers| idlers.cpu(home)) } else { None };
    match idle {
        Some(idle) if idle.id != home.id => {
            ipi::raise(idle, work::SCHEDULE);
            // It may come too early, while the vCPU is still being saved here, and go back to sleep.
            end_slice_by(home, None);
        }
        _ if comes_first => ipi::raise(home, work::SCHEDULE),
        // The one that runs must have an end.
        _ => end_slice_by(home, soon),
    }
}

/// Moves a vCPU that has woken where nobody runs to an idle core, if there is one that is better; false if it stays.
fn move_to_idle_core(vcpu: &'static Vcpu, home: &'static Cpu) -> bool {
    let Some(core) = Idlers::look(vcpu).and_then(|idlers| idlers.core(home)) else { return false };
    let moved = with_both(home, core, |theirs, its| {
        let slot = theirs.slot_of(&Runner(vcpu)).filter(|_| Runner(vcpu).may_go_to(core.id))?;
        its.follow(FURTHEST.load(Ordering::Relaxed));
        theirs.give(slot, its, time::now())
    });
    if moved.is_some() {
        ipi::raise(core, work::SCHEDULE);
    }
    moved.is_some()
}

/// Lets the slice of a CPU that others wait for end at `soon` at the latest, or at all.
fn end_slice_by(cpu: &Cpu, soon: Option<u64>) {
    let before = match soon {
        Some(soon) => cpu.slice.fetch_min(soon, Ordering::AcqRel),
        None => cpu.slice.load(Ordering::Acquire),
    };
    if before == NEVER || soon.is_some_and(|soon| soon < before) {
        ipi::raise(cpu, work::TIMER);
    }
}

/// The vCPU may not run any more: its CPU lets go of it.
pub fn stop(vcpu: &'static Vcpu) {
    moves::stop(&Machine, Runner(vcpu));
}

/// The vCPU may not be where its affinity lets it: then it moves, at once or soon.
pub fn settle(vcpu: &'static Vcpu) {
    moves::settle(&Machine, Runner(vcpu));
}

/// A vCPU that lives on a CPU, one that does not run if there is such a one.
pub fn anybody(cpu: &Cpu) -> Option<&'static Vcpu> {
    with_queue(cpu, |queue| queue.anybody()).map(|Runner(vcpu)| vcpu)
}

/// Sends a vCPU away from a CPU that is not open. False: it is not away yet.
pub fn send_away(vcpu: &'static Vcpu, from: &Cpu) -> bool {
    settle(vcpu);
    home(vcpu).is_none_or(|home| home.id != from.id)
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
        // Before choosing, which may take as long as this CPU idles.
        serve(cpu, bits);
        if bits & work::CLOCK != 0 {
            hub::write_clock(current());
        }
        if bits & work::CHOOSE != 0 {
            choose(cpu, regs, bits & (work::SLICE | work::BALANCE) != 0);
        }
        if bits & work::SLICE != 0 {
            nudge(cpu);
        }
    }
}

/// Does of what was raised that which is the same whether a vCPU runs here or none.
#[inline]
fn serve(cpu: &Cpu, bits: u32) {
    if bits & work::PASS != 0 {
        life::pass(cpu);
    }
    if bits & work::TIMER != 0 {
        hub::run_timers();
    }
    if bits & (work::NMI | work::MEET) != 0 {
        serve_rarities(cpu, bits);
    }
}

#[cold]
fn serve_rarities(cpu: &Cpu, bits: u32) {
    if bits & work::NMI != 0 {
        log::warn!("CPU {}: NMI at {:#x}", cpu.id, cpu.strange_nmi.load(Ordering::Relaxed));
    }
    if bits & work::MEET != 0 {
        tsc::attend();
    }
}

/// Puts the vCPU that comes first on this CPU; with none, idles until there is one.
fn choose(cpu: &'static Cpu, regs: &mut Regs, balance: bool) {
    // SAFETY: a vCPU that a CPU names is not freed.
    let before = unsafe { cpu.current.load(Ordering::Relaxed).as_ref() };
    let pick = pick(cpu, balance);
    if let (Some(before), Some(Runner(next))) = (before, pick.run)
        && core::ptr::eq(before, next)
    {
        return went_on(regs, next);
    }
    if let Some(before) = before {
        switch::save(regs, before);
        moves::was_saved(&Machine, Runner(before));
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

/// The furthest that a CPU's virtual time has come, as of the ends of slices: where an idle CPU goes on from.
static FURTHEST: AtomicU64 = AtomicU64::new(0);

/// Works on a CPU's queue, and shows the others afterwards who waits there.
pub fn with_queue<R>(cpu: &Cpu, f: impl FnOnce(&mut CpuQueue<Runner>) -> R) -> R {
    let mut queue = cpu.queue.lock();
    let result = f(&mut queue);
    if alone::is_on() {
        // Nobody is to be taken for being behind.
        alone::note(cpu, &queue);
    } else {
        cpu.front.store(queue.front().unwrap_or(NEVER), Ordering::Release);
    }
    result
}

/// The next vCPU of this CPU's queue, or one that waits elsewhere and is further behind. `balance`: look for such a one although
/// somebody waits here.
fn pick(cpu: &'static Cpu, balance: bool) -> Pick<Runner> {
    let now = time::now();
    if balance {
        let own = with_queue(cpu, |queue| queue.next_time(now));
        take_one(cpu, own, now);
    }
    let mut pick = with_queue(cpu, |queue| queue.pick(now));
    if pick.run.is_none() && take_any(cpu, now) {
        pick = with_queue(cpu, |queue| queue.pick(now));
    }
    let slice = pick.until.unwrap_or(NEVER);
    if cpu.slice.swap(slice, Ordering::AcqRel) > slice {
        hub::arm_timer();
    }
    pick
}

/// Takes the waiting vCPU that is furthest behind, as [`seen`] from here, from its CPU, if it is further behind than `own`; or, with
/// nothing of its own to run, any.
fn take_one(cpu: &'static Cpu, own: Option<u64>, now: u64) -> bool {
    let front = |other: &Cpu| seen(other.front.load(Ordering::Acquire), cpu.neighbours.share_cache(other));
    let worth =
        |other: &&'static Cpu| other.id != cpu.id && front(other) != NEVER && worth_taking(own, front(other));
    if let Some(first) = online().filter(worth).min_by_key(|other| front(other))
        && take_from(cpu, first, now).is_some()
    {
        return true;
    }
    // Who comes first elsewhere may not come here.
    own.is_none() && online().filter(worth).any(|other| take_from(cpu, other, now).is_some())
}

/// Takes somebody who waits elsewhere, for a CPU that has nothing to do.
fn take_any(cpu: &'static Cpu, now: u64) -> bool {
    if alone::is_on() { alone::take_one(cpu, now) } else { take_one(cpu, None, now) }
}

/// Takes the vCPU that comes first of those that wait on a CPU and may come.
pub fn take_from(cpu: &'static Cpu, victim: &'static Cpu, now: u64) -> Option<Runner> {
    with_both(victim, cpu, |theirs, mine| theirs.give_one(mine, now))
}

/// Works on the queues of two CPUs, which are locked in the order of the CPUs' numbers.
fn with_both<R>(
    one: &Cpu,
    other: &Cpu,
    f: impl FnOnce(&mut CpuQueue<Runner>, &mut CpuQueue<Runner>) -> R,
) -> R {
    if one.id < other.id {
        with_queue(one, |one| with_queue(other, |other| f(one, other)))
    } else {
        with_queue(other, |other| with_queue(one, |one| f(one, other)))
    }
}

/// A slice has ended here and others wait: a CPU where nobody does looks whether it ought to take one.
fn nudge(cpu: &'static Cpu) {
    if cpu.front.load(Ordering::Acquire) == NEVER {
        return;
    }
    FURTHEST.fetch_max(cpu.queue.lock().floor(), Ordering::AcqRel);
    let last = cpu.nudged.load(Ordering::Relaxed);
    let free = |other: &&'static Cpu| other.id != cpu.id && other.front.load(Ordering::Acquire) == NEVER;
    let next = open().filter(free).find(|other| other.id > last).or_else(|| open().find(free));
    if let Some(next) = next {
        cpu.nudged.store(next.id, Ordering::Relaxed);
        ipi::raise(next, work::BALANCE);
    }
}

/// Halts until there is something to run.
fn idle(cpu: &'static Cpu) -> &'static Vcpu {
    let mut start = time::now();
    switch::rest(cpu);
    let next = loop {
        IDLE.insert(cpu.id);
        if let Some(Runner(next)) = pick(cpu, false).run {
            break next;
        }
        if parking::is_wanted(cpu) {
            IDLE.remove(cpu.id);
            count_by(&cpu.idle_ns, time::now().saturating_sub(start));
            parking::park(cpu);
            start = time::now();
            continue;
        }
        wait_for_work(cpu);
    };
    IDLE.remove(cpu.id);
    count_by(&cpu.idle_ns, time::now().saturating_sub(start));
    next
}

/// Halts until this CPU is asked to choose again.
fn wait_for_work(cpu: &Cpu) {
    loop {
        let bits = cpu.work.swap(0, Ordering::AcqRel);
        serve(cpu, bits);
        if (bits | cpu.work.load(Ordering::Acquire)) & work::CHOOSE != 0 {
            return;
        }
        if bits == 0 {
            // SAFETY: this CPU idles.
            unsafe { cpu::wait_for_interrupt() };
        }
    }
}

/// The life of a CPU that has not run a vCPU yet: waits for one, and answers it loaded.
pub fn first(cpu: &'static Cpu) -> &'static Vcpu {
    let next = idle(cpu);
    take(cpu, next, true);
    next
}

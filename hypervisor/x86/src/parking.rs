//! CPUs that go offline at run time and come back.
//!
//! Whoever asks drives the change, a step each time the call is issued again; nobody waits. A CPU that goes offline is closed
//! first: no vCPU comes to it any more, and those that live there are moved. Then its timers go to other CPUs, then its device
//! interrupts, and it has a while to take those that were on their way. Up to here it can be undone, but for
//! interrupts that have gone elsewhere, which stay there. At last it parks, which
//! it does by itself where it idles: it lets go of the guest that it ran last, so that neither flushes nor rounds need it, and halts
//! with all interrupts blocked but the one that wakes it. NMIs still arrive, and are answered.
//!
//! An affinity that names no CPU that is open is suspended, not changed ([`hv_core::sched::allowed`]); so it is in force again with
//! the first such CPU that comes back, and a change that does not succeed leaves nothing behind.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use guest_abi::Errno;
use guest_abi::xen::VIRQ_PCPU_STATE;
use hv_types::DomId;
use spin::Mutex;

use crate::dev::{apic, irq, time, tsc};
use crate::machine::Machine;
use crate::percpu::{Cpu, MAX_CPUS, NEVER, OPEN, cpu_record, this_cpu, work};
use crate::{alone, cpu, domain, hub, ipi, life, tlb, watchdog, work as cpu_work};

/// Values of [`Parking`].
mod state {
    /// It takes part.
    pub const NO: u32 = 0;
    /// It is to park.
    pub const ASKED: u32 = 1;
    /// It is about to be parked, or about to take part again.
    pub const BETWEEN: u32 = 2;
    /// It is parked.
    pub const PARKED: u32 = 3;
    /// It has never come up.
    pub const ABSENT: u32 = 4;
}

/// Whether a CPU is parked, or is to be.
pub struct Parking(AtomicU32);

impl Parking {
    /// It has not come up yet.
    pub const fn absent() -> Self {
        Parking(AtomicU32::new(state::ABSENT))
    }

    /// It has come up, and takes part.
    pub fn come_up(&self) {
        self.set(state::NO);
    }

    fn is(&self, state: u32) -> bool {
        self.0.load(Ordering::SeqCst) == state
    }

    fn set(&self, state: u32) {
        self.0.store(state, Ordering::SeqCst);
    }

    /// From one state to another; false if it is in another one.
    fn go(&self, from: u32, to: u32) -> bool {
        self.0.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// For how long a CPU takes interrupts that were on their way when its lines went elsewhere, in ns.
const STRAGGLERS: u64 = 1_000_000;
/// After how long a CPU that does not come to park is left online, in ns.
const PATIENCE: u64 = 10_000_000_000;

/// What is to be done next.
#[derive(Clone, Copy)]
enum Step {
    /// Its vCPUs, its timers and then its interrupts go elsewhere.
    Empty,
    /// It takes what was on its way until this system time.
    Stragglers(u64),
    /// It parks.
    Park,
    /// It comes back.
    Wake,
    /// vCPUs whose affinity is in force again go where it lets them: those of domains from this place of the table on.
    Settle(usize),
}

/// A CPU on its way.
struct Change {
    cpu: &'static Cpu,
    /// Where it goes: online, unless offline.
    online: bool,
    step: Step,
    /// When it began.
    since: u64,
    /// It is being undone.
    failed: bool,
}

/// `selftest=stay` was asked for.
pub static STAYS: AtomicBool = AtomicBool::new(false);

/// The change that is under way; tried and never waited for.
static CHANGE: Mutex<Option<Change>> = Mutex::new(None);

/// True if the CPU has ever come up. One word says so: of two, one may be from before it came back, and the other from after.
fn is_present(cpu: &Cpu) -> bool {
    !cpu.parking.is(state::ABSENT)
}

/// The CPU of that number, if it has ever come up.
pub fn find(number: u32) -> Option<&'static Cpu> {
    cpu_record(number as usize).filter(|cpu| is_present(cpu))
}

/// The CPUs that have ever come up, in the order of their numbers.
pub fn present() -> impl Iterator<Item = &'static Cpu> {
    (0..MAX_CPUS).map_while(cpu_record).filter(|cpu| is_present(cpu))
}

/// Takes a CPU offline or brings it back, as far as that goes now. False: not yet, so ask again. `EINVAL`: there is no such CPU;
/// `EBUSY`: somebody wants the opposite, or what is on the CPU cannot go elsewhere, and it stays online.
pub fn request(number: u32, online: bool) -> Result<bool, Errno> {
    let cpu = find(number).ok_or(Errno::EINVAL)?;
    let Some(mut change) = CHANGE.try_lock() else { return Ok(false) };
    if change.is_none() {
        if is_there(cpu, online) {
            return Ok(true);
        }
        // Whoever asks must not lose his own CPU for good.
        if !online && !alone::can_spare(cpu) {
            return Err(Errno::EBUSY);
        }
        *change = Some(begin(cpu, online));
    }
    let Some(under_way) = change.as_mut() else { return Ok(false) };
    // Another CPU's change is driven to its end first, lest it never ends because its caller is gone.
    let own = core::ptr::eq(under_way.cpu, cpu);
    if own && under_way.online != online {
        return Err(Errno::EBUSY);
    }
    if !advance(under_way) {
        return Ok(false);
    }
    let failed = under_way.failed;
    *change = None;
    if own && failed { Err(Errno::EBUSY) } else { Ok(own) }
}

/// True if the CPU is where it shall go.
fn is_there(cpu: &Cpu, online: bool) -> bool {
    if online { OPEN.contains(cpu.id) } else { cpu.parking.is(state::PARKED) }
}

fn begin(cpu: &'static Cpu, online: bool) -> Change {
    let step = if online {
        cpu.parking.set(state::BETWEEN);
        ipi::raise(cpu, work::SCHEDULE);
        Step::Wake
    } else {
        set_open(cpu, false);
        Step::Empty
    };
    Change { cpu, online, step, since: time::now(), failed: false }
}

/// Lets vCPUs and interrupts come to a CPU, or no more of them.
pub fn set_open(cpu: &Cpu, open: bool) {
    cpu_work::with_queue(cpu, |queue| {
        if open {
            OPEN.insert(cpu.id)
        } else {
            OPEN.remove(cpu.id)
        }
        queue.set_open(open);
    });
}

/// True once the change has come to its end, good or bad.
fn advance(change: &mut Change) -> bool {
    let cpu = change.cpu;
    match change.step {
        Step::Empty => match send_all_away(cpu) {
            true => {
                irq::move_all(cpu.apic_id, first_cpu().apic_id);
                change.step = Step::Stragglers(time::now() + STRAGGLERS);
            }
            false if is_late(change) => undo(change),
            false => {}
        },
        Step::Stragglers(until) if time::now() >= until => {
            cpu.parking.set(state::ASKED);
            ipi::raise(cpu, work::SCHEDULE);
            change.step = Step::Park;
        }
        Step::Stragglers(_) => {}
        Step::Park if cpu.parking.is(state::PARKED) => {
            tell_dom0(cpu, "offline");
            return true;
        }
        Step::Park if is_late(change) && cpu.parking.go(state::ASKED, state::NO) => {
            undo(change);
        }
        Step::Park => {}
        Step::Wake if OPEN.contains(cpu.id) => change.step = Step::Settle(0),
        Step::Wake => {}
        Step::Settle(from) => match settle_from(from) {
            Some(next) => change.step = Step::Settle(next),
            None => {
                if !change.failed {
                    tell_dom0(cpu, "online");
                }
                return true;
            }
        },
    }
    false
}

fn is_late(change: &Change) -> bool {
    time::now().saturating_sub(change.since) > PATIENCE
}

/// The CPU stays, because it is stuck, or because there is no memory for its vCPUs and timers elsewhere. What was on it may come
/// back.
fn undo(change: &mut Change) {
    log::warn!("CPU {} cannot go offline", change.cpu.id);
    set_open(change.cpu, true);
    change.failed = true;
    change.step = Step::Settle(0);
}

/// Tells dom0, and the log, that a CPU is offline or online by now.
fn tell_dom0(cpu: &Cpu, how: &str) {
    log::info!("CPU {} is {how}", cpu.id);
    if let Some(dom0) = domain::find(DomId::DOM0) {
        dom0.events.send_global_virq(&Machine, VIRQ_PCPU_STATE);
    }
}

/// The CPU that is always there.
fn first_cpu() -> &'static Cpu {
    cpu_record(0).unwrap_or(this_cpu())
}

/// Sends a closed CPU's vCPUs and timers to others. False: some are not off it yet.
fn send_all_away(cpu: &'static Cpu) -> bool {
    while let Some(vcpu) = cpu_work::anybody(cpu) {
        if !cpu_work::send_away(vcpu, cpu) || this_cpu().slice_is_over() {
            return false;
        }
    }
    // No vCPU runs here any more, so that none brings its timers here.
    hub::send_timers_away(cpu, first_cpu())
}

/// Moves the vCPUs that are not where they may be, of the domains from a place of the table on; the place to go on from, if time is
/// up.
fn settle_from(from: usize) -> Option<usize> {
    for place in from..domain::MAX_DOMAINS {
        domain::at(place).iter().flat_map(|domain| domain.vcpus()).for_each(|vcpu| cpu_work::settle(vcpu));
        if this_cpu().slice_is_over() {
            return Some(place + 1);
        }
    }
    None
}

/// True if this CPU, which idles, is to park.
#[inline]
pub fn is_wanted(cpu: &Cpu) -> bool {
    cpu.parking.is(state::ASKED) && !(cpu.id == 1 && STAYS.load(Ordering::Relaxed))
}

/// Halts until this CPU is asked to come back. Called where it idles, on the hypervisor's own tables, with nobody in its queue.
#[cold]
pub fn park(cpu: &'static Cpu) {
    if !cpu.parking.go(state::ASKED, state::BETWEEN) {
        return;
    }
    forget_guest(cpu);
    cpu.slice.store(NEVER, Ordering::Release);
    cpu.next_look.store(NEVER, Ordering::Release);
    apic::disarm_timer();
    apic::block_devices(true);
    cpu.online.store(false, Ordering::SeqCst);
    cpu.parking.set(state::PARKED);
    loop {
        // Bits that stay set would keep the next sender from waking us.
        cpu.work.store(0, Ordering::SeqCst);
        if !cpu.parking.is(state::PARKED) {
            break;
        }
        // SAFETY: this CPU idles.
        unsafe { cpu::wait_for_interrupt() };
    }
    come_back(cpu);
}

/// Neither flushes nor the ends of domains concern this CPU from here on.
fn forget_guest(cpu: &Cpu) {
    tlb::flush_this_cpu();
    // SAFETY: a vCPU that a CPU names is not freed.
    let last = unsafe { cpu.current.load(Ordering::Relaxed).as_ref() };
    if let Some(last) = last {
        last.domain.memory.dirty.remove(cpu.id);
    }
    cpu.current.store(null_mut(), Ordering::Release);
}

fn come_back(cpu: &'static Cpu) {
    tsc::come(cpu, true);
    watchdog::begin(cpu, time::now());
    cpu.online.store(true, Ordering::SeqCst);
    // Who took a translation away before it saw this CPU online counts on this flush.
    tlb::flush_this_cpu();
    // Rounds that began without this CPU do not wait for it.
    life::pass(cpu);
    apic::block_devices(false);
    cpu.parking.set(state::NO);
    set_open(cpu, true);
    cpu_work::raise(work::TIMER);
}

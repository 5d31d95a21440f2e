//! Domains come and go.
//!
//! A domain's record and its vCPUs are ordinary memory, and references to them are `'static` only for as long as they may be used
//! (I-LF-1): a CPU keeps none across its return to a guest or its halt, except to the vCPU that it runs, the vCPUs in its
//! queue, and the one that it ran last. So what is taken out of the table of domains, out of the queues and out of the CPUs'
//! records can be freed once every CPU has passed such a point. A *round* is that: every CPU is asked by an interrupt, which
//! none takes inside the hypervisor.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use guest_abi::Errno;
use hv_core::control::{NewDomain, Refusal, Stop};
use hv_core::domain::{Numbers, Stage};
use hv_core::event::Limits;
use hv_core::frame::Share;
use hv_core::mmu::{Caller, VcpuMmu};
use hv_core::pirq::Pirqs;
use hv_core::sched::Reasons;
use hv_types::{DomId, Mfn};
use spin::Mutex;

use crate::dev::time;
use crate::domain::{self, Domain};
use crate::machine::Machine;
use crate::mem::{self, PAGE};
use crate::paging::{Area, HEAP, mmu};
use crate::percpu::{Cpu, cpu_record, online, open, this_cpu, work};
use crate::vcpu::Vcpu;
use crate::work::Runner;
use crate::{host, hub, ipi};

/// vCPUs a domain can have: as many as its descriptor windows.
pub const MAX_VCPUS: u32 = 128;

/// Rounds asked for so far.
static ROUND: AtomicU64 = AtomicU64::new(0);

/// Asks every CPU to say when it uses nothing any more that it found before. This one too: who asks whether the round is over
/// may have moved to another by then.
fn begin_round() -> u64 {
    let round = ROUND.fetch_add(1, Ordering::SeqCst) + 1;
    online().for_each(|cpu| ipi::raise(cpu, work::PASS));
    round
}

/// This CPU is between two guests' entries, or idles.
pub fn pass(cpu: &Cpu) {
    cpu.passed.store(ROUND.load(Ordering::SeqCst), Ordering::SeqCst);
}

/// True if all have said so, but for this CPU, which knows what it uses.
fn round_is_over(round: u64) -> bool {
    online().all(|cpu| cpu.id == this_cpu().id || cpu.passed.load(Ordering::SeqCst) >= round)
}

/// How far the destruction of a domain came.
#[derive(Default)]
pub struct Teardown {
    step: Step,
    /// The round that is waited for.
    round: u64,
    /// The next frame to look at.
    cursor: u64,
    /// For tables whose release was interrupted.
    mmu: VcpuMmu,
}

/// What is to be done next.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Step {
    /// Its vCPUs leave their CPUs.
    #[default]
    Stop,
    /// Every CPU forgets them.
    Forget,
    /// Their tables go, then what they had mapped, then their events.
    Release,
    /// Its frames go.
    Relinquish,
    /// Nothing.
    Done,
}

/// Puts what is made on the heap for as long as it is needed; `None` without memory, and then nothing was made.
fn keep<T>(make: impl FnOnce() -> Option<T>) -> Option<&'static T> {
    let mut one = Vec::new();
    one.try_reserve_exact(1).ok()?;
    one.push(make()?);
    Vec::leak(one).first()
}

/// Frees what [`keep`] gave.
///
/// # Safety
/// Nobody uses it any more (I-LF-1).
unsafe fn free<T>(value: &'static T) {
    let at = core::ptr::from_ref(value).cast_mut();
    // SAFETY: `keep` made it as a vector of one; the caller's duty for the rest.
    drop(unsafe { Vec::from_raw_parts(at, 1, 1) });
}

/// Numbers for domains; held while one is created.
static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers::new());

/// Makes a domain: paused, without vCPUs and memory.
pub fn create(new: &NewDomain) -> Result<DomId, Refusal> {
    let mut numbers = NUMBERS.lock();
    let dom = match new.dom {
        Some(dom) if !domain::has_place(dom) => {
            return Err(Refusal::new(
                Errno::EEXIST,
                "there is a domain of that number, or its place is taken",
            ));
        }
        Some(dom) => dom,
        None => numbers
            .choose(domain::has_place)
            .ok_or(Refusal::new(Errno::ENOSPC, "there are as many domains as there can be"))?,
    };
    let shared = mem::take_frame().ok_or(Refusal::NO_MEMORY)?;
    let made =
        Area::new().ok_or(Refusal::NO_MEMORY).and_then(|area| record(dom, Mfn(shared / PAGE), area, new));
    let domain = made.inspect_err(|_| give_back(shared))?;
    if !mmu().frames.share(domain.shared_info, dom, Share::Writable) || !domain::register(domain) {
        domain.area.release(give_back);
        mmu().unshare(domain.shared_info);
        // SAFETY: nobody has heard of it.
        unsafe { free(domain) };
        return Err(Refusal::NO_MEMORY);
    }
    host::write_wall_clock_of(domain);
    Ok(dom)
}

fn record(dom: DomId, shared: Mfn, area: Area, new: &NewDomain) -> Result<&'static Domain, Refusal> {
    let limits = Limits {
        vcpus: new.max_vcpus as u16,
        // A port is a number from 1 on.
        max_port: new.max_evtchns.unwrap_or(u32::MAX),
        pirqs: 0,
    };
    let made = keep(|| Domain::new(dom, false, shared, area, Pirqs::new(), limits, new.handle).ok());
    let made = made.ok_or(Refusal::NO_MEMORY)?;
    made.memory.max_pages.store(new.max_pages, Ordering::Relaxed);
    made.memory.max_vcpus.store(new.max_vcpus, Ordering::Relaxed);
    let ready = made.memory.track(mmu().frames.len() as u64);
    let ready = ready.and_then(|()| made.grants.set_limits(new.max_grant_frames, new.max_maptrack));
    if let Err(errno) = ready {
        made.area.release(give_back);
        // SAFETY: nobody has heard of it.
        unsafe { free(made) };
        return Err(errno.into());
    }
    Ok(made)
}

/// Gives back a frame of [`mem::take_frame`].
fn give_back(address: u64) {
    use hv_core::mmu::port::Tlb;
    HEAP.free_own(mmu().frames, Mfn(address / PAGE), Machine.clock());
}

/// Gives a domain its vCPUs, all down; once.
pub fn make_vcpus(domain: &'static Domain, count: u32) -> Result<(), Refusal> {
    let Some(_held) = domain.control.try_lock() else { return Err(Refusal::new(Errno::EBUSY, BUSY)) };
    if domain.life.is_dying() {
        return Err(Refusal::DYING);
    }
    let most = u32::from(domain.events.max_vcpus());
    if !(1..=most).contains(&count) {
        return Err(Refusal::new(Errno::EINVAL, "the domain was created for another number of vCPUs"));
    }
    match domain.vcpus().len() as u32 {
        0 => {}
        have if have == count => return Ok(()),
        _ => return Err(Refusal::new(Errno::EEXIST, "the domain has its vCPUs already")),
    }
    let mut vcpus: Vec<&'static Vcpu> = Vec::new();
    vcpus.try_reserve_exact(count as usize).map_err(|_| Refusal::NO_MEMORY)?;
    for id in 0..count as u16 {
        match make_vcpu(domain, id) {
            Some(vcpu) => vcpus.push(vcpu),
            None => {
                for vcpu in vcpus {
                    leave_queues(vcpu);
                    // SAFETY: it is in no queue any more, and was in no list.
                    unsafe { free_vcpu(vcpu) };
                }
                return Err(Refusal::NO_MEMORY);
            }
        }
    }
    apply_share(domain, &vcpus);
    domain.set_vcpus(Vec::leak(vcpus));
    Ok(())
}

/// Gives a domain's vCPUs its weight, and each its part of the cap.
pub fn apply_share(domain: &Domain, vcpus: &[&'static Vcpu]) {
    let weight = domain.weight.load(Ordering::Relaxed) as u16;
    // A cap that leaves each a whole CPU is none, which is what a hundred per cent says.
    let percent = match domain.cap.load(Ordering::Relaxed) {
        0 => 100,
        cap => (cap / vcpus.len().max(1) as u32).max(1),
    };
    for vcpu in vcpus {
        crate::work::at_home(vcpu, |_, queue, slot| {
            queue.set_weight(slot, weight);
            queue.set_cap(slot, percent, time::now());
        });
    }
}

const BUSY: &str = "another CPU is changing the domain at this moment";

/// One vCPU, in the queue of the CPU that has the fewest.
fn make_vcpu(domain: &'static Domain, id: u16) -> Option<&'static Vcpu> {
    loop {
        let home = open().min_by_key(|cpu| cpu.queue.lock().members())?;
        match make_vcpu_at(home, domain, id) {
            // It has been closed meanwhile, and is no longer among the open ones.
            Err(Errno::EAGAIN) => {}
            made => return made.ok(),
        }
    }
}

fn make_vcpu_at(home: &Cpu, domain: &'static Domain, id: u16) -> Result<&'static Vcpu, Errno> {
    let vcpu = keep(|| Vcpu::new(id, domain, home)).ok_or(Errno::ENOMEM)?;
    if domain.life.is_paused() {
        vcpu.sched.hold(Reasons::PAUSED);
    }
    let weight = domain.weight.load(Ordering::Relaxed) as u16;
    // The lock is given back before the vCPU leaves what it is in.
    let added = home.queue.lock().add(Runner(vcpu), weight, time::now());
    if let Err(errno) = added {
        leave_queues(vcpu);
        // SAFETY: nobody has heard of it.
        unsafe { free_vcpu(vcpu) };
        return Err(errno);
    }
    Ok(vcpu)
}

/// Takes a vCPU that no CPU runs out of queues and records.
fn leave_queues(vcpu: &'static Vcpu) {
    crate::work::at_home(vcpu, |_, queue, slot| queue.remove(slot));
    {
        let timers = vcpu.timers.lock();
        if let Some(cpu) = cpu_record(timers.cpu as usize) {
            timers.set.remove(&mut cpu.timers.lock());
        }
    }
    let own = core::ptr::from_ref(vcpu).cast_mut();
    for cpu in online() {
        let null = core::ptr::null_mut();
        let _ = cpu.current.compare_exchange(own, null, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// # Safety
/// Nobody uses the vCPU any more (I-LF-1).
unsafe fn free_vcpu(vcpu: &'static Vcpu) {
    if let Some(page) = vcpu.spare_info {
        give_back(page);
    }
    // SAFETY: the caller's duty.
    unsafe { free(vcpu) };
}

/// Holds a domain's vCPUs or lets them go. [`Stop::Again`]: one of them is still on its CPU.
pub fn set_paused(domain: &'static Domain, paused: bool) -> Result<(), Stop> {
    let _held = domain.control.try_lock().ok_or(Stop::Again)?;
    if domain.life.is_dying() {
        return Err(Refusal::DYING.into());
    }
    domain.life.set_paused(paused);
    for vcpu in domain.vcpus() {
        if paused {
            vcpu.sched.hold(Reasons::PAUSED);
            crate::work::stop(vcpu);
        } else if vcpu.sched.release(Reasons::PAUSED) {
            crate::work::wake(vcpu);
        }
    }
    if paused && !are_off_their_cpus(domain) { Err(Stop::Again) } else { Ok(()) }
}

/// True if no CPU has registers of the domain's vCPUs that it has not saved, or is about to load them.
fn are_off_their_cpus(domain: &Domain) -> bool {
    domain.vcpus().iter().all(|vcpu| is_off_its_cpu(vcpu))
}

/// True if no CPU has the vCPU's registers, and none has chosen it. Of a vCPU that is held, it remains so.
pub fn is_off_its_cpu(vcpu: &'static Vcpu) -> bool {
    let runs = crate::work::at_home(vcpu, |_, queue, slot| queue.running() == Some(slot));
    runs != Some(true) && vcpu.cpu().is_none()
}

/// Destroys a domain as far as it goes in the time of a call; pages that others hold at the end.
pub fn destroy(domain: &'static Domain) -> Result<u64, Stop> {
    let mut teardown = domain.control.try_lock().ok_or(Stop::Again)?;
    if domain.life.begin_to_die() {
        domain.memory.dying.store(true, Ordering::SeqCst);
        HEAP.close(&domain.memory.claim);
        DYING.fetch_add(1, Ordering::Relaxed);
    }
    while teardown.step != Step::Done {
        teardown.step = advance(domain, &mut teardown)?;
    }
    drop(teardown);
    let held = domain.memory.pages();
    bury_the_dead();
    Ok(held)
}

/// One step of the destruction; the next one.
fn advance(domain: &'static Domain, teardown: &mut Teardown) -> Result<Step, Stop> {
    match teardown.step {
        Step::Stop => {
            for vcpu in domain.vcpus() {
                vcpu.sched.hold(Reasons::SHUTDOWN);
                crate::work::stop(vcpu);
            }
            if !are_off_their_cpus(domain) {
                return Err(Stop::Again);
            }
            domain.vcpus().iter().for_each(|vcpu| leave_queues(vcpu));
            if let Some((dogs, cpu)) = domain.watchdogs.lock().take()
                && let Some(cpu) = cpu_record(cpu as usize)
            {
                dogs.remove(&mut cpu.timers.lock());
            }
            // A CPU that has saved a vCPU may still be on its tables.
            teardown.round = begin_round();
            Ok(Step::Forget)
        }
        Step::Forget if round_is_over(teardown.round) => Ok(Step::Release),
        Step::Forget => Err(Stop::Again),
        Step::Release => {
            release(domain).map_err(|Interrupted| Stop::Again)?;
            Ok(Step::Relinquish)
        }
        Step::Relinquish => {
            let caller = Caller { domain: &domain.memory, vcpu: &teardown.mmu };
            mmu().relinquish(&caller, &mut teardown.cursor).map_err(|_| Stop::Again)?;
            domain.area.release(give_back);
            domain.life.emptied();
            hub::tell_dom0();
            Ok(Step::Done)
        }
        Step::Done => Ok(Step::Done),
    }
}

struct Interrupted;

impl From<hv_core::mmu::Preempted> for Interrupted {
    fn from(_: hv_core::mmu::Preempted) -> Self {
        Interrupted
    }
}

/// All but its frames. Each part may be done again.
fn release(domain: &'static Domain) -> Result<(), Interrupted> {
    let m = mmu();
    for vcpu in domain.vcpus() {
        m.release_vcpu(&Caller { domain: &domain.memory, vcpu: &vcpu.mmu })?;
    }
    domain.grants.unmap_all(m)?;
    domain.grants.release(m);
    if !domain.events.destroy(&Machine) {
        return Err(Interrupted);
    }
    let eoi_map = domain.pirqs.lock().take_eoi_map();
    if let Some(map) = eoi_map {
        m.unpin_writable(map.frame);
    }
    m.unshare(domain.shared_info);
    Ok(())
}

/// Records that nobody finds any more, and the round after which they can be freed.
static GRAVES: Mutex<ArrayVec<(&'static Domain, u64), 32>> = Mutex::new(ArrayVec::new_const());

/// Domains that are dying, zombies, or in their graves.
static DYING: AtomicU64 = AtomicU64::new(0);

/// Takes zombies of which nobody holds anything any more out of the table, and frees what nobody can use.
pub fn bury_the_dead() {
    if DYING.load(Ordering::Relaxed) == 0 {
        return;
    }
    let Some(mut graves) = GRAVES.try_lock() else { return };
    for domain in domain::all() {
        let gone =
            domain.life.stage() == Stage::Zombie && domain.memory.pages() == 0 && !domain.grants.is_used();
        if gone && !graves.is_full() {
            domain::forget(domain);
            graves.push((domain, begin_round()));
            hub::tell_dom0();
        }
    }
    while let Some(at) = graves.iter().position(|(_, round)| round_is_over(*round)) {
        let (domain, _) = graves.swap_remove(at);
        free_domain(domain);
        DYING.fetch_sub(1, Ordering::Relaxed);
    }
}

fn free_domain(domain: &'static Domain) {
    let vcpus = domain.vcpus();
    for vcpu in vcpus {
        // SAFETY: the domain's round is over, and the vCPU left all queues before.
        unsafe { free_vcpu(vcpu) };
    }
    if !vcpus.is_empty() {
        let list = vcpus.as_ptr().cast_mut();
        // SAFETY: `make_vcpus` leaked it as a vector with exactly this many places.
        drop(unsafe { Vec::from_raw_parts(list, vcpus.len(), vcpus.len()) });
    }
    // SAFETY: the round is over: no CPU has a reference, and none can get one.
    unsafe { free(domain) };
}

//! A machine for these tests: a domain with one CPU, and the few words of guests' memory that the tests touch.

use crate::event::{DomainEvents, Domains, FramePin, Limits, Pirqs, Preempt, Wake};
use crate::port::{Fault, GuestSpace, Memory};
use crate::sched::{CpuQueue, Reasons, SchedCaller, SchedPorts, Shutdown, Unit, VcpuSched};
use crate::sync;
use crate::time::Slot;
use core::sync::atomic::Ordering::{Acquire, Release, SeqCst};
use guest_abi::Errno;
use guest_abi::xen::{shared_offset, vcpu_offset};
use hv_types::{DomId, Gfn, GuestVa, Mfn, Pirq, Port, VcpuId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// A thread's share of the machine.
pub type Shared = Arc<World>;

/// The domain's shared page.
pub const SHARED: Mfn = Mfn(1);
/// Where its FIFO control blocks are, a frame for each vCPU, and behind them its event array.
pub const CONTROL: u64 = 32;
pub const ARRAY: u64 = 40;

/// vCPUs of the domain.
pub const VCPUS: u16 = 2;

/// A vCPU, by name.
#[derive(Clone, Copy)]
pub struct Name(&'static VcpuSched);

impl Unit for Name {
    fn sched(&self) -> &VcpuSched {
        self.0
    }

    fn may_go_to(&self, _: u32) -> bool {
        true
    }

    fn prefers(&self, _: u32) -> bool {
        false
    }
}

pub struct World {
    words: BTreeMap<(u64, usize), sync::AtomicU64>,
    bytes: BTreeMap<(u64, usize), sync::AtomicU8>,
    /// Frames that the hypervisor may write, of those that guests lend it.
    pins: Mutex<BTreeMap<u64, u32>>,
    pub events: DomainEvents,
    shutdown: Shutdown,
    /// vCPU 0.
    pub sched: &'static VcpuSched,
    pub queue: sync::Mutex<CpuQueue<Name>>,
    slot: Slot,
}

impl World {
    /// vCPU 0 runs.
    pub fn new() -> Shared {
        let info = |vcpu: usize| shared_offset::vcpu_info(vcpu);
        let mut words =
            vec![(SHARED.0, shared_offset::EVTCHN_PENDING), (SHARED.0, shared_offset::EVTCHN_MASK)];
        let mut bytes = Vec::new();
        for vcpu in 0..usize::from(VCPUS) {
            words.push((SHARED.0, info(vcpu) + vcpu_offset::PENDING_SEL));
            bytes.extend(
                [vcpu_offset::UPCALL_PENDING, vcpu_offset::UPCALL_MASK].map(|at| (SHARED.0, info(vcpu) + at)),
            );
            words.extend((0..72).step_by(8).map(|byte| (CONTROL + vcpu as u64, byte)));
        }
        words.extend((0..32).step_by(8).map(|byte| (ARRAY, byte)));
        let limits = Limits { vcpus: VCPUS, max_port: 5, pirqs: 0 };
        // Names are copied and outlive a run, as a machine's do.
        let sched: &'static VcpuSched = Box::leak(Box::new(VcpuSched::new(Reasons::empty(), 0)));
        let mut queue = CpuQueue::new(0);
        let slot = queue.add(Name(sched), 256, 0).unwrap();
        queue.pick(0);
        Arc::new(World {
            words: words.into_iter().map(|place| (place, sync::AtomicU64::new(0))).collect(),
            bytes: bytes.into_iter().map(|place| (place, sync::AtomicU8::new(0))).collect(),
            pins: Mutex::default(),
            events: DomainEvents::new(DomId(1), SHARED, limits).unwrap(),
            shutdown: Shutdown::new(),
            sched,
            queue: sync::Mutex::new(queue),
            slot,
        })
    }

    /// As [`World::new`], with FIFO events; the event array comes later.
    pub fn with_fifo() -> Shared {
        let world = World::new();
        for vcpu in 0..VCPUS {
            world.events.init_control(&*world, VcpuId(vcpu), Gfn(CONTROL + u64::from(vcpu)), 0).unwrap();
        }
        world
    }

    pub fn with_array() -> Shared {
        let world = World::with_fifo();
        world.events.expand_array(&*world, Gfn(ARRAY)).unwrap();
        world
    }

    pub fn caller(&self) -> SchedCaller<'_> {
        SchedCaller {
            events: &self.events,
            vcpu: VcpuId(0),
            sched: self.sched,
            shutdown: &self.shutdown,
            privileged: false,
        }
    }

    /// A connection of the domain with itself: both ends on vCPU 0, and nothing pending.
    pub fn loop_back(&self) -> (Port, Port) {
        let here = self.events.alloc_unbound(self, DomId(1)).unwrap();
        let there = self.events.bind_interdomain(self, DomId(1), here).unwrap();
        if !self.events.is_fifo() {
            let _ = self.fetch_and64(SHARED, shared_offset::EVTCHN_PENDING / 8, 0);
        }
        (here, there)
    }

    /// Another CPU says that vCPU 0 may not run any more. Its own chooses at the end of what it does.
    pub fn stop(&self) {
        self.queue.lock().sleep(self.slot, 1);
    }

    /// Another CPU says that it may run again.
    pub fn wake(&self) {
        self.queue.lock().wake(self.slot, 1);
    }

    /// True if vCPU 0 runs, or does as soon as its CPU chooses.
    pub fn goes_on(&self) -> bool {
        self.queue.lock().pick(1).run.is_some()
    }

    fn word(&self, mfn: Mfn, index: usize) -> &sync::AtomicU64 {
        let lent = mfn == SHARED || self.pins.lock().unwrap().contains_key(&mfn.0);
        assert!(lent, "frame {} is used after it was given back", mfn.0);
        self.words.get(&(mfn.0, index * 8)).unwrap_or_else(|| panic!("word {index} of frame {}", mfn.0))
    }

    fn byte(&self, mfn: Mfn, offset: usize) -> &sync::AtomicU8 {
        self.bytes.get(&(mfn.0, offset)).unwrap_or_else(|| panic!("byte {offset} of frame {}", mfn.0))
    }
}

/// What an x86 does: a load acquires, a store releases, and what reads and writes at once is a barrier.
impl Memory for World {
    fn load64(&self, mfn: Mfn, index: usize) -> u64 {
        self.word(mfn, index).load(Acquire)
    }
    fn store64(&self, mfn: Mfn, index: usize, value: u64) {
        self.word(mfn, index).store(value, Release);
    }
    fn swap64(&self, mfn: Mfn, index: usize, value: u64) -> u64 {
        self.word(mfn, index).swap(value, SeqCst)
    }
    fn compare_exchange64(&self, mfn: Mfn, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        self.word(mfn, index).compare_exchange(old, new, SeqCst, SeqCst)
    }
    fn fetch_or64(&self, mfn: Mfn, index: usize, bits: u64) -> u64 {
        self.word(mfn, index).fetch_or(bits, SeqCst)
    }
    fn fetch_and64(&self, mfn: Mfn, index: usize, bits: u64) -> u64 {
        self.word(mfn, index).fetch_and(bits, SeqCst)
    }
    fn load32(&self, mfn: Mfn, index: usize) -> u32 {
        (self.load64(mfn, index / 2) >> (index % 2 * 32)) as u32
    }
    fn store32(&self, mfn: Mfn, index: usize, value: u32) {
        while self.compare_exchange32(mfn, index, self.load32(mfn, index), value).is_err() {}
    }
    fn compare_exchange32(&self, mfn: Mfn, index: usize, old: u32, new: u32) -> Result<u32, u32> {
        let shift = index % 2 * 32;
        loop {
            let word = self.load64(mfn, index / 2);
            let now = (word >> shift) as u32;
            if now != old {
                return Err(now);
            }
            let next = word & !(0xffff_ffff << shift) | u64::from(new) << shift;
            if self.compare_exchange64(mfn, index / 2, word, next).is_ok() {
                return Ok(old);
            }
        }
    }
    fn load8(&self, mfn: Mfn, offset: usize) -> u8 {
        self.byte(mfn, offset).load(Acquire)
    }
    fn store8(&self, mfn: Mfn, offset: usize, value: u8) {
        self.byte(mfn, offset).store(value, Release);
    }
    fn swap8(&self, mfn: Mfn, offset: usize, value: u8) -> u8 {
        self.byte(mfn, offset).swap(value, SeqCst)
    }
    fn zero(&self, mfn: Mfn) {
        unreachable!("frame {} is zeroed", mfn.0)
    }
}

impl Wake for World {
    fn notify(&self, _: DomId, vcpu: VcpuId) {
        if vcpu == VcpuId(0) && self.sched.release(Reasons::BLOCKED) {
            self.wake();
        }
    }

    fn unblock(&self, dom: DomId, vcpu: VcpuId) {
        self.notify(dom, vcpu);
    }
}

impl FramePin for World {
    fn pin(&self, _: DomId, gfn: Gfn) -> Result<Mfn, Errno> {
        *self.pins.lock().unwrap().entry(gfn.0).or_default() += 1;
        Ok(Mfn(gfn.0))
    }

    fn unpin(&self, _: DomId, mfn: Mfn) {
        assert_eq!(self.pins.lock().unwrap().remove(&mfn.0), Some(1));
    }
}

impl Pirqs for World {
    fn permitted(&self, _: DomId, _: Pirq) -> bool {
        false
    }
    fn bind(&self, _: DomId, _: Pirq, _: bool) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    fn unbind(&self, _: DomId, _: Pirq) {}
    fn set_affinity(&self, _: DomId, _: Pirq, _: VcpuId) {}
}

impl Domains for World {
    type Handle<'a> = &'a DomainEvents;

    fn events(&self, dom: DomId) -> Option<&DomainEvents> {
        (dom == self.events.dom()).then_some(&self.events)
    }

    fn is_paused(&self, _: DomId) -> bool {
        false
    }
}

impl Preempt for World {
    fn wanted(&self) -> bool {
        false
    }
}

impl SchedPorts for World {
    fn reschedule(&self) {
        self.queue.lock().pick(1);
    }
    fn give_way(&self) {
        self.queue.lock().give_way(1);
    }
    fn start_poll_timer(&self, _: u64) {}
    fn shut_down(&self, _: DomId, _: u8) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    fn set_watchdog(&self, _: u32, _: u32) -> Result<i64, Errno> {
        Err(Errno::EPERM)
    }
}

/// A guest's memory of a few bytes, from address 0 on.
pub struct Bytes(pub Vec<u8>);

impl GuestSpace for Bytes {
    fn read(&self, from: GuestVa, into: &mut [u8]) -> Result<(), Fault> {
        let bytes = self.0.get(from.0 as usize..).and_then(|rest| rest.get(..into.len())).ok_or(Fault)?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    fn write(&self, _: GuestVa, _: &[u8]) -> Result<(), Fault> {
        Err(Fault)
    }
}

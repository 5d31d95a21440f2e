//! A machine for tests: frames of words, a guest's linear memory, and a record of who was woken.

use crate::call::CallError;
use crate::event::{DomainEvents, Domains, FramePin, Limits, Pirqs, Preempt, Wake};
use crate::frame::{Frame, FrameTable};
use crate::grant::{GrantPorts, GrantTable};
use crate::heap::Heap;
use crate::memory_op::{MemoryMap, MemoryPorts};
use crate::mmu::port::{Registers, Tlb};
use crate::mmu::{CpuSet, DomainMemory, Mmu, RangeSet, VcpuMmu};
use crate::port::{Fault, GuestSpace, Memory};
use crate::sched::{Reasons, SchedPorts, VcpuSched};
use crate::vcpu::VcpuPorts;
use guest_abi::Errno;
use guest_abi::memory::E820Entry;
use hv_types::{DomId, Gfn, GuestVa, Mfn, Pirq, VcpuId};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// Frames of machine memory, zeroed.
pub struct Frames {
    words: Vec<Vec<AtomicU64>>,
    /// The next write of bits to this frame takes its time: it says so and then waits.
    pub slow: AtomicU64,
    /// Such a write is waiting.
    pub waiting: AtomicBool,
}

impl Frames {
    pub fn new(count: usize) -> Self {
        Frames {
            words: (0..count).map(|_| (0..512).map(|_| AtomicU64::new(0)).collect()).collect(),
            slow: AtomicU64::new(u64::MAX),
            waiting: AtomicBool::new(false),
        }
    }

    fn word(&self, mfn: Mfn, index: usize) -> &AtomicU64 {
        &self.words[mfn.0 as usize][index % 512]
    }

    fn update(&self, mfn: Mfn, byte: usize, bits: usize, value: u64) -> u64 {
        let (shift, mask) = (byte % 8 * 8, ((1u128 << bits) - 1) as u64);
        let old = self
            .word(mfn, byte % 4096 / 8)
            .fetch_update(SeqCst, SeqCst, |w| Some(w & !(mask << shift) | (value & mask) << shift))
            .unwrap();
        old >> shift & mask
    }
}

impl Memory for Frames {
    fn load64(&self, mfn: Mfn, index: usize) -> u64 {
        self.word(mfn, index).load(SeqCst)
    }
    fn store64(&self, mfn: Mfn, index: usize, value: u64) {
        self.word(mfn, index).store(value, SeqCst);
    }
    fn swap64(&self, mfn: Mfn, index: usize, value: u64) -> u64 {
        self.word(mfn, index).swap(value, SeqCst)
    }
    fn compare_exchange64(&self, mfn: Mfn, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        self.word(mfn, index).compare_exchange(old, new, SeqCst, SeqCst)
    }
    fn fetch_or64(&self, mfn: Mfn, index: usize, bits: u64) -> u64 {
        if self.slow.compare_exchange(mfn.0, u64::MAX, SeqCst, SeqCst).is_ok() {
            self.waiting.store(true, SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        self.word(mfn, index).fetch_or(bits, SeqCst)
    }
    fn fetch_and64(&self, mfn: Mfn, index: usize, bits: u64) -> u64 {
        self.word(mfn, index).fetch_and(bits, SeqCst)
    }
    fn load32(&self, mfn: Mfn, index: usize) -> u32 {
        (self.load64(mfn, index % 1024 / 2) >> (index % 2 * 32)) as u32
    }
    fn store32(&self, mfn: Mfn, index: usize, value: u32) {
        self.update(mfn, index * 4, 32, value.into());
    }
    fn compare_exchange32(&self, mfn: Mfn, index: usize, old: u32, new: u32) -> Result<u32, u32> {
        let shift = index % 2 * 32;
        let exchange = |word: u64| {
            ((word >> shift) as u32 == old)
                .then_some(word & !(0xffff_ffff << shift) | u64::from(new) << shift)
        };
        self.word(mfn, index % 1024 / 2)
            .fetch_update(SeqCst, SeqCst, exchange)
            .map(|_| old)
            .map_err(|word| (word >> shift) as u32)
    }
    fn load8(&self, mfn: Mfn, offset: usize) -> u8 {
        (self.load64(mfn, offset % 4096 / 8) >> (offset % 8 * 8)) as u8
    }
    fn store8(&self, mfn: Mfn, offset: usize, value: u8) {
        self.update(mfn, offset, 8, value.into());
    }
    fn swap8(&self, mfn: Mfn, offset: usize, value: u8) -> u8 {
        self.update(mfn, offset, 8, value.into()) as u8
    }
    fn zero(&self, mfn: Mfn) {
        (0..512).for_each(|index| self.store64(mfn, index, 0));
    }
}

/// A guest's linear memory from [`Guest::BASE`] on.
pub struct Guest(pub RefCell<Vec<u8>>);

impl Guest {
    pub const BASE: u64 = 0x10_0000;

    pub fn new(len: usize) -> Self {
        Guest(RefCell::new(vec![0; len]))
    }

    fn range(&self, at: GuestVa, len: usize) -> Result<core::ops::Range<usize>, Fault> {
        let start = at.0.checked_sub(Self::BASE).ok_or(Fault)? as usize;
        let end = start.checked_add(len).ok_or(Fault)?;
        if end <= self.0.borrow().len() { Ok(start..end) } else { Err(Fault) }
    }
}

impl GuestSpace for Guest {
    fn read(&self, from: GuestVa, into: &mut [u8]) -> Result<(), Fault> {
        into.copy_from_slice(&self.0.borrow()[self.range(from, into.len())?]);
        Ok(())
    }
    fn write(&self, to: GuestVa, from: &[u8]) -> Result<(), Fault> {
        let range = self.range(to, from.len())?;
        self.0.borrow_mut()[range].copy_from_slice(from);
        Ok(())
    }
}

/// A machine with some domains. Domain `n`'s shared page is frame `n`; a domain may pin frames 32 to 127, except
/// 66 (a page table, say).
pub struct World {
    pub frames: Frames,
    pub doms: Vec<DomainEvents>,
    pub notified: Mutex<Vec<(DomId, VcpuId)>>,
    pub unblocked: Mutex<Vec<(DomId, VcpuId)>>,
    pub pins: Mutex<BTreeMap<u64, usize>>,
    pub bound_pirqs: Mutex<Vec<(DomId, Pirq)>>,
    pub hurry: AtomicBool,
    pub zero_when_unpinned: AtomicBool,
    pub log: Mutex<Vec<String>>,
    /// The vCPUs of domain 0: only the first one is up.
    pub scheds: Vec<VcpuSched>,
}

impl World {
    pub fn new(domains: u16, vcpus: u16) -> Self {
        let limits = Limits { vcpus, max_port: u32::MAX, pirqs: 64 };
        World {
            frames: Frames::new(128),
            doms: (0..domains).map(|n| DomainEvents::new(DomId(n), Mfn(n.into()), limits).unwrap()).collect(),
            notified: Mutex::default(),
            unblocked: Mutex::default(),
            pins: Mutex::default(),
            bound_pirqs: Mutex::default(),
            hurry: AtomicBool::new(false),
            zero_when_unpinned: AtomicBool::new(false),
            log: Mutex::default(),
            scheds: (0..vcpus)
                .map(|n| VcpuSched::new(if n == 0 { Reasons::empty() } else { Reasons::DOWN }, 0))
                .collect(),
        }
    }

    pub fn take_notified(&self) -> Vec<(u16, u16)> {
        core::mem::take(&mut *self.notified.lock().unwrap()).iter().map(|(d, v)| (d.0, v.0)).collect()
    }

    pub fn say(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }

    pub fn take_log(&self) -> Vec<String> {
        core::mem::take(&mut *self.log.lock().unwrap())
    }

    pub fn pinned(&self) -> usize {
        self.pins.lock().unwrap().values().sum()
    }
}

/// Makes a machine's memory that of its field `frames`.
macro_rules! memory_of_frames {
    ($machine:ty) => {
        impl $crate::port::Memory for $machine {
            fn load64(&self, mfn: Mfn, index: usize) -> u64 {
                self.frames.load64(mfn, index)
            }
            fn store64(&self, mfn: Mfn, index: usize, value: u64) {
                self.frames.store64(mfn, index, value);
            }
            fn swap64(&self, mfn: Mfn, index: usize, value: u64) -> u64 {
                self.frames.swap64(mfn, index, value)
            }
            fn compare_exchange64(&self, mfn: Mfn, index: usize, old: u64, new: u64) -> Result<u64, u64> {
                self.frames.compare_exchange64(mfn, index, old, new)
            }
            fn fetch_or64(&self, mfn: Mfn, index: usize, bits: u64) -> u64 {
                self.frames.fetch_or64(mfn, index, bits)
            }
            fn fetch_and64(&self, mfn: Mfn, index: usize, bits: u64) -> u64 {
                self.frames.fetch_and64(mfn, index, bits)
            }
            fn load32(&self, mfn: Mfn, index: usize) -> u32 {
                self.frames.load32(mfn, index)
            }
            fn store32(&self, mfn: Mfn, index: usize, value: u32) {
                self.frames.store32(mfn, index, value);
            }
            fn compare_exchange32(&self, mfn: Mfn, index: usize, old: u32, new: u32) -> Result<u32, u32> {
                self.frames.compare_exchange32(mfn, index, old, new)
            }
            fn load8(&self, mfn: Mfn, offset: usize) -> u8 {
                self.frames.load8(mfn, offset)
            }
            fn store8(&self, mfn: Mfn, offset: usize, value: u8) {
                self.frames.store8(mfn, offset, value);
            }
            fn swap8(&self, mfn: Mfn, offset: usize, value: u8) -> u8 {
                self.frames.swap8(mfn, offset, value)
            }
            fn zero(&self, mfn: Mfn) {
                self.frames.zero(mfn);
            }
        }
    };
}

memory_of_frames!(World);

impl Wake for World {
    fn notify(&self, dom: DomId, vcpu: VcpuId) {
        self.notified.lock().unwrap().push((dom, vcpu));
    }
    fn unblock(&self, dom: DomId, vcpu: VcpuId) {
        self.unblocked.lock().unwrap().push((dom, vcpu));
    }
}

/// A frame that is given back is zeroed, and must be zero still when it is next pinned: nobody wrote meanwhile.
impl FramePin for World {
    fn pin(&self, _: DomId, gfn: Gfn) -> Result<Mfn, Errno> {
        if !(32..128).contains(&gfn.0) || gfn.0 == 66 {
            return Err(Errno::EINVAL);
        }
        let mut pins = self.pins.lock().unwrap();
        let count = pins.entry(gfn.0).or_default();
        if *count == 0 && self.zero_when_unpinned.load(SeqCst) {
            let written = (0..512).any(|index| self.frames.load64(Mfn(gfn.0), index) != 0);
            assert!(!written, "frame {} was written after it was given back", gfn.0);
        }
        *count += 1;
        Ok(Mfn(gfn.0))
    }
    fn unpin(&self, _: DomId, mfn: Mfn) {
        let mut pins = self.pins.lock().unwrap();
        let count = pins.get_mut(&mfn.0).expect("unpinned a frame that was not pinned");
        *count = count.checked_sub(1).expect("unpinned a frame too often");
        if *count == 0 && self.zero_when_unpinned.load(SeqCst) {
            self.frames.zero(mfn);
        }
    }
}

impl Pirqs for World {
    fn permitted(&self, dom: DomId, pirq: Pirq) -> bool {
        dom == DomId::DOM0 && pirq.0 != 13
    }
    fn bind(&self, dom: DomId, pirq: Pirq, _: bool) -> Result<(), Errno> {
        if pirq.0 == 14 {
            return Err(Errno::EBUSY);
        }
        self.bound_pirqs.lock().unwrap().push((dom, pirq));
        Ok(())
    }
    fn unbind(&self, dom: DomId, pirq: Pirq) {
        self.bound_pirqs.lock().unwrap().retain(|bound| *bound != (dom, pirq));
    }
    fn set_affinity(&self, _: DomId, _: Pirq, _: VcpuId) {}
}

impl Domains for World {
    type Handle<'a> = &'a DomainEvents;
    fn events(&self, dom: DomId) -> Option<&DomainEvents> {
        self.doms.get(usize::from(dom.0))
    }
    fn is_paused(&self, _: DomId) -> bool {
        false
    }
}

impl Preempt for World {
    fn wanted(&self) -> bool {
        self.hurry.load(SeqCst)
    }
}

impl SchedPorts for World {
    fn reschedule(&self) {
        self.say("reschedule");
    }
    fn give_way(&self) {
        self.say("give way");
    }
    fn start_poll_timer(&self, deadline: u64) {
        self.say(format!("poll until {deadline}"));
    }
    fn shut_down(&self, dom: DomId, code: u8) -> Result<(), Errno> {
        self.say(format!("shut down {}: {code}", dom.0));
        Ok(())
    }
    fn set_watchdog(&self, id: u32, timeout: u32) -> Result<i64, Errno> {
        self.say(format!("watchdog {id}: {timeout}"));
        Ok(1)
    }
}

impl VcpuPorts for World {
    fn now(&self) -> u64 {
        1000
    }
    fn sched(&self, vcpu: VcpuId) -> Option<&VcpuSched> {
        self.scheds.get(usize::from(vcpu.0))
    }
    fn initialise(&self, vcpu: VcpuId, _: GuestVa) -> Result<(), CallError> {
        self.say(format!("initialise {}", vcpu.0));
        Ok(())
    }
    fn is_initialised(&self, vcpu: VcpuId) -> bool {
        vcpu.0 < 2
    }
    fn wake(&self, vcpu: VcpuId) {
        self.say(format!("wake {}", vcpu.0));
    }
    fn sleep(&self, vcpu: VcpuId) {
        self.say(format!("sleep {}", vcpu.0));
    }
    fn shut_down(&self, code: u8) -> Result<(), Errno> {
        self.say(format!("shut down: {code}"));
        Ok(())
    }
    fn set_singleshot(&self, deadline: Option<u64>) {
        self.say(format!("singleshot {deadline:?}"));
    }
    fn send_timer(&self) {
        self.say("send timer");
    }
    fn set_periodic(&self, vcpu: VcpuId, period: Option<u64>) -> Result<(), Errno> {
        self.say(format!("periodic {} {period:?}", vcpu.0));
        Ok(())
    }
    fn set_runstate_area(&self, vcpu: VcpuId, at: GuestVa) {
        self.say(format!("runstate {} {at}", vcpu.0));
    }
    fn set_time_area(&self, vcpu: VcpuId, at: GuestVa) {
        self.say(format!("time {} {at}", vcpu.0));
    }
    fn info_moved(&self, vcpu: VcpuId) {
        self.say(format!("moved {}", vcpu.0));
    }
    fn send_nmi(&self, vcpu: VcpuId) {
        self.say(format!("nmi {}", vcpu.0));
    }
    fn physical_id(&self, vcpu: VcpuId) -> Option<u64> {
        (vcpu.0 == 0).then_some(7 << 32)
    }
    fn marks_runstate(&self) -> bool {
        true
    }
}

/// A machine of [`Paged::FRAMES`] frames with a frame table, a heap and two domains: 0 (privileged) and 1. Frames
/// below 64 are the hypervisor's, frame 10 is domain 0's shared page.
pub struct Paged {
    pub frames: Frames,
    pub table: Vec<Frame>,
    pub heap: Heap,
    pub m2p: Vec<AtomicU64>,
    pub read_only_io: spin::Mutex<RangeSet>,
    pub doms: Vec<DomainMemory>,
    pub vcpu: VcpuMmu,
    pub maps: Vec<MemoryMap>,
    pub machine_map: Vec<E820Entry>,
    pub grants: Vec<GrantTable>,
    /// Questions whether to stop that are answered with no before the next yes.
    pub patience: AtomicU64,
}

memory_of_frames!(Paged);

impl Paged {
    pub const FRAMES: usize = 2048;

    pub fn new() -> Self {
        let paged = Paged {
            frames: Frames::new(Self::FRAMES),
            table: (0..Self::FRAMES).map(|_| Frame::default()).collect(),
            heap: Heap::new(),
            m2p: (0..Self::FRAMES).map(|_| AtomicU64::new(u64::MAX)).collect(),
            read_only_io: spin::Mutex::new(RangeSet::new()),
            doms: vec![DomainMemory::new(DomId(0), true), DomainMemory::new(DomId(1), false)],
            vcpu: VcpuMmu::new(),
            maps: vec![MemoryMap::new(), MemoryMap::new()],
            machine_map: Vec::new(),
            grants: vec![GrantTable::new(4).unwrap(), GrantTable::new(4).unwrap()],
            patience: AtomicU64::new(u64::MAX),
        };
        paged.doms.iter().for_each(|dom| dom.max_pages.store(1024, SeqCst));
        paged.doms.iter().for_each(|dom| dom.track(Self::FRAMES as u64).unwrap());
        paged.heap.add(FrameTable::new(&paged.table), Mfn(64), Mfn(Self::FRAMES as u64));
        paged
    }

    pub fn mmu(&self) -> Mmu<'_, Self> {
        Mmu {
            frames: FrameTable::new(&self.table),
            heap: &self.heap,
            m2p: &self.m2p,
            read_only_io: &self.read_only_io,
            port: self,
        }
    }
}

impl Tlb for Paged {
    fn clock(&self) -> u32 {
        1
    }
    fn flush_stale(&self, _: &CpuSet, _: u32) {}
    fn flush_local(&self) {}
    fn flush_page_local(&self, _: GuestVa) {}
    fn flush(&self, _: &CpuSet) {}
    fn flush_page(&self, _: &CpuSet, _: GuestVa) {}
    fn relax(&self) {}
}

impl Registers for Paged {
    fn load_root(&self, _: Mfn) {}
    fn forget_user_root(&self) {}
    fn reload_ldt(&self, _: u32) {}
    fn reload_gdt(&self) {}
    fn write_back_caches(&self, _: bool) {}
    fn should_preempt(&self) -> bool {
        self.patience.fetch_update(SeqCst, SeqCst, |left| Some(left.saturating_sub(1))) == Ok(0)
    }
}

impl crate::mmu::port::Domains for Paged {
    fn domain(&self, id: DomId) -> Option<&DomainMemory> {
        self.doms.get(usize::from(id.0))
    }
    fn dirty_cpu(&self, _: DomId, _: u32) -> Option<u32> {
        None
    }
    fn hypervisor_slots(&self, _: DomId) -> [u64; 16] {
        [0; 16]
    }
    fn check_descriptor(&self, descriptor: u64) -> Option<u64> {
        Some(descriptor)
    }
}

impl MemoryPorts for Paged {
    fn max_page(&self) -> u64 {
        Self::FRAMES as u64
    }
    fn machine_region(&self, index: usize) -> Option<E820Entry> {
        self.machine_map.get(index).copied()
    }
    fn m2p_extent(&self, index: u64) -> Option<Mfn> {
        (index == 0).then_some(Mfn(512))
    }
    fn memory_map(&self, dom: DomId) -> Option<&MemoryMap> {
        self.maps.get(usize::from(dom.0))
    }
    fn shared_info(&self, dom: DomId) -> Option<Mfn> {
        (dom.0 < 2).then_some(Mfn(10 + u64::from(dom.0)))
    }
}

impl GrantPorts for Paged {
    fn grants(&self, dom: DomId) -> Option<&GrantTable> {
        self.grants.get(usize::from(dom.0))
    }
}

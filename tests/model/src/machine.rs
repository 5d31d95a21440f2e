//! Memory, CPUs and TLBs.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use hv_core::mmu::clock::{FlushClock, may_be_stale};
use hv_core::mmu::port::{CpuSet, Domains, Registers, Tlb};
use hv_core::mmu::{DomainMemory, Pte};
use hv_core::port::{Fault, GuestSpace, Memory};
use hv_types::{DomId, GuestVa, Mfn};

/// What one CPU may have cached. It caches whatever it can reach, at every chance.
#[derive(Default)]
pub struct Cpu {
    /// Loaded root, 0 for none.
    pub root: u64,
    /// The vCPU's user root, which the CPU may switch to at any time.
    pub user_root: u64,
    /// Leaf translations: frame, writable.
    pub leaves: HashSet<(u64, bool)>,
    /// Paging-structure caches: table frame, level. The CPU walks on from these whatever they hold now.
    pub tables: HashSet<(u64, u32)>,
    /// Its last flush.
    pub flushed: u32,
}

thread_local! {
    /// The CPU that this thread is.
    static CURRENT: Cell<u32> = const { Cell::new(0) };
}

/// A machine of 4 KiB frames.
pub struct Sim {
    memory: Vec<Vec<AtomicU64>>,
    /// The CPUs.
    pub cpus: Mutex<Vec<Cpu>>,
    clock: FlushClock,
    /// The domains, by number.
    pub domains: Vec<DomainMemory>,
    /// Every question whether to stop is answered by the next bit; the pattern repeats.
    pub hurry: AtomicU64,
    /// Full flushes of a CPU so far.
    pub flushes: AtomicU32,
    /// Threads that act at the same time.
    pub threads: AtomicU32,
    /// Set to break the machine: flushes for a change of type are forgotten. The tests of the tests use it.
    pub forget_flushes: AtomicBool,
}

impl Sim {
    /// A machine without roots loaded.
    pub fn new(frames: usize, cpus: usize, domains: Vec<DomainMemory>) -> Self {
        Sim {
            memory: (0..frames).map(|_| (0..512).map(|_| AtomicU64::new(0)).collect()).collect(),
            cpus: Mutex::new((0..cpus).map(|_| Cpu::default()).collect()),
            clock: FlushClock::new(),
            domains,
            hurry: AtomicU64::new(0),
            flushes: AtomicU32::new(0),
            threads: AtomicU32::new(1),
            forget_flushes: AtomicBool::new(false),
        }
    }

    /// Makes this thread the CPU `cpu`.
    pub fn be(&self, cpu: usize) {
        CURRENT.set(cpu as u32);
    }

    fn word(&self, mfn: Mfn, index: usize) -> &AtomicU64 {
        &self.memory[mfn.0 as usize][index % 512]
    }

    /// Every CPU caches all it can reach.
    pub fn speculate(&self) {
        for cpu in self.cpus.lock().unwrap().iter_mut() {
            let mut todo: Vec<_> = cpu.tables.iter().copied().collect();
            todo.extend(
                [cpu.root, cpu.user_root].into_iter().filter(|&root| root != 0).map(|root| (root, 4)),
            );
            let mut seen = HashSet::new();
            while let Some((table, level)) = todo.pop() {
                if !seen.insert((table, level)) {
                    continue;
                }
                cpu.tables.insert((table, level));
                for index in (0..512).filter(|index| level != 4 || !(256..272).contains(index)) {
                    let entry = Pte(self.word(Mfn(table), index).load(SeqCst));
                    if !entry.is_present() || entry.mfn().0 as usize >= self.memory.len() {
                        continue;
                    }
                    if level == 1 {
                        cpu.leaves.insert((entry.mfn().0, entry.is_writable()));
                    } else {
                        todo.push((entry.mfn().0, level - 1));
                    }
                }
            }
        }
    }

    fn flush_cpu(&self, index: usize) {
        let (now, _) = self.clock.tick();
        {
            let mut cpus = self.cpus.lock().unwrap();
            let cpu = &mut cpus[index];
            cpu.flushed = now;
            cpu.leaves.clear();
            cpu.tables.clear();
        }
        self.flushes.fetch_add(1, SeqCst);
        self.speculate();
    }

    fn flush_where(&self, cpus: &CpuSet, stale: impl Fn(u32) -> bool) {
        let count = self.cpus.lock().unwrap().len();
        for index in (0..count).filter(|&index| cpus.contains(index as u32)) {
            let flushed = self.cpus.lock().unwrap()[index].flushed;
            if stale(flushed) {
                self.flush_cpu(index);
            }
        }
    }

    /// A copy of a frame's words.
    pub fn words(&self, mfn: Mfn) -> Vec<u64> {
        self.memory[mfn.0 as usize].iter().map(|word| word.load(SeqCst)).collect()
    }
}

impl Memory for Sim {
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
        self.word(mfn, index).fetch_or(bits, SeqCst)
    }
    fn fetch_and64(&self, mfn: Mfn, index: usize, bits: u64) -> u64 {
        self.word(mfn, index).fetch_and(bits, SeqCst)
    }
    fn load32(&self, mfn: Mfn, index: usize) -> u32 {
        (self.load64(mfn, index / 2) >> (index % 2 * 32)) as u32
    }
    fn store32(&self, mfn: Mfn, index: usize, value: u32) {
        let shift = index % 2 * 32;
        let keep = !(0xffff_ffff << shift);
        let set = |word| Some(word & keep | u64::from(value) << shift);
        self.word(mfn, index / 2).fetch_update(SeqCst, SeqCst, set).unwrap();
    }
    fn compare_exchange32(&self, mfn: Mfn, index: usize, old: u32, new: u32) -> Result<u32, u32> {
        let now = self.load32(mfn, index);
        if now != old {
            return Err(now);
        }
        self.store32(mfn, index, new);
        Ok(old)
    }
    fn load8(&self, mfn: Mfn, offset: usize) -> u8 {
        (self.load64(mfn, offset / 8) >> (offset % 8 * 8)) as u8
    }
    fn store8(&self, mfn: Mfn, offset: usize, value: u8) {
        self.swap8(mfn, offset, value);
    }
    fn swap8(&self, mfn: Mfn, offset: usize, value: u8) -> u8 {
        let shift = offset % 8 * 8;
        let set = |word| Some(word & !(0xff << shift) | u64::from(value) << shift);
        (self.word(mfn, offset / 8).fetch_update(SeqCst, SeqCst, set).unwrap() >> shift) as u8
    }
    fn zero(&self, mfn: Mfn) {
        (0..512).for_each(|index| self.store64(mfn, index, 0));
    }
}

impl Tlb for Sim {
    fn clock(&self) -> u32 {
        self.clock.now()
    }
    fn flush_stale(&self, cpus: &CpuSet, stamp: u32) {
        self.speculate();
        if !self.forget_flushes.load(SeqCst) {
            self.flush_where(cpus, |flushed| may_be_stale(flushed, stamp));
        }
    }
    fn flush_local(&self) {
        self.flush_cpu(CURRENT.get() as usize);
    }
    fn flush_page_local(&self, _va: GuestVa) {
        // This CPU caches the page again at once.
    }
    fn flush(&self, cpus: &CpuSet) {
        self.flush_where(cpus, |_| true);
    }
    fn flush_page(&self, _cpus: &CpuSet, _va: GuestVa) {}
    fn relax(&self) {
        assert!(self.threads.load(SeqCst) > 1, "one thread waits for itself");
        std::thread::yield_now();
    }
}

impl Registers for Sim {
    fn load_root(&self, root: Mfn) {
        let current = CURRENT.get() as usize;
        self.cpus.lock().unwrap()[current].root = root.0;
        self.flush_cpu(current);
    }
    fn forget_user_root(&self) {}
    fn reload_ldt(&self, _entries: u32) {}
    fn reload_gdt(&self) {}
    fn write_back_caches(&self, _every_cpu: bool) {}
    fn should_preempt(&self) -> bool {
        self.hurry.fetch_update(SeqCst, SeqCst, |bits| Some(bits.rotate_right(1))).unwrap() & 1 != 0
    }
}

impl Domains for Sim {
    fn domain(&self, id: DomId) -> Option<&DomainMemory> {
        self.domains.get(usize::from(id.0))
    }
    fn dirty_cpu(&self, domain: DomId, vcpu: u32) -> Option<u32> {
        (vcpu < 2).then_some(u32::from(domain.0) * 2 + vcpu)
    }
    fn hypervisor_slots(&self, domain: DomId) -> [u64; 16] {
        // Present entries that name a frame of the hypervisor, each a little different.
        core::array::from_fn(|slot| 1 << 12 | 0x63 | (slot as u64) << 52 | u64::from(domain.0) << 56)
    }
    fn check_descriptor(&self, descriptor: u64) -> Option<u64> {
        let (present, segment, dpl) = (1 << 47, 1 << 44, 3 << 45);
        match (descriptor & present != 0, descriptor & segment != 0) {
            (false, _) => Some(descriptor),
            (true, true) => Some(descriptor | dpl),
            (true, false) => None,
        }
    }
}

/// A guest's linear memory for call arguments.
pub struct Buffer(pub RefCell<Vec<u8>>);

impl Buffer {
    /// Where it begins.
    pub const BASE: GuestVa = GuestVa(0x10_0000);

    /// Memory that holds `words`.
    pub fn of(words: &[u64]) -> Self {
        Buffer(RefCell::new(words.iter().flat_map(|word| word.to_le_bytes()).collect()))
    }

    fn range(&self, at: GuestVa, len: usize) -> Result<core::ops::Range<usize>, Fault> {
        let start = at.0.checked_sub(Self::BASE.0).ok_or(Fault)? as usize;
        if start + len <= self.0.borrow().len() { Ok(start..start + len) } else { Err(Fault) }
    }
}

impl GuestSpace for Buffer {
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

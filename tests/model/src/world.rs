//! Domains that act, well or badly.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use guest_abi::Errno;
use guest_abi::xen::*;
use hv_core::call::CallError;
use hv_core::frame::{Frame, FrameTable};
use hv_core::heap::Heap;
use hv_core::mmu::{Caller, DomainMemory, EmulatedWrite, Mmu, Pte, RangeSet, VcpuMmu};
use hv_core::port::Memory;
use hv_types::{DomId, Gfn, GuestVa, Mfn};
use spin::Mutex;

use crate::{Buffer, Sim, oracle};

/// Frames of the machine; the first [`World::RESERVED`] are the hypervisor's and I/O space.
const FRAMES: usize = 96;

/// vCPUs a domain has; vCPU `v` of domain `d` runs on CPU `2 d + v`.
const VCPUS: usize = 2;

/// Frames each domain gets at the beginning.
pub const PAGES: u64 = 20;

/// A machine with three domains, of which the first is privileged.
pub struct World {
    /// The machine.
    pub sim: Sim,
    table: Vec<Frame>,
    m2p: Vec<AtomicU64>,
    /// Free memory.
    pub heap: Heap,
    read_only_io: Mutex<RangeSet>,
    /// The vCPUs.
    pub vcpus: Vec<VcpuMmu>,
}

/// Something that a vCPU does. Frame numbers are the machine's; nothing says that they are the vCPU's to name.
#[derive(Clone, Debug)]
pub enum Act {
    /// `mmu_update` with one request: command, frame and index of the entry, value, `foreigndom`.
    Update(u64, u64, usize, u64, u32),
    /// `update_va_mapping`.
    UpdateVa(u64, u64, u64),
    /// `update_va_mapping_otherdomain`.
    UpdateVaOther(u64, u64, u16),
    /// `mmuext_op` with one operation and `foreigndom`.
    Ext(u32, u64, u64, u32),
    /// A trapped store to a table: frame, byte offset, width, value.
    Trapped(u64, usize, usize, u64),
    /// A trapped compare-and-exchange with what is there.
    TrappedExchange(u64, usize, u64),
    /// `set_gdt` with one frame.
    SetGdt(u64),
    /// `update_descriptor`.
    Descriptor(u64, u64),
    /// A fault in the LDT.
    LdtFault(u64),
    /// A store through any writable translation that its CPU has.
    Store(usize, usize, u64),
    /// Gives a frame up.
    Release(u64),
    /// Asks for a frame more.
    Populate,
}

/// What came of an [`Act`].
pub type Answer = Result<u64, Errno>;

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Frames 0..8: the hypervisor's (0..4) and I/O space (4..8).
    pub const RESERVED: u64 = 8;

    /// Three domains with [`PAGES`] frames each and a root on every vCPU.
    pub fn new() -> Self {
        let domains = (0..3).map(|id| DomainMemory::new(DomId(id), id == 0)).collect();
        let world = World {
            sim: Sim::new(FRAMES, 3 * VCPUS, domains),
            table: (0..FRAMES).map(|_| Frame::default()).collect(),
            m2p: (0..FRAMES).map(|_| AtomicU64::new(0)).collect(),
            heap: Heap::new(),
            read_only_io: Mutex::new(RangeSet::new()),
            vcpus: (0..3 * VCPUS).map(|_| VcpuMmu::new()).collect(),
        };
        let mmu = world.mmu();
        (4..Self::RESERVED).for_each(|mfn| mmu.frames.mark_io(Mfn(mfn)));
        world.heap.add(mmu.frames, Mfn(Self::RESERVED), Mfn(FRAMES as u64));
        world.read_only_io.lock().insert(6, 6).unwrap();
        for domain in &world.sim.domains {
            domain.max_pages.store(PAGES + 4, SeqCst);
            domain.max_vcpus.store(VCPUS as u32, SeqCst);
            (0..PAGES).for_each(|_| _ = world.populate(domain).unwrap());
        }
        world.sim.domains[0].permit_io(Mfn(4), Mfn(6)).unwrap();
        (0..3).for_each(|id| world.build(DomId(id)));
        world
    }

    /// Owned frames of a domain, lowest first.
    pub fn frames_of(&self, id: DomId) -> Vec<Mfn> {
        let frames = self.frames();
        let live =
            |mfn: &Mfn| frames.peek(*mfn).is_some_and(|w| w.general() != 0) && frames.owner(*mfn) == id;
        (0..FRAMES as u64).map(Mfn).filter(live).collect()
    }

    /// The frame table.
    pub fn frames(&self) -> FrameTable<'_> {
        FrameTable::new(&self.table)
    }

    /// The code under test.
    pub fn mmu(&self) -> Mmu<'_, Sim> {
        let frames = self.frames();
        Mmu { frames, heap: &self.heap, m2p: &self.m2p, read_only_io: &self.read_only_io, port: &self.sim }
    }

    /// The machine-to-physical entry of a frame.
    pub fn m2p(&self, mfn: Mfn) -> u64 {
        self.m2p[mfn.0 as usize].load(SeqCst)
    }

    /// The vCPU on a CPU, as a caller.
    pub fn caller(&self, cpu: usize) -> Caller<'_> {
        Caller { domain: &self.sim.domains[cpu / VCPUS], vcpu: &self.vcpus[cpu] }
    }

    fn populate(&self, domain: &DomainMemory) -> Result<Mfn, Errno> {
        let fresh = self.heap.alloc(self.frames(), 0, 64).ok_or(Errno::ENOMEM)?;
        let block = fresh.make_safe(&self.sim, true);
        assert!(self.sim.words(block.mfn()).iter().all(|&word| word == 0), "I-FR-7: not scrubbed");
        let mfn = block.mfn();
        let assigned = self.mmu().assign(domain, block, |_| Some(Gfn(mfn.0 + 1000)));
        if assigned.is_ok() && self.sim.threads.load(SeqCst) == 1 {
            self.check().expect("a frame given out while somebody still sees it");
        }
        assigned
    }

    /// Writes the first tables of a domain raw, as a builder does, and types them by pinning.
    ///
    /// Its lowest four frames are the tables; the level-1 table maps all frames, tables read-only, and one other
    /// root for each vCPU is the same.
    fn build(&self, id: DomId) {
        let own = self.frames_of(id);
        let (l4, l3, l2, l1) = (own[0], own[1], own[2], own[3]);
        for (table, target) in [(l4, l3), (l3, l2), (l2, l1)] {
            self.sim.store64(table, 0, target.0 << 12 | 7);
        }
        for (index, mfn) in own.iter().enumerate().take(12) {
            let write = if index < 4 { 0 } else { Pte::WRITE };
            self.sim.store64(l1, index, mfn.0 << 12 | Pte::PRESENT | write);
        }
        for cpu in usize::from(id.0) * VCPUS..(usize::from(id.0) + 1) * VCPUS {
            let caller = self.caller(cpu);
            caller.domain.dirty.insert(cpu as u32);
            self.mmu().set_roots(&caller, l4, None).unwrap();
            self.sim.cpus.lock().unwrap()[cpu].root = l4.0;
        }
    }

    /// Asserts the invariants.
    pub fn check(&self) -> Result<(), String> {
        self.sim.speculate();
        oracle::check(&self.sim, self.frames(), self.vcpus.iter(), |cpu| DomId((cpu / VCPUS) as u16))
    }

    /// Performs an act of the vCPU on `cpu` to its end, again and again if it is interrupted.
    pub fn act(&self, cpu: usize, act: &Act) -> Answer {
        self.sim.be(cpu);
        let answer = self.act_once(cpu, act);
        self.sim.cpus.lock().unwrap()[cpu].user_root = self.vcpus[cpu].user_root().map_or(0, |mfn| mfn.0);
        answer
    }

    fn act_once(&self, cpu: usize, act: &Act) -> Answer {
        let (mmu, caller) = (self.mmu(), self.caller(cpu));
        match *act {
            Act::Update(command, mfn, index, value, foreign) => {
                let pointer = mfn << 12 | (index as u64 % 512) << 3 | command;
                // The entry code's short way for what it takes for an ordinary request; here for every second.
                if foreign == u32::from(DomId::SELF.0)
                    && index % 2 == 0
                    && mmu.one_leaf_update(&caller, pointer, value)
                {
                    return Ok(0);
                }
                let space = Buffer::of(&[pointer, value, 0]);
                self.batch(foreign, |list, count, foreign| {
                    mmu.do_mmu_update(&caller, &space, list, count, GuestVa(Buffer::BASE.0 + 16), foreign)
                })
            }
            Act::Ext(command, arg1, arg2, foreign) => {
                let space = Buffer::of(&[u64::from(command), arg1, arg2, u64::MAX]);
                let done = GuestVa(Buffer::BASE.0 + 24);
                self.batch(foreign, |list, count, foreign| {
                    mmu.do_mmuext_op(&caller, &space, list, count, done, foreign)
                })
            }
            Act::UpdateVa(va, value, flags) => {
                let space = Buffer::of(&[3]);
                again(|| mmu.do_update_va_mapping(&caller, &space, GuestVa(va), value, flags))
            }
            Act::UpdateVaOther(va, value, domain) => {
                let space = Buffer::of(&[]);
                let call = || {
                    mmu.do_update_va_mapping_otherdomain(
                        &caller,
                        &space,
                        GuestVa(va),
                        value,
                        UVMF_NONE,
                        domain,
                    )
                };
                again(call)
            }
            Act::Trapped(mfn, offset, width, value) => {
                mmu.emulated_write(&caller, Mfn(mfn), offset, width, EmulatedWrite::Store(value))
            }
            Act::TrappedExchange(mfn, offset, new) => {
                let old = self.sim.load64(Mfn(mfn % FRAMES as u64), offset / 8);
                mmu.emulated_write(&caller, Mfn(mfn), offset, 8, EmulatedWrite::CompareExchange { old, new })
            }
            Act::SetGdt(mfn) => {
                let space = Buffer::of(&[mfn]);
                again(|| mmu.do_set_gdt(&caller, &space, Buffer::BASE, 512))
            }
            Act::Descriptor(address, descriptor) => {
                again(|| mmu.do_update_descriptor(&caller, address, descriptor))
            }
            Act::LdtFault(offset) => {
                mmu.take_ldt_frame(&caller, offset).map(|mfn| mfn.0).ok_or(Errno::EFAULT)
            }
            Act::Store(which, index, value) => self.store(cpu, which, index, value),
            Act::Release(mfn) => mmu.release(caller.domain, Mfn(mfn)).map(|()| 0),
            Act::Populate => self.populate(caller.domain).map(|mfn| mfn.0),
        }
    }

    /// Calls a batch of one request until it is not interrupted any more.
    fn batch(
        &self,
        foreign: u32,
        mut call: impl FnMut(GuestVa, u32, u32) -> Result<u64, CallError>,
    ) -> Answer {
        let mut args = [Buffer::BASE.0, 1, 0, u64::from(foreign)];
        for _ in 0..10_000 {
            match call(GuestVa(args[0]), args[1] as u32, args[3] as u32) {
                Ok(value) => return Ok(value),
                Err(CallError::Errno(errno)) => return Err(errno),
                Err(CallError::Retry(next)) => args = next.args,
                Err(CallError::CrashCaller(reason)) => panic!("crashed: {reason}"),
            }
            if self.sim.threads.load(SeqCst) == 1 {
                self.check().expect("between two halves of a call");
            }
        }
        panic!("no progress");
    }

    fn store(&self, cpu: usize, which: usize, index: usize, value: u64) -> Answer {
        let mut writable: Vec<u64> = {
            let cpus = self.sim.cpus.lock().unwrap();
            cpus[cpu].leaves.iter().filter(|leaf| leaf.1).map(|leaf| leaf.0).collect()
        };
        writable.retain(|&mfn| mfn >= Self::RESERVED);
        writable.sort_unstable();
        let Some(&mfn) = writable.get(which % writable.len().max(1)) else { return Err(Errno::EFAULT) };
        self.sim.store64(Mfn(mfn), index, value);
        Ok(mfn)
    }
}

fn again(mut call: impl FnMut() -> Result<u64, CallError>) -> Answer {
    for _ in 0..10_000 {
        match call() {
            Ok(value) => return Ok(value),
            Err(CallError::Errno(errno)) => return Err(errno),
            Err(CallError::Retry(_)) => (),
            Err(CallError::CrashCaller(reason)) => panic!("crashed: {reason}"),
        }
    }
    panic!("no progress");
}

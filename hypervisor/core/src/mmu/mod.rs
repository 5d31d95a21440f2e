//! Direct paging: what a paravirtual guest may do to its page tables, its roots and its descriptor tables.
//!
//! Guests see machine frames and write real page tables, but only through checks: a frame in use as a table of
//! level 1 to 4 is validated entry by entry, has that type as long as anything refers to it, and is never mapped
//! writable by a guest (I-PT-1). Nothing here takes a lock on the way of an ordinary update: references are
//! counted in the frame table by compare-and-exchange, and whoever exchanges an entry drops what it took out.
//!
//! Integration, with a machine `port` that implements [`port::Machine`]:
//!
//! ```text
//! static HEAP: Heap = Heap::new();                  // hv_core::heap
//! let frames = FrameTable::new(frame_slice);        // zeroed `Frame`s, one a machine frame up to the last of RAM
//! // boot: frames.mark_io(mfn) for holes below the last frame, then HEAP.add(frames, start, end) for free RAM
//! let mmu = Mmu { frames, heap: &HEAP, m2p, read_only_io, port: &port };      // `Copy`, make one where needed
//!
//! // dom0: charge and assign zeroed memory, write tables raw, then type them by the ordinary path
//! dom.max_pages.store(n, Relaxed);
//! let block = HEAP.alloc(frames, 9, 64).unwrap().make_safe(&port, true);
//! mmu.assign(&dom, block, |i| Some(gfn_of(i)))?;    // owner, page count, M2P
//! let caller = Caller { domain: &dom, vcpu: &vcpu.mmu };
//! mmu.pin(&caller, &dom, root, 4)?;                 // CallError::Retry: call again
//! mmu.set_roots(&caller, root, None)?;              // then load caller.vcpu.kernel_root()
//!
//! // the hypercalls: Ok(value) | Err(Errno | Retry(new arguments) | CrashCaller)
//! mmu.do_mmu_update(&caller, &space, GuestVa(rdi), rsi as u32, GuestVa(rdx), r10 as u32)
//! mmu.do_mmuext_op(&caller, &space, GuestVa(rdi), rsi as u32, GuestVa(rdx), r10 as u32)
//! mmu.do_update_va_mapping(&caller, &space, GuestVa(rdi), rsi, rdx)
//! mmu.do_update_va_mapping_otherdomain(&caller, &space, GuestVa(rdi), rsi, rdx, r10 as u16)
//! mmu.do_set_gdt(&caller, &space, GuestVa(rdi), rsi as u32)
//! mmu.do_update_descriptor(&caller, rdi, rsi)
//! // a write fault on a present read-only mapping whose frame is a level-1 table of the domain
//! mmu.emulated_write(&caller, table, byte_offset, width, EmulatedWrite::Store(value))
//! ```

pub mod clock;
pub mod domain;
pub mod port;
pub mod pte;
pub mod tags;

mod assign;
mod descriptor;
mod entry;
mod ext;
mod hold;
mod leaf;
mod regions;
mod table;
mod update;
mod va;

use core::sync::atomic::{AtomicU64, Ordering};

use guest_abi::Errno;
use hv_types::{DomId, Gfn, GuestVa, Mfn};
use spin::Mutex;

use crate::call::{CallError, Continuation};
use crate::frame::{Dead, FrameTable};
use crate::heap::Heap;

pub use domain::{DomainMemory, GDT_ENTRIES, RangeSet, VcpuMmu};
pub use entry::EmulatedWrite;
pub use hold::Place;
pub use port::{CpuSet, MAX_CPUS, Machine, SharedCpuSet};
pub use pte::{Class, Pte};
pub use table::Preempted;

/// Everything the page-table code works on. Cheap to copy; the machine makes one where it needs one.
pub struct Mmu<'a, P> {
    /// The frame table.
    pub frames: FrameTable<'a>,
    /// Where dead frames go.
    pub heap: &'a Heap,
    /// The machine-to-physical table that guests read: frame number to guest frame number, all ones for none.
    pub m2p: &'a [AtomicU64],
    /// I/O frames that are never mapped writable (MSI-X tables, configuration space that is watched).
    pub read_only_io: &'a Mutex<RangeSet>,
    /// The machine.
    pub port: &'a P,
}

impl<P> Clone for Mmu<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Mmu<'_, P> {}

/// Who makes a call.
#[derive(Clone, Copy)]
pub struct Caller<'c> {
    /// The domain.
    pub domain: &'c DomainMemory,
    /// Its vCPU, running on this CPU.
    pub vcpu: &'c VcpuMmu,
}

/// Whose frames a call may name: the domain given as `foreigndom`, or the caller.
#[derive(Clone, Copy)]
pub struct PageOwner<'c> {
    id: DomId,
    /// Whose I/O permissions count.
    io: &'c DomainMemory,
    memory: Option<&'c DomainMemory>,
}

impl<'c> PageOwner<'c> {
    /// The domain's own frames.
    #[inline(always)]
    pub fn own(domain: &'c DomainMemory) -> Self {
        PageOwner { id: domain.id, io: domain, memory: Some(domain) }
    }
}

/// Number of arguments and the flag of an interrupted batch (`MMU_UPDATE_PREEMPTED`, in bit 31 of the count).
const PREEMPTED: u32 = 0x8000_0000;

impl<'a, P: Machine> Mmu<'a, P> {
    /// The domain that a call names as owner of frames. `ESRCH`: there is none, or it is the caller by number;
    /// `EPERM`: the caller is not privileged.
    fn page_owner<'c>(&self, caller: &Caller<'c>, id: DomId) -> Result<PageOwner<'c>, Errno>
    where
        'a: 'c,
    {
        if id == DomId::SELF {
            return Ok(PageOwner::own(caller.domain));
        }
        self.foreign_owner(caller, id)
    }

    #[cold]
    fn foreign_owner<'c>(&self, caller: &Caller<'c>, id: DomId) -> Result<PageOwner<'c>, Errno>
    where
        'a: 'c,
    {
        if id == caller.domain.id {
            return Err(Errno::ESRCH);
        }
        if id == DomId::IO {
            return Ok(PageOwner { id, io: caller.domain, memory: None });
        }
        let port: &'a P = self.port;
        let memory = if id == DomId::XEN { None } else { Some(port.domain(id).ok_or(Errno::ESRCH)?) };
        if !caller.domain.privileged {
            return Err(Errno::EPERM);
        }
        Ok(PageOwner { id, io: memory.unwrap_or(caller.domain), memory })
    }

    /// A frame that died goes back to the heap, and its owner is told.
    #[cold]
    fn bury(&self, dead: Dead) {
        if dead.was_counted()
            && let Some(owner) = self.port.domain(dead.owner())
        {
            owner.uncharge(1);
        }
        self.set_gfn(dead.mfn(), Gfn::INVALID);
        self.heap.free_dead(self.frames, dead, self.port.clock());
    }

    /// Writes the machine-to-physical table.
    fn set_gfn(&self, mfn: Mfn, gfn: Gfn) {
        if let Some(word) = usize::try_from(mfn.0).ok().and_then(|index| self.m2p.get(index)) {
            word.store(gfn.0, Ordering::Relaxed);
        }
    }

    /// The calling domain's dirty CPUs of a guest's vCPU mask at `mask`. `EINVAL`: it cannot be read.
    #[cold]
    fn vcpu_mask<S: crate::port::GuestSpace>(
        &self,
        caller: &Caller<'_>,
        space: &S,
        mask: GuestVa,
    ) -> Result<CpuSet, Errno> {
        use core::sync::atomic::Ordering::Relaxed;
        let mut cpus = CpuSet::EMPTY;
        let vcpus = caller.domain.max_vcpus.load(Relaxed);
        for word in 0..vcpus.div_ceil(64) {
            let mut bytes = [0; 8];
            let at = mask.0.checked_add(u64::from(word) * 8).ok_or(Errno::EINVAL)?;
            space.read(GuestVa(at), &mut bytes).map_err(|_| Errno::EINVAL)?;
            let bits = u64::from_le_bytes(bytes);
            for bit in (0..64).filter(|bit| bits >> bit & 1 != 0) {
                let vcpu = word * 64 + bit;
                if vcpu < vcpus
                    && let Some(cpu) = self.port.dirty_cpu(caller.domain.id, vcpu)
                {
                    cpus.insert(cpu);
                }
            }
        }
        Ok(cpus)
    }
}

/// The call again with the rest of its batch.
fn again(list: GuestVa, count: u32, done: GuestVa, domain: u32) -> CallError {
    CallError::Retry(Continuation { args: [list.0, u64::from(count | PREEMPTED), done.0, u64::from(domain)] })
}

/// How many requests of a batch were done before: only an interrupted call looks.
fn done_before<S: crate::port::GuestSpace>(space: &S, count: &mut u32, at: GuestVa) -> u32 {
    if *count & PREEMPTED == 0 {
        return 0;
    }
    *count &= !PREEMPTED;
    let mut bytes = [0; 4];
    if at.0 != 0 && space.read(at, &mut bytes).is_ok() { u32::from_le_bytes(bytes) } else { 0 }
}

fn report_done<S: crate::port::GuestSpace>(space: &S, at: GuestVa, done: u32) {
    if at.0 != 0 {
        // As the ABI has it, a count that cannot be told is no error.
        let _ = space.write(at, &done.to_le_bytes());
    }
}

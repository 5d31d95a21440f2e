//! Lists of extents: more memory, less memory, memory at guest frame numbers.

use super::{Call, MAX_EXTENTS, MemoryPorts, again};
use crate::call::CallError;
use crate::heap::{Block, Claim};
use crate::mmu::DomainMemory;
use crate::port::GuestSpace;
use crate::wire;
use guest_abi::Errno;
use guest_abi::memory::*;
use hv_types::{DomId, Gfn, GuestVa, Mfn, PAGE_SHIFT};

/// Largest extent, 2 MiB: more cannot be zeroed within the time that a call may hold a CPU. Whoever asks for more is told
/// that nothing was done, and asks for less.
pub const MAX_EXTENT_ORDER: u32 = 9;
/// Nodes that the ABI can name (`MAX_NUMNODES`).
const MAX_NODES: u32 = 64;

/// A list of extents and how far it is done.
pub(super) struct Extents {
    list: GuestVa,
    count: u64,
    start: u64,
    order: u32,
    flags: u32,
    dom: DomId,
}

/// Why a list is not finished.
pub(super) enum Halt {
    /// The next extent cannot be done.
    Stop,
    /// The CPU is wanted.
    Preempt,
}

/// Which memory a list asks for.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    pub order: u32,
    /// The memory lies below this power of two; 64: anywhere.
    pub bits: u32,
}

impl Extents {
    pub fn new(r: XenMemoryReservation, start: u64) -> Self {
        Extents {
            list: GuestVa(r.extent_start),
            count: r.nr_extents,
            start,
            order: r.extent_order,
            flags: r.mem_flags,
            dom: DomId(r.domid),
        }
    }

    fn in_guest_range(&self) -> bool {
        self.count.checked_mul(8).is_some_and(|len| self.list.is_guest_range(len))
    }
}

/// `XENMEMF_address_bits`: nothing if no page lies so low.
fn address_bits(flags: u32, max_page: u64) -> Option<u32> {
    let bits = flags & 0xff;
    let machine = u64::BITS - max_page.saturating_sub(1).leading_zeros() + PAGE_SHIFT;
    match bits {
        0 => Some(64),
        _ if bits >= machine => Some(64),
        _ if bits <= PAGE_SHIFT => None,
        _ => Some(bits),
    }
}

/// `XENMEMF_node`: there is one node, 0. Only a privileged domain may insist on one.
pub(super) fn node_will_do(flags: u32, privileged: bool) -> bool {
    let node = (flags >> 8 & 0xff).wrapping_sub(1) & 0xff;
    let exact = flags & XENMEMF_EXACT_NODE_REQUEST != 0;
    if node == 0xff || flags & XENMEMF_VNODE != 0 {
        return true;
    }
    if privileged { node < MAX_NODES && (node == 0 || !exact) } else { !exact }
}

impl<P: MemoryPorts, G: GuestSpace> Call<'_, '_, P, G> {
    /// Does one extent after the other by `step`. Whatever is wrong, the answer is how many were done.
    pub(super) fn on_extents(
        &self,
        op: u64,
        arg: GuestVa,
        extents: Extents,
        mut step: impl FnMut(Extent, &DomainMemory) -> Result<(), Errno>,
    ) -> Result<i64, CallError> {
        let done = extents.start as i64;
        if extents.count > MAX_EXTENTS || extents.start >= extents.count || extents.order > MAX_EXTENT_ORDER {
            return Ok(done);
        }
        let Ok(domain) = self.domain(extents.dom) else { return Ok(done) };
        let Some(bits) = address_bits(extents.flags, self.mmu.port.max_page()) else { return Ok(done) };
        if !node_will_do(extents.flags, self.caller.domain.privileged) {
            return Ok(done);
        }
        let optional = op == u64::from(XENMEM_INCREASE_RESERVATION) && extents.list.0 == 0;
        let on_demand =
            op == u64::from(XENMEM_POPULATE_PHYSMAP) && extents.flags & XENMEMF_POPULATE_ON_DEMAND != 0;
        if on_demand || !(optional || extents.in_guest_range()) {
            return Ok(done);
        }
        let wish = Wish { order: extents.order, bits };
        let list = (!optional).then_some(extents.list);
        match self.each(&extents, |index| step(Extent { list, index, wish }, domain)) {
            (done, Some(Halt::Preempt)) => Err(again(op, done, arg)),
            (done, _) => Ok(done as i64),
        }
    }

    fn each(&self, extents: &Extents, mut step: impl FnMut(u64) -> Result<(), Errno>) -> (u64, Option<Halt>) {
        for index in extents.start..extents.count {
            if index != extents.start && self.mmu.port.should_preempt() {
                return (index, Some(Halt::Preempt));
            }
            if step(index).is_err() {
                return (index, Some(Halt::Stop));
            }
        }
        (extents.count, None)
    }

    /// Zeroed memory that nobody has, and nobody else was promised.
    pub(super) fn allocate(&self, wish: Wish, claim: &Claim) -> Result<Block, Errno> {
        let fresh = self.mmu.heap.alloc_for(self.mmu.frames, wish.order, wish.bits, claim);
        let fresh = fresh.ok_or(Errno::ENOMEM)?;
        Ok(fresh.make_safe(self.mmu.port, true))
    }

    pub(super) fn increase(&self, extent: Extent, domain: &DomainMemory) -> Result<(), Errno> {
        let block = self.allocate(extent.wish, &domain.claim)?;
        let mfn = self.mmu.assign(domain, block, |_| None)?;
        self.answer(extent, mfn)
    }

    pub(super) fn populate(&self, extent: Extent, domain: &DomainMemory) -> Result<(), Errno> {
        let gfn = self.frame_number(extent)?;
        let block = self.allocate(extent.wish, &domain.claim)?;
        let mfn = self.mmu.assign(domain, block, |n| gfn.checked_add(n).map(Gfn))?;
        self.answer(extent, mfn)
    }

    pub(super) fn decrease(&self, extent: Extent, domain: &DomainMemory) -> Result<(), Errno> {
        let first = self.frame_number(extent)?;
        for n in 0..1u64 << extent.wish.order {
            let mfn = first.checked_add(n).map(Mfn).ok_or(Errno::EINVAL)?;
            self.mmu.release(domain, mfn)?;
        }
        Ok(())
    }

    fn frame_number(&self, extent: Extent) -> Result<u64, Errno> {
        wire::read_element(self.space, extent.list.ok_or(Errno::EFAULT)?, extent.index)
    }

    fn answer(&self, extent: Extent, mfn: Mfn) -> Result<(), Errno> {
        match extent.list {
            Some(list) => wire::write_element(self.space, list, extent.index, &mfn.0),
            None => Ok(()),
        }
    }
}

/// One extent of a list.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    list: Option<GuestVa>,
    index: u64,
    wish: Wish,
}

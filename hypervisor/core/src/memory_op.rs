//! `HYPERVISOR_memory_op`: a domain's reservation, and the maps of memory (`memory.h`).
//!
//! Reservations are lists of extents. The calls that work on them answer how many extents they did, whatever
//! stopped them, and are cut between extents: the number done goes back into the command, above
//! [`EXTENT_SHIFT`].

mod exchange;
mod map;
mod reservation;
mod resource;

pub use map::MemoryMap;
pub use reservation::MAX_EXTENT_ORDER;

use crate::call::{CallError, Continuation};
use crate::grant::GrantPorts;
use crate::mmu::{Caller, DomainMemory, Mmu};
use crate::port::GuestSpace;
use crate::wire;
use guest_abi::Errno;
use guest_abi::memory::*;
use guest_abi::x86_64::{MACH2PHYS_NR_ENTRIES, MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};
use guest_abi::xen::shared_offset;
use hv_types::{DomId, GuestVa, Mfn};
use reservation::Extents;

/// Bits of the command that name the operation; above lies the first extent (`MEMOP_EXTENT_SHIFT`).
pub const EXTENT_SHIFT: u32 = 6;
const COMMAND_MASK: u64 = (1 << EXTENT_SHIFT) - 1;
/// Extents that a continuation can count.
const MAX_EXTENTS: u64 = (u32::MAX >> EXTENT_SHIFT) as u64;
/// 64-bit words of the machine-to-physical table in a 2 MiB extent.
const M2P_WORDS_PER_EXTENT: u64 = (2 << 20) / 8;

/// What the calls ask of the machine besides what [`Mmu`] needs.
pub trait MemoryPorts: GrantPorts {
    /// One more than the highest machine frame of memory.
    fn max_page(&self) -> u64;
    /// The `index`-th entry of the machine's memory map, which is sorted and without overlaps.
    fn machine_region(&self, index: usize) -> Option<E820Entry>;
    /// The frame that begins the `index`-th 2 MiB of the machine-to-physical table.
    fn m2p_extent(&self, index: u64) -> Option<Mfn>;
    /// The pseudo-physical map of a domain that exists.
    fn memory_map(&self, dom: DomId) -> Option<&MemoryMap>;
    /// The shared page of a domain that exists.
    fn shared_info(&self, dom: DomId) -> Option<Mfn>;
}

/// A decoded call.
enum Request {
    Increase(Extents),
    Decrease(Extents),
    Populate(Extents),
    Exchange(XenMemoryExchange),
    MaximumRamPage,
    CurrentReservation(DomId),
    MaximumReservation(DomId),
    MaximumGpfn(DomId),
    /// Translated guests only, of which there are none.
    Physmap(DomId),
    MachphysList(XenMachphysMfnList),
    MachphysMapping,
    MemoryMap(XenMemoryMap),
    MachineMemoryMap(XenMemoryMap),
    SetMemoryMap(XenForeignMemoryMap),
    /// Counts what sharing saves: nothing is shared.
    SharedPages,
    /// So many pages in all for a domain.
    Claim(DomId, u64),
    /// From that element of the list on.
    Acquire(XenMemAcquireResource, u64),
}

/// Only calls on lists of extents may be continued; of others a first extent is an error.
fn decode<G: GuestSpace>(space: &G, cmd: u64, start: u64, arg: GuestVa) -> Result<Request, Errno> {
    let cmd = u32::try_from(cmd).map_err(|_| Errno::ENOSYS)?;
    let extents = |make: fn(Extents) -> Request| wire::read(space, arg).map(|r| make(Extents::new(r, start)));
    let domain = |make: fn(DomId) -> Request| {
        wire::read::<XenMemoryDomain>(space, arg).map(|query| make(DomId(query.domid)))
    };
    match cmd {
        XENMEM_INCREASE_RESERVATION => return extents(Request::Increase),
        XENMEM_DECREASE_RESERVATION => return extents(Request::Decrease),
        XENMEM_POPULATE_PHYSMAP => return extents(Request::Populate),
        XENMEM_ADD_TO_PHYSMAP => return add_to_physmap(space, start, arg),
        XENMEM_ADD_TO_PHYSMAP_BATCH => return add_batch(space, start, arg),
        XENMEM_ACQUIRE_RESOURCE => return Ok(Request::Acquire(wire::read(space, arg)?, start)),
        _ => {}
    }
    decode_rest(space, cmd, start, arg, domain)
}

fn decode_rest<G: GuestSpace>(
    space: &G,
    cmd: u32,
    start: u64,
    arg: GuestVa,
    domain: impl Fn(fn(DomId) -> Request) -> Result<Request, Errno>,
) -> Result<Request, Errno> {
    let whole = if start == 0 { Ok(()) } else { Err(Errno::EINVAL) };
    // The architecture's operations see the whole command: with a first extent it is one that does not exist.
    let arch = if start == 0 { Ok(()) } else { Err(Errno::ENOSYS) };
    Ok(match cmd {
        XENMEM_EXCHANGE => whole.and_then(|()| Ok(Request::Exchange(wire::read(space, arg)?)))?,
        XENMEM_MAXIMUM_RAM_PAGE => whole.map(|()| Request::MaximumRamPage)?,
        XENMEM_CURRENT_RESERVATION => whole.and_then(|()| domain(Request::CurrentReservation))?,
        XENMEM_MAXIMUM_RESERVATION => whole.and_then(|()| domain(Request::MaximumReservation))?,
        XENMEM_MAXIMUM_GPFN => whole.and_then(|()| domain(Request::MaximumGpfn))?,
        XENMEM_REMOVE_FROM_PHYSMAP => {
            whole?;
            Request::Physmap(DomId(wire::read::<XenRemoveFromPhysmap>(space, arg)?.domid))
        }
        XENMEM_CLAIM_PAGES => whole.and_then(|()| claim(space, arg))?,
        XENMEM_MACHPHYS_MFN_LIST => arch.and_then(|()| Ok(Request::MachphysList(wire::read(space, arg)?)))?,
        XENMEM_MACHPHYS_MAPPING => arch.map(|()| Request::MachphysMapping)?,
        XENMEM_MEMORY_MAP => arch.and_then(|()| Ok(Request::MemoryMap(wire::read(space, arg)?)))?,
        XENMEM_MACHINE_MEMORY_MAP => {
            arch.and_then(|()| Ok(Request::MachineMemoryMap(wire::read(space, arg)?)))?
        }
        XENMEM_SET_MEMORY_MAP => arch.and_then(|()| Ok(Request::SetMemoryMap(wire::read(space, arg)?)))?,
        XENMEM_GET_SHARING_FREED_PAGES | XENMEM_GET_SHARING_SHARED_PAGES => {
            arch.map(|()| Request::SharedPages)?
        }
        _ => return Err(Errno::ENOSYS),
    })
}

/// A claim is no list: what would make it one must be zero.
fn claim<G: GuestSpace>(space: &G, arg: GuestVa) -> Result<Request, Errno> {
    let op: XenMemoryReservation = wire::read(space, arg)?;
    let plain = op.extent_start == 0 && op.extent_order == 0 && op.mem_flags == 0;
    if plain { Ok(Request::Claim(DomId(op.domid), op.nr_extents)) } else { Err(Errno::EINVAL) }
}

fn add_to_physmap<G: GuestSpace>(space: &G, start: u64, arg: GuestVa) -> Result<Request, Errno> {
    u16::try_from(start).map_err(|_| Errno::EDOM)?;
    let op: XenAddToPhysmap = wire::read(space, arg)?;
    if op.space == XENMAPSPACE_GMFN_FOREIGN {
        Err(Errno::ENOSYS)
    } else {
        Ok(Request::Physmap(DomId(op.domid)))
    }
}

fn add_batch<G: GuestSpace>(space: &G, start: u64, arg: GuestVa) -> Result<Request, Errno> {
    u16::try_from(start).map_err(|_| Errno::EDOM)?;
    let op: XenAddToPhysmapBatch = wire::read(space, arg)?;
    let range = u32::from(op.space) == XENMAPSPACE_GMFN_RANGE;
    if range { Err(Errno::EOPNOTSUPP) } else { Ok(Request::Physmap(DomId(op.domid))) }
}

/// `HYPERVISOR_memory_op(cmd, arg)`.
pub fn memory_op<P: MemoryPorts, G: GuestSpace>(
    mmu: &Mmu<'_, P>,
    space: &G,
    caller: &Caller<'_>,
    cmd: u64,
    arg: GuestVa,
) -> Result<i64, CallError> {
    let (op, start) = (cmd & COMMAND_MASK, cmd >> EXTENT_SHIFT);
    let request = match decode(space, op, start, arg) {
        Ok(request) => request,
        // Of a list that cannot be read no more was done than before.
        Err(Errno::EFAULT) if is_list(op) => return Ok(start as i64),
        Err(errno) => return Err(errno.into()),
    };
    let call = Call { mmu, space, caller };
    match request {
        Request::Increase(extents) => Ok(call.on_extents(op, arg, extents, |e, d| call.increase(e, d))?),
        Request::Decrease(extents) => Ok(call.on_extents(op, arg, extents, |e, d| call.decrease(e, d))?),
        Request::Populate(extents) => Ok(call.on_extents(op, arg, extents, |e, d| call.populate(e, d))?),
        Request::Exchange(op) => call.exchange(op, arg),
        Request::MaximumRamPage => Ok(mmu.port.max_page() as i64),
        Request::CurrentReservation(dom) => Ok(call.domain(dom)?.pages() as i64),
        Request::MaximumReservation(dom) => Ok(call.max_pages(dom)?),
        Request::MaximumGpfn(dom) => Ok(call.maximum_gpfn(dom)?),
        Request::Physmap(dom) => Err(call.any_domain(dom).err().unwrap_or(Errno::EACCES).into()),
        Request::MachphysList(op) => Ok(call.machphys_list(op, arg)?),
        Request::MachphysMapping => Ok(call.machphys_mapping(arg)?),
        Request::MemoryMap(op) => Ok(call.memory_map(op, arg)?),
        Request::MachineMemoryMap(op) => Ok(call.machine_memory_map(op, arg)?),
        Request::SetMemoryMap(op) => Ok(call.set_memory_map(op)?),
        Request::SharedPages => Ok(0),
        Request::Claim(dom, total) => Ok(call.claim(dom, total)?),
        Request::Acquire(op, start) => call.acquire(op, start, arg),
    }
}

fn is_list(op: u64) -> bool {
    [XENMEM_INCREASE_RESERVATION, XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP]
        .iter()
        .any(|list| u64::from(*list) == op)
}

/// A call with its caller.
struct Call<'a, 'c, P, G> {
    mmu: &'a Mmu<'c, P>,
    space: &'a G,
    caller: &'a Caller<'a>,
}

impl<'a, P: MemoryPorts, G: GuestSpace> Call<'a, '_, P, G> {
    /// A domain by the number that a guest gave. `-ESRCH`: there is none.
    fn any_domain(&self, dom: DomId) -> Result<&'a DomainMemory, Errno> {
        if dom == DomId::SELF || dom == self.caller.domain.id {
            return Ok(self.caller.domain);
        }
        self.mmu.port.domain(dom).ok_or(Errno::ESRCH)
    }

    /// A domain that the caller may act on. `-EPERM`: it is another's business.
    fn domain(&self, dom: DomId) -> Result<&'a DomainMemory, Errno> {
        let domain = self.any_domain(dom)?;
        let allowed = domain.id == self.caller.domain.id || self.caller.domain.privileged;
        if allowed { Ok(domain) } else { Err(Errno::EPERM) }
    }

    /// `-EINVAL`: no such domain, also if it is called [`DomId::SELF`]; `-EPERM`.
    fn claim(&self, dom: DomId, total: u64) -> Result<i64, Errno> {
        let domain = self.mmu.port.domain(dom).ok_or(Errno::EINVAL)?;
        if !self.caller.domain.privileged {
            return Err(Errno::EPERM);
        }
        self.mmu.claim(domain, total).map(|()| 0)
    }

    fn max_pages(&self, dom: DomId) -> Result<i64, Errno> {
        let max = self.domain(dom)?.max_pages.load(core::sync::atomic::Ordering::Relaxed);
        // A limit that is none is the largest number that a 32-bit count can say.
        Ok(max.min(i64::MAX as u64) as i64)
    }

    /// What the guest itself says in its shared page.
    fn maximum_gpfn(&self, dom: DomId) -> Result<i64, Errno> {
        let domain = self.domain(dom)?;
        let shared = self.mmu.port.shared_info(domain.id).ok_or(Errno::ESRCH)?;
        let max_pfn = self.mmu.port.load64(shared, shared_offset::ARCH / 8);
        // It counts frames; of none the highest is 0.
        Ok(max_pfn.saturating_sub(1) as i64)
    }

    fn machphys_list(&self, mut op: XenMachphysMfnList, arg: GuestVa) -> Result<i64, Errno> {
        let extents = self.mmu.port.max_page().div_ceil(M2P_WORDS_PER_EXTENT);
        let count = u64::from(op.max_extents).min(extents);
        let mut last = Mfn(0);
        for index in 0..count {
            last = self.mmu.port.m2p_extent(index).unwrap_or(last);
            wire::write_element(self.space, GuestVa(op.extent_start), index, &last.0)?;
        }
        op.nr_extents = count as u32;
        wire::write(self.space, arg, &op)?;
        Ok(0)
    }

    fn machphys_mapping(&self, arg: GuestVa) -> Result<i64, Errno> {
        let all = MACH2PHYS_NR_ENTRIES - 1;
        let max_mfn = if self.caller.domain.privileged { self.mmu.port.max_page() - 1 } else { all };
        let mapping =
            XenMachphysMapping { v_start: MACH2PHYS_VIRT_START, v_end: MACH2PHYS_VIRT_END, max_mfn };
        wire::write(self.space, arg, &mapping)?;
        Ok(0)
    }
}

/// The same call again, from extent `done` on.
fn again(op: u64, done: u64, arg: GuestVa) -> CallError {
    CallError::Retry(Continuation { args: [op | done << EXTENT_SHIFT, arg.0, 0, 0] })
}

#[cfg(test)]
mod tests;

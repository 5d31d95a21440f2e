//! Mapping grants into the caller's page tables, and unmapping them.

use super::active::{Access, unhold};
use super::{Call, GrantPorts, GrantTable};
use crate::call::CallError;
use crate::mmu::{DomainMemory, Place, Pte};
use crate::port::GuestSpace;
use crate::wire;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use guest_abi::Errno;
use guest_abi::grant_table::*;
use hv_types::{DomId, GuestVa, Mfn, PAGE_SHIFT};

/// Mappings that a domain may have at a time: what Debian's hypervisor allows by default, or a little more.
const MAX_HANDLES: usize = 1 << 18;
/// Operations of a list between two flushes.
const BATCH: usize = 32;
/// What a mapping is for: kept in its handle.
const KINDS: u32 = GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP;
/// No execution from granted frames.
const NO_EXECUTE: u64 = 1 << 63;
/// First of the software bits that the caller may choose, and how many there are.
const AVAILABLE: (u32, u64) = (9, 7);

/// Flags that a handle keeps.
const KEPT: u32 = KINDS | GNTMAP_READONLY | GNTMAP_CONTAINS_PTE;
/// A kind shifted by this: being mapped or unmapped by some vCPU at this moment.
const CHANGING: u32 = 8;
const ANY: u32 = KINDS | KINDS << CHANGING;

/// One mapping, in the table of the domain that maps.
#[derive(Clone, Copy)]
pub(super) struct Mapping {
    /// `GNTMAP_*`, and kinds that are [`CHANGING`]; none of [`ANY`]: free.
    pub flags: u32,
    pub grant: u32,
    pub dom: DomId,
}

impl Mapping {
    pub fn access(self) -> Access {
        if self.flags & GNTMAP_READONLY != 0 { Access::Read } else { Access::Write }
    }

    fn place(self, address: u64) -> Place {
        if self.flags & GNTMAP_CONTAINS_PTE != 0 {
            Place::Entry(address)
        } else {
            Place::Address(GuestVa(address))
        }
    }
}

/// A domain's mappings of others' grants.
pub(super) struct Handles {
    mappings: Vec<Mapping>,
    free: Vec<u32>,
    /// Mappings that there may be.
    pub max: usize,
}

impl Handles {
    pub const fn new() -> Self {
        Handles { mappings: Vec::new(), free: Vec::new(), max: MAX_HANDLES }
    }

    /// Handles in use.
    pub fn used(&self) -> u32 {
        self.mappings.len().saturating_sub(self.free.len()) as u32
    }

    /// Takes the last mapping out, when nobody can name its handle any more.
    pub fn take_last(&mut self) -> Option<Mapping> {
        let mapping = self.mappings.pop();
        if mapping.is_none() {
            self.free = Vec::new();
            self.mappings = Vec::new();
        }
        mapping
    }

    /// A handle for a mapping; nothing if there is no room for one more.
    fn add(&mut self, mapping: Mapping) -> Option<u32> {
        if self.used() as usize >= self.max {
            return None;
        }
        if let Some(handle) = self.free.pop() {
            *self.mappings.get_mut(handle as usize)? = mapping;
            return Some(handle);
        }
        let next = self.mappings.len();
        self.mappings.try_reserve(1).ok()?;
        self.free.try_reserve(next + 1).ok()?;
        self.mappings.push(mapping);
        Some(next as u32)
    }

    fn get(&self, handle: u32) -> Option<Mapping> {
        self.mappings.get(handle as usize).copied().filter(|mapping| mapping.flags & KINDS != 0)
    }

    /// Begins to take kinds of use from a mapping; false if it does not have them all, or another vCPU is at it.
    fn take(&mut self, handle: u32, kinds: u32) -> bool {
        let Some(mapping) = self.mappings.get_mut(handle as usize) else { return false };
        if mapping.flags & kinds != kinds {
            return false;
        }
        mapping.flags = mapping.flags & !kinds | kinds << CHANGING;
        true
    }

    /// Kinds that were changing are there now.
    fn keep(&mut self, handle: u32, kinds: u32) {
        if let Some(mapping) = self.mappings.get_mut(handle as usize) {
            mapping.flags = mapping.flags & !(kinds << CHANGING) | kinds;
        }
    }

    /// Kinds that were changing are gone now. The last one frees the handle.
    fn drop(&mut self, handle: u32, kinds: u32) {
        let Some(mapping) = self.mappings.get_mut(handle as usize) else { return };
        mapping.flags &= !(kinds << CHANGING);
        if mapping.flags & ANY == 0 {
            self.free.push(handle);
        }
    }
}

/// An unmapping whose flush is due.
struct Pending {
    index: u32,
    op: GnttabUnmapGrantRef,
    mapping: Mapping,
    kinds: u32,
    mfn: Mfn,
}

/// The page-table entry of a mapping.
fn entry(mfn: Mfn, flags: u32) -> u64 {
    let mut entry = mfn.0 << PAGE_SHIFT | Pte::PRESENT | Pte::ACCESSED | Pte::DIRTY | NO_EXECUTE;
    if flags & GNTMAP_READONLY == 0 {
        entry |= Pte::WRITE;
    }
    if flags & GNTMAP_APPLICATION_MAP != 0 {
        entry |= Pte::USER;
    }
    entry | (u64::from(flags >> GNTMAP_GUEST_AVAIL_SHIFT) & AVAILABLE.1) << AVAILABLE.0
}

impl<P: GrantPorts, G: GuestSpace> Call<'_, '_, P, G> {
    /// `GNTTABOP_map_grant_ref`, one of a list.
    pub(super) fn map(&self, mut op: GnttabMapGrantRef) -> GnttabMapGrantRef {
        match self.try_map(&op) {
            Ok((handle, mfn)) => {
                op.handle = handle;
                op.dev_bus_addr = mfn.0 << PAGE_SHIFT;
                op.status = GNTST_OKAY;
            }
            Err(status) => op.status = status,
        }
        op
    }

    fn try_map(&self, op: &GnttabMapGrantRef) -> Result<(u32, Mfn), i16> {
        let kinds = op.flags & KINDS;
        if kinds == 0 {
            return Err(GNTST_BAD_GNTREF);
        }
        let owner = self.mmu.port.domain(DomId(op.dom)).ok_or(GNTST_BAD_DOMAIN)?;
        let table = self.mmu.port.grants(owner.id).ok_or(GNTST_BAD_DOMAIN)?;
        let own = self.own_table()?;
        let mapping = Mapping { flags: op.flags & KEPT, grant: op.grant, dom: owner.id };
        let mfn = self.begin_uses(table, owner, mapping, kinds)?;
        // The handle comes before the entry: nothing can fail behind that.
        let changing = Mapping { flags: mapping.flags & !KINDS | kinds << CHANGING, ..mapping };
        let Some(handle) = own.handles.lock().add(changing) else {
            self.end_uses(mapping, kinds, mfn);
            return Err(GNTST_NO_SPACE);
        };
        let place = mapping.place(op.host_addr);
        let host = kinds & GNTMAP_HOST_MAP != 0;
        if host && self.mmu.map_frame(self.caller, place, entry(mfn, op.flags), owner).is_err() {
            own.handles.lock().drop(handle, kinds);
            self.end_uses(mapping, kinds, mfn);
            return Err(GNTST_GENERAL_ERROR);
        }
        own.handles.lock().keep(handle, kinds);
        Ok((handle, mfn))
    }

    /// One use of the grant for each kind of mapping.
    fn begin_uses(
        &self,
        table: &GrantTable,
        owner: &DomainMemory,
        mapping: Mapping,
        kinds: u32,
    ) -> Result<Mfn, i16> {
        let own = self.caller.domain.id;
        let begin = || table.begin_use(self.mmu, owner, mapping.grant, own, mapping.access());
        let mfn = begin()?;
        if kinds == KINDS
            && let Err(status) = begin()
        {
            table.end_use(self.mmu, mapping.grant, mapping.access());
            return Err(status);
        }
        Ok(mfn)
    }

    fn end_uses(&self, mapping: Mapping, kinds: u32, mfn: Mfn) {
        for _ in 0..kinds.count_ones() {
            match self.mmu.port.grants(mapping.dom) {
                Some(table) => table.end_use(self.mmu, mapping.grant, mapping.access()),
                None => unhold(self.mmu, mfn, mapping.access()),
            }
        }
    }

    /// `GNTTABOP_unmap_grant_ref`: first the entries of some operations go, then the TLBs are flushed, and then the
    /// grants are given back.
    pub(super) fn unmap_list(&self, count: u32) -> Result<(), CallError> {
        let mut pending: ArrayVec<Pending, BATCH> = ArrayVec::new();
        for index in 0..count {
            let stop = pending.is_empty() && index != 0 && self.mmu.port.should_preempt();
            if stop || self.mmu.finish(self.caller.vcpu).is_err() {
                self.settle(&mut pending)?;
                return Err(self.again::<GnttabUnmapGrantRef>(GNTTABOP_UNMAP_GRANT_REF, index, count));
            }
            let begun = wire::read_element(self.space, self.uop, index.into())
                .map_err(CallError::from)
                .and_then(|op| self.begin_unmap(index, op));
            match begun {
                Ok(next) => pending.extend(next),
                Err(error) => {
                    self.settle(&mut pending)?;
                    return Err(error);
                }
            }
            if pending.is_full() {
                self.settle(&mut pending)?;
            }
        }
        self.settle(&mut pending)?;
        Ok(())
    }

    /// Takes the entry away. An operation that has nothing to wait for is answered at once.
    fn begin_unmap(&self, index: u32, mut op: GnttabUnmapGrantRef) -> Result<Option<Pending>, CallError> {
        match self.try_unmap(&op) {
            Ok((mapping, kinds, mfn)) if kinds != 0 => Ok(Some(Pending { index, op, mapping, kinds, mfn })),
            result => {
                op.status = result.err().unwrap_or(GNTST_OKAY);
                wire::write_element(self.space, self.uop, index.into(), &op)?;
                Ok(None)
            }
        }
    }

    fn try_unmap(&self, op: &GnttabUnmapGrantRef) -> Result<(Mapping, u32, Mfn), i16> {
        let own = self.own_table()?;
        let mapping = own.handles.lock().get(op.handle).ok_or(GNTST_BAD_HANDLE)?;
        let table = self.mmu.port.grants(mapping.dom);
        let mfn = table.and_then(|table| table.used_frame(mapping.grant)).ok_or(GNTST_BAD_HANDLE)?;
        let mut kinds = 0;
        if op.dev_bus_addr != 0 && mapping.flags & GNTMAP_DEVICE_MAP != 0 {
            if op.dev_bus_addr != mfn.0 << PAGE_SHIFT {
                return Err(GNTST_GENERAL_ERROR);
            }
            kinds |= GNTMAP_DEVICE_MAP;
        }
        if op.host_addr != 0 && mapping.flags & GNTMAP_HOST_MAP != 0 {
            kinds |= GNTMAP_HOST_MAP;
        }
        // Whoever takes the kinds gives the uses back: another vCPU with the same handle finds none.
        if kinds != 0 && !own.handles.lock().take(op.handle, kinds) {
            return Err(GNTST_BAD_HANDLE);
        }
        let host = kinds & GNTMAP_HOST_MAP != 0;
        if host && self.mmu.unmap_frame(self.caller, mapping.place(op.host_addr), mfn).is_err() {
            own.handles.lock().keep(op.handle, kinds);
            return Err(GNTST_GENERAL_ERROR);
        }
        Ok((mapping, kinds, mfn))
    }

    /// Flushes, gives the grants back and answers.
    fn settle(&self, pending: &mut ArrayVec<Pending, BATCH>) -> Result<(), Errno> {
        if pending.is_empty() {
            return Ok(());
        }
        self.mmu.port.flush(&self.caller.domain.dirty.snapshot());
        let mut result = Ok(());
        for Pending { index, mut op, mapping, kinds, mfn } in pending.drain(..) {
            self.end_uses(mapping, kinds, mfn);
            if let Ok(own) = self.own_table() {
                own.handles.lock().drop(op.handle, kinds);
            }
            op.status = GNTST_OKAY;
            result = result.and(wire::write_element(self.space, self.uop, index.into(), &op));
        }
        result
    }

    /// The caller's own table.
    pub(super) fn own_table(&self) -> Result<&GrantTable, i16> {
        self.mmu.port.grants(self.caller.domain.id).ok_or(GNTST_GENERAL_ERROR)
    }
}

//! Mappings: the references that sleep in entries of level-1 tables. Only this module puts them to sleep and
//! wakes them.

use guest_abi::Errno;
use hv_types::Mfn;

use super::port::Machine;
use super::{DomainMemory, Mmu, PageOwner, Pte};
use crate::frame::{Claimed, GeneralRef, Kind, TakeType, TypeRef};

impl<P: Machine> Mmu<'_, P> {
    /// Takes what a present, adjusted, allowed entry of a table of `domain` refers to. The entry to store comes
    /// back: I/O mappings may get other cache attributes or lose their write permission.
    ///
    /// `EBUSY`: not a frame of `owner`, or it cannot be mapped so now. `EPERM`, `EINVAL`: I/O space that is
    /// forbidden. `EACCES`: cache attributes on a frame of the hypervisor.
    #[inline(always)]
    pub(super) fn take_leaf(
        &self,
        entry: Pte,
        domain: &DomainMemory,
        owner: &PageOwner<'_>,
    ) -> Result<Pte, Errno> {
        let mfn = entry.mfn();
        if entry.0 & Pte::CACHE != 0 || owner.id != domain.id {
            return self.take_leaf_slow(entry, domain, owner);
        }
        if entry.is_writable() {
            if let Ok(reference) = self.frames.get_writable_fast(mfn, owner.id) {
                reference.sleep();
                return Ok(entry);
            }
        } else if let Ok(reference) = self.frames.get_general(mfn, owner.id) {
            reference.sleep();
            return Ok(entry);
        }
        self.take_leaf_slow(entry, domain, owner)
    }

    #[cold]
    #[inline(never)]
    fn take_leaf_slow(&self, entry: Pte, domain: &DomainMemory, owner: &PageOwner<'_>) -> Result<Pte, Errno> {
        let mfn = entry.mfn();
        if self.frames.is_io(mfn) {
            return self.io_leaf(entry, domain, owner);
        }
        let general = self.frames.get_general(mfn, owner.id).map_err(|_| Errno::EBUSY)?;
        if entry.0 & Pte::CACHE != 0 && self.frames.peek(mfn).is_some_and(|w| w.is_special()) {
            self.drop_general(general);
            return Err(Errno::EACCES);
        }
        if owner.id != domain.id {
            self.frames.note_foreign(&general);
        }
        if entry.is_writable() {
            self.make_writable(general)?.sleep();
        } else {
            general.sleep();
        }
        Ok(entry)
    }

    /// Turns a general reference into a writable one, flushing what other uses of the frame left in TLBs.
    /// `EBUSY`: the frame has another type.
    pub(super) fn make_writable(&self, mut general: GeneralRef) -> Result<TypeRef, Errno> {
        loop {
            match self.frames.take_type(general, Kind::Writable) {
                TakeType::Have(reference) => return Ok(reference),
                TakeType::Claimed(claim) => {
                    self.flush_for_new_type(&claim, Kind::Writable);
                    return Ok(self.frames.validated(claim));
                }
                TakeType::Busy(back) => {
                    self.port.relax();
                    general = back;
                }
                // Writable frames are never partial.
                TakeType::Resumed(claim, back) => {
                    self.frames.rest(claim, 0);
                    self.drop_general(back);
                    return Err(Errno::EBUSY);
                }
                TakeType::Refused(back) => {
                    self.drop_general(back);
                    return Err(Errno::EBUSY);
                }
            }
        }
    }

    /// Makes a claim safe: no CPU translates through, or writes to, the frame as what it was (I-PT-4).
    pub(super) fn flush_for_new_type(&self, claim: &Claimed, kind: Kind) {
        if claim.was() == Kind::None || claim.was() == kind {
            return;
        }
        let cpus = if self.frames.is_foreign_mapped(claim.mfn()) {
            super::CpuSet::ALL
        } else {
            match self.port.domain(self.frames.owner(claim.mfn())) {
                Some(owner) => owner.dirty.snapshot(),
                None => super::CpuSet::ALL,
            }
        };
        self.port.flush_stale(&cpus, self.frames.stamp(claim.mfn()));
    }

    /// A mapping of I/O space: no references, but permissions, and caching only as told.
    fn io_leaf(&self, entry: Pte, domain: &DomainMemory, owner: &PageOwner<'_>) -> Result<Pte, Errno> {
        let mfn = entry.mfn();
        if !owner.io.may_map_io(mfn, mfn) || !domain.may_map_io(mfn, mfn) {
            let invalid = Mfn(Pte::FRAME >> 12);
            return Err(if mfn == invalid { Errno::EINVAL } else { Errno::EPERM });
        }
        let mut bits = entry.0;
        if entry.is_writable() && self.read_only_io.lock().contains(mfn.0, mfn.0) {
            bits &= !Pte::WRITE;
        }
        Ok(Pte(match bits & Pte::CACHE {
            0 => bits | Pte::PWT | Pte::PCD,
            Pte::PWT => bits | Pte::PCD,
            attributes if attributes == Pte::PWT | Pte::PAT => (bits | Pte::PCD) & !Pte::PAT,
            _ => bits,
        }))
    }

    /// Drops what an entry taken out of a level-1 table referred to.
    #[inline(always)]
    pub(super) fn drop_leaf(&self, entry: Pte) {
        if !entry.is_present() {
            return;
        }
        let mfn = entry.mfn();
        if self.frames.is_io(mfn) {
            return;
        }
        if entry.is_writable() {
            self.drop_writable(TypeRef::wake(mfn));
        } else {
            self.drop_general(GeneralRef::wake(mfn));
        }
    }

    /// Drops a general reference.
    #[inline(always)]
    pub fn drop_general(&self, reference: GeneralRef) {
        if let Some(dead) = self.frames.put_general(reference) {
            self.bury(dead);
        }
    }

    #[inline(always)]
    pub(super) fn drop_writable(&self, reference: TypeRef) {
        if let Some(dead) = self.frames.put_writable(reference, || self.port.clock()) {
            self.bury(dead);
        }
    }
}

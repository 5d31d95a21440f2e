//! Frames that are held for a long time, and by others than their owner: event words, control blocks, `vcpu_info`, grants.

use guest_abi::Errno;
use hv_types::{GuestVa, Mfn, PAGE_MASK};

use super::entry::How;
use super::port::Machine;
use super::{Caller, DomainMemory, Mmu, PageOwner, Pte};
use crate::frame::{GeneralRef, TypeRef};

impl<P: Machine> Mmu<'_, P> {
    /// Takes a general and a writable-type reference on a frame of the domain, to be given back by
    /// [`Mmu::unpin_writable`]. `EINVAL`: not the domain's memory, or it has another type.
    pub fn pin_writable(&self, domain: &DomainMemory, mfn: Mfn) -> Result<Mfn, Errno> {
        if let Ok(held) = self.frames.get_writable_fast(mfn, domain.id) {
            return Ok(held.sleep());
        }
        let general = self.frames.get_general(mfn, domain.id).map_err(|_| Errno::EINVAL)?;
        let held = self.make_writable(general).map_err(|_| Errno::EINVAL)?;
        Ok(held.sleep())
    }

    /// Gives back what one [`Mmu::pin_writable`] took on this frame.
    pub fn unpin_writable(&self, mfn: Mfn) {
        self.drop_writable(TypeRef::wake(mfn));
    }
}

/// Where a mapping of another domain's frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// What the calling kernel's tables have for this address.
    Address(GuestVa),
    /// The page-table entry at this machine address.
    Entry(u64),
}

/// How often an entry may change under [`Mmu::unmap_frame`] before it gives up.
const ATTEMPTS: u32 = 8;

impl<P: Machine> Mmu<'_, P> {
    /// Takes a general reference on a frame of the domain, to be given back by [`Mmu::unhold_frame`]. `EINVAL`: not the
    /// domain's memory.
    pub fn hold_frame(&self, domain: &DomainMemory, mfn: Mfn) -> Result<Mfn, Errno> {
        Ok(self.frames.get_general(mfn, domain.id).map_err(|_| Errno::EINVAL)?.sleep())
    }

    /// Gives back what one [`Mmu::hold_frame`] took on this frame.
    pub fn unhold_frame(&self, mfn: Mfn) {
        self.drop_general(GeneralRef::wake(mfn));
    }

    /// Writes `entry`, which names a frame of `owner`, into a level-1 table of the caller's. What was there is dropped.
    /// The caller has asked whether `owner` allows it. `EINVAL`: there is no such table; others as for an update.
    pub fn map_frame(
        &self,
        caller: &Caller<'_>,
        place: Place,
        entry: u64,
        owner: &DomainMemory,
    ) -> Result<(), Errno> {
        let owner = PageOwner { id: owner.id, io: caller.domain, memory: Some(owner) };
        self.at(caller, place, |table, index| {
            self.replace_leaf(table, index, entry, How::Set, caller.domain, &owner).map(drop)
        })
    }

    /// Clears the entry there, if it maps `mfn`. The caller flushes. `EINVAL`: it does not, or there is no such
    /// table; `EBUSY`: it kept changing.
    pub fn unmap_frame(&self, caller: &Caller<'_>, place: Place, mfn: Mfn) -> Result<(), Errno> {
        self.at(caller, place, |table, index| {
            let own = PageOwner::own(caller.domain);
            for _ in 0..ATTEMPTS {
                let old = Pte(self.port.load64(table, index));
                if !old.is_present() || old.mfn() != mfn {
                    return Err(Errno::EINVAL);
                }
                match self.replace_leaf(table, index, 0, How::Expect(old.0), caller.domain, &own) {
                    Err(Errno::EAGAIN) => continue,
                    result => return result.map(drop),
                }
            }
            Err(Errno::EBUSY)
        })
    }

    /// Does something with an entry of a level-1 table of the caller's, which it remains meanwhile.
    fn at(
        &self,
        caller: &Caller<'_>,
        place: Place,
        then: impl FnOnce(Mfn, usize) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let (table, index) = match place {
            Place::Address(va) => self.walk(caller, va).ok_or(Errno::EINVAL)?,
            Place::Entry(address) if address % 8 != 0 => return Err(Errno::EINVAL),
            Place::Entry(address) => (Mfn::containing(address), (address & PAGE_MASK) as usize / 8),
        };
        let (reference, level) = self.frames.get_table(table, caller.domain.id).map_err(|_| Errno::EINVAL)?;
        let result = if level == 1 { then(table, index) } else { Err(Errno::EINVAL) };
        self.drop_table_later(caller.vcpu, reference);
        result
    }
}

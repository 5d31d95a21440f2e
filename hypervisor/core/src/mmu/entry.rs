//! Changing one entry of a validated table.

use guest_abi::Errno;
use hv_types::Mfn;

use super::port::Machine;
use super::table::{HYPERVISOR_SLOTS, Stop};
use super::{Caller, DomainMemory, Mmu, PageOwner, Pte};
use crate::frame::TypeRef;

/// How often an exchange may lose against other CPUs before the caller is told that the entry is busy.
const ATTEMPTS: u32 = 64;

/// How an entry is replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    /// Whatever it was.
    Set,
    /// Whatever it was, keeping accessed and dirty.
    KeepAd,
    /// Only if it was this.
    Expect(u64),
}

/// An instruction that a guest used on a page table, as seen by the entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EmulatedWrite {
    /// `mov`, or `xchg`: store this.
    Store(u64),
    /// `cmpxchg`: store `new` if it is `old`.
    CompareExchange {
        /// What must be there.
        old: u64,
        /// What shall be there.
        new: u64,
    },
}

impl<P: Machine> Mmu<'_, P> {
    /// Replaces an entry of a level-1 table that the caller holds a type reference on, and gives what it was.
    /// `EINVAL`: forbidden bits; `EBUSY`: also if other CPUs kept changing it; `EAGAIN`: not as expected.
    #[inline(always)]
    pub(super) fn replace_leaf(
        &self,
        table: Mfn,
        index: usize,
        new: u64,
        how: How,
        domain: &DomainMemory,
        owner: &PageOwner<'_>,
    ) -> Result<u64, Errno> {
        let mut new = Pte(new);
        if new.is_present() {
            if new.0 & Pte::forbidden(1, domain.may_set_cache()) != 0 {
                return Err(Errno::EINVAL);
            }
            new = new.adjust(1);
            let old = self.port.load64(table, index);
            if (old ^ new.0) & Pte::IDENTITY_LEAF == 0
                && let Some(result) = self.reflag(table, index, old, new.0, how)
            {
                return result;
            }
            new = self.take_leaf(new, domain, owner)?;
        }
        match self.exchange(table, index, new.0, how) {
            Ok(old) => {
                self.drop_leaf(Pte(old));
                Ok(old)
            }
            Err(errno) => {
                self.drop_leaf(new);
                Err(errno)
            }
        }
    }

    /// Changes flags of an entry that goes on referring to the same. `None` if it changed meanwhile.
    #[inline(always)]
    fn reflag(&self, table: Mfn, index: usize, old: u64, new: u64, how: How) -> Option<Result<u64, Errno>> {
        let new = match how {
            How::Set => new,
            How::KeepAd => new | (old & Pte::AD),
            How::Expect(expected) if expected != old => return Some(Err(Errno::EAGAIN)),
            How::Expect(_) => new,
        };
        self.port.compare_exchange64(table, index, old, new).ok().map(Ok)
    }

    #[inline(always)]
    fn exchange(&self, table: Mfn, index: usize, new: u64, how: How) -> Result<u64, Errno> {
        match how {
            How::Set => Ok(self.port.swap64(table, index, new)),
            How::KeepAd => self.exchange_keeping(table, index, new),
            How::Expect(old) => {
                self.port.compare_exchange64(table, index, old, new).map_err(|_| Errno::EAGAIN)
            }
        }
    }

    fn exchange_keeping(&self, table: Mfn, index: usize, new: u64) -> Result<u64, Errno> {
        let mut old = self.port.load64(table, index);
        for _ in 0..ATTEMPTS {
            match self.port.compare_exchange64(table, index, old, new | (old & Pte::AD)) {
                Ok(old) => return Ok(old),
                Err(now) => old = now,
            }
        }
        Err(Errno::EBUSY)
    }

    /// Replaces an entry of a table of `level` 2..=4 that the caller holds a type reference on.
    /// `EINVAL`: a slot of the hypervisor, forbidden bits, or not a table of the next level.
    pub(super) fn replace_table(
        &self,
        caller: &Caller<'_>,
        table: (Mfn, u32),
        index: usize,
        new: u64,
        how: How,
        domain: &DomainMemory,
    ) -> Result<(), Stop> {
        let (table, level) = table;
        if level == 4 && HYPERVISOR_SLOTS.contains(&index) {
            return Err(Stop::Errno(Errno::EINVAL));
        }
        let mut new = Pte(new);
        if new.is_present() {
            if new.0 & Pte::FORBIDDEN_TABLE != 0 {
                return Err(Stop::Errno(Errno::EINVAL));
            }
            let adjusted = new.adjust(level);
            let old = self.port.load64(table, index);
            if (old ^ adjusted.0) & Pte::IDENTITY_TABLE == 0
                && let Some(result) = self.reflag(table, index, old, adjusted.0, how)
            {
                return Ok(result.map(drop)?);
            }
            new = self.take_entry(caller.vcpu, domain, new, level)?;
        }
        let (out, result) = match self.exchange(table, index, new.0, how) {
            Ok(old) => (Pte(old), Ok(())),
            Err(errno) => (new, Err(Stop::Errno(errno))),
        };
        if out.is_present() {
            self.drop_table_later(caller.vcpu, TypeRef::wake(out.mfn()));
        }
        result
    }

    /// Does what a guest's instruction meant to do to the level-1 table `table`, which it has mapped read-only:
    /// `width` bytes (1, 2, 4 or 8) at byte `offset`. The result is what was there, in the low `width` bytes.
    ///
    /// `EAGAIN`: a compare-and-exchange found something else (read again for the flags); all other errors mean that the
    /// write is not allowed, and the fault is the guest's.
    pub fn emulated_write(
        &self,
        caller: &Caller<'_>,
        table: Mfn,
        offset: usize,
        width: usize,
        write: EmulatedWrite,
    ) -> Result<u64, Errno> {
        if !matches!(width, 1 | 2 | 4 | 8) || !offset.is_multiple_of(width) || offset >= 4096 {
            return Err(Errno::EINVAL);
        }
        let (reference, level) = self.frames.get_table(table, caller.domain.id).map_err(|_| Errno::EINVAL)?;
        let result = match (level, width) {
            (1, 8) => self.write_whole(caller, table, offset / 8, write),
            (1, _) => self.write_part(caller, table, offset, width, write),
            _ => Err(Errno::EINVAL),
        };
        self.drop_table_later(caller.vcpu, reference);
        result
    }

    fn write_whole(
        &self,
        caller: &Caller<'_>,
        table: Mfn,
        index: usize,
        write: EmulatedWrite,
    ) -> Result<u64, Errno> {
        let (new, how) = match write {
            EmulatedWrite::Store(new) => (new, How::Set),
            EmulatedWrite::CompareExchange { old, new } => (new, How::Expect(old)),
        };
        self.replace_leaf(table, index, new, how, caller.domain, &PageOwner::own(caller.domain))
    }

    #[cold]
    fn write_part(
        &self,
        caller: &Caller<'_>,
        table: Mfn,
        offset: usize,
        width: usize,
        write: EmulatedWrite,
    ) -> Result<u64, Errno> {
        let shift = (offset % 8) * 8;
        let mask = (1 << (width * 8)) - 1;
        for _ in 0..ATTEMPTS {
            let full = self.port.load64(table, offset / 8);
            let here = full >> shift & mask;
            let part = match write {
                EmulatedWrite::Store(new) => new,
                EmulatedWrite::CompareExchange { old, .. } if old & mask != here => {
                    return Err(Errno::EAGAIN);
                }
                EmulatedWrite::CompareExchange { new, .. } => new,
            };
            let new = full & !(mask << shift) | (part & mask) << shift;
            let write = EmulatedWrite::CompareExchange { old: full, new };
            match self.write_whole(caller, table, offset / 8, write) {
                Err(Errno::EAGAIN) => continue,
                result => return result.map(|_| here),
            }
        }
        Err(Errno::EBUSY)
    }
}

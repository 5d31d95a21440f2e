//! Grants in use: what the hypervisor knows of an entry from the first use to the last.

use super::GrantTable;
use crate::fallible::boxed;
use crate::mmu::{DomainMemory, Machine, Mmu};
use alloc::boxed::Box;
use guest_abi::grant_table::*;
use hv_types::{DomId, Mfn, WORDS_PER_PAGE};

/// Entries in a frame of the table: eight bytes each.
const ENTRIES: usize = WORDS_PER_PAGE;
/// Entries whose uses come to be remembered together. A guest that grants its two rings and little else costs one such piece.
const PIECE: usize = 64;
/// How often the guest may change an entry under us before the use is refused.
const ATTEMPTS: u32 = 5;

/// The uses of one entry.
#[derive(Clone, Copy, Default)]
struct Use {
    /// The frame, as it was named when the first use began.
    mfn: Mfn,
    readers: u32,
    writers: u32,
    /// Who uses it: one domain at a time.
    dom: DomId,
}

impl Use {
    fn is_free(&self) -> bool {
        self.readers == 0 && self.writers == 0
    }
}

/// The uses of the entries of one frame, in pieces; all empty until there is one.
#[derive(Default)]
pub(super) struct Uses(Box<[Box<[Use]>]>);

impl Uses {
    /// Tells those that are in use.
    pub fn each(&self, tell: &mut impl FnMut(DomId, Mfn)) {
        let used = self.0.iter().flatten().filter(|entry| !entry.is_free());
        used.for_each(|entry| tell(entry.dom, entry.mfn));
    }

    /// What is known of an entry; nothing before the first use of its piece.
    fn get(&self, index: usize) -> Option<&Use> {
        self.0.get(index / PIECE)?.get(index % PIECE)
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut Use> {
        self.0.get_mut(index / PIECE)?.get_mut(index % PIECE)
    }

    /// The entry, with room made for its piece.
    fn make(&mut self, index: usize) -> Result<&mut Use, i16> {
        if self.0.is_empty() {
            self.0 = boxed(ENTRIES / PIECE, |_| Box::default()).map_err(|_| GNTST_NO_SPACE)?;
        }
        let piece = self.0.get_mut(index / PIECE).ok_or(GNTST_BAD_GNTREF)?;
        if piece.is_empty() {
            *piece = boxed(PIECE, |_| Use::default()).map_err(|_| GNTST_NO_SPACE)?;
        }
        piece.get_mut(index % PIECE).ok_or(GNTST_BAD_GNTREF)
    }
}

/// How a grant is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Access {
    /// What the entry's flags say during the use.
    fn flags(self) -> u64 {
        u64::from(match self {
            Access::Read => GTF_READING,
            Access::Write => GTF_READING | GTF_WRITING,
        })
    }
}

/// Asks the entry for access by `dom` and marks it in use; the frame that it names.
fn mark<P: Machine>(
    mmu: &Mmu<'_, P>,
    (frame, index): (Mfn, usize),
    dom: DomId,
    access: Access,
) -> Result<Mfn, i16> {
    for _ in 0..ATTEMPTS {
        let old = mmu.port.load64(frame, index);
        let (flags, to) = (old as u16, (old >> 16) as u16);
        let refused = flags & GTF_TYPE_MASK != GTF_PERMIT_ACCESS
            || DomId(to) != dom
            || (access == Access::Write && flags & GTF_READONLY != 0);
        if refused {
            return Err(GNTST_GENERAL_ERROR);
        }
        if mmu.port.compare_exchange64(frame, index, old, old | access.flags()).is_ok() {
            return Ok(Mfn(old >> 32));
        }
    }
    Err(GNTST_GENERAL_ERROR)
}

/// A reference on the frame that lasts as long as the use.
fn hold<P: Machine>(mmu: &Mmu<'_, P>, owner: &DomainMemory, mfn: Mfn, access: Access) -> Result<(), i16> {
    match access {
        Access::Read => mmu.hold_frame(owner, mfn).map(drop).map_err(|_| GNTST_BAD_PAGE),
        Access::Write => mmu.pin_writable(owner, mfn).map(drop).map_err(|_| {
            // Not the owner's, or of another type.
            match mmu.hold_frame(owner, mfn) {
                Ok(_) => {
                    mmu.unhold_frame(mfn);
                    GNTST_GENERAL_ERROR
                }
                Err(_) => GNTST_BAD_PAGE,
            }
        }),
    }
}

/// Gives back what [`hold`] took.
pub(super) fn unhold<P: Machine>(mmu: &Mmu<'_, P>, mfn: Mfn, access: Access) {
    match access {
        Access::Read => mmu.unhold_frame(mfn),
        Access::Write => mmu.unpin_writable(mfn),
    }
}

/// Where a grant's entry is: which frame, which word.
const fn place(grant: u32) -> (usize, usize) {
    (grant as usize / ENTRIES, grant as usize % ENTRIES)
}

impl GrantTable {
    /// Begins a use of a grant of this table's domain `owner` by `dom`; the frame. `GNTST_bad_gntref`: beyond the
    /// table; `GNTST_bad_page`: not a frame of the owner's; `GNTST_general_error`: not granted so.
    pub(super) fn begin_use<P: Machine>(
        &self,
        mmu: &Mmu<'_, P>,
        owner: &DomainMemory,
        grant: u32,
        dom: DomId,
        access: Access,
    ) -> Result<Mfn, i16> {
        let (number, index) = place(grant);
        let mut granted = self.granted.lock();
        let frame = *granted.frames.get(number).ok_or(GNTST_BAD_GNTREF)?;
        let uses = granted.active.get_mut(number).ok_or(GNTST_BAD_GNTREF)?;
        let entry = uses.make(index)?;
        let first = entry.is_free();
        if !first && entry.dom != dom {
            return Err(GNTST_GENERAL_ERROR);
        }
        let counts = match access {
            Access::Read => (entry.readers.checked_add(1), Some(entry.writers)),
            Access::Write => (Some(entry.readers), entry.writers.checked_add(1)),
        };
        let (Some(readers), Some(writers)) = counts else { return Err(GNTST_GENERAL_ERROR) };
        let marks = first || (access == Access::Write && entry.writers == 0);
        let named = if marks { mark(mmu, (frame, index), dom, access)? } else { entry.mfn };
        let mfn = if first { named } else { entry.mfn };
        *entry = Use { mfn, readers, writers, dom };
        drop(granted);
        // Taking a type may wait for other CPUs: not under the lock.
        if let Err(status) = hold(mmu, owner, mfn, access) {
            self.forget_use(mmu, grant, access);
            return Err(status);
        }
        Ok(mfn)
    }

    /// Ends a use. The caller has seen to it that nobody can reach the frame by it any more.
    pub(super) fn end_use<P: Machine>(&self, mmu: &Mmu<'_, P>, grant: u32, access: Access) {
        if let Some(mfn) = self.forget_use(mmu, grant, access) {
            unhold(mmu, mfn, access);
        }
    }

    /// Counts one use less; the frame whose reference went with it.
    fn forget_use<P: Machine>(&self, mmu: &Mmu<'_, P>, grant: u32, access: Access) -> Option<Mfn> {
        let (number, index) = place(grant);
        let mut granted = self.granted.lock();
        let frame = granted.frames.get(number).copied();
        let entry = granted.active.get_mut(number)?.get_mut(index)?;
        match access {
            Access::Read => entry.readers = entry.readers.saturating_sub(1),
            Access::Write => entry.writers = entry.writers.saturating_sub(1),
        }
        if let Some(frame) = frame {
            unmark(mmu, (frame, index), entry);
        }
        Some(entry.mfn)
    }

    /// The frame of a grant that is in use.
    pub(super) fn used_frame(&self, grant: u32) -> Option<Mfn> {
        let (number, index) = place(grant);
        let granted = self.granted.lock();
        let entry = granted.active.get(number)?.get(index)?;
        if entry.is_free() { None } else { Some(entry.mfn) }
    }

    /// Exchanges two entries that nobody uses. `GNTST_bad_gntref`: beyond the table; `GNTST_eagain`: in use.
    pub(super) fn swap_entries<P: Machine>(&self, mmu: &Mmu<'_, P>, a: u32, b: u32) -> Result<(), i16> {
        let granted = self.granted.lock();
        let find = |grant| {
            let (number, index) = place(grant);
            Some((*granted.frames.get(number)?, index, granted.active.get(number)?.get(index)))
        };
        let (Some(a), Some(b)) = (find(a), find(b)) else { return Err(GNTST_BAD_GNTREF) };
        if [a.2, b.2].iter().flatten().any(|entry| !entry.is_free()) {
            return Err(GNTST_EAGAIN);
        }
        let word = mmu.port.load64(a.0, a.1);
        let other = mmu.port.swap64(b.0, b.1, word);
        mmu.port.store64(a.0, a.1, other);
        Ok(())
    }
}

/// Takes back the marks in the entry that no use needs.
fn unmark<P: Machine>(mmu: &Mmu<'_, P>, (frame, index): (Mfn, usize), entry: &Use) {
    let unused = match (entry.readers, entry.writers) {
        (0, 0) => GTF_READING | GTF_WRITING,
        (_, 0) => GTF_WRITING,
        _ => return,
    };
    mmu.port.fetch_and64(frame, index, !u64::from(unused));
}

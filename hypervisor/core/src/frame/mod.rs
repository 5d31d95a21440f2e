//! The frame table: sixteen bytes a machine frame say who owns it, how often it is referred to, and what it may
//! be used for.
//!
//! A frame rests in this table and moves as a token: [`GeneralRef`] (it may be read), [`TypeRef`] (it has a type
//! and keeps it), [`Claimed`] (its type is being changed by us alone). Every operation that ends a token consumes
//! it. Tokens that sleep inside page-table entries are handled by `mmu::leaf` only.
//!
//! One 64-bit word holds both counts, the type and the flags, so that a mapping costs one compare-and-exchange:
//!
//! ```text
//! bit  63 special   62 allocated   61 pinned   60 partial   59 validated   58..56 kind
//!      55..28 type references     27..0 general references
//! ```
//!
//! Invariants (see `docs/invariants.md`): I-FR-1 (a type reference contains a general one), I-FR-2 (the kind is
//! constant while there are type references), I-FR-3 (the owner is constant while there are general ones),
//! I-FR-4 (no count wraps), I-FR-5 (a partial frame's one type reference belongs to the partial state).
//!
//! Frames beyond the table, and frames marked with [`FrameTable::mark_io`], are I/O space.

mod steal;
mod token;
mod typed;
mod word;

use core::sync::atomic::Ordering;

use crate::sync::{AtomicU32, AtomicU64};
use hv_types::{DomId, Mfn};

pub use token::{Claimed, Dead, GeneralRef, TypeRef};
pub use typed::{PutType, TakeType};
pub use word::{Kind, Word};

/// What the table keeps about one frame. All-zero is a frame that the hypervisor keeps for itself.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Frame {
    word: AtomicU64,
    /// Owner, cursor of a partial validation, and the foreign flag; in free blocks the next block's number.
    owner: AtomicU32,
    /// Flush clock when the last type reference went; in free blocks the previous block's number.
    stamp: AtomicU32,
}

#[cfg(not(feature = "loom"))]
const _: () = assert!(size_of::<Frame>() == 16);

/// Bits of `Frame::owner`.
const OWNER_MASK: u32 = 0xffff;
const CURSOR_SHIFT: u32 = 16;
const CURSOR_MASK: u32 = 0x3ff << CURSOR_SHIFT;
const FOREIGN: u32 = 1 << 26;

/// The frame is not there, not the named domain's, or its count is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// How a hypervisor frame is lent to a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// The domain can map it, never writable.
    ReadOnly,
    /// The domain can map it writable. It never becomes a page table.
    Writable,
}

/// All frames of the machine, by number.
#[derive(Clone, Copy)]
pub struct FrameTable<'a> {
    frames: &'a [Frame],
}

impl<'a> FrameTable<'a> {
    /// The table over the machine's slice; index is the frame number.
    pub const fn new(frames: &'a [Frame]) -> Self {
        FrameTable { frames }
    }

    /// Frames in the table; higher numbers are I/O space.
    pub const fn len(&self) -> usize {
        self.frames.len()
    }

    /// True if the table has no frame.
    pub const fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    #[inline(always)]
    fn get(&self, mfn: Mfn) -> Option<&'a Frame> {
        self.frames.get(usize::try_from(mfn.0).ok()?)
    }

    /// The packed word of a frame, for decisions that are re-checked later, for the model and for dumps.
    #[inline(always)]
    pub fn peek(&self, mfn: Mfn) -> Option<Word> {
        Some(Word(self.get(mfn)?.word.load(Ordering::Acquire)))
    }

    /// Owner of a frame that has references; meaningless for others.
    #[inline(always)]
    pub fn owner(&self, mfn: Mfn) -> DomId {
        match self.get(mfn) {
            Some(frame) => owner_of(frame),
            None => DomId::IO,
        }
    }

    /// True for frames that are not memory. Never changes after boot.
    #[inline(always)]
    pub fn is_io(&self, mfn: Mfn) -> bool {
        self.peek(mfn).is_none_or(Word::is_io)
    }

    /// True if the frame is, at this moment, a validated table of `level` (1..=4).
    #[inline(always)]
    pub fn is_table(&self, mfn: Mfn, level: u32) -> bool {
        self.peek(mfn).is_some_and(|w| w.is_valid_table(level))
    }

    /// Marks frames of the table as I/O space. For boot, before any domain runs.
    pub fn mark_io(&self, mfn: Mfn) {
        if let Some(frame) = self.get(mfn) {
            frame.word.store(Word::IO.0, Ordering::Release);
        }
    }

    /// Takes a general reference on a frame of `owner`.
    #[inline(always)]
    pub fn get_general(&self, mfn: Mfn, owner: DomId) -> Result<GeneralRef, Refused> {
        let frame = self.get(mfn).ok_or(Refused)?;
        let mut old = frame.word.load(Ordering::Relaxed);
        loop {
            if !Word(old).can_add_general() || owner_of(frame) != owner {
                return Err(Refused);
            }
            match cas(frame, old, old.wrapping_add(1)) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        if owner_of(frame) == owner { Ok(GeneralRef(mfn)) } else { Err(self.back_out(GeneralRef(mfn))) }
    }

    /// Between the look at the owner and the new reference the frame died and was born again as somebody else's:
    /// gives the reference back.
    ///
    /// The new owner may have let go in turn, and then we are the last: the frame waits as [`Word::ORPHAN`] for
    /// [`FrameTable::take_orphan`].
    #[cold]
    fn back_out(&self, general: GeneralRef) -> Refused {
        if let Some(dead) = self.put_general(general) {
            self.orphan(dead);
        }
        Refused
    }

    /// Gives back a general reference. The last one kills the frame.
    #[inline(always)]
    pub fn put_general(&self, general: GeneralRef) -> Option<Dead> {
        let frame = self.get(general.0)?;
        let mut old = frame.word.load(Ordering::Relaxed);
        loop {
            let last = Word(old).general() == 1;
            let new = if last { 0 } else { old.wrapping_sub(1) };
            match cas(frame, old, new) {
                Ok(_) if last => {
                    return Some(Dead { mfn: general.0, owner: owner_of(frame), was: Word(old) });
                }
                Ok(_) => return None,
                Err(now) => old = now,
            }
        }
    }

    /// Takes one more general reference where one is held already.
    pub fn duplicate(&self, general: &GeneralRef) -> Result<GeneralRef, Refused> {
        self.get_general(general.0, self.owner(general.0))
    }

    /// Publishes a frame that nobody uses as `owner`'s: one general reference, which is the owner's own
    /// (`allocated`), and no type. False if the frame is in use (I-FR-6: the table refuses a used frame whatever
    /// the allocator said).
    pub fn publish(&self, mfn: Mfn, owner: DomId) -> bool {
        self.publish_word(mfn, owner, Word::ALLOCATED | 1)
    }

    /// Lends a frame of the hypervisor to `owner` (shared info, grant table). It counts as no page of the domain.
    pub fn share(&self, mfn: Mfn, owner: DomId, share: Share) -> bool {
        let word = Word::ALLOCATED | Word::SPECIAL | Word::VALIDATED | Word::TYPE_ONE | 2;
        match share {
            Share::ReadOnly => self.publish_word(mfn, owner, word),
            Share::Writable => self.publish_word(mfn, owner, word | Kind::Writable.bits()),
        }
    }

    fn publish_word(&self, mfn: Mfn, owner: DomId, word: u64) -> bool {
        let Some(frame) = self.get(mfn) else { return false };
        if frame.word.load(Ordering::Relaxed) != 0 {
            return false;
        }
        frame.owner.store(u32::from(owner.0), Ordering::Relaxed);
        frame.stamp.store(0, Ordering::Relaxed);
        cas(frame, 0, word).is_ok()
    }

    /// Takes the owner's own reference away from a domain's frame. The caller must hold another reference and
    /// turns the result into [`FrameTable::put_general`]. `None` if the owner had given it up before.
    pub fn take_allocated(&self, held: &GeneralRef) -> Option<GeneralRef> {
        let frame = self.get(held.0)?;
        let mut old = frame.word.load(Ordering::Relaxed);
        loop {
            if old & Word::ALLOCATED == 0 || old & Word::SPECIAL != 0 {
                return None;
            }
            match cas(frame, old, old & !Word::ALLOCATED) {
                Ok(_) => return Some(GeneralRef(held.0)),
                Err(now) => old = now,
            }
        }
    }

    /// Ends the loan of [`FrameTable::share`]. The frame dies when the domain's last mapping goes.
    pub fn unshare(&self, mfn: Mfn) -> Option<Dead> {
        let frame = self.get(mfn)?;
        let mut old = frame.word.load(Ordering::Relaxed);
        loop {
            if old & (Word::SPECIAL | Word::ALLOCATED) != Word::SPECIAL | Word::ALLOCATED {
                return None;
            }
            // The loan's type reference goes with its two general ones; SPECIAL stays for the page accounts.
            let last = Word(old).general() == 2;
            let less = (old & !Word::ALLOCATED).wrapping_sub(Word::TYPE_ONE | 2);
            let less = if Word(old).types() == 1 { less & !Word::VALIDATED } else { less };
            let new = if last { 0 } else { less };
            match cas(frame, old, new) {
                Ok(_) if last => return Some(Dead { mfn, owner: owner_of(frame), was: Word(old) }),
                Ok(_) => return None,
                Err(now) => old = now,
            }
        }
    }

    /// Notes that a domain other than the owner got a mapping; the flush before a change of type then
    /// goes to every CPU.
    #[inline]
    pub fn note_foreign(&self, held: &GeneralRef) {
        if let Some(frame) = self.get(held.0) {
            frame.owner.fetch_or(FOREIGN, Ordering::AcqRel);
        }
    }

    /// True if a domain other than the owner ever mapped the frame.
    pub fn is_foreign_mapped(&self, mfn: Mfn) -> bool {
        self.get(mfn).is_some_and(|f| f.owner.load(Ordering::Acquire) & FOREIGN != 0)
    }

    /// Flush clock at the moment of the last drop of the type.
    pub fn stamp(&self, mfn: Mfn) -> u32 {
        self.get(mfn).map_or(0, |f| f.stamp.load(Ordering::Acquire))
    }

    /// Sets or clears the pin. True if that changed it.
    pub fn set_pinned(&self, held: &GeneralRef, pinned: bool) -> bool {
        let Some(frame) = self.get(held.0) else { return false };
        let old = if pinned {
            frame.word.fetch_or(Word::PINNED, Ordering::AcqRel)
        } else {
            frame.word.fetch_and(!Word::PINNED, Ordering::AcqRel)
        };
        (old & Word::PINNED != 0) != pinned
    }

    fn orphan(&self, dead: Dead) {
        if let Some(frame) = self.get(dead.mfn) {
            // Nobody else can see a dead frame: a plain store is enough.
            frame.word.store(Word::ORPHAN.0 | (dead.was.0 & Word::SPECIAL), Ordering::Release);
        }
    }

    /// Finds a frame that died in the hands of a stranger. For the domain's destruction, which scans its frames.
    pub fn take_orphan(&self, mfn: Mfn, owner: DomId) -> Option<Dead> {
        let frame = self.get(mfn)?;
        let old = frame.word.load(Ordering::Acquire);
        if old & !Word::SPECIAL != Word::ORPHAN.0 || owner_of(frame) != owner {
            return None;
        }
        cas(frame, old, 0).ok().map(|_| Dead { mfn, owner, was: Word(old) })
    }
}

/// Links of free blocks, for the allocator alone.
impl FrameTable<'_> {
    pub(crate) fn set_free(&self, index: u32, order: u32, next: u32, prev: u32) {
        if let Some(frame) = self.get(Mfn(u64::from(index))) {
            frame.owner.store(next, Ordering::Relaxed);
            frame.stamp.store(prev, Ordering::Relaxed);
            frame.word.store(Word::free_head(order).0, Ordering::Release);
        }
    }

    /// Makes a frame part of a free block, not its first.
    pub(crate) fn set_tail(&self, index: u32) {
        if let Some(frame) = self.get(Mfn(u64::from(index))) {
            frame.word.store(Word::TAIL.0, Ordering::Release);
        }
    }

    /// Takes a frame out of its free block.
    pub(crate) fn set_reserved(&self, index: u32) {
        if let Some(frame) = self.get(Mfn(u64::from(index))) {
            frame.word.store(0, Ordering::Release);
        }
    }

    pub(crate) fn links(&self, index: u32) -> (u32, u32) {
        match self.get(Mfn(u64::from(index))) {
            Some(f) => (f.owner.load(Ordering::Relaxed), f.stamp.load(Ordering::Relaxed)),
            None => (u32::MAX, u32::MAX),
        }
    }

    pub(crate) fn set_next(&self, index: u32, next: u32) {
        if let Some(frame) = self.get(Mfn(u64::from(index))) {
            frame.owner.store(next, Ordering::Relaxed);
        }
    }

    pub(crate) fn set_prev(&self, index: u32, prev: u32) {
        if let Some(frame) = self.get(Mfn(u64::from(index))) {
            frame.stamp.store(prev, Ordering::Relaxed);
        }
    }
}

#[inline(always)]
fn owner_of(frame: &Frame) -> DomId {
    DomId((frame.owner.load(Ordering::Relaxed) & OWNER_MASK) as u16)
}

#[inline(always)]
fn cas(frame: &Frame, old: u64, new: u64) -> Result<u64, u64> {
    frame.word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed)
}

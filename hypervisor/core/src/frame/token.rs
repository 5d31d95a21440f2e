//! References on frames, in motion.
//!
//! Tokens are plain frame numbers with a name: they cost nothing. None is `Clone`; the table makes them and
//! takes them back. Forgetting one leaks a reference (never frees too early), and the model's oracle sees it.

use hv_types::{DomId, Mfn};

use super::{Kind, Word};

/// One general reference: the frame stays what it is and whose it is.
#[must_use = "a dropped token leaks its reference"]
#[derive(Debug, PartialEq, Eq)]
pub struct GeneralRef(pub(super) Mfn);

/// One type reference and the general reference in it: the frame keeps its kind, validated.
#[must_use = "a dropped token leaks its reference"]
#[derive(Debug, PartialEq, Eq)]
pub struct TypeRef(pub(super) Mfn);

/// The frame's type is being changed by the holder alone. It contains one type and one general reference.
#[must_use = "a dropped claim blocks the frame for ever"]
#[derive(Debug, PartialEq, Eq)]
pub struct Claimed {
    pub(super) mfn: Mfn,
    /// What the frame was before, and so what stale translations may still allow.
    pub(super) was: Kind,
    /// Entries below this one hold references.
    pub(super) cursor: usize,
}

/// A frame without references: goes to the allocator.
#[must_use = "a dropped dead frame is lost memory"]
#[derive(Debug, PartialEq, Eq)]
pub struct Dead {
    pub(super) mfn: Mfn,
    pub(super) owner: DomId,
    pub(super) was: Word,
}

impl GeneralRef {
    /// The frame.
    #[inline(always)]
    pub const fn mfn(&self) -> Mfn {
        self.0
    }

    /// Puts the reference to sleep as part of a page-table entry.
    #[inline(always)]
    pub(crate) fn sleep(self) -> Mfn {
        self.0
    }

    /// Wakes a reference that slept in a page-table entry.
    #[inline(always)]
    pub(crate) fn wake(mfn: Mfn) -> Self {
        GeneralRef(mfn)
    }
}

impl TypeRef {
    /// The frame.
    #[inline(always)]
    pub const fn mfn(&self) -> Mfn {
        self.0
    }

    /// Puts the reference to sleep as part of a page-table entry, a pin or a root register.
    #[inline(always)]
    pub(crate) fn sleep(self) -> Mfn {
        self.0
    }

    /// Wakes a reference that slept.
    #[inline(always)]
    pub(crate) fn wake(mfn: Mfn) -> Self {
        TypeRef(mfn)
    }
}

impl Claimed {
    /// The frame.
    pub const fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// What the frame was used for before; stale translations of that use must be flushed unless it is
    /// [`Kind::None`] or the new kind itself.
    pub const fn was(&self) -> Kind {
        self.was
    }

    /// Entries below this one hold references.
    pub const fn cursor(&self) -> usize {
        self.cursor
    }
}

impl Dead {
    /// The frame.
    pub const fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// Whose it was.
    pub const fn owner(&self) -> DomId {
        self.owner
    }

    /// True if it counted as a page of its owner.
    pub const fn was_counted(&self) -> bool {
        !self.was.is_special()
    }
}

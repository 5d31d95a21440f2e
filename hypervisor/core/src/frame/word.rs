//! The packed word of a frame.

/// What a frame is used for while it has type references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing yet since the frame was given out; with type references: lent read-only.
    None,
    /// Page table of level 1: its entries map frames.
    L1,
    /// Page table of level 2.
    L2,
    /// Page table of level 3.
    L3,
    /// Page table of level 4: a root.
    L4,
    /// Descriptor table.
    SegDesc,
    /// Ordinary memory with writable mappings.
    Writable,
    /// Not a frame in use: free, orphaned, or I/O space.
    Other,
}

impl Kind {
    const ALL: [Kind; 8] =
        [Kind::None, Kind::L1, Kind::L2, Kind::L3, Kind::L4, Kind::SegDesc, Kind::Writable, Kind::Other];

    /// The kind of a page table of `level`; level 0 and those above 4 are [`Kind::None`].
    pub const fn table(level: u32) -> Kind {
        match level {
            1 => Kind::L1,
            2 => Kind::L2,
            3 => Kind::L3,
            4 => Kind::L4,
            _ => Kind::None,
        }
    }

    /// Level of a page table, 0 for the other kinds.
    pub const fn level(self) -> u32 {
        match self {
            Kind::L1 => 1,
            Kind::L2 => 2,
            Kind::L3 => 3,
            Kind::L4 => 4,
            Kind::None | Kind::SegDesc | Kind::Writable | Kind::Other => 0,
        }
    }

    pub(super) const fn bits(self) -> u64 {
        (self as u64) << Word::KIND_SHIFT
    }
}

/// A copy of a frame's packed word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub(super) u64);

impl Word {
    const KIND_SHIFT: u32 = 56;
    pub(super) const GENERAL_MASK: u64 = (1 << 28) - 1;
    pub(super) const TYPE_ONE: u64 = 1 << 28;
    pub(super) const TYPE_MASK: u64 = Self::GENERAL_MASK << 28;
    pub(super) const KIND_MASK: u64 = 7 << Self::KIND_SHIFT;
    pub(super) const VALIDATED: u64 = 1 << 59;
    pub(super) const PARTIAL: u64 = 1 << 60;
    pub(super) const PINNED: u64 = 1 << 61;
    pub(super) const ALLOCATED: u64 = 1 << 62;
    pub(super) const SPECIAL: u64 = 1 << 63;
    /// One type reference with the general one that it contains.
    pub(super) const BOTH: u64 = Self::TYPE_ONE | 1;

    /// I/O space. Kind `Other` never has general references, so that nothing can take one.
    pub(super) const IO: Word = Word(Self::KIND_MASK | Self::TYPE_ONE);
    /// Died in the hands of a stranger.
    pub(super) const ORPHAN: Word = Word(Self::KIND_MASK | (2 * Self::TYPE_ONE));
    /// In a free block, not its first frame.
    pub(super) const TAIL: Word = Word(Self::KIND_MASK | (3 * Self::TYPE_ONE));
    const FREE: u64 = Self::KIND_MASK | (4 * Self::TYPE_ONE);
    const ORDER_SHIFT: u32 = 28 + 8;

    pub(super) const fn free_head(order: u32) -> Word {
        Word(Self::FREE | ((order as u64) << Self::ORDER_SHIFT))
    }

    /// The hypervisor's own, seen by no domain.
    pub const fn is_reserved(self) -> bool {
        self.0 == 0
    }

    /// Order of the free block that begins with this frame.
    pub fn free_order(self) -> Option<u32> {
        let order = (self.0 >> Self::ORDER_SHIFT) & 0x1f;
        (self.0 == Self::free_head(order as u32).0).then_some(order as u32)
    }

    /// True for I/O space.
    #[inline(always)]
    pub const fn is_io(self) -> bool {
        self.0 == Self::IO.0
    }

    /// What the frame is used for.
    #[inline(always)]
    pub const fn kind(self) -> Kind {
        Kind::ALL[((self.0 >> Self::KIND_SHIFT) & 7) as usize]
    }

    /// General references, including those inside type references.
    #[inline(always)]
    pub const fn general(self) -> u64 {
        self.0 & Self::GENERAL_MASK
    }

    /// Type references. Zero for frames not in use.
    #[inline(always)]
    pub const fn types(self) -> u64 {
        (self.0 & Self::TYPE_MASK) >> 28
    }

    /// The type may be relied upon.
    pub const fn is_validated(self) -> bool {
        self.0 & Self::VALIDATED != 0
    }

    /// At rest in the middle of validation or its reverse.
    pub const fn is_partial(self) -> bool {
        self.0 & Self::PARTIAL != 0
    }

    /// A pin holds one type reference.
    pub const fn is_pinned(self) -> bool {
        self.0 & Self::PINNED != 0
    }

    /// The owner holds its own general reference.
    pub const fn is_allocated(self) -> bool {
        self.0 & Self::ALLOCATED != 0
    }

    /// The hypervisor's frame, lent to its owner.
    pub const fn is_special(self) -> bool {
        self.0 & Self::SPECIAL != 0
    }

    /// Kind and `validated` as one number. A validated frame has type references (I-FR-5), so that this alone says
    /// that the kind may be relied upon.
    #[inline(always)]
    const fn tag(self) -> u64 {
        (self.0 >> Self::KIND_SHIFT) & 0xf
    }

    /// True for a validated page table of `level`.
    #[inline(always)]
    pub const fn is_valid_table(self, level: u32) -> bool {
        self.tag() == level as u64 | 8
    }

    /// Level if it is a validated page table, else 0.
    #[inline(always)]
    pub(super) const fn valid_level(self) -> u32 {
        let level = self.tag().wrapping_sub(8);
        if level <= 4 { level as u32 } else { 0 }
    }

    /// True for memory in use as writable.
    #[inline(always)]
    pub(super) const fn is_valid_writable(self) -> bool {
        self.tag() == Kind::Writable as u64 | 8
    }

    /// The general count is neither nothing nor full.
    #[inline(always)]
    pub(super) const fn can_add_general(self) -> bool {
        self.general().wrapping_sub(1) < Self::GENERAL_MASK - 1
    }

    /// No count can go up. Type references contain general ones, so their count is never fuller.
    #[inline(always)]
    pub(super) const fn is_full(self) -> bool {
        self.general() == Self::GENERAL_MASK
    }
}

//! Page-table entries as bits: sorted into kinds before anyone acts.

use hv_types::Mfn;

/// An entry of a page table of any level.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Pte(pub u64);

/// What an entry means at its level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Not present; all other bits are the guest's.
    Absent,
    /// Maps a frame (level 1).
    Leaf(Mfn),
    /// Names the table of the next lower level.
    Table(Mfn),
    /// Present with bits that no guest may set there.
    Forbidden(u64),
}

impl Pte {
    /// Present.
    pub const PRESENT: u64 = 1;
    /// Writable.
    pub const WRITE: u64 = 1 << 1;
    /// Accessible in ring 3.
    pub const USER: u64 = 1 << 2;
    /// Write-through.
    pub const PWT: u64 = 1 << 3;
    /// Cache disable.
    pub const PCD: u64 = 1 << 4;
    /// Accessed.
    pub const ACCESSED: u64 = 1 << 5;
    /// Dirty.
    pub const DIRTY: u64 = 1 << 6;
    /// Page attribute table at level 1, super page above.
    pub const PAT: u64 = 1 << 7;
    /// Global.
    pub const GLOBAL: u64 = 1 << 8;
    /// Marks a guest kernel's mapping, whose `USER` is not what the guest wrote.
    pub const GUEST_KERNEL: u64 = 1 << 52;
    /// Cache attributes of a leaf.
    pub const CACHE: u64 = Self::PWT | Self::PCD | Self::PAT;
    /// Accessed and dirty.
    pub const AD: u64 = Self::ACCESSED | Self::DIRTY;

    /// Bits of the frame number.
    pub const FRAME: u64 = 0x000f_ffff_ffff_f000;
    /// A change of no other bits than these needs no new reference, at level 1.
    const HARMLESS: u64 = (0xfff << 52) | 0xe00 | Self::GLOBAL | Self::DIRTY | Self::ACCESSED | Self::USER;
    /// Bits whose change makes an entry of level 1 another mapping.
    pub const IDENTITY_LEAF: u64 = !Self::HARMLESS;
    /// Bits whose change makes an entry above level 1 another.
    pub const IDENTITY_TABLE: u64 = !(Self::HARMLESS | Self::WRITE);
    /// Bits that no entry above level 1 may have.
    pub const FORBIDDEN_TABLE: u64 = Self::CACHE | Self::GLOBAL;

    /// True if present.
    #[inline(always)]
    pub const fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// True if writable.
    #[inline(always)]
    pub const fn is_writable(self) -> bool {
        self.0 & Self::WRITE != 0
    }

    /// The frame it names.
    #[inline(always)]
    pub const fn mfn(self) -> Mfn {
        Mfn((self.0 & Self::FRAME) >> 12)
    }

    /// Bits that an entry of `level` may not have; `cache` allows cache attributes of leaves.
    #[inline(always)]
    pub const fn forbidden(level: u32, cache: bool) -> u64 {
        match (level, cache) {
            (1, true) => 0,
            (1, false) => Self::CACHE,
            _ => Self::FORBIDDEN_TABLE,
        }
    }

    /// Sorts an entry of a table of `level` (1..=4). `cache`: the domain may set cache attributes.
    #[inline(always)]
    pub const fn classify(self, level: u32, cache: bool) -> Class {
        if !self.is_present() {
            return Class::Absent;
        }
        let bad = self.0 & Self::forbidden(level, cache);
        if bad != 0 {
            Class::Forbidden(bad)
        } else if level == 1 {
            Class::Leaf(self.mfn())
        } else {
            Class::Table(self.mfn())
        }
    }

    /// A present entry as it is stored: a PV kernel runs in ring 3, so its own mappings become accessible there
    /// and are marked; user mappings become global; a root's entries are always accessed.
    #[inline(always)]
    pub const fn adjust(self, level: u32) -> Pte {
        let bits = match level {
            1 => {
                let kernel = self.0 & Self::USER == 0 || self.0 & Self::GUEST_KERNEL != 0;
                if self.0 & Self::USER == 0 {
                    Self::GUEST_KERNEL | Self::USER
                } else if kernel {
                    0
                } else {
                    Self::GLOBAL
                }
            }
            4 => Self::USER | Self::ACCESSED,
            _ => Self::USER,
        };
        Pte(self.0 | bits)
    }
}

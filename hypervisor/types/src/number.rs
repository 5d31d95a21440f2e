//! Newtyped numbers. All are plain data; none grants authority over what it names.

use core::fmt;

/// log2 of the size of a page, in bytes.
pub const PAGE_SHIFT: u32 = 12;
/// Size of a page, in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Bits of an address that lie within a page.
pub const PAGE_MASK: u64 = PAGE_SIZE - 1;
/// 64-bit words in a page: also the entries of a page table.
pub const WORDS_PER_PAGE: usize = 512;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

number! {
    /// Machine frame number: a 4 KiB frame of host memory or of host I/O space.
    Mfn(u64)
}
number! {
    /// Guest frame number: what a domain calls its own pseudo-physical frame.
    Gfn(u64)
}
number! {
    /// Guest linear address, as alleged by the guest: not yet known to be mapped, canonical or the guest's own.
    GuestVa(u64)
}
number! {
    /// Domain identifier (`domid_t`); values from `0x7ff0` on are reserved names (`xen.h`).
    DomId(u16)
}
number! {
    /// A virtual CPU's number within its domain.
    VcpuId(u16)
}
number! {
    /// Event-channel port within a domain (`evtchn_port_t`).
    Port(u32)
}
number! {
    /// Physical interrupt as the guest names it (a GSI, or a number above all GSIs for an MSI).
    Pirq(u32)
}
number! {
    /// Index of a grant-table entry (`grant_ref_t`).
    GrantRef(u32)
}

impl Mfn {
    /// No frame; all bits set, as `INVALID_MFN` in the public headers.
    pub const INVALID: Mfn = Mfn(u64::MAX);

    /// The frame that holds machine address `addr`.
    pub const fn containing(addr: u64) -> Mfn {
        Mfn(addr >> PAGE_SHIFT)
    }

    /// Machine address of the first byte. Frames beyond the 52-bit physical space have none.
    pub const fn address(self) -> Option<u64> {
        if self.0 >> (52 - PAGE_SHIFT) == 0 { Some(self.0 << PAGE_SHIFT) } else { None }
    }
}

impl Gfn {
    /// No frame.
    pub const INVALID: Gfn = Gfn(u64::MAX);
}

impl DomId {
    /// The privileged first domain.
    pub const DOM0: DomId = DomId(0);
    /// First reserved number; ordinary domains lie below (`DOMID_FIRST_RESERVED`).
    pub const FIRST_RESERVED: DomId = DomId(0x7ff0);
    /// "Myself" (`DOMID_SELF`).
    pub const SELF: DomId = DomId(0x7ff0);
    /// Owner of I/O space (`DOMID_IO`).
    pub const IO: DomId = DomId(0x7ff1);
    /// Owner of the hypervisor's own frames that guests may map (`DOMID_XEN`).
    pub const XEN: DomId = DomId(0x7ff2);
    /// Owner of pages shared copy-on-write (`DOMID_COW`).
    pub const COW: DomId = DomId(0x7ff3);
    /// No domain (`DOMID_INVALID`).
    pub const INVALID: DomId = DomId(0x7ff4);
    /// No owner: the frame is idle (`DOMID_IDLE`).
    pub const IDLE: DomId = DomId(0x7fff);
}

impl GuestVa {
    /// True if bits 63..47 all agree, as x86-64 demands of an address.
    pub const fn is_canonical(self) -> bool {
        let top = (self.0 as i64) >> 47;
        top == 0 || top == -1
    }

    /// True if the address lies in the linear range that belongs to the hypervisor in every page table
    /// (`HYPERVISOR_VIRT_START`..`HYPERVISOR_VIRT_END`, `arch-x86/xen-x86_64.h`).
    pub const fn is_hypervisor(self) -> bool {
        self.0 >= 0xffff_8000_0000_0000 && self.0 < 0xffff_8800_0000_0000
    }

    /// True if all of `len` bytes from here on are canonical, do not wrap, and lie outside the hypervisor's range.
    pub const fn is_guest_range(self, len: u64) -> bool {
        match self.0.checked_add(len) {
            None => false,
            Some(end) => {
                end <= 0x0000_8000_0000_0000
                    || (self.0 >= 0xffff_8800_0000_0000 && (end > self.0 || len == 0))
            }
        }
    }

    /// Index of the entry that maps this address in a page table of `level` (1..=4).
    pub const fn index(self, level: u32) -> usize {
        ((self.0 >> (PAGE_SHIFT + 9 * (level - 1))) & 0x1ff) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_range_neither_wraps_nor_touches_the_hypervisor() {
        assert!(GuestVa(0).is_guest_range(0x0000_8000_0000_0000));
        assert!(!GuestVa(0).is_guest_range(0x0000_8000_0000_0001));
        assert!(!GuestVa(0xffff_87ff_ffff_ffff).is_guest_range(1));
        assert!(GuestVa(0xffff_8800_0000_0000).is_guest_range(8));
        assert!(!GuestVa(u64::MAX).is_guest_range(2));
    }

    #[test]
    fn indices_follow_the_four_levels() {
        let va = GuestVa(0xffff_8300_0020_3000);
        assert_eq!((va.index(4), va.index(3), va.index(2), va.index(1)), (262, 0, 1, 3));
    }

    #[test]
    fn a_frame_beyond_the_physical_space_has_no_address() {
        assert_eq!(Mfn(1).address(), Some(0x1000));
        assert_eq!(Mfn::INVALID.address(), None);
    }
}

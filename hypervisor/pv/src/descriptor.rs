//! Segment descriptors and selectors that a guest may install.
//!
//! A descriptor table page is promoted only if every descriptor in it passes [`SegmentDescriptor::check`]; that makes
//! it safe to let the processor load any of them for ring 3.

use guest_abi::Errno;
use guest_abi::x86_64::{FIRST_RESERVED_GDT_ENTRY, FLAT_KERNEL_CS};
use hv_types::{GuestVa, PAGE_MASK};

/// Descriptors in a page.
pub const DESCRIPTORS_PER_PAGE: u32 = 512;
/// Most descriptors an LDT may have.
const LDT_MAX: u64 = 8192;

const PRESENT: u64 = 1 << 47;
const DPL: u64 = 3 << 45;
/// Set for code and data, clear for system descriptors.
const CODE_OR_DATA: u64 = 1 << 44;
const TYPE: u64 = 0xf << 40;
const CALL_GATE: u64 = 0xc << 40;
/// Bits of a call gate that must be zero: the low byte of its upper half.
const GATE_RESERVED: u64 = 0xff << 32;
const GATE_SELECTOR: u64 = 0xffff << 16;

/// The descriptor would give the guest something that is not its own: `-EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadDescriptor;

impl From<BadDescriptor> for Errno {
    fn from(_: BadDescriptor) -> Errno {
        Errno::EINVAL
    }
}

/// Eight bytes of a GDT or LDT that the processor may be shown in ring 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct SegmentDescriptor(u64);

impl SegmentDescriptor {
    /// The checkpoint. The answer may differ from `raw`: the privilege level is the guest's, and a call gate is made
    /// unusable in a way that lets its use be recognised (level 0, the old level in the selector).
    #[inline]
    pub const fn check(raw: u64) -> Result<SegmentDescriptor, BadDescriptor> {
        // What is not present always faults; type 0 does as well, and is the second half of a 16-byte gate.
        if raw & PRESENT == 0 || raw & (CODE_OR_DATA | TYPE) == 0 {
            return Ok(SegmentDescriptor(raw));
        }
        if raw & CODE_OR_DATA != 0 {
            return Ok(SegmentDescriptor(raw | DPL));
        }
        if raw & TYPE != CALL_GATE || raw & GATE_RESERVED != 0 {
            return Err(BadDescriptor);
        }
        let selector = ((raw & GATE_SELECTOR) >> 16) as u16;
        if !gate_may_target(selector) {
            return Err(BadDescriptor);
        }
        Ok(SegmentDescriptor(raw & !DPL | 3 << 16))
    }

    /// The bits to store.
    #[inline(always)]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// A gate ignores its selector's RPL, so the selector itself must be the guest's: an LDT entry, a GDT entry below the
/// hypervisor's, or the flat code segment that every guest may use.
const fn gate_may_target(selector: u16) -> bool {
    ((selector >> 3) as u32) < FIRST_RESERVED_GDT_ENTRY || selector & 4 != 0 || selector == FLAT_KERNEL_CS
}

/// A code or stack selector with the privilege level of a guest.
#[inline(always)]
pub const fn guest_selector(selector: u16) -> u16 {
    selector | 3
}

/// Pages that a GDT of `entries` descriptors has. A guest's GDT ends where the hypervisor's entries begin.
pub const fn gdt_pages(entries: u64) -> Result<usize, Errno> {
    if entries > FIRST_RESERVED_GDT_ENTRY as u64 {
        return Err(Errno::EINVAL);
    }
    Ok(entries.div_ceil(DESCRIPTORS_PER_PAGE as u64) as usize)
}

/// Checks what `MMUEXT_SET_LDT` names: a page-aligned range of the guest's, of at most 8192 descriptors. Answers the
/// number of descriptors.
pub const fn ldt_entries(base: GuestVa, entries: u64) -> Result<u32, Errno> {
    if entries > LDT_MAX || base.0 & PAGE_MASK != 0 || !base.is_guest_range(entries * 8) {
        return Err(Errno::EINVAL);
    }
    Ok(entries as u32)
}

/// A checked request of `set_segment_base`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentBase {
    /// FS base.
    Fs(u64),
    /// GS base that user mode has.
    GsUser(u64),
    /// GS base that the kernel has.
    GsKernel(u64),
    /// Load the user's GS selector, and its base with it; a selector that faults loads the null selector.
    GsUserSelector(u16),
}

impl SegmentBase {
    /// The checkpoint: bases must be canonical.
    #[inline]
    pub const fn new(which: u32, base: u64) -> Result<SegmentBase, Errno> {
        use guest_abi::x86_64::{SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER, SEGBASE_GS_USER_SEL};
        if which == SEGBASE_GS_USER_SEL {
            return Ok(SegmentBase::GsUserSelector(base as u16));
        }
        if !GuestVa(base).is_canonical() {
            return Err(Errno::EINVAL);
        }
        match which {
            SEGBASE_FS => Ok(SegmentBase::Fs(base)),
            SEGBASE_GS_USER => Ok(SegmentBase::GsUser(base)),
            SEGBASE_GS_KERNEL => Ok(SegmentBase::GsKernel(base)),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// What emulation needs of a code segment: how wide its addresses are, and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeSegment {
    /// 64, 32 or 16.
    pub bits: u8,
    /// First address; zero in 64-bit segments.
    pub base: u32,
    /// Last offset; without meaning in 64-bit segments.
    pub limit: u32,
}

impl CodeSegment {
    /// The flat 64-bit segment.
    pub const LONG: CodeSegment = CodeSegment { bits: 64, base: 0, limit: u32::MAX };

    /// Reads a descriptor as a code segment. `None` if it is not a present one.
    pub const fn from_descriptor(raw: u64) -> Option<CodeSegment> {
        const CODE: u64 = 1 << 43;
        if raw & (PRESENT | CODE_OR_DATA | CODE) != PRESENT | CODE_OR_DATA | CODE {
            return None;
        }
        if raw & 1 << 53 != 0 {
            return Some(CodeSegment::LONG);
        }
        let base = (raw >> 16 & 0xff_ffff | raw >> 32 & 0xff00_0000) as u32;
        let limit = (raw & 0xffff | raw >> 32 & 0xf_0000) as u32;
        let limit = if raw & 1 << 55 != 0 { limit << 12 | 0xfff } else { limit };
        Some(CodeSegment { bits: if raw & 1 << 54 != 0 { 32 } else { 16 }, base, limit })
    }

    /// Linear address of `len` bytes at offset `rip`, if they lie within the segment.
    #[inline]
    pub const fn linear(&self, rip: u64, len: u64) -> Option<GuestVa> {
        if self.bits == 64 {
            return Some(GuestVa(rip));
        }
        match rip.checked_add(len) {
            Some(end) if len > 0 && end - 1 <= self.limit as u64 => {
                Some(GuestVa((self.base as u64 + rip) & 0xffff_ffff))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Linux's flat kernel code, 64 bits, ring 0.
    const KERNEL_CODE: u64 = 0x00af_9b00_0000_ffff;

    fn gate(selector: u64, dpl: u64) -> u64 {
        PRESENT | CALL_GATE | dpl << 45 | selector << 16
    }

    #[test]
    fn code_and_data_become_ring_three() {
        assert_eq!(SegmentDescriptor::check(KERNEL_CODE).unwrap().bits(), 0x00af_fb00_0000_ffff);
        assert_eq!(SegmentDescriptor::check(0x00cf_f300_0000_ffff).unwrap().bits(), 0x00cf_f300_0000_ffff);
    }

    #[test]
    fn what_always_faults_is_kept_as_it_is() {
        for raw in [0, KERNEL_CODE & !PRESENT, 0x0000_0900_dead_beef, PRESENT | DPL] {
            assert_eq!(SegmentDescriptor::check(raw).unwrap().bits(), raw);
        }
    }

    #[test]
    fn system_descriptors_are_refused() {
        for kind in (1..16u64).filter(|kind| *kind != 0xc) {
            assert_eq!(SegmentDescriptor::check(PRESENT | DPL | kind << 40), Err(BadDescriptor));
        }
    }

    #[test]
    fn a_call_gate_to_the_guests_own_segments_is_disarmed() {
        for selector in [0x10, 0x0004, 0xfffc, u64::from(FLAT_KERNEL_CS)] {
            let bits = SegmentDescriptor::check(gate(selector, 1)).unwrap().bits();
            assert_eq!((bits & DPL, bits >> 16 & 0xffff), (0, selector | 3));
        }
    }

    #[test]
    fn a_call_gate_to_the_hypervisors_segments_is_refused() {
        for selector in [0xe008, 0xe033 & !3, 0xe043] {
            assert_eq!(SegmentDescriptor::check(gate(selector, 3)), Err(BadDescriptor));
        }
        assert_eq!(SegmentDescriptor::check(gate(0x10, 3) | 1 << 32), Err(BadDescriptor));
    }

    #[test]
    fn tables_have_their_limits() {
        assert_eq!(gdt_pages(16), Ok(1));
        assert_eq!(gdt_pages(0), Ok(0));
        assert_eq!(gdt_pages(14 * 512), Ok(14));
        assert_eq!(gdt_pages(14 * 512 + 1), Err(Errno::EINVAL));
        assert_eq!(ldt_entries(GuestVa(0x1000), 8192), Ok(8192));
        assert_eq!(ldt_entries(GuestVa(0x1000), 8193), Err(Errno::EINVAL));
        assert_eq!(ldt_entries(GuestVa(0x1008), 1), Err(Errno::EINVAL));
        assert_eq!(ldt_entries(GuestVa(0xffff_8000_0000_0000), 1), Err(Errno::EINVAL));
    }

    #[test]
    fn segment_bases_are_canonical() {
        assert_eq!(SegmentBase::new(0, 0x7000), Ok(SegmentBase::Fs(0x7000)));
        assert_eq!(SegmentBase::new(0, 1 << 47), Err(Errno::EINVAL));
        assert_eq!(SegmentBase::new(3, 0x1_0063), Ok(SegmentBase::GsUserSelector(0x63)));
        assert_eq!(SegmentBase::new(4, 0), Err(Errno::EINVAL));
    }

    #[test]
    fn a_code_segment_bounds_its_offsets() {
        let flat32 = CodeSegment::from_descriptor(0x00cf_fb00_0000_ffff).unwrap();
        assert_eq!(flat32, CodeSegment { bits: 32, base: 0, limit: u32::MAX });
        assert_eq!(flat32.linear(0xffff_ffff, 1), Some(GuestVa(0xffff_ffff)));
        assert_eq!(flat32.linear(0xffff_ffff, 2), None);
        assert_eq!(CodeSegment::from_descriptor(0x00cf_f300_0000_ffff), None);
        assert_eq!(CodeSegment::from_descriptor(KERNEL_CODE), Some(CodeSegment::LONG));
        let based = CodeSegment::from_descriptor(0x0140_fb02_3456_000f).unwrap();
        assert_eq!(based, CodeSegment { bits: 32, base: 0x0102_3456, limit: 0xf });
        assert_eq!((based.linear(0xf, 1), based.linear(0x10, 1)), (Some(GuestVa(0x0102_3465)), None));
    }

    proptest! {
        #[test]
        fn nothing_that_passes_is_usable_above_ring_three(raw in any::<u64>()) {
            if let Ok(descriptor) = SegmentDescriptor::check(raw) {
                let bits = descriptor.bits();
                let inert = bits & PRESENT == 0 || bits & (CODE_OR_DATA | TYPE) == 0;
                let ring3 = bits & CODE_OR_DATA != 0 && bits & DPL == DPL;
                let disarmed = bits & (CODE_OR_DATA | TYPE | DPL) == CALL_GATE;
                prop_assert!(inert || ring3 || disarmed);
            }
        }
    }
}

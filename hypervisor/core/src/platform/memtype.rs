//! MTRRs as `XENPF_read_memtype` shows them.

/// What a variable-range register covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First frame.
    pub mfn: u64,
    /// Frames; 0: the register is not in use.
    pub frames: u64,
    /// Memory type.
    pub kind: u32,
}

/// Decodes `IA32_MTRR_PHYSBASEn` and `PHYSMASKn` of a processor with so many physical address bits (32 to 52).
pub fn decode(base: u64, mask: u64, address_bits: u32) -> Range {
    const VALID: u64 = 1 << 11;
    let frame_bits = address_bits.clamp(32, 52) - 12;
    let frames = (1u64 << frame_bits) - 1;
    if mask & VALID == 0 {
        return Range { mfn: 0, frames: 0, kind: 0 };
    }
    let size = !(mask >> 12) & frames;
    Range { mfn: base >> 12 & frames, frames: size + 1, kind: (base & 0xff) as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_base_and_size() {
        // 2 GiB from 2 GiB on, uncached, 40 address bits: what SeaBIOS sets for the hole below 4 GiB.
        let range = decode(0x8000_0000, 0xff_8000_0800, 40);
        assert_eq!(range, Range { mfn: 0x80000, frames: 0x80000, kind: 0 });
        assert_eq!(decode(6, 0x800, 36), Range { mfn: 0, frames: 1 << 24, kind: 6 });
    }

    #[test]
    fn a_register_not_in_use_is_empty() {
        assert_eq!(decode(0x8000_0006, 0xff_8000_0000, 40), Range { mfn: 0, frames: 0, kind: 0 });
    }
}

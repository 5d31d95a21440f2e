//! The guest's CPUID: policy from `hv-pv`, host values from the processor.

use crate::cpu;
use crate::vcpu::Vcpu;

/// Answers a leaf.
pub fn guest(_vcpu: &Vcpu, _cr4: u64, leaf: u32, subleaf: u32) -> [u32; 4] {
    match leaf {
        0x4000_0000 => [0x4000_0002, 0x566e_6558, 0x6558_4d4d, 0x4d4d_566e],
        0x4000_0001 => [4 << 16 | 17, 0, 0, 0],
        0x4000_0002 => [1, 0x4000_0000, 0, 0],
        _ => {
            let r = cpu::cpuid(leaf, subleaf);
            let mut out = [r.eax, r.ebx, r.ecx, r.edx];
            match leaf {
                1 => {
                    out[2] &= !(1 << 3 | 1 << 5 | 1 << 15 | 1 << 17 | 1 << 21 | 1 << 24 | 1 << 26 | 1 << 27 | 1 << 28);
                    out[2] |= 1 << 31;
                    out[3] &= !(1 << 3 | 1 << 12 | 1 << 13 | 1 << 17 | 1 << 1);
                }
                7 => {
                    out[1] &= !(1 << 7 | 1 << 10 | 1 << 20 | 1 << 1);
                    out[2] = 0;
                    out[3] = 0;
                }
                0xd => out = [0; 4],
                0x8000_0001 => {
                    out[2] &= !(1 << 2);
                    out[3] &= !(1 << 3 | 1 << 12 | 1 << 13 | 1 << 17 | 1 << 26 | 1 << 27 | 1 << 1);
                }
                _ => {}
            }
            out
        }
    }
}

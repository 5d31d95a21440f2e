//! Control registers as a guest sees them.

/// CR0 task switched.
pub const CR0_TS: u64 = 1 << 3;
/// CR4 time stamp disable.
pub const CR4_TSD: u64 = 1 << 2;
/// CR4 debugging extensions.
pub const CR4_DE: u64 = 1 << 3;
const CR4_PAE: u64 = 1 << 5;
const CR4_MCE: u64 = 1 << 6;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
/// CR4 FS and GS base instructions.
pub const CR4_FSGSBASE: u64 = 1 << 16;
/// CR4 extended states.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4 protection keys.
pub const CR4_PKE: u64 = 1 << 22;

/// Bits that a guest chooses, if its CPUID policy offers the feature.
const CHOSEN: u64 = CR4_TSD | CR4_DE | CR4_FSGSBASE | CR4_OSXSAVE;
/// Bits of the hardware's setting that a guest sees.
const SHOWN: u64 = CR4_PAE | CR4_MCE | CR4_OSFXSR | CR4_OSXMMEXCPT;

/// The guest's CR0: the hardware's, with the guest's own task-switched bit.
#[inline(always)]
pub const fn cr0_view(hardware: u64, task_switched: bool) -> u64 {
    if task_switched { hardware | CR0_TS } else { hardware & !CR0_TS }
}

/// A write of CR0 may only change the task-switched bit. Answers that bit.
#[inline(always)]
pub const fn cr0_write(hardware: u64, value: u64) -> Option<bool> {
    if (value ^ hardware) & !CR0_TS != 0 { None } else { Some(value & CR0_TS != 0) }
}

/// The guest's CR4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cr4Policy {
    /// The value that the hypervisor runs with.
    pub hardware: u64,
    /// Bits whose feature the guest's CPUID policy offers.
    pub offered: u64,
}

impl Cr4Policy {
    /// What the guest sees after it wrote `value`: its choice of what is offered, and what the hardware says of the
    /// rest. Other bits are discarded silently. A vCPU starts with the view of 0.
    #[inline]
    pub const fn view(&self, value: u64) -> u64 {
        value & CHOSEN & self.offered | self.hardware & SHOWN
    }

    /// What the processor runs with while the guest sees `view`. `emulate_tsc` makes RDTSC trap. The caller decides
    /// PGE and PCIDE, which belong to its TLB scheme; protection keys are never on.
    #[inline]
    pub const fn load(&self, view: u64, emulate_tsc: bool) -> u64 {
        let mut value = self.hardware & !(CR4_TSD | CR4_PKE | CR4_FSGSBASE);
        value |= view & self.hardware & CR4_FSGSBASE | view & CR4_TSD;
        if emulate_tsc { value | CR4_TSD } else { value }
    }
}

/// XCR0 bits: x87, SSE, AVX, the two of MPX, the three of AVX-512, protection keys.
mod xcr0 {
    pub const X87: u64 = 1 << 0;
    pub const SSE: u64 = 1 << 1;
    pub const AVX: u64 = 1 << 2;
    pub const MPX: u64 = 3 << 3;
    pub const AVX512: u64 = 7 << 5;
}

const fn all_or_none(value: u64, states: u64) -> bool {
    value & states == 0 || value & states == states
}

/// True if the processor accepts `value` as XCR0 and every state in it is `offered` to the guest.
pub const fn xcr0_is_valid(value: u64, offered: u64) -> bool {
    value & xcr0::X87 != 0
        && value & !offered == 0
        && (value & xcr0::AVX == 0 || value & xcr0::SSE != 0)
        && (value & xcr0::AVX512 == 0 || value & xcr0::AVX != 0)
        && all_or_none(value, xcr0::MPX)
        && all_or_none(value, xcr0::AVX512)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARDWARE: u64 =
        CR4_PAE | CR4_MCE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE | CR4_OSXSAVE | 1 << 20 | 1 << 21;

    #[test]
    fn the_guest_has_its_own_task_switched_bit() {
        assert_eq!(cr0_view(0x8005_003b, false), 0x8005_0033);
        assert_eq!(cr0_view(0x8005_0033, true), 0x8005_003b);
        assert_eq!(cr0_write(0x8005_0033, 0x8005_003b), Some(true));
        assert_eq!(cr0_write(0x8005_003b, 0x8005_0033), Some(false));
        assert_eq!(cr0_write(0x8005_0033, 0x8004_0033), None);
    }

    #[test]
    fn the_guest_chooses_only_what_it_is_offered() {
        let policy = Cr4Policy { hardware: HARDWARE, offered: CR4_OSXSAVE | CR4_TSD };
        assert_eq!(policy.view(0), CR4_PAE | CR4_MCE | CR4_OSFXSR | CR4_OSXMMEXCPT);
        assert_eq!(policy.view(u64::MAX), policy.view(0) | CR4_OSXSAVE | CR4_TSD);
    }

    #[test]
    fn the_processor_keeps_the_hypervisors_protection() {
        let policy = Cr4Policy { hardware: HARDWARE, offered: u64::MAX };
        let load = policy.load(policy.view(0), false);
        assert_eq!(load, HARDWARE & !CR4_FSGSBASE);
        assert_eq!(policy.load(policy.view(CR4_FSGSBASE | CR4_TSD), false), HARDWARE | CR4_TSD);
        assert_eq!(policy.load(policy.view(0), true) & CR4_TSD, CR4_TSD);
    }

    #[test]
    fn extended_states_come_in_their_groups() {
        for value in [1, 3, 7, 0xe7, 0x1f] {
            assert!(xcr0_is_valid(value, 0xff), "{value:#x}");
        }
        for value in [0, 2, 5, 0x0b, 0x27, 0xe3, 0x207] {
            assert!(!xcr0_is_valid(value, 0xff), "{value:#x}");
        }
        assert!(!xcr0_is_valid(7, 3));
    }
}

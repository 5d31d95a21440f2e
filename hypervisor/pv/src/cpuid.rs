//! CPUID as a PV guest sees it: computed once from the host's leaves, adjusted at each query by what the vCPU does.
//!
//! Which feature a PV guest is offered is said by the letters in the public header `arch-x86/cpufeatureset.h` ("A":
//! all guests); the tests compare the masks below with it. The hypervisor's own leaves are in `arch-x86/cpuid.h`.

use crate::control::{CR4_OSXSAVE, Cr4Policy};
use crate::msr::Vendor;
use crate::regs::Mode;

/// EAX, EBX, ECX, EDX.
pub type Leaf = [u32; 4];

const NOTHING: Leaf = [0; 4];
const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

const BASIC: usize = 0x0e;
const CACHES: usize = 6;
const FEATURES: usize = 3;
const STATES: usize = 10;
const EXTENDED: usize = 0x22;
const EXTENDED_INTEL: u32 = 0x8000_0008;
const HYPERVISOR: u32 = 0x4000_0000;
/// Last leaf of the hypervisor's (`XEN_CPUID_MAX_NUM_LEAVES`).
const HYPERVISOR_LEAVES: u32 = 5;

/// Words of features: which leaf and register each is in.
#[derive(Clone, Copy)]
enum Place {
    Basic(usize, usize),
    Feature(usize, usize),
    State(usize, usize),
    Extended(usize, usize),
    Capabilities(u32),
}
use Place::*;

/// Word number in the header, place, and the features of the word that PV guests are offered.
///
/// Left out though the header says "A": what needs SPEC_CTRL (word 9: IBRSB, STIBP, SSBD; word 13: PSFD; word 16:
/// EIBRS) and the breakpoint masks (word 3: DBEXT), which are not virtualised.
const WORDS: [(u16, Place, u32); 16] = [
    (0, Basic(1, EDX), 0x1fc9_cbf5),
    (1, Basic(1, ECX), 0xf6d8_3203),
    (2, Extended(1, EDX), 0xea50_0800),
    (3, Extended(1, ECX), 0x0021_09e3),
    (4, State(1, EAX), 0x0000_0007),
    (5, Feature(0, EBX), 0xfdaf_0b29),
    (6, Feature(0, ECX), 0x0240_5f43),
    (7, Extended(7, EDX), 0),
    (8, Extended(8, EBX), 0x6400_1005),
    (9, Feature(0, EDX), 0x2000_441c),
    (10, Feature(1, EAX), 0x0000_1c30),
    (11, Extended(0x21, EAX), 0x7800_0064),
    (13, Feature(2, EDX), 0x0000_0020),
    (16, Capabilities(0), 0x1d12_e171),
    (17, Capabilities(32), 0x4000_0000),
    (18, Extended(0x21, ECX), 0x0000_0006),
];

/// Features by the header's numbers: 32 * word + bit.
mod feature {
    pub const FPU: u16 = 0;
    pub const DE: u16 = 2;
    pub const TSC: u16 = 4;
    pub const SEP: u16 = 11;
    pub const MTRR: u16 = 12;
    pub const MMX: u16 = 23;
    pub const FXSR: u16 = 24;
    pub const SSE: u16 = 25;
    pub const SSE2: u16 = 26;
    pub const SSE3: u16 = 32;
    pub const PCLMULQDQ: u16 = 33;
    pub const MONITOR: u16 = 32 + 3;
    pub const EIST: u16 = 32 + 7;
    pub const SSSE3: u16 = 32 + 9;
    pub const FMA: u16 = 32 + 12;
    pub const SSE4_1: u16 = 32 + 19;
    pub const SSE4_2: u16 = 32 + 20;
    pub const AESNI: u16 = 32 + 25;
    pub const XSAVE: u16 = 32 + 26;
    pub const OSXSAVE: u16 = 32 + 27;
    pub const AVX: u16 = 32 + 28;
    pub const F16C: u16 = 32 + 29;
    pub const HYPERVISOR: u16 = 32 + 31;
    pub const MMXEXT: u16 = 2 * 32 + 22;
    pub const FFXSR: u16 = 2 * 32 + 25;
    pub const RDTSCP: u16 = 2 * 32 + 27;
    pub const EXT3DNOW: u16 = 2 * 32 + 30;
    pub const NOW3D: u16 = 2 * 32 + 31;
    pub const SSE4A: u16 = 3 * 32 + 6;
    pub const MISALIGNSSE: u16 = 3 * 32 + 7;
    pub const XOP: u16 = 3 * 32 + 11;
    pub const FMA4: u16 = 3 * 32 + 16;
    pub const XSAVEOPT: u16 = 4 * 32;
    pub const XSAVEC: u16 = 4 * 32 + 1;
    pub const XGETBV1: u16 = 4 * 32 + 2;
    pub const FSGSBASE: u16 = 5 * 32;
    pub const AVX2: u16 = 5 * 32 + 5;
    pub const FDP_EXCP_ONLY: u16 = 5 * 32 + 6;
    pub const NO_FPU_SEL: u16 = 5 * 32 + 13;
    pub const AVX512F: u16 = 5 * 32 + 16;
    pub const AVX512DQ: u16 = 5 * 32 + 17;
    pub const AVX512_IFMA: u16 = 5 * 32 + 21;
    pub const AVX512PF: u16 = 5 * 32 + 26;
    pub const AVX512ER: u16 = 5 * 32 + 27;
    pub const AVX512CD: u16 = 5 * 32 + 28;
    pub const SHA: u16 = 5 * 32 + 29;
    pub const AVX512BW: u16 = 5 * 32 + 30;
    pub const AVX512VL: u16 = 5 * 32 + 31;
    pub const AVX512_VBMI: u16 = 6 * 32 + 1;
    pub const AVX512_VBMI2: u16 = 6 * 32 + 6;
    pub const GFNI: u16 = 6 * 32 + 8;
    pub const VAES: u16 = 6 * 32 + 9;
    pub const VPCLMULQDQ: u16 = 6 * 32 + 10;
    pub const AVX512_VNNI: u16 = 6 * 32 + 11;
    pub const AVX512_BITALG: u16 = 6 * 32 + 12;
    pub const AVX512_VPOPCNTDQ: u16 = 6 * 32 + 14;
    pub const RDPID: u16 = 6 * 32 + 22;
    pub const ITSC: u16 = 7 * 32 + 8;
    pub const IBPB: u16 = 8 * 32 + 12;
    pub const IBPB_RET: u16 = 8 * 32 + 30;
    pub const AVX512_4VNNIW: u16 = 9 * 32 + 2;
    pub const AVX512_4FMAPS: u16 = 9 * 32 + 3;
    pub const IBRSB: u16 = 9 * 32 + 26;
    pub const ARCH_CAPS: u16 = 9 * 32 + 29;
    pub const AVX_VNNI: u16 = 10 * 32 + 4;
    pub const AVX512_BF16: u16 = 10 * 32 + 5;
    pub const SBPB: u16 = 11 * 32 + 27;
    pub const IBPB_BRTYPE: u16 = 11 * 32 + 28;
    pub const RSBA: u16 = 16 * 32 + 2;
    pub const RRSBA: u16 = 16 * 32 + 19;
}
use feature::*;

/// What a feature is useless without, so that a guest never sees the one without the other.
const NEEDS: [(u16, &[u16]); 15] = [
    (FPU, &[MMX]),
    (MMX, &[MMXEXT, NOW3D]),
    (NOW3D, &[EXT3DNOW]),
    (FXSR, &[FFXSR, SSE]),
    (SSE, &[SSE2, MISALIGNSSE]),
    (SSE2, &[SSE3, AESNI, PCLMULQDQ, SHA, GFNI]),
    (SSE3, &[SSSE3, SSE4A]),
    (SSSE3, &[SSE4_1]),
    (SSE4_1, &[SSE4_2]),
    (TSC, &[RDTSCP, ITSC]),
    (XSAVE, &[XSAVEOPT, XSAVEC, XGETBV1, AVX]),
    (AVX, &[FMA, FMA4, F16C, AVX2, XOP]),
    (AVX2, &[AVX512F, VAES, VPCLMULQDQ, AVX_VNNI]),
    (
        AVX512F,
        &[
            AVX512DQ,
            AVX512_IFMA,
            AVX512PF,
            AVX512ER,
            AVX512CD,
            AVX512BW,
            AVX512VL,
            AVX512_4VNNIW,
            AVX512_4FMAPS,
            AVX512_VNNI,
            AVX512_VPOPCNTDQ,
            AVX512_VBMI,
            AVX512_VBMI2,
            AVX512_BITALG,
            AVX512_BF16,
        ],
    ),
    (IBPB, &[IBPB_RET, SBPB, IBPB_BRTYPE]),
];

/// Bits that AMD repeats in leaf 0x80000001 from leaf 1.
const COMMON_1D: u32 = 0x0183_f3ff;

/// True if the processor says that its TSC always runs and at one rate (CPUID 0x80000007, EDX bit 8: Intel SDM, "Invariant TSC"; AMD
/// APM, "TscInvariant").
pub fn has_invariant_tsc(mut host: impl FnMut(u32, u32) -> Leaf) -> bool {
    const POWER: u32 = 0x8000_0007;
    host(0x8000_0000, 0)[EAX] >= POWER && host(POWER, 0)[EDX] & 1 << 8 != 0
}

/// A guest's CPUID, before what is particular to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuidPolicy {
    vendor: Vendor,
    basic: [Leaf; BASIC],
    caches: [Leaf; CACHES],
    features: [Leaf; FEATURES],
    states: [Leaf; STATES],
    extended: [Leaf; EXTENDED],
    capabilities: u64,
    /// EDX and ECX of the host's leaf 1, parts of which a hardware domain sees.
    host_1d: u32,
    host_1c: u32,
    host_monitor: Leaf,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The mode it asks from.
    pub mode: Mode,
    /// It used the emulation prefix, and did not run into CPUID faulting.
    pub forced: bool,
    /// Its domain drives the hardware (dom0).
    pub hardware_domain: bool,
    /// Its view of CR4.
    pub cr4: u64,
    /// The hypervisor runs with CR4.OSXSAVE.
    pub host_osxsave: bool,
}

/// What the hypervisor says of itself (`arch-x86/cpuid.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HypervisorLeaves {
    /// Major version in the upper half, minor in the lower.
    pub version: u32,
    /// RDTSC is emulated.
    pub emulated_tsc: bool,
    /// The host's TSC is reliable.
    pub reliable_tsc: bool,
    /// The host has RDTSCP.
    pub rdtscp: bool,
    /// The domain's TSC mode.
    pub tsc_mode: u32,
    /// The guest's TSC frequency, kHz.
    pub tsc_khz: u32,
    /// The host's, kHz.
    pub host_khz: u32,
    /// How often the domain has been restored.
    pub incarnation: u32,
    /// Guest TSC minus host TSC.
    pub tsc_offset: u64,
    /// Multiplier to ns.
    pub tsc_to_ns_mul: u32,
    /// Shift to ns.
    pub tsc_to_ns_shift: i8,
    /// Bits of a machine address, memory yet to be plugged in included.
    pub address_bits: u8,
}

impl HypervisorLeaves {
    /// The leaf `index` above 0x40000000.
    pub fn answer(&self, index: u32, subleaf: u32) -> Leaf {
        match (index, subleaf) {
            (0, _) => [HYPERVISOR + HYPERVISOR_LEAVES, 0x566e_6558, 0x6558_4d4d, 0x4d4d_566e],
            (1, _) => [self.version, 0, 0, 0],
            // One hypercall page, its MSR, and page-table updates that preserve A and D bits.
            (2, _) => [1, crate::msr::number::HYPERCALL_PAGE, 1, 0],
            (3, 0) => self.time(),
            (3, 1) => {
                let shift = i32::from(self.tsc_to_ns_shift) as u32;
                [self.tsc_offset as u32, (self.tsc_offset >> 32) as u32, self.tsc_to_ns_mul, shift]
            }
            (3, 2) => [self.host_khz, 0, 0, 0],
            (5, 0) => [0, u32::from(self.address_bits), 0, 0],
            _ => NOTHING,
        }
    }

    fn time(&self) -> Leaf {
        let flags = [self.emulated_tsc, self.reliable_tsc, self.rdtscp];
        let flags = (0..).zip(flags).fold(0, |all, (bit, set)| all | u32::from(set) << bit);
        [flags, self.tsc_mode, self.tsc_khz, self.incarnation]
    }
}

impl CpuidPolicy {
    /// The policy of PV guests on the host whose CPUID is `host`, and whose IA32_ARCH_CAPABILITIES is
    /// `arch_capabilities`, if it has the register.
    pub fn pv(mut host: impl FnMut(u32, u32) -> Leaf, arch_capabilities: Option<u64>) -> CpuidPolicy {
        let mut policy = CpuidPolicy::raw(&mut host, arch_capabilities.unwrap_or(0));
        let (ibrsb, alternative) = (policy.has(IBRSB), policy.has(RSBA) || policy.has(RRSBA));
        // How the x87 unit behaves is not a choice.
        let behaviour = policy.features[0][EBX] & (mask(FDP_EXCP_ONLY) | mask(NO_FPU_SEL));
        for (_, place, offered) in WORDS {
            policy.keep(place, offered);
        }
        policy.features[0][EBX] |= behaviour;
        policy.set(feature::HYPERVISOR, true);
        // The barrier alone can be offered by AMD's bit.
        if ibrsb {
            policy.set(IBPB, true);
        }
        if arch_capabilities.is_none() || policy.vendor != Vendor::Intel {
            policy.set(ARCH_CAPS, false);
        }
        policy.set(RSBA, alternative);
        if policy.vendor == Vendor::Amd {
            // SYSENTER does not exist in AMD's long mode.
            policy.set(SEP, false);
        }
        if policy.basic[0][EAX] < 0xd {
            policy.set(XSAVE, false);
        }
        policy.drop_the_useless();
        policy.derive_states();
        policy.clean();
        policy
    }

    /// Dom0's: it stays on this host, so that the TSC's constancy is its to know.
    pub fn for_dom0(mut self, mut host: impl FnMut(u32, u32) -> Leaf) -> CpuidPolicy {
        self.set(ITSC, has_invariant_tsc(&mut host) && self.has(TSC));
        self
    }

    fn raw(host: &mut impl FnMut(u32, u32) -> Leaf, capabilities: u64) -> CpuidPolicy {
        let vendor = host(0, 0);
        let basic_max = vendor[EAX].min(BASIC as u32 - 1);
        let extended = host(0x8000_0000, 0)[EAX];
        let extended_max = if extended >> 16 == 0x8000 { extended & 0xffff } else { 0 };
        let vendor = Vendor::from_leaf0(vendor[EBX], vendor[ECX], vendor[EDX]);
        let limit = if vendor == Vendor::Amd { EXTENDED as u32 - 1 } else { EXTENDED_INTEL & 0xffff };
        let extended_max = extended_max.min(limit);
        let mut leaf = |number: u32, subleaf: u32, present: bool| {
            if present { host(number, subleaf) } else { NOTHING }
        };
        let features_max = leaf(7, 0, basic_max >= 7)[EAX];
        let mut policy = CpuidPolicy {
            vendor,
            basic: core::array::from_fn(|n| leaf(n as u32, 0, n as u32 <= basic_max)),
            caches: core::array::from_fn(|n| leaf(4, n as u32, basic_max >= 4)),
            features: core::array::from_fn(|n| leaf(7, n as u32, basic_max >= 7 && n as u32 <= features_max)),
            states: core::array::from_fn(|n| leaf(0xd, n as u32, basic_max >= 0xd)),
            extended: core::array::from_fn(|n| leaf(0x8000_0000 | n as u32, 0, n as u32 <= extended_max)),
            capabilities,
            host_1d: 0,
            host_1c: 0,
            host_monitor: NOTHING,
        };
        policy.basic[0][EAX] = basic_max;
        policy.extended[0][EAX] = 0x8000_0000 | extended_max;
        policy.features[0][EAX] = features_max.min(FEATURES as u32 - 1);
        policy.host_1d = policy.basic[1][EDX];
        policy.host_1c = policy.basic[1][ECX];
        policy.host_monitor = policy.basic[5];
        policy
    }

    fn register(&mut self, place: Place) -> Option<&mut u32> {
        match place {
            Basic(leaf, register) => Some(&mut self.basic[leaf][register]),
            Feature(leaf, register) => Some(&mut self.features[leaf][register]),
            State(leaf, register) => Some(&mut self.states[leaf][register]),
            Extended(leaf, register) => Some(&mut self.extended[leaf][register]),
            Capabilities(_) => None,
        }
    }

    fn keep(&mut self, place: Place, bits: u32) {
        if let Capabilities(shift) = place {
            let others = !(u64::from(u32::MAX) << shift);
            self.capabilities &= others | u64::from(bits) << shift;
        } else if let Some(register) = self.register(place) {
            *register &= bits;
        }
    }

    /// True if the guest is offered a feature, by the header's number.
    #[inline(always)]
    pub fn has(&self, feature: u16) -> bool {
        let bit = feature & 31;
        match place(feature) {
            Some(Basic(leaf, register)) => self.basic[leaf][register] >> bit & 1 != 0,
            Some(Feature(leaf, register)) => self.features[leaf][register] >> bit & 1 != 0,
            Some(State(leaf, register)) => self.states[leaf][register] >> bit & 1 != 0,
            Some(Extended(leaf, register)) => self.extended[leaf][register] >> bit & 1 != 0,
            Some(Capabilities(shift)) => self.capabilities >> (shift + u32::from(bit)) & 1 != 0,
            None => false,
        }
    }

    fn set(&mut self, feature: u16, on: bool) {
        let bit = u32::from(feature & 31);
        match place(feature) {
            Some(Capabilities(shift)) => {
                let mask = 1u64 << (shift + bit);
                self.capabilities = self.capabilities & !mask | if on { mask } else { 0 };
            }
            Some(place) => {
                if let Some(register) = self.register(place) {
                    *register = *register & !(1 << bit) | u32::from(on) << bit;
                }
            }
            None => {}
        }
    }

    fn drop_the_useless(&mut self) {
        // A chain is at most as long as the table.
        for _ in NEEDS {
            for (feature, dependents) in NEEDS {
                if !self.has(feature) {
                    dependents.iter().for_each(|dependent| self.set(*dependent, false));
                }
            }
        }
        if !self.has(ARCH_CAPS) {
            self.capabilities = 0;
        }
    }

    /// Extended states that the guest may have in XCR0.
    pub fn extended_states(&self) -> u64 {
        let mut states = 0;
        if self.has(XSAVE) {
            states |= 3;
        }
        if self.has(AVX) {
            states |= 1 << 2;
        }
        if self.has(AVX512F) {
            states |= 7 << 5;
        }
        states
    }

    /// Leaf 0xd is a consequence of the features.
    fn derive_states(&mut self) {
        let host = self.states;
        let offered = self.extended_states();
        self.states = [NOTHING; STATES];
        if offered == 0 {
            return;
        }
        let mut size = 512 + 64;
        for (n, from) in host.iter().enumerate().skip(2).filter(|(n, _)| offered >> n & 1 != 0) {
            self.states[n] = [from[EAX], from[EBX], from[ECX] & 2, 0];
            size = size.max(from[EAX].saturating_add(from[EBX]));
        }
        self.states[0] = [offered as u32, 0, size, (offered >> 32) as u32];
        self.states[1] = [host[1][EAX] & 7, 0, 0, 0];
    }

    /// Leaves and fields that are not features: topology, power, monitoring and virtualisation stay the host's.
    fn clean(&mut self) {
        self.basic[1][EAX] &= 0x0fff_0fff;
        self.basic[1][EBX] &= 0x00ff_ffff;
        for hidden in [3, 5, 6, 8, 9, 0xa, 0xb, 0xc] {
            self.basic[hidden] = NOTHING;
        }
        self.clean_caches();
        let extended = &mut self.extended;
        extended[7] = [0, 0, 0, extended[7][EDX]];
        extended[8][EAX] &= 0xffff;
        extended[8][EDX] = 0;
        match self.vendor {
            Vendor::Amd => self.clean_amd(),
            Vendor::Intel | Vendor::Other => self.clean_intel(),
        }
    }

    fn clean_intel(&mut self) {
        // The descriptor leaf needs one query.
        self.basic[2][EAX] = self.basic[2][EAX] & !0xff | 1;
        let extended = &mut self.extended;
        extended[0] = [extended[0][EAX], 0, 0, 0];
        extended[1] = [0, 0, extended[1][ECX], extended[1][EDX] & !COMMON_1D];
        extended[5] = NOTHING;
        extended[6] = [0, 0, extended[6][ECX], 0];
        extended[8][ECX] = 0;
        extended[9..].fill(NOTHING);
    }

    fn clean_amd(&mut self) {
        self.basic[2] = NOTHING;
        self.caches = [NOTHING; CACHES];
        let [_, ebx, ecx, edx] = self.basic[0];
        let extended = &mut self.extended;
        extended[0] = [extended[0][EAX], ebx, ecx, edx];
        extended[1][EAX] = self.basic[1][EAX];
        extended[1][EBX] &= 0xff00_ffff;
        extended[1][EDX] = extended[1][EDX] & !COMMON_1D | self.basic[1][EDX] & COMMON_1D;
        extended[8][ECX] &= 0x0003_f0ff;
        extended[9..0x1a].fill(NOTHING);
        extended[0x1b..0x21].fill(NOTHING);
        extended[0x21] = [extended[0x21][EAX], extended[0x21][EBX], extended[0x21][ECX], 0];
    }

    fn clean_caches(&mut self) {
        let valid = self.caches.iter().take_while(|cache| matches!(cache[EAX] & 0x1f, 1..=3)).count();
        let (caches, rest) = self.caches.split_at_mut(valid);
        for cache in caches {
            cache[EAX] &= 0xffff_c3ff;
            cache[EDX] &= 7;
        }
        rest.fill(NOTHING);
    }

    /// Answers a query. `host` is the processor's own CPUID, asked only for sizes that depend on XCR0.
    #[inline]
    pub fn answer(
        &self,
        leaf: u32,
        subleaf: u32,
        asker: &Asker,
        hypervisor: &HypervisorLeaves,
        mut host: impl FnMut(u32, u32) -> Leaf,
    ) -> Leaf {
        match leaf {
            0..0x4000_0000 => self.basic_leaf(leaf, subleaf, asker, &mut host),
            0x8000_0000..=0x8000_0021 => self.extended_leaf(leaf, asker),
            HYPERVISOR..0x4000_0200 => hypervisor.answer(leaf - HYPERVISOR, subleaf),
            _ => NOTHING,
        }
    }

    fn basic_leaf(
        &self,
        leaf: u32,
        subleaf: u32,
        asker: &Asker,
        host: &mut impl FnMut(u32, u32) -> Leaf,
    ) -> Leaf {
        if leaf > self.basic[0][EAX] {
            return NOTHING;
        }
        match leaf {
            1 => self.leaf1(asker),
            4 => at(&self.caches, subleaf),
            5 if self.shows_monitor(asker) => self.host_monitor,
            7 if subleaf > self.features[0][EAX] => NOTHING,
            7 => at(&self.features, subleaf),
            0xd => self.state_leaf(subleaf, host),
            _ => at(&self.basic, leaf),
        }
    }

    /// The sizes for the states that are enabled now are the processor's answer.
    fn state_leaf(&self, subleaf: u32, host: &mut impl FnMut(u32, u32) -> Leaf) -> Leaf {
        let mut answer = at(&self.states, subleaf);
        if subleaf == 0 && self.has(XSAVE) || subleaf == 1 && self.has(XSAVEC) {
            answer[EBX] = host(0xd, subleaf)[EBX];
        }
        answer
    }

    fn leaf1(&self, asker: &Asker) -> Leaf {
        let mut answer = self.basic[1];
        // Linux on PV relies on seeing OSXSAVE before it has set it, by the forced form alone.
        let leaked = asker.forced
            && asker.mode == Mode::Kernel
            && asker.host_osxsave
            && answer[ECX] & mask(XSAVE) != 0;
        if asker.cr4 & CR4_OSXSAVE != 0 || leaked {
            answer[ECX] |= mask(OSXSAVE);
        }
        if hardware_kernel(asker) {
            // P-states and memory types are parsed only if these are seen.
            answer[ECX] |= self.host_1c & mask(EIST);
            answer[EDX] |= self.host_1d & mask(MTRR);
        }
        if self.shows_monitor(asker) {
            answer[ECX] |= mask(MONITOR);
        }
        answer
    }

    /// A faulting CPUID stands for the plain one, by which dom0's kernel looks for deep C-states.
    fn shows_monitor(&self, asker: &Asker) -> bool {
        hardware_kernel(asker) && !asker.forced && self.host_1c & mask(MONITOR) != 0
    }

    fn extended_leaf(&self, leaf: u32, asker: &Asker) -> Leaf {
        if leaf > self.extended[0][EAX] {
            return NOTHING;
        }
        let mut answer = at(&self.extended, leaf & 0xffff);
        if leaf == 0x8000_0001 && hardware_kernel(asker) {
            answer[EDX] |= self.host_1d & mask(MTRR);
        }
        answer
    }

    /// The host's maker.
    pub const fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// True if the guest may use TSC_AUX.
    #[inline]
    pub fn offers_tsc_aux(&self) -> bool {
        self.has(RDTSCP) || self.has(RDPID)
    }

    /// True if the guest may use the branch prediction barrier.
    #[inline]
    pub fn offers_branch_barrier(&self) -> bool {
        self.has(IBPB)
    }

    /// IA32_ARCH_CAPABILITIES, if the guest is offered it.
    #[inline]
    pub fn arch_capabilities(&self) -> Option<u64> {
        self.has(ARCH_CAPS).then_some(self.capabilities)
    }

    /// What the guest may choose in CR4, when the hypervisor runs with `hardware`.
    #[inline]
    pub fn cr4_policy(&self, hardware: u64) -> Cr4Policy {
        use crate::control::{CR4_DE, CR4_FSGSBASE, CR4_TSD};
        let offers = [(TSC, CR4_TSD), (DE, CR4_DE), (FSGSBASE, CR4_FSGSBASE), (XSAVE, CR4_OSXSAVE)];
        let offered = offers.iter().filter(|(f, _)| self.has(*f)).fold(0, |all, (_, bit)| all | bit);
        Cr4Policy { hardware, offered }
    }
}

fn hardware_kernel(asker: &Asker) -> bool {
    asker.hardware_domain && asker.mode == Mode::Kernel
}

const fn mask(feature: u16) -> u32 {
    1 << (feature & 31)
}

fn at(leaves: &[Leaf], index: u32) -> Leaf {
    leaves.get(index as usize).copied().unwrap_or(NOTHING)
}

/// Where each word of features is, by its number, so that a constant feature is a constant place.
const PLACES: [Option<Place>; WORDS[WORDS.len() - 1].0 as usize + 1] = {
    let mut places = [None; _];
    let mut index = 0;
    while index < WORDS.len() {
        places[WORDS[index].0 as usize] = Some(WORDS[index].1);
        index += 1;
    }
    places
};

#[inline(always)]
fn place(feature: u16) -> Option<Place> {
    PLACES.get(usize::from(feature >> 5)).copied().flatten()
}

#[cfg(test)]
#[path = "cpuid_tests.rs"]
mod tests;

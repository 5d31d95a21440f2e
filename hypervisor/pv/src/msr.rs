//! Model-specific registers that a PV guest may read and write, as data.
//!
//! The answer names what to do; the port does it. A register that is not here is refused, and the guest gets #GP.

use crate::emulate::port::Base;

/// Makers of processors that the rules distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD, and Hygon after it.
    Amd,
    /// Any other.
    Other,
}

impl Vendor {
    /// From EBX, ECX and EDX of CPUID leaf 0.
    pub const fn from_leaf0(ebx: u32, ecx: u32, edx: u32) -> Vendor {
        match (ebx, edx, ecx) {
            (0x756e_6547, 0x4965_6e69, 0x6c65_746e) => Vendor::Intel,
            (0x6874_7541, 0x6974_6e65, 0x444d_4163) | (0x6f67_7948, 0x6e65_476e, 0x656e_6975) => Vendor::Amd,
            _ => Vendor::Other,
        }
    }
}

/// The facts about guest and host on which the rules depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrPolicy {
    /// The host's maker.
    pub vendor: Vendor,
    /// The domain drives the hardware (dom0).
    pub hardware_domain: bool,
    /// The vCPU is the domain's first.
    pub first_vcpu: bool,
    /// The guest is offered RDTSCP or RDPID.
    pub tsc_aux: bool,
    /// The guest is offered IBPB.
    pub branch_barrier: bool,
    /// IA32_ARCH_CAPABILITIES as offered, if it is.
    pub arch_capabilities: Option<u64>,
}

/// How to answer RDMSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// With this value.
    Value(u64),
    /// With the hardware's, some bits cleared and then some set; #GP if it has none.
    Host {
        /// Bits that stay.
        keep: u64,
        /// Bits that are added.
        set: u64,
    },
    /// With a segment base.
    Base(Base),
    /// With the guest's time stamp counter.
    Tsc,
    /// With TSC_AUX.
    TscAux,
    /// With #GP.
    Refuse,
}

/// How to answer WRMSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Nothing happens.
    Ignore,
    /// Nothing happens if the value is what a read answers; else #GP.
    IfUnchanged,
    /// The hardware gets the value.
    Host,
    /// A segment base is loaded; the value is canonical.
    Base(Base),
    /// TSC_AUX is loaded; the value fits.
    TscAux,
    /// The hypercall page is written to the frame in the value.
    HypercallPage,
    /// #GP.
    Refuse,
}

const HOST: Read = Read::Host { keep: u64::MAX, set: 0 };
const ZERO: Read = Read::Value(0);

/// EFER: SCE, LME, LMA, NXE and FFXSE. Virtualisation is never shown.
const EFER_SHOWN: u64 = 1 << 0 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 14;
/// The page attribute table that every guest has (`arch-x86/xen.h` says nothing; PV kernels read it back):
/// WB, WT, UC-, UC, WC, WP, UC, UC.
pub const GUEST_PAT: u64 = 0x0000_0501_0007_0406;
/// The APIC at its usual place, enabled.
const APIC_ENABLED: u64 = 0xfee0_0000 | 1 << 11;
/// The boot processor's.
const APIC_FIRST: u64 = 1 << 8;
/// MISC_ENABLE: no performance monitoring, no MONITOR.
const MISC_HIDDEN: u64 = 1 << 7 | 1 << 18;
/// MISC_ENABLE: BTS, PEBS unavailable, xTPR disabled.
const MISC_SET: u64 = 1 << 11 | 1 << 12 | 1 << 23;
/// SYSCFG: the bits about memory above 4 GiB and the extended fixed ranges.
const SYSCFG_SHOWN: u64 = 1 << 18 | 1 << 20 | 1 << 21 | 1 << 22;
/// DE_CFG: LFENCE serialises.
const LFENCE_SERIALISES: u64 = 1 << 1;
/// Machine-check banks that a guest has.
const BANKS: u64 = 2;
/// MCG_CAP of Intel guests: software error recovery, threshold status.
const INTEL_MCG_CAP: u64 = 1 << 24 | 1 << 11 | BANKS;

/// Registers that Linux names by number.
#[allow(missing_docs)]
pub mod number {
    pub const TSC: u32 = 0x10;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const APIC_BASE: u32 = 0x1b;
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const PRED_CMD: u32 = 0x49;
    pub const MICROCODE: u32 = 0x8b;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const MPERF: u32 = 0xe7;
    pub const APERF: u32 = 0xe8;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const MISC_FEATURES_ENABLES: u32 = 0x140;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MCG_CTL: u32 = 0x17b;
    pub const PERF_STATUS: u32 = 0x198;
    pub const PERF_CTL: u32 = 0x199;
    pub const THERM_CONTROL: u32 = 0x19a;
    pub const THERM_STATUS: u32 = 0x19c;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const ENERGY_PERF_BIAS: u32 = 0x1b0;
    pub const PAT: u32 = 0x277;
    pub const PERF_CAPABILITIES: u32 = 0x345;
    pub const HYPERCALL_PAGE: u32 = 0x4000_0000;
    pub const EFER: u32 = 0xc000_0080;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const SYSCFG: u32 = 0xc001_0010;
    pub const HWCR: u32 = 0xc001_0015;
    pub const NB_CFG: u32 = 0xc001_001f;
    pub const MMIO_CONF_BASE: u32 = 0xc001_0058;
    pub const DE_CFG: u32 = 0xc001_1029;
}
use number::*;

/// The segment base that a register is.
#[inline(always)]
pub const fn base(msr: u32) -> Option<Base> {
    match msr {
        FS_BASE => Some(Base::Fs),
        GS_BASE => Some(Base::Gs),
        KERNEL_GS_BASE => Some(Base::InactiveGs),
        _ => None,
    }
}

impl MsrPolicy {
    const fn intel(&self) -> bool {
        matches!(self.vendor, Vendor::Intel)
    }

    const fn amd(&self) -> bool {
        matches!(self.vendor, Vendor::Amd)
    }

    /// How the guest's RDMSR of `msr` is answered.
    pub const fn read(&self, msr: u32) -> Read {
        if let Some(base) = base(msr) {
            return Read::Base(base);
        }
        match msr {
            TSC => Read::Tsc,
            TSC_AUX if self.tsc_aux => Read::TscAux,
            EFER => Read::Host { keep: EFER_SHOWN, set: 0 },
            APIC_BASE if self.first_vcpu => Read::Value(APIC_ENABLED | APIC_FIRST),
            APIC_BASE => Read::Value(APIC_ENABLED),
            PAT => Read::Value(GUEST_PAT),
            MISC_ENABLE => Read::Host { keep: !MISC_HIDDEN, set: MISC_SET },
            ARCH_CAPABILITIES => match self.arch_capabilities {
                Some(value) => Read::Value(value),
                None => Read::Refuse,
            },
            PLATFORM_INFO | MISC_FEATURES_ENABLES | PERF_CAPABILITIES | NB_CFG | HYPERCALL_PAGE => ZERO,
            MCG_CAP if self.intel() => Read::Value(INTEL_MCG_CAP),
            MCG_CAP => Read::Value(BANKS),
            MCG_STATUS | MCG_CTL => ZERO,
            0x400..=0x47f if msr & 3 == 0 && ((msr - 0x400) / 4) < BANKS as u32 => Read::Value(u64::MAX),
            0x280..=0x29f | 0x400..=0x47f => ZERO,
            MICROCODE if self.intel() || self.amd() => HOST,
            _ if self.intel() => Self::read_intel(msr),
            _ if self.amd() => self.read_amd(msr),
            _ => Read::Refuse,
        }
    }

    const fn read_intel(msr: u32) -> Read {
        match msr {
            PLATFORM_ID => HOST,
            FEATURE_CONTROL => Read::Value(1),
            PERF_STATUS | PERF_CTL | THERM_STATUS => ZERO,
            _ if is_intel_counter(msr) => ZERO,
            _ => Read::Refuse,
        }
    }

    const fn read_amd(&self, msr: u32) -> Read {
        match msr {
            SYSCFG if self.hardware_domain => Read::Host { keep: SYSCFG_SHOWN, set: 0 },
            // IORR 0 and 1, TOP_MEM, TOP_MEM2, TSEG base and mask.
            0xc001_0016..=0xc001_001a | 0xc001_001d | 0xc001_0112 | 0xc001_0113 if self.hardware_domain => {
                HOST
            }
            HWCR | MMIO_CONF_BASE => ZERO,
            DE_CFG => Read::Value(LFENCE_SERIALISES),
            _ if is_amd_power(msr) || is_amd_counter(msr) => ZERO,
            _ => Read::Refuse,
        }
    }

    /// How the guest's WRMSR of `value` to `msr` is answered.
    pub const fn write(&self, msr: u32, value: u64) -> Write {
        if let Some(base) = base(msr) {
            return if canonical(value) { Write::Base(base) } else { Write::Refuse };
        }
        match msr {
            TSC_AUX if self.tsc_aux && value >> 32 == 0 => Write::TscAux,
            // Linux writes back what it read.
            EFER => Write::IfUnchanged,
            MISC_ENABLE => Write::Ignore,
            MISC_FEATURES_ENABLES if value == 0 => Write::Ignore,
            HYPERCALL_PAGE => Write::HypercallPage,
            PRED_CMD if self.branch_barrier && value & !1 == 0 => Write::Host,
            MCG_CAP | MCG_STATUS | MCG_CTL | 0x280..=0x29f | 0x400..=0x47f => Write::Ignore,
            NB_CFG => Write::Ignore,
            MPERF | APERF if self.intel() || self.amd() => Write::Ignore,
            _ if self.intel() => Self::write_intel(msr, value),
            _ if self.amd() => Self::write_amd(msr),
            _ => Write::Refuse,
        }
    }

    const fn write_intel(msr: u32, value: u64) -> Write {
        match msr {
            // The first step of asking for the microcode's revision.
            MICROCODE if value == 0 => Write::Ignore,
            PERF_CTL | THERM_CONTROL | ENERGY_PERF_BIAS => Write::Ignore,
            _ if is_intel_counter(msr) => Write::Ignore,
            _ => Write::Refuse,
        }
    }

    const fn write_amd(msr: u32) -> Write {
        match msr {
            HWCR | MMIO_CONF_BASE | DE_CFG => Write::Ignore,
            _ if is_amd_power(msr) || is_amd_counter(msr) => Write::Ignore,
            _ => Write::Refuse,
        }
    }
}

const fn canonical(value: u64) -> bool {
    hv_types::GuestVa(value).is_canonical()
}

/// Performance counters and their controls: there are none, and they read as zero.
const fn is_intel_counter(msr: u32) -> bool {
    matches!(msr, 0xc1..=0xc8 | 0x186..=0x189 | 0x309..=0x30b | 0x38d..=0x390)
}

const fn is_amd_counter(msr: u32) -> bool {
    matches!(msr, 0xc001_0000..=0xc001_0007 | 0xc001_0200..=0xc001_020b)
}

/// FID/VID and P-state registers.
const fn is_amd_power(msr: u32) -> bool {
    matches!(msr, 0xc001_0041..=0xc001_0042 | 0xc001_0061..=0xc001_006b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DOM0: MsrPolicy = MsrPolicy {
        vendor: Vendor::Intel,
        hardware_domain: true,
        first_vcpu: true,
        tsc_aux: true,
        branch_barrier: true,
        arch_capabilities: None,
    };

    #[test]
    fn linux_finds_what_it_reads_at_boot() {
        assert_eq!(DOM0.read(0x1b), Read::Value(0xfee0_0900));
        assert_eq!(MsrPolicy { first_vcpu: false, ..DOM0 }.read(0x1b), Read::Value(0xfee0_0800));
        assert_eq!(DOM0.read(0x277), Read::Value(GUEST_PAT));
        assert_eq!(DOM0.read(0xc000_0080), Read::Host { keep: EFER_SHOWN, set: 0 });
        assert_eq!(DOM0.read(0x8b), HOST);
        assert_eq!(DOM0.write(0x8b, 0), Write::Ignore);
        assert_eq!(DOM0.write(0x8b, 1), Write::Refuse);
        assert_eq!(DOM0.write(0x4000_0000, 0x1000), Write::HypercallPage);
    }

    #[test]
    fn a_base_is_written_if_canonical_and_refused_if_not() {
        assert_eq!(DOM0.write(0xc000_0100, 0x7000), Write::Base(Base::Fs));
        assert_eq!(DOM0.write(0xc000_0102, u64::MAX), Write::Base(Base::InactiveGs));
        assert_eq!(DOM0.write(0xc000_0101, 1 << 47), Write::Refuse);
        assert_eq!(DOM0.write(0xc000_0103, u64::from(u32::MAX)), Write::TscAux);
        assert_eq!(DOM0.write(0xc000_0103, 1 << 32), Write::Refuse);
    }

    #[test]
    fn each_vendors_registers_are_its_own() {
        let amd = MsrPolicy { vendor: Vendor::Amd, ..DOM0 };
        for (msr, intel, other) in [(0x3a, Read::Value(1), Read::Refuse), (0xc001_0015, Read::Refuse, ZERO)] {
            assert_eq!((DOM0.read(msr), amd.read(msr)), (intel, other));
        }
        assert_eq!(amd.read(0xc001_001a), HOST);
        assert_eq!(MsrPolicy { hardware_domain: false, ..amd }.read(0xc001_001a), Read::Refuse);
        assert_eq!(Vendor::from_leaf0(0x6874_7541, 0x444d_4163, 0x6974_6e65), Vendor::Amd);
        assert_eq!(Vendor::from_leaf0(0x756e_6547, 0x6c65_746e, 0x4965_6e69), Vendor::Intel);
    }

    proptest! {
        #[test]
        fn the_hardware_is_written_only_by_the_barrier(msr in any::<u32>(), low in 0u32..0x500, value in any::<u64>(), bit in 0u64..3) {
            for vendor in [Vendor::Intel, Vendor::Amd, Vendor::Other] {
                let policy = MsrPolicy { vendor, ..DOM0 };
                for msr in [msr, low, 0xc001_0000 + low, 0xc000_0080 + low] {
                    for value in [value, bit] {
                        let allowed = msr == 0x49 && value <= 1;
                        prop_assert_eq!(policy.write(msr, value) == Write::Host, allowed);
                    }
                }
            }
        }

        #[test]
        fn syscall_targets_and_spec_ctrl_are_never_reached(value in any::<u64>()) {
            for msr in [0x48, 0x174, 0x175, 0x176, 0x1d9, 0x830, 0xda0, 0xc000_0081, 0xc000_0082, 0xc000_0084, 0xc001_0114] {
                for vendor in [Vendor::Intel, Vendor::Amd] {
                    let policy = MsrPolicy { vendor, ..DOM0 };
                    prop_assert_eq!((policy.read(msr), policy.write(msr, value)), (Read::Refuse, Write::Refuse));
                }
            }
        }
    }
}

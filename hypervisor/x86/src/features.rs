//! What this processor can do, and switching on what protects or speeds up the hypervisor.

use core::fmt;

use spin::Once;

use crate::cpu;

/// Processor features the hypervisor acts on.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Features {
    pub smep: bool,
    pub smap: bool,
    pub umip: bool,
    pub fsgsbase: bool,
    pub pge: bool,
    /// Address-space tags, with INVPCID, and wanted.
    pub pcid: bool,
    pub xsave: bool,
    pub xsaveopt: bool,
    pub nx: bool,
    pub mce: bool,
    pub syscall32_amd: bool,
    /// Components of XCR0 the processor knows.
    pub xcr0: u64,
    /// Bytes of an XSAVE area with all of them.
    pub xsave_size: u32,
}

static FEATURES: Once<Features> = Once::new();

/// Looks at the processor, before anybody asks. `pcid`: address-space tags are wanted.
pub fn init(pcid: bool) {
    FEATURES.call_once(|| detect(pcid));
}

/// The features of the boot CPU; all CPUs are taken to be alike.
#[inline]
pub fn features() -> &'static Features {
    FEATURES.call_once(|| detect(true))
}

const XCR0_USABLE: u64 = 0b1110_0111; // x87, SSE, AVX, AVX-512

fn detect(tags: bool) -> Features {
    let leaf1 = cpu::cpuid(1, 0);
    let max = cpu::cpuid(0, 0).eax;
    let leaf7 = if max >= 7 { cpu::cpuid(7, 0) } else { cpu::cpuid(0x8000_0000, 0) };
    let (ebx7, ecx7) = if max >= 7 { (leaf7.ebx, leaf7.ecx) } else { (0, 0) };
    let ext = cpu::cpuid(0x8000_0001, 0);
    let xsave = leaf1.ecx & 1 << 26 != 0 && max >= 0xd;
    let leaf_d = if xsave { cpu::cpuid(0xd, 0) } else { leaf1 };
    let pge = leaf1.edx & 1 << 13 != 0;
    let pcid = leaf1.ecx & 1 << 17 != 0 && ebx7 & 1 << 10 != 0;
    Features {
        smep: ebx7 & 1 << 7 != 0,
        smap: ebx7 & 1 << 20 != 0,
        umip: ecx7 & 1 << 2 != 0,
        fsgsbase: ebx7 & 1 != 0,
        pge,
        pcid: pcid && pge && tags,
        mce: leaf1.edx & 1 << 7 != 0,
        xsave,
        xsaveopt: xsave && cpu::cpuid(0xd, 1).eax & 1 != 0,
        nx: ext.edx & 1 << 20 != 0,
        syscall32_amd: is_amd(),
        xcr0: if xsave { (u64::from(leaf_d.edx) << 32 | u64::from(leaf_d.eax)) & XCR0_USABLE } else { 0 },
        xsave_size: leaf_d.ecx,
    }
}

/// True on processors of AMD and Hygon, where SYSCALL works in compatibility mode.
pub fn is_amd() -> bool {
    matches!(cpu::cpuid(0, 0).ebx, 0x6874_7541 | 0x6f67_7948)
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            ("NX", self.nx),
            ("PGE", self.pge),
            ("PCID", self.pcid),
            ("SMEP", self.smep),
            ("SMAP", self.smap),
            ("UMIP", self.umip),
            ("FSGSBASE", self.fsgsbase),
            ("XSAVE", self.xsave),
        ];
        let mut names = all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name);
        f.write_str(names.next().unwrap_or_default())?;
        names.try_for_each(|name| write!(f, " {name}"))
    }
}

/// CR4 as the hypervisor runs with it.
pub fn hypervisor_cr4() -> u64 {
    let f = features();
    let bit = |on: bool, n: u32| u64::from(on) << n;
    1 << 5
        | 1 << 9
        | 1 << 10
        | bit(f.mce, 6)
        | bit(f.pge, 7)
        | bit(f.umip, 11)
        | bit(f.fsgsbase, 16)
        | bit(f.pcid, 17)
        | bit(f.xsave, 18)
        | bit(f.smep, 20)
        | bit(f.smap, 21)
}

/// Switches this CPU's protections and state management on.
///
/// # Safety
/// The final page tables are loaded and, without SMAP, `guest::patch_smap` has run.
pub unsafe fn enable() {
    let f = features();
    // SAFETY: only bits whose feature is present are set; with SMAP on, guest memory is reached between STAC and
    // CLAC only.
    unsafe {
        cpu::set_cr4(hypervisor_cr4());
        if f.xsave {
            set_xcr0(f.xcr0);
        }
        // CR0: PE, MP, ET, NE, WP, AM, PG; no TS, no EM.
        cpu::set_cr0(0x8005_0033);
    }
}

/// Writes XCR0.
///
/// # Safety
/// OSXSAVE is on and `value` is a subset of what CPUID offers that the processor accepts.
pub unsafe fn set_xcr0(value: u64) {
    // SAFETY: the caller's duty.
    unsafe {
        core::arch::asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nomem, nostack, preserves_flags));
    }
}

//! Single instructions: port I/O, model-specific registers, control registers, caches.
//!
//! Every function is one instruction or two; what makes a use sound is argued where it is used.

use core::arch::asm;

use hv_core::mmu::tags::Forget;

pub use core::arch::x86_64::__cpuid_count as cpuid;

macro_rules! port_io {
    ($inf:ident, $outf:ident, $ty:ty, $reg:tt, $ins:literal, $outs:literal) => {
        /// Reads an I/O port.
        ///
        /// # Safety
        /// Reading the port has no effect that breaks another part of the hypervisor.
        #[inline]
        pub unsafe fn $inf(port: u16) -> $ty {
            let value: $ty;
            // SAFETY: the caller's duty.
            unsafe { asm!($ins, in("dx") port, out($reg) value, options(nostack, preserves_flags)) };
            value
        }

        /// Writes an I/O port.
        ///
        /// # Safety
        /// Writing the port has no effect that breaks another part of the hypervisor.
        #[inline]
        pub unsafe fn $outf(port: u16, value: $ty) {
            // SAFETY: the caller's duty.
            unsafe { asm!($outs, in("dx") port, in($reg) value, options(nostack, preserves_flags)) };
        }
    };
}
port_io!(inb, outb, u8, "al", "in al, dx", "out dx, al");
port_io!(inw, outw, u16, "ax", "in ax, dx", "out dx, ax");
port_io!(inl, outl, u32, "eax", "in eax, dx", "out dx, eax");

/// Numbers of the registers that hold a vCPU's bases and its TSC_AUX.
#[allow(missing_docs)]
pub mod msr {
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
}

/// Reads a model-specific register that is known to exist.
///
/// # Safety
/// The register exists on this CPU; otherwise the read faults.
#[inline]
pub unsafe fn rdmsr(msr: u32) -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: the caller's duty.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") lo, out("edx") hi, options(nostack, preserves_flags)) };
    u64::from(hi) << 32 | u64::from(lo)
}

/// Writes a model-specific register.
///
/// # Safety
/// The register exists, the value is valid for it, and the change keeps every invariant of the hypervisor.
#[inline]
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: the caller's duty.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// Reads a register that may not exist; `None` where the read faulted.
pub fn rdmsr_safe(msr: u32) -> Option<u64> {
    let (lo, hi, ok): (u32, u32, u32);
    // SAFETY: a fault resumes at the fixup with `ok` zero; reading an MSR has no side effect on memory.
    unsafe {
        asm!("mov {ok:e}, 1", "2: rdmsr", "3:",
            ".pushsection .text.entry, \"ax\"", "4: xor {ok:e}, {ok:e}", "xor eax, eax", "xor edx, edx", "jmp 3b",
            ".popsection",
            ".pushsection .ex_table, \"a\"", ".long 2b - ., 4b - .", ".popsection",
            ok = out(reg) ok, in("ecx") msr, out("eax") lo, out("edx") hi, options(nostack));
    }
    (ok != 0).then_some(u64::from(hi) << 32 | u64::from(lo))
}

/// Writes a register that may not exist or may refuse the value; false where the write faulted.
///
/// # Safety
/// If the register takes the value, every invariant of the hypervisor still holds.
pub unsafe fn wrmsr_safe(msr: u32, value: u64) -> bool {
    let ok: u32;
    // SAFETY: a fault resumes at the fixup with `ok` zero; the rest is the caller's duty.
    unsafe {
        asm!("mov {ok:e}, 1", "2: wrmsr", "3:",
            ".pushsection .text.entry, \"ax\"", "4: xor {ok:e}, {ok:e}", "jmp 3b", ".popsection",
            ".pushsection .ex_table, \"a\"", ".long 2b - ., 4b - .", ".popsection",
            ok = out(reg) ok, in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack));
    }
    ok != 0
}

/// The time-stamp counter.
#[inline]
pub fn rdtsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The time-stamp counter, read after everything before it and before everything after it. MFENCE is what orders it on AMD's processors
/// where LFENCE is not told to (AMD APM, "RDTSC"; Intel SDM, "RDTSC").
#[inline]
pub fn rdtsc_in_order() -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: reads a counter; that it counts as using memory keeps the compiler from moving accesses past it.
    unsafe {
        asm!("mfence", "lfence", "rdtsc", "lfence", out("eax") lo, out("edx") hi, options(nostack, preserves_flags));
    }
    u64::from(hi) << 32 | u64::from(lo)
}

macro_rules! control_register {
    ($read:ident, $write:ident, $name:literal) => {
        /// Reads the control or debug register.
        #[inline]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: ring 0 may read it; reading changes nothing.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nostack, preserves_flags)) };
            value
        }

        /// Writes the control or debug register.
        ///
        /// # Safety
        /// The value is valid, and every mapping and mode the hypervisor relies on still holds with it.
        #[inline]
        pub unsafe fn $write(value: u64) {
            // SAFETY: the caller's duty.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
        }
    };
}
control_register!(cr0, set_cr0, "cr0");
control_register!(cr2, set_cr2, "cr2");
control_register!(cr3, set_cr3, "cr3");
control_register!(cr4, set_cr4, "cr4");
control_register!(dr0, set_dr0, "dr0");
control_register!(dr1, set_dr1, "dr1");
control_register!(dr2, set_dr2, "dr2");
control_register!(dr3, set_dr3, "dr3");
control_register!(dr6, set_dr6, "dr6");
control_register!(dr7, set_dr7, "dr7");

/// Forgets the translation of one address in the current address space, global ones too.
#[inline]
pub fn invlpg(va: u64) {
    // SAFETY: dropping a translation only costs a walk.
    unsafe { asm!("invlpg [{}]", in(reg) va, options(nostack, preserves_flags)) };
}

/// Forgets translations. The processor has INVPCID.
pub fn invpcid(what: Forget) {
    let (kind, tag, va) = match what {
        // An address that is not canonical would fault; none has a translation.
        Forget::Page(whose, va) => (0u64, whose as u64, ((va << 16) as i64 >> 16) as u64),
        Forget::Tag(whose) => (1, whose as u64, 0),
        Forget::AllTags => (3, 0, 0),
    };
    let descriptor = [tag, va];
    // SAFETY: dropping translations only costs walks; the descriptor is 16 bytes that nobody changes.
    unsafe {
        asm!("invpcid {}, [{}]", in(reg) kind, in(reg) &raw const descriptor, options(nostack, preserves_flags))
    };
}

/// Writes back and drops all caches of this CPU.
pub fn wbinvd() {
    // SAFETY: slow, otherwise without effect.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
}

/// Number of this CPU's local APIC, as CPUID has it.
pub fn apic_id() -> u32 {
    const TOPOLOGY: u32 = 0xb;
    if cpuid(0, 0).eax >= TOPOLOGY && cpuid(TOPOLOGY, 0).ebx != 0 {
        cpuid(TOPOLOGY, 0).edx
    } else {
        cpuid(1, 0).ebx >> 24
    }
}

/// Halts until an interrupt comes, and takes it. One that came since interrupts were switched off is not lost: STI takes effect
/// behind HLT.
///
/// # Safety
/// This CPU holds no lock and has nothing of a guest loaded; the handlers know that ring 0 was interrupted.
pub unsafe fn wait_for_interrupt() {
    // SAFETY: the caller's duty.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Stops this CPU for ever.
pub fn halt_for_ever() -> ! {
    loop {
        // SAFETY: with interrupts off only an NMI or a machine check wakes the CPU, and it halts again.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// DS, ES, FS and GS.
pub fn data_selectors() -> [u16; 4] {
    let (ds, es, fs, gs): (u32, u32, u32, u32);
    // SAFETY: reads selectors.
    unsafe {
        asm!("mov {:e}, ds", "mov {:e}, es", "mov {:e}, fs", "mov {:e}, gs", out(reg) ds, out(reg) es, out(reg) fs,
            out(reg) gs, options(nomem, nostack, preserves_flags));
    }
    [ds as u16, es as u16, fs as u16, gs as u16]
}

/// Loads DS, ES, FS and GS; one that the loaded tables do not offer becomes null. The bases of FS and GS are lost.
pub fn set_data_selectors(selectors: [u16; 4]) {
    macro_rules! load {
        ($name:literal, $value:expr) => {
            // SAFETY: the hypervisor uses none of them in 64-bit mode; a fault loads the null selector.
            unsafe {
                asm!(concat!("2: mov ", $name, ", {s:e}"), "3:",
                    ".pushsection .text.entry, \"ax\"", "4: xor {s:e}, {s:e}", concat!("mov ", $name, ", {s:e}"), "jmp 3b",
                    ".popsection",
                    ".pushsection .ex_table, \"a\"", ".long 2b - ., 4b - .", ".popsection",
                    s = inout(reg) u32::from($value) => _, options(nostack));
            }
        };
    }
    load!("ds", selectors[0]);
    load!("es", selectors[1]);
    load!("fs", selectors[2]);
    load!("gs", selectors[3]);
}

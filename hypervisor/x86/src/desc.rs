//! Descriptor tables of a CPU: the hypervisor's page of the GDT, the TSS, the IDT.
//!
//! Selectors are those of the public header `arch-x86/xen.h`: the page stands at index 7168 of every vCPU's GDT.

use core::arch::asm;
use core::mem::size_of;

use crate::{cpu, entry, quick};

/// First selector of the hypervisor's page (`FIRST_RESERVED_GDT_ENTRY` * 8).
pub const RESERVED: u16 = 14 * 4096u32 as u16;
/// Ring 0, 64-bit code.
pub const CS: u16 = RESERVED + 0x08;
/// Ring 0, data.
pub const DS: u16 = RESERVED + 0x10;
/// Ring 3, 64-bit code (`FLAT_RING3_CS64`).
pub const GUEST_CS: u16 = RESERVED + 0x33;
/// Ring 3, data (`FLAT_RING3_SS64`).
pub const GUEST_SS: u16 = RESERVED + 0x2b;
/// What SYSRET adds 8 and 16 to (`FLAT_RING3_CS32`).
pub const SYSRET_BASE: u16 = RESERVED + 0x23;
const TSS: u16 = RESERVED + 0x40;
const LDT: u16 = RESERVED + 0x50;
const PER_CPU: u16 = RESERVED + 0x60;

/// Highest byte a selector may reach in a vCPU's GDT.
pub const GDT_LIMIT: u16 = RESERVED + 0x67;

/// The 64-bit task-state segment. Intel SDM volume 3, figure 8-11.
#[repr(C, packed(4))]
pub struct Tss {
    reserved0: u32,
    /// Stacks for rings 0 to 2.
    pub rsp: [u64; 3],
    reserved1: u64,
    /// Stacks by number, for vectors that demand one.
    pub ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map: u16,
}

impl Tss {
    /// Ring 3 enters at `rsp0`; `ist` are the ends of the numbered stacks.
    pub fn new(rsp0: u64, ist: [u64; 4]) -> Self {
        let mut all = [0; 7];
        all[..4].copy_from_slice(&ist);
        let io_map = size_of::<Tss>() as u16;
        Tss { reserved0: 0, rsp: [rsp0, 0, 0], reserved1: 0, ist: all, reserved2: 0, reserved3: 0, io_map }
    }
}

/// Stack numbers of the vectors that need a stack of their own.
pub mod ist {
    /// Double fault.
    pub const DOUBLE_FAULT: u8 = 1;
    /// Machine check.
    pub const MACHINE_CHECK: u8 = 2;
    /// NMI.
    pub const NMI: u8 = 3;
    /// Debug exception.
    pub const DEBUG: u8 = 4;
}

const fn slot(selector: u16) -> usize {
    (selector as usize & 0xfff) >> 3
}

/// Descriptor (two words) of a system segment of `kind`.
fn system(base: u64, limit: u32, kind: u64) -> [u64; 2] {
    let low = u64::from(limit) & 0xffff
        | (base & 0xff_ffff) << 16
        | kind << 40
        | 1 << 47
        | (u64::from(limit) >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}

/// Fills a CPU's descriptor page.
///
/// # Safety
/// `page` is a zeroed page that the caller owns; `tss` stays where it is for good.
pub unsafe fn fill_gdt_page(page: *mut u64, tss: u64, cpu: u32) {
    let set = |selector: u16, value: u64| {
        // SAFETY: the slot lies within the page that is the caller's.
        unsafe { page.add(slot(selector)).write(value) };
    };
    set(CS, 0x00af_9b00_0000_ffff);
    set(DS, 0x00cf_9300_0000_ffff);
    set(RESERVED + 0x23, 0x00cf_fb00_0000_ffff);
    set(GUEST_SS, 0x00cf_f300_0000_ffff);
    set(GUEST_CS, 0x00af_fb00_0000_ffff);
    let [low, high] = system(tss, size_of::<Tss>() as u32 - 1, 0x9);
    set(TSS, low);
    set(TSS + 8, high);
    // Readable from ring 3 by LSL: the CPU's number is the limit, as in the reference.
    set(PER_CPU, 0x0000_f100_0000_0000 | u64::from(cpu) & 0xffff);
}

/// Points a CPU's LDT descriptor at `base` and loads it; no entries unload it.
///
/// # Safety
/// The window at `base` holds only checked descriptors while the LDT is loaded; `page` is this CPU's.
pub unsafe fn load_ldt(page: *mut u64, base: u64, entries: u32) {
    if entries == 0 {
        // SAFETY: an empty LDT refuses every selector.
        unsafe { asm!("lldt {:x}", in(reg) 0u32, options(nostack, preserves_flags)) };
        return;
    }
    let [low, high] = system(base, entries * 8 - 1, 0x2);
    // SAFETY: the page is this CPU's, and the caller vouches for the window.
    unsafe {
        page.add(slot(LDT)).write(low);
        page.add(slot(LDT) + 1).write(high);
        asm!("lldt {:x}", in(reg) u32::from(LDT), options(nostack, preserves_flags));
    }
}

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Loads the GDT whose hypervisor page stands at `base` + 14 pages.
///
/// # Safety
/// That page is this CPU's, and the pages before it hold only checked descriptors or are not mapped.
#[inline]
pub unsafe fn load_gdt(base: u64) {
    let pointer = Pointer { limit: GDT_LIMIT, base };
    // SAFETY: the caller's duty.
    unsafe { asm!("lgdt [{}]", in(reg) &raw const pointer, options(nostack, preserves_flags)) };
}

/// Loads segment registers and the task register from the GDT that is loaded.
///
/// # Safety
/// Once a CPU, after [`load_gdt`], with interrupts off.
pub unsafe fn load_segments() {
    // SAFETY: the selectors name the descriptors that `fill_gdt_page` wrote.
    unsafe {
        asm!("push {cs}", "lea {t}, [rip + 2f]", "push {t}", "retfq", "2:",
            "mov ss, {ds:e}", "mov ds, {z:e}", "mov es, {z:e}", "mov fs, {z:e}", "mov gs, {z:e}",
            "ltr {tss:x}", "lldt {z:x}",
            cs = in(reg) u64::from(CS), t = out(reg) _, ds = in(reg) u32::from(DS), z = in(reg) 0u32,
            tss = in(reg) u32::from(TSS));
    }
}

#[repr(C, align(16))]
struct Idt([[u64; 2]; 256]);

static IDT: spin::Once<Idt> = spin::Once::new();

/// Interrupt gate for `handler`; ring `dpl` may raise it by an instruction.
fn gate(handler: u64, ist: u8, dpl: u64) -> [u64; 2] {
    let low = handler & 0xffff
        | u64::from(CS) << 16
        | u64::from(ist) << 32
        | 0xe << 40
        | dpl << 45
        | 1 << 47
        | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

fn build_idt() -> Idt {
    let mut idt = Idt([[0; 2]; 256]);
    for (vector, entry) in idt.0.iter_mut().enumerate() {
        let stack = match vector {
            1 => ist::DEBUG,
            2 => ist::NMI,
            8 => ist::DOUBLE_FAULT,
            18 => ist::MACHINE_CHECK,
            _ => 0,
        };
        // INT3, INTO and INT 0x80 may be raised by guests; the rest arrives as #GP and is bounced in software.
        let dpl = if matches!(vector, 3 | 4 | 0x80) { 3 } else { 0 };
        let handler = match vector {
            1 => entry::debug_entry as *const () as u64,
            14 => quick::page_fault_entry as *const () as u64,
            _ => entry::stub_address(vector),
        };
        *entry = gate(handler, stack, dpl);
    }
    idt
}

/// Loads the IDT on this CPU.
pub fn load_idt() {
    let idt = IDT.call_once(build_idt);
    let pointer = Pointer { limit: size_of::<Idt>() as u16 - 1, base: core::ptr::from_ref(idt) as u64 };
    // SAFETY: every gate leads to an entry stub, and the table is never freed.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, preserves_flags)) };
}

const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const FMASK: u32 = 0xc000_0084;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;

/// Aims SYSCALL at this CPU's stubs, and SYSENTER at its primary stack, which ends at `stack`.
///
/// # Safety
/// The stub exists and this CPU's GDT is loaded.
pub unsafe fn set_syscall(stub: u64, stack: u64) {
    let star = u64::from(SYSRET_BASE) << 48 | u64::from(CS) << 32;
    // SAFETY: the registers exist on every x86-64 CPU; all flags that could harm ring 0 are masked
    // (TF, IF, DF, IOPL, NT, AC).
    unsafe {
        cpu::wrmsr(STAR, star);
        cpu::wrmsr(LSTAR, stub);
        cpu::wrmsr(CSTAR, stub + crate::percpu::STUB_SIZE);
        cpu::wrmsr(FMASK, 0x4_7700);
    }
    if !crate::features::is_amd() {
        // SAFETY: the registers exist where SYSENTER works in long mode; the stack is this CPU's primary one.
        unsafe {
            cpu::wrmsr(SYSENTER_CS, u64::from(CS));
            cpu::wrmsr(SYSENTER_ESP, stack);
            cpu::wrmsr(SYSENTER_EIP, entry::sysenter_entry as *const () as u64);
        }
    }
}

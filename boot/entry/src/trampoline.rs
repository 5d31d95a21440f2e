//! How a further CPU comes from its first instruction, in real mode, to 64-bit Rust.
//!
//! The code is copied to a page below 1 MiB, whose number is what the startup interrupt carries. It needs no address of its
//! own: real mode has the page in CS, and the words it uses lie at fixed offsets of the page ([`Parameters`]).
//!
//! Facts: Intel SDM volume 3, chapter "Multiple-Processor Management" (state after INIT-SIPI).

use core::arch::global_asm;

/// Bytes of a page; code and parameters share one.
const PAGE: usize = 4096;
/// Where [`Parameters`] lie in the page.
const PARAMETERS: usize = 0xf00;

/// What the code finds in its page.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Parameters {
    gdt_limit: u16,
    gdt_base: u32,
    _pad: [u8; 10],
    root: u64,
    stack: u64,
    entry: u64,
    _pad2: u64,
    gdt: [u64; 4],
}

/// Where a CPU starts.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Machine address of the page, below 1 MiB.
    pub page: u32,
    /// Root table, below 4 GiB: maps the page to itself and the hypervisor where it is.
    pub root: u64,
    /// Stack pointer to begin with, 16-byte aligned.
    pub stack: u64,
    /// First Rust function; it does not return.
    pub entry: u64,
}

/// Code and parameters as they must stand in the page.
pub fn image(start: Start) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    // SAFETY: the two symbols bound the constant code below.
    let code = unsafe {
        let first = &raw const trampoline_start;
        core::slice::from_raw_parts(first, (&raw const trampoline_end).offset_from_unsigned(first))
    };
    page[..code.len()].copy_from_slice(code);
    let parameters = Parameters {
        gdt_limit: 31,
        gdt_base: start.page + (PARAMETERS + core::mem::offset_of!(Parameters, gdt)) as u32,
        _pad: [0; 10],
        root: start.root,
        stack: start.stack,
        entry: start.entry,
        _pad2: 0,
        gdt: [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00af_9b00_0000_ffff],
    };
    // SAFETY: plain bytes; the structure fits behind its offset.
    let bytes: [u8; size_of::<Parameters>()] = unsafe { core::mem::transmute(parameters) };
    page[PARAMETERS..PARAMETERS + bytes.len()].copy_from_slice(&bytes);
    page
}

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
}

global_asm!(
    r#"
    .section .rodata.trampoline, "a"
    .balign 256
    .global trampoline_start
trampoline_start:
    .code16
    cli
    cld
    mov ax, cs
    mov ds, ax
    mov ss, ax
    mov sp, 0xe00
    xor ebx, ebx
    mov bx, ax
    shl ebx, 4                      /* the page's address */
    lgdt ds:[0xf00]
    mov eax, 0x11                   /* PE, ET */
    mov cr0, eax
    mov eax, ebx
    add eax, 0x80
    .byte 0x66, 0x6a, 0x08          /* push dword 8 */
    .byte 0x66, 0x50                /* push eax */
    .byte 0x66, 0xcb                /* retf, 32-bit operands */
    .balign 128
    .code32
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    lea esp, [ebx + 0xe00]
    mov eax, 0x20                   /* PAE */
    mov cr4, eax
    mov eax, [ebx + 0xf10]
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x901                   /* SCE, LME, NXE */
    wrmsr
    mov eax, 0x80010033             /* PG, WP, NE, ET, MP, PE */
    mov cr0, eax
    lea eax, [ebx + 0x100]
    push 24
    push eax
    retf
    .balign 128
    .code64
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov ebx, ebx
    mov rsp, [rbx + 0xf18]
    xor ebp, ebp
    call [rbx + 0xf20]
    ud2
    .global trampoline_end
trampoline_end:
    "#
);

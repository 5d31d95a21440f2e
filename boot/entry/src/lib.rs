//! From GRUB's 32-bit hand-over to 64-bit Rust at the linked address.
//!
//! GRUB enters in protected mode without paging, `ebx` at the multiboot2 information, the image at its load base
//! or moved by a multiple of 2 MiB (the relocatable tag). The code here finds out where it is, maps the first
//! 4 GiB one to one, at the direct map, and the image where it is linked, and calls `hv_main` in the binary.
//! These first tables are writable and executable; `hv-x86` replaces them before anything else runs.
//!
//! Facts: Multiboot2 specification 2.0, sections 3.1 (header) and 3.2 (machine state).
#![no_std]

pub mod trampoline;

use core::arch::global_asm;

/// Bytes of the stack that boot code runs on until the CPU's own stack is ready.
pub const BOOT_STACK_SIZE: usize = 64 * 1024;

unsafe extern "C" {
    /// First instruction of the image, where GRUB jumps to.
    pub fn xenolith_start() -> !;
}

global_asm!(
    r#"
    .section .boot.header, "a"
    .balign 8
mb2_header:
    .long 0xe85250d6
    .long 0
    .long mb2_header_end - mb2_header
    .long 0x100000000 - (0xe85250d6 + (mb2_header_end - mb2_header))

    /* information request: memory map is required, the rest is welcome */
    .balign 8
    .short 1, 0
    .long 12
    .long 6
    .balign 8
    .short 1, 1
    .long 8 + 4 * 9
    .long 1, 3, 8, 12, 14, 15, 17, 20, 21

    /* modules on page boundaries */
    .balign 8
    .short 6, 1
    .long 8

    /* EGA text is fine (bit 1) */
    .balign 8
    .short 4, 1
    .long 12
    .long 2

    /* a frame buffer is fine as well: no preference for width, height, depth */
    .balign 8
    .short 5, 1
    .long 20
    .long 0, 0, 0

    /* relocatable: 2 MiB .. 4 GiB in steps of 2 MiB, lowest preferred */
    .balign 8
    .short 10, 1
    .long 24
    .long 0x200000, 0xffffffff, 0x200000, 1

    .balign 8
    .short 0, 0
    .long 8
mb2_header_end:

    .section .boot.text, "ax"
    .code32
    .global xenolith_start
xenolith_start:
    cli
    cld
    cmp eax, 0x36d76289
    jne 9f
    /* The reserved word of the multiboot2 information is the only memory known to be ours: a one-word stack. */
    lea esp, [ebx + 8]
    call boot_here
    .global boot_here
boot_here:
    pop ebp
    mov dword ptr [ebx + 4], 0
    sub ebp, offset boot_here_offset               /* ebp = physical address of the image */

    lea esp, [ebp + boot_stack_end_offset]
    mov edi, ebx                                   /* the multiboot2 information survives in edi */

    /* four L2 tables: the first 4 GiB in 2 MiB pages */
    lea esi, [ebp + boot_l2_low_offset]
    mov eax, 0x83
    xor edx, edx
    mov ecx, 2048
2:  mov [esi], eax
    mov [esi + 4], edx
    add esi, 8
    add eax, 0x200000
    loop 2b

    /* the image, 16 MiB from its base */
    lea esi, [ebp + boot_l2_image_offset]
    lea eax, [ebp + 0x83]
    mov ecx, 8
3:  mov [esi], eax
    add esi, 8
    add eax, 0x200000
    loop 3b

    /* L3: the same four entries serve the identity map and the direct map */
    lea esi, [ebp + boot_l3_low_offset]
    lea eax, [ebp + boot_l2_low_offset + 3]
    mov ecx, 4
4:  mov [esi], eax
    add esi, 8
    add eax, 0x1000
    loop 4b
    lea eax, [ebp + boot_l2_image_offset + 3]
    mov [ebp + boot_l3_image_offset + 321 * 8], eax

    /* L4: slots 0 and 262 the low map, slot 261 the image */
    lea eax, [ebp + boot_l3_low_offset + 3]
    mov [ebp + boot_l4_offset], eax
    mov [ebp + boot_l4_offset + 262 * 8], eax
    lea eax, [ebp + boot_l3_image_offset + 3]
    mov [ebp + boot_l4_offset + 261 * 8], eax

    mov eax, cr4
    or eax, 0x20                                   /* PAE */
    mov cr4, eax
    lea eax, [ebp + boot_l4_offset]
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x901                                  /* SCE, LME, NXE */
    wrmsr
    mov eax, 0x80010033                            /* PG, WP, NE, ET, MP, PE */
    mov cr0, eax

    lea eax, [ebp + boot_gdt_offset]
    sub esp, 8
    mov word ptr [esp], 23
    mov [esp + 2], eax
    lgdt [esp]
    lea eax, [ebp + boot_long_mode_offset]
    push 8
    push eax
    retf
9:  hlt
    jmp 9b

    .code64
    .global boot_long_mode
boot_long_mode:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    lea rax, [rip + 6f]
    mov esi, ebp
    sub rax, rsi
    movabs rcx, offset __image_start
    add rax, rcx
    jmp rax
6:  lea rsp, [rip + boot_stack_end]
    mov edi, edi
    xor ebp, ebp
    call hv_main
    ud2

    .balign 8
    .global boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff

    .section .bss.boot_tables, "aw", @nobits
    .balign 4096
    .global boot_l4
boot_l4: .skip 4096
    .global boot_l3_low
boot_l3_low: .skip 4096
    .global boot_l3_image
boot_l3_image: .skip 4096
    .global boot_l2_low
boot_l2_low: .skip 4096 * 4
    .global boot_l2_image
boot_l2_image: .skip 4096
boot_stack: .skip {stack_size}
    .global boot_stack_end
boot_stack_end:
    "#,
    stack_size = const BOOT_STACK_SIZE,
);

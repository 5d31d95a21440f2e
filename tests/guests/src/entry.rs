//! The first instruction, and the notes that a PV loader reads.

use core::arch::global_asm;
use guest_abi::elfnote;
use guest_abi::features::Features;

/// What the kernel can cope with: what Linux says of itself as a PV dom0.
const SUPPORTED: u32 =
    Features::WRITABLE_PAGE_TABLES.bits() | Features::DOM0.bits() | Features::LINUX_RSDP_UNRESTRICTED.bits();

global_asm!(
    ".macro xen_note kind, data:vararg",
    ".balign 4",
    ".long 4, 2f - 1f, \\kind",
    ".asciz \"Xen\"",
    "1: \\data",
    "2: .balign 4",
    ".endm",
    ".pushsection .note.Xen, \"a\", @note",
    "xen_note {xen_version}, .asciz \"xen-3.0\"",
    "xen_note {guest_os}, .asciz \"claim\"",
    "xen_note {loader}, .asciz \"generic\"",
    "xen_note {features}, .asciz \"!writable_page_tables\"",
    "xen_note {virt_base}, .quad 0xffffffff80000000",
    "xen_note {paddr_offset}, .quad 0",
    "xen_note {entry}, .quad _start",
    "xen_note {hv_start_low}, .quad 0xffff800000000000",
    "xen_note {supported}, .long {supported_bits}",
    ".popsection",
    ".pushsection .text.entry, \"ax\"",
    ".globl _start",
    "_start:",
    "cld",
    "lea rsp, [rip + {stack} + {stack_size}]",
    "mov rdi, rsi",
    "xor ebp, ebp",
    "call {begin}",
    "ud2",
    ".popsection",
    xen_version = const elfnote::XEN_ELFNOTE_XEN_VERSION,
    guest_os = const elfnote::XEN_ELFNOTE_GUEST_OS,
    loader = const elfnote::XEN_ELFNOTE_LOADER,
    features = const elfnote::XEN_ELFNOTE_FEATURES,
    virt_base = const elfnote::XEN_ELFNOTE_VIRT_BASE,
    paddr_offset = const elfnote::XEN_ELFNOTE_PADDR_OFFSET,
    entry = const elfnote::XEN_ELFNOTE_ENTRY,
    hv_start_low = const elfnote::XEN_ELFNOTE_HV_START_LOW,
    supported = const elfnote::XEN_ELFNOTE_SUPPORTED_FEATURES,
    supported_bits = const SUPPORTED,
    stack = sym STACK,
    stack_size = const STACK_SIZE,
    begin = sym crate::begin,
);

const STACK_SIZE: usize = 64 * 1024;

#[repr(C, align(4096))]
struct Stack(core::cell::UnsafeCell<[u8; STACK_SIZE]>);

// SAFETY: Rust never looks at it; it is the one vCPU's stack.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(core::cell::UnsafeCell::new([0; STACK_SIZE]));

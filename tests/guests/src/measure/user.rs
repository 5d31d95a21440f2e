//! User mode: a system call into the guest's kernel and back by `iret`.

use claim::abi::Hypercall;
use claim::abi::callback::CALLBACKTYPE_SYSCALL;
use claim::abi::x86_64::*;
use claim::abi::xen::*;
use claim::mm::{self, NX, P, READABLE, RW, US, WRITABLE};
use claim::{call, say, trap};
use core::arch::{asm, global_asm};

/// Where the user's page of code and its page of stack are.
const CODE: u64 = 0x40_0000;
const STACK: u64 = 0x40_1000;
/// System calls of each run, not counting the last, which comes back.
const CALLS: u64 = 32;
const RUNS: u64 = 8;

/// `1: mov eax, 39; syscall; dec ebx; jnz 1b; mov eax, -1; syscall`.
const PROGRAM: [u8; 18] =
    [0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xff, 0xcb, 0x75, 0xf5, 0xb8, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x05];

pub fn run() {
    trap::register(CALLBACKTYPE_SYSCALL, &raw const measure_syscall as u64);
    call(Hypercall::StackSwitch, &[u64::from(FLAT_KERNEL_SS), mm::page() + 4096]);
    build();
    let mut best = u64::MAX;
    for _ in 0..RUNS {
        best = best.min(enter(CALLS) - enter(1));
    }
    say!("BENCH user_syscall_iret {}", (best + CALLS / 2) / (CALLS - 1));
}

/// Builds the user's page table with one page of code and one of stack, and loads it.
fn build() {
    let (code, stack) = (mm::page(), mm::page());
    for (n, byte) in PROGRAM.iter().enumerate() {
        // SAFETY: a page of the arena.
        unsafe { ((code + n as u64) as *mut u8).write_volatile(*byte) };
    }
    let tables = [mm::page(), mm::page(), mm::page(), mm::page()];
    let frame = |page: u64| mm::mfn_of(page) << 12;
    mm::poke(tables[0], frame(code) | READABLE);
    mm::poke(tables[0] + 8, frame(stack) | WRITABLE | NX);
    mm::poke(tables[1] + 8 * 2, frame(tables[0]) | P | RW | US);
    mm::poke(tables[2], frame(tables[1]) | P | RW | US);
    mm::poke(tables[3], frame(tables[2]) | P | RW | US);
    for page in tables {
        assert!(mm::update_va_mapping(page, frame(page) | READABLE) == 0);
    }
    assert!(mm::mmuext(MMUEXT_PIN_L4_TABLE, mm::mfn_of(tables[3]), 0) == 0);
    assert!(mm::mmuext(MMUEXT_NEW_USER_BASEPTR, mm::mfn_of(tables[3]), 0) == 0);
}

/// Runs the program for that many calls and one more; the ticks it took.
fn enter(calls: u64) -> u64 {
    let frame = IretContext {
        rax: 0,
        r11: 0,
        rcx: 0,
        flags: 0,
        rip: CODE,
        cs: u64::from(FLAT_USER_CS),
        rflags: 0x202,
        rsp: STACK + 4096,
        ss: u64::from(FLAT_USER_SS),
    };
    let ticks: u64;
    // SAFETY: the program comes back through the callback, which restores the stack pointer; it changes RAX, RBX, RCX
    // and R11, and the callback no others.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "lea rdx, [rip + 3f]",
            "mov [rip + measure_back], rdx",
            "mov [rip + measure_stack], rsp",
            "mov rbx, rdi",
            "rdtsc",
            "shl rdx, 32",
            "lea r12, [rax + rdx]",
            "mov rsp, rsi",
            "mov eax, {iret}",
            "syscall",
            "ud2",
            "3: rdtsc",
            "shl rdx, 32",
            "lea r13, [rax + rdx]",
            "sub r13, r12",
            "pop rbp",
            "pop rbx",
            iret = const Hypercall::Iret as u32,
            in("rdi") calls, in("rsi") &raw const frame,
            out("r12") _, out("r13") ticks, out("rax") _, out("rdx") _, out("rcx") _, out("r11") _,
        );
    }
    ticks
}

unsafe extern "C" {
    static measure_syscall: u8;
}

global_asm!(
    ".pushsection .text.measure, \"ax\"",
    ".balign 16",
    ".globl measure_syscall",
    "measure_syscall:",
    "pop rcx",
    "pop r11",
    "cmp eax, -1",
    "je 2f",
    "push 0",
    "push rcx",
    "push r11",
    "push rax",
    "mov eax, {iret}",
    "syscall",
    "ud2",
    "2: mov rsp, [rip + measure_stack]",
    "jmp [rip + measure_back]",
    ".popsection",
    ".pushsection .data.measure, \"aw\"",
    ".balign 8",
    ".globl measure_back, measure_stack",
    "measure_back: .quad 0",
    "measure_stack: .quad 0",
    ".popsection",
    iret = const Hypercall::Iret as u32,
);

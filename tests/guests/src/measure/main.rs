//! What the short paths cost, in ticks of the time-stamp counter: with QEMU's `-icount shift=0` a tick is an
//! instruction. No claim: `cargo xtask bench-guest` runs it on both hypervisors and compares the numbers.
//!
//! Each row is the cheapest of several runs of a loop, so that no timer interrupt is in it. The loop's own two or three
//! instructions are.
#![no_std]
#![no_main]

mod memory;
mod tables;
mod user;

use claim::abi::Hypercall;
use claim::abi::x86_64::*;
use claim::abi::xen::*;
use claim::mm;
use claim::{call, event};
use core::arch::global_asm;

claim::claim!(run);

/// Rounds of each loop.
const ROUNDS: u64 = 32;
/// Loops of which the cheapest counts.
const LOOPS: u64 = 12;

/// Runs instructions in a loop and says what `per` of them take together. Arguments are in RDI, RSI, RDX, R10 and R8 at
/// first and may change; RAX, RBX, RCX, R9 and R11 are free; the others stay as they are.
macro_rules! measure {
    ($name:literal, $per:expr, [$($code:literal),+], [$($register:tt = $value:expr),*]) => {{
        let mut best = u64::MAX;
        for _ in 0..$crate::LOOPS {
            let mut ticks = $crate::ROUNDS;
            // SAFETY: the measured instructions keep to the registers above and to pages given up for this.
            unsafe {
                core::arch::asm!(
                    "push rbx",
                    "push r13",
                    "push rdx",
                    "rdtsc",
                    "shl rdx, 32",
                    "lea r13, [rax + rdx]",
                    "pop rdx",
                    "77:",
                    $($code,)+
                    "dec r12",
                    "jnz 77b",
                    "push rdx",
                    "rdtsc",
                    "shl rdx, 32",
                    "lea r12, [rax + rdx]",
                    "pop rdx",
                    "sub r12, r13",
                    "pop r13",
                    "pop rbx",
                    inout("r12") ticks,
                    $(inout($register) $value => _,)*
                    out("rax") _, out("rcx") _, out("r9") _, out("r11") _,
                );
            }
            best = best.min(ticks);
        }
        let (cost, per) = (best, $crate::ROUNDS * $per);
        claim::say!(concat!("BENCH ", $name, " {}"), (cost + per / 2) / per);
    }};
}
pub(crate) use measure;

/// A hypercall that changes none of its registers.
macro_rules! hypercall {
    ($name:literal, $number:expr, [$a:expr, $b:expr, $c:expr, $d:expr]) => {
        $crate::measure!(
            $name,
            1,
            ["mov eax, r8d", "syscall"],
            ["rdi" = $a, "rsi" = $b, "rdx" = $c, "r10" = $d, "r8" = u64::from($number.number())]
        )
    };
}
pub(crate) use hypercall;

fn run() {
    event::shared();
    event::set_upcall_mask(1);
    hypercalls();
    tables::run();
    events();
    traps();
    user::run();
    memory::run();
}

fn hypercalls() {
    // The first is logged.
    call(Hypercall::Arch7, &[]);
    hypercall!("unimplemented", Hypercall::Arch7, [0, 0, 0, 0]);
    hypercall!("xen_version", Hypercall::XenVersion, [0, 0, 0, 0]);
    let stack = mm::page() + 4096;
    hypercall!("stack_switch", Hypercall::StackSwitch, [u64::from(FLAT_KERNEL_SS), stack, 0, 0]);
    hypercall!("set_segment_base", Hypercall::SetSegmentBase, [u64::from(SEGBASE_FS), 0x1000, 0, 0]);
    hypercall!("fpu_taskswitch", Hypercall::FpuTaskswitch, [0, 0, 0, 0]);
    hypercall!("set_timer_op", Hypercall::SetTimerOp, [1_u64 << 60, 0, 0, 0]);
    hypercall!("set_debugreg", Hypercall::SetDebugreg, [0, 0x1000, 0, 0]);
    hypercall!("sched_yield", Hypercall::SchedOp, [u64::from(claim::abi::sched::SCHEDOP_YIELD), 0, 0, 0]);
    let entry = |op: u64, result| MulticallEntry { op, result, args: [0; 6] };
    let mut list = [entry(u64::from(Hypercall::XenVersion.number()), 0); 8];
    measure!(
        "multicall_entry",
        8,
        ["mov rdi, r14", "mov esi, 8", "mov eax, r8d", "syscall"],
        [
            "r14" = &raw mut list as u64,
            "rdi" = 0_u64,
            "rsi" = 0_u64,
            "r8" = u64::from(Hypercall::Multicall.number())
        ]
    );
}

/// Minimal handlers: a page fault is stepped over, an event is acknowledged.
fn traps() {
    let stub = |symbol: *const u8| symbol as u64;
    let row =
        |vector, address| TrapInfo { vector, flags: 0, cs: FLAT_KERNEL_CS, address, ..Default::default() };
    let table = [
        row(14, stub(&raw const measure_fault)),
        row(6, stub(&raw const measure_undefined)),
        TrapInfo::default(),
    ];
    call(Hypercall::SetTrapTable, &[table.as_ptr() as u64]);
    let hole = mm::page();
    assert!(mm::update_va_mapping(hole, 0) == 0);
    // mov rax, [rdi]: three bytes, as the handler knows.
    measure!("page_fault_iret", 1, ["mov rax, [rdi]"], ["rdi" = hole]);
    measure!("undefined_iret", 1, ["ud2"], []);
    measure!(
        "forced_cpuid",
        1,
        ["mov eax, 1", "xor ecx, ecx", "ud2", ".byte 0x78, 0x65, 0x6e", "cpuid"],
        ["rdx" = 0_u64]
    );
    measure!("mov_from_cr0", 1, ["mov rax, cr0"], []);
    measure!("rdmsr", 1, ["mov ecx, 0xc0000100", "rdmsr"], ["rdx" = 0_u64]);
}

fn events() {
    let port = event::bind_ipi(0).unwrap_or(0);
    let words = event::shared();
    let sel = words + vcpu_offset::PENDING_SEL as u64;
    let pending = words + shared_offset::EVTCHN_PENDING as u64 + 8 * u64::from(port / 64);
    let mut argument = claim::abi::event_channel::EvtchnSend { port };
    let send = u64::from(claim::abi::event_channel::EVTCHNOP_SEND);
    let number = u64::from(Hypercall::EventChannelOp.number());
    hypercall!("event_send_pending", Hypercall::EventChannelOp, [send, &raw mut argument as u64, 0, 0]);
    measure!(
        "event_send",
        1,
        [
            "mov byte ptr [r10], 0",
            "mov qword ptr [r10 + 8], 0",
            "mov qword ptr [rdx], 0",
            "mov eax, r8d",
            "syscall"
        ],
        ["rdi" = send, "rsi" = &raw mut argument as u64, "rdx" = pending, "r10" = words, "r8" = number]
    );
    assert!(sel == words + 8);
    // SAFETY: the entry code only reads it, and no event comes before the mask opens below.
    unsafe { (&raw mut measure_shared).write_volatile(words) };
    claim::trap::register(claim::abi::callback::CALLBACKTYPE_EVENT, &raw const measure_upcall as u64);
    measure!(
        "event_send_upcall",
        1,
        ["mov byte ptr [r10 + 1], 0", "mov qword ptr [rdx], 0", "mov eax, r8d", "syscall"],
        ["rdi" = send, "rsi" = &raw mut argument as u64, "rdx" = pending, "r10" = words, "r8" = number]
    );
    event::set_upcall_mask(1);
    claim::trap::register(
        claim::abi::callback::CALLBACKTYPE_EVENT,
        claim::trap::entry_of(claim::trap::UPCALL),
    );
}

unsafe extern "C" {
    static measure_fault: u8;
    static measure_undefined: u8;
    static measure_upcall: u8;
    static mut measure_shared: u64;
}

global_asm!(
    ".pushsection .text.measure, \"ax\"",
    ".balign 16",
    ".globl measure_fault, measure_undefined, measure_upcall",
    "measure_fault:",
    "pop rcx",
    "pop r11",
    "add rsp, 8",
    "add qword ptr [rsp], 3",
    "jmp 1f",
    ".balign 16",
    "measure_undefined:",
    "pop rcx",
    "pop r11",
    "add qword ptr [rsp], 2",
    "1: push 0",
    "push rcx",
    "push r11",
    "push rax",
    "mov eax, {iret}",
    "syscall",
    "ud2",
    ".balign 16",
    "measure_upcall:",
    "pop rcx",
    "pop r11",
    "push r11",
    "mov r11, [rip + measure_shared]",
    "mov byte ptr [r11], 0",
    "mov qword ptr [r11 + 8], 0",
    "pop r11",
    "jmp 1b",
    ".popsection",
    ".pushsection .data.measure, \"aw\"",
    ".balign 8",
    ".globl measure_shared",
    "measure_shared: .quad 0",
    ".popsection",
    iret = const Hypercall::Iret as u32,
);

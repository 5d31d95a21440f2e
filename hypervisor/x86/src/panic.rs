//! When the hypervisor itself is wrong: say where, with symbols, and stop or reboot.

use core::sync::atomic::{AtomicBool, Ordering};

use hv_pv::regs::Regs;

use crate::dev::mca;
use crate::layout::STACK_BLOCK;
use crate::percpu::this_cpu;
use crate::{console, cpu, ipi, mem, power, println};

static PANICKED: AtomicBool = AtomicBool::new(false);

core::arch::global_asm!(
    ".section .symbols, \"a\"",
    ".balign 8",
    ".global __symbols_start",
    "__symbols_start:",
    ".skip {room}",
    ".global __symbols_end",
    "__symbols_end:",
    ".balign 8",
    room = const SYMBOLS,
);

/// Bytes that the image reserves for the table; the build fills them after linking.
const SYMBOLS: usize = 48 * 1024;

unsafe extern "C" {
    static __symbols_start: u8;
    static __symbols_end: u8;
}

/// The table that the build puts into the image: lines of `offset name`, hexadecimal, sorted.
fn symbols() -> &'static str {
    let start = &raw const __symbols_start;
    let len = (&raw const __symbols_end) as usize - start as usize;
    // SAFETY: the two symbols bound constants of the image.
    let bytes = unsafe { core::slice::from_raw_parts(start, len) };
    let len = bytes.iter().position(|b| *b == 0).unwrap_or(len);
    core::str::from_utf8(&bytes[..len]).unwrap_or("")
}

/// Name of the function that holds `ip`, and the offset in it.
fn symbol(ip: u64) -> Option<(&'static str, u64)> {
    let offset = ip.checked_sub(mem::image_bounds()[0])?;
    let mut best = None;
    for line in symbols().lines() {
        let (at, name) = line.split_once(' ')?;
        let at = u64::from_str_radix(at, 16).ok()?;
        if at > offset {
            break;
        }
        best = Some((name, offset - at));
    }
    best
}

fn in_text(ip: u64) -> bool {
    let [start, text_end, ..] = mem::image_bounds();
    (start..text_end).contains(&ip)
}

fn print_place(ip: u64) {
    match symbol(ip) {
        Some((name, offset)) => println!("   [{ip:#018x}] {name}+{offset:#x}"),
        None => println!("   [{ip:#018x}]"),
    }
}

/// Prints every word on the stack that points into the text. Without frame pointers this is a superset of the
/// call chain, in order.
fn print_stack(sp: u64) {
    println!("Call trace (every text address on the stack):");
    let end = (sp & !(STACK_BLOCK - 1)) + STACK_BLOCK;
    let mut shown = 0;
    for at in (sp..end).step_by(8) {
        // SAFETY: from the stack pointer to the end of the CPU's block everything is mapped, except the guard page
        // between numbered stacks, at which an IST stack ends.
        let word = unsafe { (at as *const u64).read_volatile() };
        if in_text(word) {
            print_place(word);
            shown += 1;
        }
        if shown == 32 || (at + 8) % 0x3000 == 0 && (at & (STACK_BLOCK - 1)) < 0xc000 {
            break;
        }
    }
}

/// Prints a set of registers.
pub fn print_regs(r: &Regs) {
    println!(
        "RIP {:04x}:{:016x} RFLAGS {:016x} vector {:#x} error {:#x}",
        r.cs,
        r.rip,
        r.rflags,
        r.vector(),
        r.error_code
    );
    println!("RAX {:016x} RBX {:016x} RCX {:016x} RDX {:016x}", r.rax, r.rbx, r.rcx, r.rdx);
    println!("RSI {:016x} RDI {:016x} RBP {:016x} RSP {:04x}:{:016x}", r.rsi, r.rdi, r.rbp, r.ss, r.rsp);
    println!("R8  {:016x} R9  {:016x} R10 {:016x} R11 {:016x}", r.r8, r.r9, r.r10, r.r11);
    println!("R12 {:016x} R13 {:016x} R14 {:016x} R15 {:016x}", r.r12, r.r13, r.r14, r.r15);
    println!(
        "CR0 {:016x} CR2 {:016x} CR3 {:016x} CR4 {:016x}",
        cpu::cr0(),
        cpu::cr2(),
        cpu::cr3(),
        cpu::cr4()
    );
}

/// Another CPU has failed: this one says where it was and stops.
pub fn stopped() -> ! {
    cpu::halt_for_ever()
}

fn stop() -> ! {
    println!("The hypervisor has failed. This is a bug in Xenolith: please report the lines above.");
    power::after_fatal()
}

/// Has this CPU alone go on, with the log to itself. Nobody returns.
fn be_the_last() {
    if PANICKED.swap(true, Ordering::SeqCst) {
        cpu::halt_for_ever();
    }
    ipi::stop_others();
    // SAFETY: this CPU does not return.
    unsafe { console::break_locks() };
}

/// A machine check: the processor says that the hardware failed.
pub fn hardware(regs: &Regs) -> ! {
    be_the_last();
    println!(
        "*** Hardware error: machine check on CPU {}, status {:x} ***",
        this_cpu().id,
        mca::global_status()
    );
    mca::errors().for_each(|error| println!("{error}"));
    print_regs(regs);
    print_place(regs.rip);
    println!("The hardware has failed, not Xenolith: look at its own log, its memory and its cooling.");
    power::after_fatal()
}

/// An exception that nobody foresaw.
pub fn fatal(regs: &Regs, what: &str) -> ! {
    be_the_last();
    println!("*** Xenolith panic: {what} ***");
    print_regs(regs);
    print_place(regs.rip);
    print_stack(regs.rsp);
    stop()
}

/// A panic of Rust code.
pub fn rust_panic(info: &core::panic::PanicInfo) -> ! {
    be_the_last();
    println!("*** Xenolith panic: {info} ***");
    let sp: u64;
    // SAFETY: reads the stack pointer.
    unsafe { core::arch::asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack)) };
    print_stack(sp);
    stop()
}

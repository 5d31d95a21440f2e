//! User mode: its page table, entering it by `iret`, and every way back to the kernel.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::callback::*;
use claim::abi::x86_64::*;
use claim::abi::xen::*;
use claim::mm::{self, NX, P, READABLE, RW, US, WRITABLE};
use claim::trap::{self, Trap};
use claim::{ask, attempt, call, event, outcome, say};

claim::claim!(run);

/// Where the user's page of code and its page of stack are.
const CODE: u64 = 0x40_0000;
const STACK: u64 = 0x40_1000;

struct User {
    code: u64,
}

fn run() {
    event::shared();
    let table = TrapInfo {
        vector: 0x80,
        flags: 3,
        cs: FLAT_KERNEL_CS,
        address: trap::entry_of(9),
        ..Default::default()
    };
    let rows = [table, TrapInfo::default()];
    ask!("handler for int 0x80", call(Hypercall::SetTrapTable, &[rows.as_ptr() as u64]));
    ask!("syscall callback", trap::register(CALLBACKTYPE_SYSCALL, trap::entry_of(trap::SYSCALL)));
    let stack = mm::page() + 4096;
    ask!("kernel stack", call(Hypercall::StackSwitch, &[u64::from(FLAT_KERNEL_SS), stack]));
    let user = build();
    instructions(&user);
    faults(&user);
    flags(&user);
    returns(&user);
}

/// Builds the user's page table with one page of code and one of stack, and loads it.
fn build() -> User {
    let (code, stack) = (mm::page(), mm::page());
    let tables = [mm::page(), mm::page(), mm::page(), mm::page()];
    let frame = |page: u64| mm::mfn_of(page) << 12;
    mm::poke(tables[0], frame(code) | READABLE);
    mm::poke(tables[0] + 8, frame(stack) | WRITABLE | NX);
    mm::poke(tables[0] + 16, frame(code) | P);
    mm::poke(tables[1] + 8 * 2, frame(tables[0]) | P | RW | US);
    mm::poke(tables[2], frame(tables[1]) | P | RW | US);
    mm::poke(tables[3], frame(tables[2]) | P | RW | US);
    for page in tables {
        assert!(mm::update_va_mapping(page, frame(page) | READABLE) == 0);
    }
    ask!("pin the user's root", mm::mmuext(MMUEXT_PIN_L4_TABLE, mm::mfn_of(tables[3]), 0));
    ask!("load the user's root", mm::mmuext(MMUEXT_NEW_USER_BASEPTR, mm::mfn_of(tables[3]), 0));
    User { code }
}

impl User {
    /// Runs code in user mode until it traps.
    fn run(&self, code: &[u8]) -> Option<Trap> {
        self.run_with(code, FLAT_USER_CS, FLAT_USER_SS, 0x202)
    }

    fn run_with(&self, code: &[u8], cs: u16, ss: u16, rflags: u64) -> Option<Trap> {
        for (n, byte) in code.iter().enumerate() {
            // SAFETY: the page of code is a page of the arena.
            unsafe { ((self.code + n as u64) as *mut u8).write_volatile(*byte) };
        }
        let frame = IretContext {
            rax: 0x77,
            r11: 0x11,
            rcx: 0xcc,
            flags: 0,
            rip: CODE,
            cs: u64::from(cs),
            rflags,
            rsp: STACK + 4096,
            ss: u64::from(ss),
        };
        enter(&frame)
    }
}

/// Calls `iret` with a frame; what follows in user mode is the attempt. User code keeps RBX and RBP.
fn enter(frame: &IretContext) -> Option<Trap> {
    let trap = attempt!(
        ["mov rsp, {frame}", "mov eax, 23", "syscall", "ud2"],
        frame = in(reg) core::ptr::from_ref(frame),
        out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        clobber_abi("C")
    );
    trap.map(|trap| Trap { offset: trap.offset.wrapping_add(start() as i64), ..trap })
}

fn start() -> u64 {
    trap::START.load(core::sync::atomic::Ordering::SeqCst)
}

/// How a run in user mode ended: vector, error, place in the page of code, selectors.
fn ended(what: &str, trap: Option<Trap>) {
    let Some(trap) = trap else { return say!("{what}: no trap") };
    let place = (trap.offset as u64).wrapping_sub(CODE);
    if place < 8192 {
        say!(
            "{what}: trap {} error {:#x} at +{place}, cs {:#x} ss {:#x}",
            trap.vector,
            trap.error,
            trap.cs,
            trap.ss
        );
    } else {
        say!(
            "{what}: trap {} error {:#x} elsewhere, cs {:#x} ss {:#x}",
            trap.vector,
            trap.error,
            trap.cs,
            trap.ss
        );
    }
}

fn instructions(user: &User) {
    ended("undefined instruction", user.run(&[0x0f, 0x0b]));
    ended("breakpoint", user.run(&[0xcc]));
    ended("int 0x80", user.run(&[0xcd, 0x80]));
    let trap = user.run(&[0x0f, 0x05]);
    ended("syscall", trap);
    say!("RAX arrived: {}", trap.is_some_and(|t| t.rax == 0x77));
    ended("hlt", user.run(&[0xf4]));
    ended("cli", user.run(&[0xfa]));
    ended("in", user.run(&[0xe4, 0x71]));
    ended("mov from CR0", user.run(&[0x0f, 0x20, 0xc0, 0x0f, 0x0b]));
    ended("cpuid", user.run(&[0x53, 0x0f, 0xa2, 0x5b, 0x0f, 0x0b]));
    ended("forced cpuid", user.run(&[0x53, 0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2, 0x5b, 0x0f, 0x0b]));
    ended("rdtsc", user.run(&[0x0f, 0x31, 0x0f, 0x0b]));
    ended("rdmsr", user.run(&[0xb9, 0x10, 0, 0, 0, 0x0f, 0x32, 0x0f, 0x0b]));
    ended("swapgs", user.run(&[0x0f, 0x01, 0xf8]));
}

fn faults(user: &User) {
    ended("read of the null page", user.run(&[0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0]));
    // mov rax, [0x400000]: its own code, then a write to it.
    ended("write to its code", user.run(&[0x48, 0x89, 0x04, 0x25, 0, 0, 0x40, 0]));
    ended("push", user.run(&[0x50, 0x58, 0x0f, 0x0b]));
    ended("jump to its stack", user.run(&[0x48, 0xc7, 0xc0, 0, 0x10, 0x40, 0, 0xff, 0xe0]));
    // A page without the user bit in its entry is the user's all the same.
    ended(
        "read of a page entered without the user bit",
        user.run(&[0x48, 0x8b, 0x04, 0x25, 0, 0x20, 0x40, 0, 0x0f, 0x0b]),
    );
    // mov rax, [0xffffffff80100000]: the kernel's code is not in the user's table.
    ended("read of the kernel", user.run(&[0x48, 0x8b, 0x04, 0x25, 0, 0, 0x10, 0x80]));
    // mov rax, 0xffff800000000000; mov rax, [rax]
    ended(
        "read of the machine-to-physical table",
        user.run(&[0x48, 0xb8, 0, 0, 0, 0, 0, 0x80, 0xff, 0xff, 0x48, 0x8b, 0, 0x0f, 0x0b]),
    );
    ended(
        "write to the machine-to-physical table",
        user.run(&[0x48, 0xb8, 0, 0, 0, 0, 0, 0x80, 0xff, 0xff, 0x48, 0x89, 0]),
    );
    // mov rax, 0xffff82d040200000; mov rax, [rax]
    // What is mapped there is the hypervisor's own affair, so the error code is too.
    let trap = user.run(&[0x48, 0xb8, 0, 0, 0x20, 0x40, 0xd0, 0x82, 0xff, 0xff, 0x48, 0x8b, 0]);
    say!("read of the hypervisor: vector {}", trap.map_or(0, |t| t.vector));
    let cr2 = mm::peek(event::shared() + vcpu_offset::CR2 as u64);
    say!("at the right address: {}", cr2 == 0xffff_82d0_4020_0000);
}

fn flags(user: &User) {
    let trap = user.run(&[0x0f, 0x0b]);
    say!("event flag {}", trap.is_some_and(|t| t.rflags & 0x200 != 0));
    let trap = user.run_with(&[0x0f, 0x0b], FLAT_USER_CS, FLAT_USER_SS, 0x203);
    say!("carry {}", trap.is_some_and(|t| t.rflags & 1 != 0));
    let trap = user.run_with(&[0x0f, 0x0b], FLAT_USER_CS, FLAT_USER_SS, 0x3202);
    say!("privilege asked 3, seen {}", trap.map_or(9, |t| t.rflags >> 12 & 3));
    let trap = user.run_with(&[0x0f, 0x0b], FLAT_USER_CS, FLAT_USER_SS, 0x2);
    say!("event flag when entered without: {}", trap.is_some_and(|t| t.rflags & 0x200 != 0));
    ended("single step", user.run_with(&[0x90, 0x90], FLAT_USER_CS, FLAT_USER_SS, 0x302));
    ended("32-bit code", user.run_with(&[0x48, 0x0f, 0x0b], FLAT_USER_CS32, FLAT_USER_SS, 0x202));
    ended("32-bit int 0x80", user.run_with(&[0xcd, 0x80], FLAT_USER_CS32, FLAT_USER_SS, 0x202));
    event::set_upcall_mask(1);
}

fn returns(user: &User) {
    ended("syscall32, no callback", user.run_with(&[0x0f, 0x05], FLAT_USER_CS32, FLAT_USER_SS, 0x202));
    ask!("callback for it", trap::register(CALLBACKTYPE_SYSCALL32, trap::entry_of(trap::SYSCALL)));
    ended("syscall32", user.run_with(&[0x0f, 0x05], FLAT_USER_CS32, FLAT_USER_SS, 0x202));
    ended("sysenter, no callback", user.run_with(&[0x0f, 0x34], FLAT_USER_CS32, FLAT_USER_SS, 0x202));
    event::set_upcall_mask(0);
    trap::upcalls();
    let port = event::bind_ipi(0).unwrap_or(0);
    event::set_upcall_mask(1);
    event::send(port);
    ended("entered with an event waiting", user.run(&[0x0f, 0x0b]));
    say!("upcalls: {}", trap::upcalls());
    event::set_upcall_mask(1);
    outcome!("the kernel goes on", attempt!(["ud2"]));
}

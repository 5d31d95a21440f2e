//! Exceptions: recorded, and stepped over where an instruction was expected to fault.

use crate::{call, say};
use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};
use guest_abi::x86_64::{FLAT_KERNEL_CS, FLAT_KERNEL_SS, TI_MASK_EVENTS, TrapInfo};
use guest_abi::{Hypercall, callback};

/// What an exception's entry code leaves on the stack.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// R15, R14, R13, R12, RBP, RBX, R10, R9, R8, RDX, RSI, RDI, RAX, RCX, R11.
    pub registers: [u64; 15],
    /// The vector.
    pub vector: u64,
    /// The error code, or 0.
    pub error: u64,
    /// Where.
    pub rip: u64,
    /// Code selector (low 16 bits) and the saved event mask (bits 32 to 39).
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack selector.
    pub ss: u64,
}

/// An exception that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// The vector.
    pub vector: u8,
    /// RAX at the time.
    pub rax: u64,
    /// The error code, or 0.
    pub error: u32,
    /// Bytes from the start of the attempt to the instruction pointer that was reported.
    pub offset: i64,
    /// Flags that were reported.
    pub rflags: u64,
    /// Code selector that was reported.
    pub cs: u16,
    /// Stack selector that was reported.
    pub ss: u16,
}

/// Vector of the event upcall, which is no exception.
pub const UPCALL: u8 = 32;
/// Vector of the failsafe callback.
pub const FAILSAFE: u8 = 33;
/// Vector of the callback for `syscall` from user mode.
pub const SYSCALL: u8 = 34;

/// First instruction of the attempt that is under way.
pub static START: AtomicU64 = AtomicU64::new(0);
/// Where to go on after a trap; 0 if none is expected.
pub static RESUME: AtomicU64 = AtomicU64::new(0);
/// The stack pointer when the attempt began; it is that again when the attempt is over.
pub static STACK: AtomicU64 = AtomicU64::new(0);
static UPCALLS: AtomicU64 = AtomicU64::new(0);

struct Record(UnsafeCell<Option<Trap>>);

// SAFETY: there is one vCPU; the handler writes only while the attempt's code waits for it.
unsafe impl Sync for Record {}

static RECORD: Record = Record(UnsafeCell::new(None));

fn take() -> Option<Trap> {
    // SAFETY: no trap is under way here, so nobody else looks.
    unsafe { (*RECORD.0.get()).take() }
}

impl core::fmt::Display for Trap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "trap {} error {:#x} at +{}", self.vector, self.error, self.offset)
    }
}

/// How an attempt ended, as it prints.
pub struct Outcome(pub Option<Trap>);

impl core::fmt::Display for Outcome {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            None => f.write_str("no trap"),
            Some(trap) => trap.fmt(f),
        }
    }
}

/// What the last attempt ran into, if anything; forgets it.
pub fn taken() -> Option<Trap> {
    RESUME.store(0, Ordering::SeqCst);
    take()
}

/// How often the event upcall was entered since the last question.
pub fn upcalls() -> u64 {
    UPCALLS.swap(0, Ordering::SeqCst)
}

extern "C" fn handle(frame: &mut Frame) {
    if frame.vector == u64::from(UPCALL) {
        UPCALLS.fetch_add(1, Ordering::SeqCst);
        crate::event::upcall();
        return;
    }
    let resume = RESUME.swap(0, Ordering::SeqCst);
    if resume == 0 {
        say!("unexpected trap {} error {:#x} at {:#x}", frame.vector, frame.error, frame.rip);
        crate::stop(guest_abi::sched::SHUTDOWN_CRASH);
    }
    let trap = Trap {
        rax: frame.registers[12],
        vector: frame.vector as u8,
        error: frame.error as u32,
        offset: frame.rip.wrapping_sub(START.load(Ordering::SeqCst)) as i64,
        rflags: frame.rflags,
        cs: frame.cs as u16,
        ss: frame.ss as u16,
    };
    // SAFETY: the attempt waits for the handler; see `Record`.
    unsafe { *RECORD.0.get() = Some(trap) };
    frame.rip = resume;
    frame.rsp = STACK.load(Ordering::SeqCst);
    // An attempt that went to user mode comes back to the kernel.
    frame.cs = frame.cs & !0xffff | u64::from(FLAT_KERNEL_CS & !3);
    frame.ss = u64::from(FLAT_KERNEL_SS);
    // Trap, direction and alignment-check flags would follow us out of the attempt.
    frame.rflags &= !(1 << 8 | 1 << 10 | 1 << 18);
}

/// Runs instructions that may fault; what they ran into is in [`taken`]. Operands follow as in `asm!`.
#[macro_export]
macro_rules! attempt {
    ([$($code:literal),+] $(, $($operand:tt)*)?) => {{
        // SAFETY: the claim's own instructions; a fault resumes behind them with every register as it was.
        unsafe {
            core::arch::asm!(
                "push rax",
                "lea rax, [rip + 33f]",
                "mov [rip + {start_of_attempt}], rax",
                "lea rax, [rip + 34f]",
                "mov [rip + {resume_of_attempt}], rax",
                "pop rax",
                "mov [rip + {stack_of_attempt}], rsp",
                "33:",
                $($code,)+
                "34:",
                $($($operand)*,)?
                start_of_attempt = sym $crate::trap::START,
                stack_of_attempt = sym $crate::trap::STACK,
                resume_of_attempt = sym $crate::trap::RESUME,
            );
        }
        $crate::trap::taken()
    }};
}

/// Registers the trap table and the callbacks.
pub fn install() {
    let mut table = [TrapInfo::default(); 33];
    let stubs = (&raw const trap_stubs) as u64;
    for (vector, row) in (0..32).zip(&mut table) {
        // NMI (2) has its own registration; double fault (8) is the hypervisor's.
        let flags = if matches!(vector, 3 | 4) { 3 } else { 0 };
        let address = stubs + 16 * u64::from(vector);
        *row = TrapInfo { vector, flags, cs: FLAT_KERNEL_CS, address, ..TrapInfo::default() };
    }
    call(Hypercall::SetTrapTable, &[table.as_ptr() as u64]);
    register(callback::CALLBACKTYPE_EVENT, stubs + 16 * u64::from(UPCALL));
    register(callback::CALLBACKTYPE_FAILSAFE, stubs + 16 * u64::from(FAILSAFE));
}

/// Registers a callback; the answer is the hypercall's.
pub fn register(kind: u16, address: u64) -> i64 {
    let mut argument = callback::CallbackRegister { kind, address, ..Default::default() };
    crate::hypercall::command(Hypercall::CallbackOp, callback::CALLBACKOP_REGISTER, &mut argument)
}

/// Address of a vector's entry code.
pub fn entry_of(vector: u8) -> u64 {
    (&raw const trap_stubs) as u64 + 16 * u64::from(vector)
}

/// `trap_info.flags` with events masked, for claims that want it.
pub const MASKED: u8 = TI_MASK_EVENTS;

unsafe extern "C" {
    static trap_stubs: u8;
}

global_asm!(
    ".pushsection .text.traps, \"ax\"",
    ".balign 16",
    ".globl trap_stubs",
    "trap_stubs:",
    ".set vector, 0",
    ".rept 35",
    ".balign 16",
    "pop rcx",
    "pop r11",
    // The vectors with an error code: 8, 10 to 14, 17, 21, 29, 30.
    ".if ((0x60227d00 >> vector) & 1) == 0 || vector > 31",
    "push 0",
    ".endif",
    "push vector",
    "jmp trap_common",
    ".set vector, vector + 1",
    ".endr",
    ".balign 16",
    "trap_common:",
    "push r11", "push rcx", "push rax", "push rdi", "push rsi", "push rdx", "push r8", "push r9", "push r10",
    "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
    "mov rdi, rsp",
    "mov rbx, rsp",
    "and rsp, -16",
    "cld",
    "call {handle}",
    "mov rsp, rbx",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
    "pop r10", "pop r9", "pop r8", "pop rdx", "pop rsi", "pop rdi", "pop rax", "pop rcx", "pop r11",
    "add rsp, 16",
    "push 0",
    "push rcx",
    "push r11",
    "push rax",
    "mov eax, {iret}",
    "syscall",
    "ud2",
    ".popsection",
    handle = sym handle,
    iret = const Hypercall::Iret as u32,
);

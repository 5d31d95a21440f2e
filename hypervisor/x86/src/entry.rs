//! The doors: interrupt and exception stubs, SYSCALL, and the way back to the guest.
//!
//! Interrupts stay off from entry to exit; the hypervisor never sleeps and bounds every call instead. All saved
//! registers of a guest lie at the end of the CPU's primary stack, in the order of [`Regs`].

use core::arch::naked_asm;

use crate::trap;
use hv_pv::regs::Regs;

/// Bytes of a stub in the table.
const STUB_SIZE: u64 = 16;

/// What SYSCALL leaves in the vector's place.
pub const SYSCALL: u32 = 0x100;

core::arch::global_asm!(
    r#"
    .section .text.entry, "ax"
    .balign 16
    .global entry_stubs
entry_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector == 8) | ((vector >= 10) & (vector <= 14)) | (vector == 17) | (vector == 21) | (vector == 29) | (vector == 30)
    .else
    push 0
    .endif
    mov dword ptr [rsp + 4], vector
    jmp {common}
    .set vector, vector + 1
    .endr
    "#,
    common = sym trap_entry,
);

unsafe extern "C" {
    static entry_stubs: u8;
}

/// Address of the stub for `vector`.
pub fn stub_address(vector: usize) -> u64 {
    (&raw const entry_stubs) as u64 + vector as u64 * STUB_SIZE
}

/// Pushes the registers that the processor does not, in the order of [`Regs`].
macro_rules! save {
    () => {
        "push r9; push r8; push r10; push rdx; push rsi; push rdi; push rax; push rcx; push r11; \
         push rbx; push rbp; push r12; push r13; push r14; push r15"
    };
}

/// Pops what [`save`] pushed.
macro_rules! restore {
    () => {
        "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx; pop r11; pop rcx; pop rax; pop rdi; \
         pop rsi; pop rdx; pop r10; pop r8; pop r9"
    };
}

/// Calls `handler` with the saved registers; they are 8 bytes off the alignment that a call wants.
macro_rules! call_handler {
    () => {
        "mov rdi, rsp; sub rsp, 8; call {handler}; add rsp, 8"
    };
}

/// Every exception and interrupt. The stub has pushed the error code and written the vector beside it.
///
/// # Safety
/// Only the stubs jump here.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry.trap")]
pub unsafe extern "C" fn trap_entry() {
    naked_asm!(
        save!(),
        "cld",
        call_handler!(),
        "jmp {exit}",
        handler = sym trap::on_trap,
        exit = sym iret_exit,
    )
}

/// #DB has a stack of its own, because a breakpoint on the operand of a stack-segment load fires behind the SYSCALL that
/// follows, in ring 0 and still on the guest's stack. From ring 3 the frame moves to the primary stack, where everything
/// else expects a guest's registers; in the hypervisor it stays.
///
/// # Safety
/// Only the processor comes here, through the IDT.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry.debug")]
pub unsafe extern "C" fn debug_entry() {
    naked_asm!(
        "push 0",
        "mov dword ptr [rsp + 4], 1",
        "test byte ptr [rsp + 16], 3",
        "jz {common}",
        "push rax",
        "push rcx",
        "mov rax, rsp",
        "and rax, {block_mask}",
        "add rax, {record}",
        "mov rcx, [rsp + 16]", "mov [rax - 48], rcx",
        "mov rcx, [rsp + 24]", "mov [rax - 40], rcx",
        "mov rcx, [rsp + 32]", "mov [rax - 32], rcx",
        "mov rcx, [rsp + 40]", "mov [rax - 24], rcx",
        "mov rcx, [rsp + 48]", "mov [rax - 16], rcx",
        "mov rcx, [rsp + 56]", "mov [rax - 8], rcx",
        "mov rcx, [rsp + 8]", "mov [rax - 56], rcx",
        "pop rcx",
        "lea rsp, [rax - 56]",
        "pop rax",
        "jmp {common}",
        common = sym trap_entry,
        block_mask = const -(crate::layout::STACK_BLOCK as i64),
        record = const crate::percpu::RECORD_OFFSET,
    )
}

/// Back by IRET. A fault at the IRET itself has an entry in the exception table.
///
/// # Safety
/// `rsp` points at a complete set of saved registers.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry.exit")]
pub unsafe extern "C" fn iret_exit() {
    naked_asm!(
        restore!(),
        "add rsp, 8",
        "2: iretq",
        ".pushsection .ex_table, \"a\"",
        ".long 2b - ., {fixup} - .",
        ".popsection",
        fixup = sym iret_fixup,
    )
}

/// The guest's frame could not be returned to: rebuild the registers below it and let Rust decide.
///
/// # Safety
/// Reached only through the exception table: `rsp` is at the hardware frame of a failed IRET.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry.fixup")]
pub unsafe extern "C" fn iret_fixup() {
    naked_asm!(
        "push 0",
        save!(),
        call_handler!(),
        "jmp {exit}",
        handler = sym trap::on_bad_iret,
        exit = sym iret_exit,
    )
}

/// The rest of a SYSCALL from 64-bit mode: the other registers, the handler, and back.
macro_rules! syscall_rest {
    ($($(#[$doc:meta])* $name:ident, $handler:path;)+) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// Only [`quick`](crate::quick) jumps here, with the processor's frame on the stack and the other registers
            /// the guest's.
            #[unsafe(naked)]
            #[unsafe(link_section = ".text.entry.syscall")]
            pub unsafe extern "C" fn $name() {
                naked_asm!(
                    "push 0",
                    "mov dword ptr [rsp + 4], {mark}",
                    save!(),
                    call_handler!(),
                    "jmp {back}",
                    mark = const SYSCALL,
                    handler = sym $handler,
                    back = sym syscall_exit,
                )
            }
        )+
    };
}
syscall_rest! {
    /// A hypercall other than `iret`.
    hypercall_entry, trap::on_hypercall;
    /// `iret`, the general way.
    iret_entry, trap::on_iret;
    /// A system call of a user program, the general way.
    system_call_entry, trap::on_system_call;
    /// Behind a hypercall that was done on the short way: what waits before the guest goes on.
    after_hypercall, trap::after_hypercall;
}

/// Back by SYSRET if `al` says so, else by IRET.
///
/// # Safety
/// `rsp` points at a complete set of saved registers.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry.syscall")]
unsafe extern "C" fn syscall_exit() {
    naked_asm!(
        "test al, al",
        "jz {iret}",
        restore!(),
        "mov rcx, [rsp + 8]",
        "mov r11, [rsp + 24]",
        "mov rsp, [rsp + 32]",
        "sysretq",
        iret = sym iret_exit,
    )
}

/// A frame did not fit on the stack of the guest's kernel, whose page table is loaded already. The stack here is as a
/// stub leaves it.
///
/// # Safety
/// Only [`quick`](crate::quick) jumps here.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry.fixup")]
pub unsafe extern "C" fn kernel_stack_fault() {
    naked_asm!(
        save!(),
        call_handler!(),
        "jmp {exit}",
        handler = sym trap::on_kernel_stack_fault,
        exit = sym iret_exit,
    )
}

/// SYSCALL from compatibility mode, on processors of AMD: a system call of a 32-bit program.
///
/// # Safety
/// Only the CPUs' stubs jump here.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry.syscall32")]
pub unsafe extern "C" fn syscall32_entry() {
    naked_asm!(
        "mov qword ptr [rsp + 8], {ss}",
        "push r11",
        "push {cs}",
        "push rcx",
        "push 0",
        save!(),
        call_handler!(),
        "jmp {iret}",
        ss = const crate::desc::GUEST_SS as i32,
        cs = const crate::desc::SYSRET_BASE as i32,
        handler = sym trap::on_syscall32,
        iret = sym iret_exit,
    )
}

/// SYSENTER, on processors of Intel. Neither address nor stack of the caller is known; the guest's kernel finds them
/// where its user side left them, so that zeroes are saved.
///
/// # Safety
/// Only the processor comes here, on this CPU's primary stack.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry.sysenter")]
pub unsafe extern "C" fn sysenter_entry() {
    naked_asm!(
        "push {ss}",
        "push 0",
        "pushfq",
        "or dword ptr [rsp], 0x200",
        "and dword ptr [rsp], 0xffffbeff",
        "push 2",
        "popfq",
        "push 3",
        "push 0",
        "push 0",
        save!(),
        "cld",
        call_handler!(),
        "jmp {iret}",
        ss = const crate::desc::GUEST_SS as i32,
        handler = sym trap::on_sysenter,
        iret = sym iret_exit,
    )
}

/// First entry to a guest on this CPU: the registers are already in their place.
///
/// # Safety
/// `regs` are the saved registers at the end of this CPU's primary stack, and the vCPU's state is loaded.
pub unsafe fn enter_guest(regs: *const Regs) -> ! {
    // SAFETY: the caller's duty; nothing above is needed again.
    unsafe {
        core::arch::asm!("mov rsp, {}", "jmp {}", in(reg) regs, sym iret_exit, options(noreturn));
    }
}

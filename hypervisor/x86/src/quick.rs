//! The shortest ways through the hypervisor. A Linux guest takes three of them at every system call and page fault: SYSCALL
//! from user mode, `iret` to user mode, a page fault of user mode; three others where it goes to another process or sets an
//! entry: `stack_switch`, `set_segment_base`, one `mmu_update`. None of them needs a decision that Rust would make
//! better, and each saves only the registers that it uses: a half to a quarter of the instructions of the general way.
//!
//! Each looks at everything that the general way looks at. Before it has changed anything that counts it goes the
//! general way instead: work for this CPU, events that are due, the IOPL assist, a handler that is missing or leaves events
//! unmasked, a stack in the hypervisor's slots. [`deliver`](crate::deliver) and
//! [`iret`](crate::calls::entry_points::iret) say the same in Rust, and the claim guests and the model of `hv-pv` check
//! both ways.
//!
//! On entry the stack is this CPU's primary one, so that the [`Cpu`] record is at a known distance.

use core::arch::naked_asm;
use core::mem::{offset_of, size_of};

use guest_abi::call::number::{IRET, MMU_UPDATE, SET_SEGMENT_BASE, STACK_SWITCH};
use guest_abi::x86_64::{
    SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER, SEGBASE_GS_USER_SEL, VGCF_IN_SYSCALL,
};
use hv_core::mmu::VcpuMmu;
use hv_core::mmu::tags::Tags;
use hv_pv::emulate::port::ControlState;
use hv_pv::regs::{Mode, flags};
use hv_pv::trap::{self, Handler, TrapEntry};
use hv_types::DomId;

use crate::cpu::msr::{FS_BASE, GS_BASE, KERNEL_GS_BASE};
use crate::desc::{GUEST_CS, GUEST_SS};
use crate::entry::{self, SYSCALL};
use crate::guest::{HYPERVISOR_TOP, noted};
use crate::percpu::Cpu;
use crate::trap as slow;
use crate::vcpu::{Callbacks, Vcpu};

const CURRENT: usize = offset_of!(Cpu, current);
const WORK: usize = offset_of!(Cpu, work);
const KERNEL_BITS: usize = offset_of!(Cpu, tags) + Tags::KERNEL;
const USER_BITS: usize = offset_of!(Cpu, tags) + Tags::USER;
const ROOT_LOADS: usize = offset_of!(Cpu, root_loads);
const MODE: usize = offset_of!(Vcpu, mode);
const INFO: usize = offset_of!(Vcpu, info);
const KERNEL_SP: usize = offset_of!(Vcpu, kernel_sp);
const KERNEL_ROOT: usize = offset_of!(Vcpu, mmu) + VcpuMmu::KERNEL_ROOT;
const USER_ROOT: usize = offset_of!(Vcpu, mmu) + VcpuMmu::USER_ROOT;
const IOPL_ASSIST: usize = offset_of!(Vcpu, control) + offset_of!(ControlState, architectural_iopl);
const SYSCALL_HANDLER: usize = offset_of!(Vcpu, callbacks) + offset_of!(Callbacks, syscall);
const PF_ENTRY: usize = offset_of!(Vcpu, traps) + trap::PF as usize * size_of::<TrapEntry>();

// `None` is either a zero address or a mask that is not 0 or 1; both are looked at.
const _: () = assert!(size_of::<Option<Handler>>() == size_of::<Handler>());
const _: () = assert!(Mode::Kernel as u8 == 0 && Mode::User as u8 == 1 && size_of::<Mode>() == 1);
const _: () = assert!(SEGBASE_FS == 0 && SEGBASE_GS_USER == 1 && SEGBASE_GS_KERNEL == 2);
const _: () = assert!(KERNEL_GS_BASE == FS_BASE + 2 && GS_BASE == FS_BASE + 1);
const _: () = assert!(VGCF_IN_SYSCALL == 1 << 8 && flags::IF == 1 << 9);

/// Bits of a guest's RFLAGS that its kernel is not shown as they are.
const HIDDEN: i32 = !(flags::IF | flags::IOPL) as i32;
/// What a bounce leaves of RFLAGS, and what a system call leaves.
const INHERITED: i32 = !hv_pv::bounce::CLEARED as i32;
const SYSCALL_INHERITED: i32 = !(hv_pv::bounce::CLEARED | flags::DF) as i32;
/// RFLAGS bits that `iret` takes from its frame, and those it sets.
const RETURNED: i32 = !(flags::IOPL | flags::VM) as i32;
const ALWAYS: i32 = (flags::IF | 2) as i32;

/// Sends faults at the labels to label 6, which stands before.
macro_rules! faults {
    ($($label:literal),+) => {
        concat!(".pushsection .ex_table, \"a\"\n", $(".long ", $label, "b - ., 6b - .\n",)+ ".popsection\n")
    };
}

/// The end of a hypercall that answers what `rax` has, with the stack as it was at its beginning: by SYSRET, or where something waits by
/// [`after_hypercall`](entry::after_hypercall).
macro_rules! done {
    () => {
        concat!(
            "mov r11, [rsp + 40 + {current}]\n",
            "mov r11, [r11 + {info}]\n",
            "mov rcx, [rsp]\n",
            "cmp byte ptr [r11], 0\n",
            "mov r11, [rsp + 16]\n",
            "jne {leave}\n",
            "cmp dword ptr [rsp + 40 + {work}], 0\n",
            "jne {leave}\n",
            // Only an address of the lower half's end is not canonical behind a SYSCALL.
            "test rcx, rcx\n",
            "jns {leave}\n",
            "mov rsp, [rsp + 24]\n",
            "sysretq\n",
        )
    };
}

/// SYSCALL from ring 3: a hypercall if the guest's kernel runs, else a system call for that kernel. The CPU's stub
/// has stored the stack pointer and points `rsp` at its place among the registers.
///
/// # Safety
/// Only the CPUs' stubs jump here.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry.syscall")]
pub unsafe extern "C" fn syscall_entry() {
    naked_asm!(
        // rip at 0, cs, rflags, rsp, ss at 32, the record at 40; rcx and r11 are free.
        "mov qword ptr [rsp + 8], {ss}",
        "push r11",
        "push {cs}",
        "push rcx",
        "mov rcx, [rsp + 40 + {current}]",
        "cmp byte ptr [rcx + {mode}], 0",
        "jne {user}",
        "cmp rax, {iret}",
        "je {to_user}",
        "cmp rax, {mmu_update}",
        "je {one_update}",
        "cmp rax, {set_segment_base}",
        "je {segment}",
        "cmp rax, {stack_switch}",
        "je {stack}",
        "mov rcx, [rsp]",
        "jmp {general}",
        ss = const GUEST_SS as i32,
        cs = const GUEST_CS as i32,
        current = const CURRENT,
        mode = const MODE,
        iret = const IRET,
        mmu_update = const MMU_UPDATE,
        set_segment_base = const SET_SEGMENT_BASE,
        stack_switch = const STACK_SWITCH,
        user = sym system_call,
        to_user = sym iret_to_user,
        one_update = sym one_update,
        segment = sym segment_base,
        stack = sym stack_switch,
        general = sym entry::hypercall_entry,
    )
}

/// A system call: the frame of seven words on the kernel's stack, and on by SYSRET.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry.syscall")]
unsafe extern "C" fn system_call() {
    naked_asm!(
        "push rax",
        "push rdx",
        // rip at 16, cs, rflags at 32, rsp at 40, the record at 56.
        "cmp dword ptr [rsp + 56 + {work}], 0",
        "jne 7f",
        "cmp byte ptr [rcx + {assist}], 0",
        "jne 7f",
        "cmp byte ptr [rcx + {handler} + {masks}], 1",
        "jne 7f",
        "cmp qword ptr [rcx + {handler} + {address}], 0",
        "je 7f",
        "mov rdx, [rcx + {kernel_sp}]",
        "and rdx, -16",
        "sub rdx, 56",
        "mov rax, rdx",
        "shr rax, 43",
        "cmp eax, {top}",
        "je 7f",
        "mov r11, [rcx + {info}]",
        "movzx eax, byte ptr [r11 + 1]",
        "mov byte ptr [r11 + 1], 1",
        "mov byte ptr [rcx + {mode}], 0",
        "swapgs",
        "mov r11, [rcx + {kernel_root}]",
        "shl r11, 12",
        "or r11, [rsp + 56 + {kernel_bits}]",
        "inc qword ptr [rsp + 56 + {root_loads}]",
        "mov cr3, r11",
        noted!("stac", "20"),
        // rcx is what the processor put there: rip; r11: rflags.
        "mov r11, [rsp + 16]",
        "21: mov [rdx], r11",
        "22: mov [rdx + 16], r11",
        "mov r11, [rsp + 32]",
        "23: mov [rdx + 8], r11",
        "24: mov dword ptr [rdx + 24], {cs}",
        "25: mov [rdx + 28], eax",
        "and r11d, {hidden}",
        "cmp al, 1",
        "sbb eax, eax",
        "and eax, {enabled}",
        "or r11d, eax",
        "26: mov [rdx + 32], r11",
        "mov r11, [rsp + 40]",
        "27: mov [rdx + 40], r11",
        "28: mov qword ptr [rdx + 48], {ss}",
        noted!("clac", "29"),
        "mov rcx, [rcx + {handler} + {address}]",
        "mov r11d, [rsp + 32]",
        "and r11d, {inherited}",
        "mov [rsp + 40], rdx",
        "pop rdx",
        "pop rax",
        "mov rsp, [rsp + 24]",
        "sysretq",
        "7:",
        "pop rdx",
        "pop rax",
        "mov rcx, [rsp]",
        "jmp {general}",
        // The kernel's stack is not there.
        "6:",
        "pop rdx",
        "pop rax",
        "mov rcx, [rsp]",
        "mov r11, [rsp + 16]",
        "push 0",
        "mov dword ptr [rsp + 4], {mark}",
        "jmp {no_stack}",
        faults!("21", "22", "23", "24", "25", "26", "27", "28"),
        work = const WORK,
        assist = const IOPL_ASSIST,
        handler = const SYSCALL_HANDLER,
        masks = const Handler::MASKS_EVENTS,
        address = const Handler::ADDRESS,
        kernel_sp = const KERNEL_SP,
        top = const HYPERVISOR_TOP as i32,
        info = const INFO,
        mode = const MODE,
        kernel_root = const KERNEL_ROOT,
        kernel_bits = const KERNEL_BITS,
        root_loads = const ROOT_LOADS,
        cs = const GUEST_CS as i32,
        ss = const GUEST_SS as i32,
        hidden = const HIDDEN,
        enabled = const flags::IF as i32,
        inherited = const SYSCALL_INHERITED,
        mark = const SYSCALL,
        general = sym entry::system_call_entry,
        no_stack = sym entry::kernel_stack_fault,
    )
}

/// `iret` to user mode: the nine words at the guest's stack pointer.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry.syscall")]
unsafe extern "C" fn iret_to_user() {
    naked_asm!(
        "mov r11, [rsp + 24]",
        "mov rax, r11",
        "shr rax, 43",
        "cmp eax, {top}",
        "je 8f",
        "cmp dword ptr [rsp + 40 + {work}], 0",
        "jne 8f",
        "cmp byte ptr [rcx + {assist}], 0",
        "jne 8f",
        "cmp qword ptr [rcx + {user_root}], 0",
        "je 8f",
        "push rdx",
        "push rsi",
        // rip at 16, cs at 24, rflags at 32, rsp at 40, ss at 48, the record at 56.
        "mov rdx, rcx",
        "mov rax, [rdx + {info}]",
        noted!("stac", "20"),
        "21: test byte ptr [r11 + 25], 1",
        "jnz 7f",
        "22: movzx esi, word ptr [r11 + 40]",
        "mov [rsp + 24], rsi",
        "and esi, 3",
        "cmp esi, 3",
        "jne 7f",
        "23: mov esi, [r11 + 48]",
        // The event mask first, then the look at what is pending: the other order loses events.
        "bt esi, 9",
        "setnc byte ptr [rax + 1]",
        "cmp byte ptr [rax], 0",
        "jne 7f",
        "and esi, {returned}",
        "or esi, {always}",
        "mov [rsp + 32], rsi",
        "24: mov rsi, [r11 + 32]",
        "mov [rsp + 16], rsi",
        "25: movzx esi, word ptr [r11 + 64]",
        "or esi, 3",
        "mov [rsp + 48], rsi",
        "26: mov rsi, [r11 + 56]",
        "27: mov rax, [r11]",
        "28: mov rcx, [r11 + 16]",
        "29: mov r11, [r11 + 8]",
        noted!("clac", "30"),
        "mov [rsp + 40], rsi",
        "mov byte ptr [rdx + {mode}], 1",
        "swapgs",
        "mov rsi, [rdx + {user_root}]",
        "shl rsi, 12",
        "or rsi, [rsp + 56 + {user_bits}]",
        "inc qword ptr [rsp + 56 + {root_loads}]",
        "mov cr3, rsi",
        "pop rsi",
        "pop rdx",
        "31: iretq",
        "7:",
        noted!("clac", "32"),
        // Only what the frame replaces has been changed; the general way reads it again.
        "6:",
        "pop rsi",
        "pop rdx",
        "mov qword ptr [rsp + 8], {cs}",
        "8:",
        "mov eax, {iret}",
        "mov rcx, [rsp]",
        "mov r11, [rsp + 16]",
        "jmp {general}",
        faults!("21", "22", "23", "24", "25", "26", "27", "28", "29"),
        ".pushsection .ex_table, \"a\"",
        ".long 31b - ., {bad_iret} - .",
        ".popsection",
        top = const HYPERVISOR_TOP as i32,
        work = const WORK,
        assist = const IOPL_ASSIST,
        user_root = const USER_ROOT,
        user_bits = const USER_BITS,
        info = const INFO,
        returned = const RETURNED,
        always = const ALWAYS,
        mode = const MODE,
        root_loads = const ROOT_LOADS,
        cs = const GUEST_CS as i32,
        iret = const IRET,
        general = sym entry::iret_entry,
        bad_iret = sym entry::iret_fixup,
    )
}

/// A page fault. From user mode: the frame of eight words on the kernel's stack, and on by IRET.
///
/// # Safety
/// Only the processor comes here, through the IDT.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry.fault")]
pub unsafe extern "C" fn page_fault_entry() {
    naked_asm!(
        "test byte ptr [rsp + 16], 3",
        "jz 9f",
        "push rdx",
        "mov rdx, [rsp + 56 + {current}]",
        "cmp byte ptr [rdx + {mode}], 0",
        "je 8f",
        "push rax",
        "push rcx",
        "push rsi",
        // rsi at 0, rcx at 8, the error at 32, rip, cs, rflags at 56, rsp, ss, the record at 80.
        "cmp dword ptr [rsp + 80 + {work}], 0",
        "jne 7f",
        "cmp byte ptr [rdx + {assist}], 0",
        "jne 7f",
        "test byte ptr [rsp + 32], {by_user}",
        "jz 7f",
        "test byte ptr [rdx + {entry} + {entry_flags}], {masks}",
        "jz 7f",
        "cmp qword ptr [rdx + {entry} + {entry_address}], 0",
        "je 7f",
        "mov rsi, [rdx + {kernel_sp}]",
        "and rsi, -16",
        "sub rsi, 64",
        "mov rax, rsi",
        "shr rax, 43",
        "cmp eax, {top}",
        "je 7f",
        "mov rax, cr2",
        "mov rcx, rax",
        "shr rcx, 43",
        "cmp ecx, {top}",
        "je 7f",
        "mov rcx, [rdx + {info}]",
        "mov [rcx + 16], rax",
        "movzx eax, byte ptr [rcx + 1]",
        "mov byte ptr [rcx + 1], 1",
        "mov byte ptr [rdx + {mode}], 0",
        "swapgs",
        "mov rcx, [rdx + {kernel_root}]",
        "shl rcx, 12",
        "or rcx, [rsp + 80 + {kernel_bits}]",
        "inc qword ptr [rsp + 80 + {root_loads}]",
        "mov cr3, rcx",
        noted!("stac", "20"),
        "mov rcx, [rsp + 8]",
        "21: mov [rsi], rcx",
        "22: mov [rsi + 8], r11",
        "mov ecx, [rsp + 32]",
        "23: mov [rsi + 16], rcx",
        "mov rcx, [rsp + 40]",
        "24: mov [rsi + 24], rcx",
        "movzx ecx, word ptr [rsp + 48]",
        "25: mov [rsi + 32], ecx",
        "26: mov [rsi + 36], eax",
        "mov ecx, [rsp + 56]",
        "and ecx, {hidden}",
        "cmp al, 1",
        "sbb eax, eax",
        "and eax, {enabled}",
        "or ecx, eax",
        "27: mov [rsi + 40], rcx",
        "mov rcx, [rsp + 64]",
        "28: mov [rsi + 48], rcx",
        "movzx ecx, word ptr [rsp + 72]",
        "29: mov [rsi + 56], rcx",
        noted!("clac", "30"),
        "mov rcx, [rdx + {entry} + {entry_address}]",
        "mov [rsp + 40], rcx",
        "mov qword ptr [rsp + 48], {cs}",
        "and dword ptr [rsp + 56], {inherited}",
        "mov [rsp + 64], rsi",
        "mov qword ptr [rsp + 72], {ss}",
        "pop rsi",
        "pop rcx",
        "pop rax",
        "pop rdx",
        "add rsp, 8",
        "31: iretq",
        "7:",
        "pop rsi",
        "pop rcx",
        "pop rax",
        "8:",
        "pop rdx",
        "9:",
        "mov dword ptr [rsp + 4], {vector}",
        "jmp {general}",
        // The kernel's stack is not there.
        "6:",
        "pop rsi",
        "pop rcx",
        "pop rax",
        "pop rdx",
        "mov dword ptr [rsp + 4], {vector}",
        "jmp {no_stack}",
        faults!("21", "22", "23", "24", "25", "26", "27", "28", "29"),
        ".pushsection .ex_table, \"a\"",
        ".long 31b - ., {bad_iret} - .",
        ".popsection",
        current = const CURRENT,
        mode = const MODE,
        work = const WORK,
        assist = const IOPL_ASSIST,
        by_user = const trap::PF_USER as i32,
        entry = const PF_ENTRY,
        entry_flags = const TrapEntry::FLAGS,
        entry_address = const TrapEntry::ADDRESS,
        masks = const guest_abi::x86_64::TI_MASK_EVENTS as i32,
        kernel_sp = const KERNEL_SP,
        top = const HYPERVISOR_TOP as i32,
        info = const INFO,
        kernel_root = const KERNEL_ROOT,
        kernel_bits = const KERNEL_BITS,
        root_loads = const ROOT_LOADS,
        hidden = const HIDDEN,
        enabled = const flags::IF as i32,
        inherited = const INHERITED,
        cs = const GUEST_CS as i32,
        ss = const GUEST_SS as i32,
        vector = const trap::PF as i32,
        general = sym entry::trap_entry,
        no_stack = sym entry::kernel_stack_fault,
        bad_iret = sym entry::iret_fixup,
    )
}

/// `mmu_update` with one request for the caller's own tables and frames, and no count to be told: how Linux sets an entry
/// outside a batch. The arguments but the list are constants then, and need not be saved.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry.syscall")]
unsafe extern "C" fn one_update() {
    naked_asm!(
        "cmp rsi, 1",
        "jne 8f",
        "test rdx, rdx",
        "jnz 8f",
        "cmp r10, {own}",
        "jne 8f",
        "push rdi",
        "push r8",
        "push r9",
        // rip at 24, cs, rflags at 40, rsp at 48, the record at 64.
        "mov rsi, rcx",
        "call {update}",
        "pop r9",
        "pop r8",
        "pop rdi",
        "xor edx, edx",
        "mov r10d, {own}",
        "test al, al",
        "jz 7f",
        "xor eax, eax",
        "mov esi, 1",
        done!(),
        "7:",
        "mov esi, 1",
        "mov eax, {mmu_update}",
        "8:",
        "mov rcx, [rsp]",
        "mov r11, [rsp + 16]",
        "jmp {general}",
        own = const DomId::SELF.0 as i32,
        work = const WORK,
        current = const CURRENT,
        info = const INFO,
        mmu_update = const MMU_UPDATE,
        update = sym slow::one_update,
        general = sym entry::hypercall_entry,
        leave = sym entry::after_hypercall,
    )
}

/// `set_segment_base`: a base that is canonical, or a selector that the guest's tables offer.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry.syscall")]
unsafe extern "C" fn segment_base() {
    naked_asm!(
        "cmp edi, {selector}",
        "je 7f",
        "ja 8f",
        "mov rax, rsi",
        "shl rax, 16",
        "sar rax, 16",
        "cmp rax, rsi",
        "jne 8f",
        // 0, 1, 2 to 0, 2, 1: the kernel calls, so that the user's GS base is the hidden one.
        "mov ecx, edi",
        "shr ecx, 1",
        "lea eax, [rdi + rdi]",
        "and eax, 2",
        "lea ecx, [rcx + rax + {fs_base}]",
        "mov eax, esi",
        "mov r11, rdx",
        "mov rdx, rsi",
        "shr rdx, 32",
        "wrmsr",
        "mov rdx, r11",
        "xor eax, eax",
        done!(),
        "7:",
        "swapgs",
        "20: mov gs, esi",
        "swapgs",
        "xor eax, eax",
        done!(),
        // The general way loads the null selector.
        "6: swapgs",
        "8: mov eax, {number}",
        "mov rcx, [rsp]",
        "mov r11, [rsp + 16]",
        "jmp {general}",
        faults!("20"),
        selector = const SEGBASE_GS_USER_SEL,
        fs_base = const FS_BASE as i32,
        number = const SET_SEGMENT_BASE,
        work = const WORK,
        current = const CURRENT,
        info = const INFO,
        general = sym entry::hypercall_entry,
        leave = sym entry::after_hypercall,
    )
}

/// `stack_switch`: where the frames of what comes from user mode shall lie. The selector is flat in any case.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry.syscall")]
unsafe extern "C" fn stack_switch() {
    naked_asm!(
        "mov [rcx + {kernel_sp}], rsi",
        "xor eax, eax",
        done!(),
        kernel_sp = const KERNEL_SP,
        work = const WORK,
        current = const CURRENT,
        info = const INFO,
        leave = sym entry::after_hypercall,
    )
}

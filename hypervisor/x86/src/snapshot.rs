//! A vCPU's state as tools read it, in the form that [`context::set`](crate::context::set) takes.

use guest_abi::x86_64::*;
use hv_core::sched::Reasons;
use hv_pv::control::{CR0_TS, CR4_DE};
use hv_pv::regs::Mode;
use hv_pv::trap::Handler;

use crate::vcpu::Vcpu;

/// CR0 as every guest has it: protected mode, paging, write protection, extensions.
const CR0: u64 = 0x8005_0033;

/// Reads a vCPU that no CPU has. The floating-point state is left out (`VGCF_I387_VALID` is clear).
pub fn take(vcpu: &Vcpu, c: &mut VcpuGuestContext) {
    let mode = vcpu.mode.get();
    let kernel = if mode == Mode::Kernel { VGCF_IN_KERNEL } else { 0 };
    let online = if vcpu.sched.reasons().contains(Reasons::DOWN) { 0 } else { VGCF_ONLINE };
    c.flags = kernel | online;
    c.user_regs = registers(vcpu);
    for ((vector, to), trap) in (0..=u8::MAX).zip(&mut c.trap_ctxt).zip(&vcpu.traps) {
        to.vector = vector;
        (to.address, to.cs, to.flags) = trap.get().parts();
    }
    tables(vcpu, c);
    (c.kernel_ss, c.kernel_sp) = (FLAT_KERNEL_SS.into(), vcpu.kernel_sp.get());
    let address = |handler: Option<Handler>| handler.map_or(0, Handler::address);
    c.event_callback_eip = address(vcpu.callbacks.event.get());
    c.failsafe_callback_eip = address(vcpu.callbacks.failsafe.get());
    c.syscall_callback_eip = address(vcpu.callbacks.syscall.get());
    c.vm_assist = vcpu.domain.all_assists();
    let bases = vcpu.bases.get();
    (c.gs_base_kernel, c.gs_base_user) = match mode {
        Mode::Kernel => (bases.gs, bases.other_gs),
        Mode::User => (bases.other_gs, bases.gs),
    };
    c.fs_base = bases.fs;
}

fn registers(vcpu: &Vcpu) -> CpuUserRegs {
    let r = vcpu.saved.get();
    let [ds, es, fs, gs] = vcpu.selectors.get();
    CpuUserRegs {
        r15: r.r15,
        r14: r.r14,
        r13: r.r13,
        r12: r.r12,
        rbp: r.rbp,
        rbx: r.rbx,
        r11: r.r11,
        r10: r.r10,
        r9: r.r9,
        r8: r.r8,
        rax: r.rax,
        rcx: r.rcx,
        rdx: r.rdx,
        rsi: r.rsi,
        rdi: r.rdi,
        rip: r.rip,
        cs: r.cs as u16,
        saved_upcall_mask: vcpu.upcall_mask(),
        rflags: r.rflags,
        rsp: r.rsp,
        ss: r.ss as u16,
        es,
        ds,
        fs,
        gs,
        ..CpuUserRegs::default()
    }
}

/// Descriptor tables, roots, control and debug registers.
fn tables(vcpu: &Vcpu, c: &mut VcpuGuestContext) {
    let (ldt_base, ldt_entries) = vcpu.mmu.ldt_range();
    (c.ldt_base, c.ldt_ents) = (ldt_base, ldt_entries.into());
    for (n, to) in c.gdt_frames.iter_mut().enumerate() {
        *to = vcpu.mmu.gdt(n).map_or(0, |mfn| mfn.0);
    }
    c.gdt_ents = vcpu.mmu.gdt_entries().into();
    c.ctrlreg[1] = vcpu.mmu.user_root().map_or(0, |mfn| pfn_to_cr3(mfn.0));
    c.ctrlreg[2] = vcpu.cr2();
    c.ctrlreg[3] = vcpu.mmu.kernel_root().map_or(0, |mfn| pfn_to_cr3(mfn.0));
    vcpu.with_control(|state| {
        c.ctrlreg[0] = CR0 | if state.task_switched { CR0_TS } else { 0 };
        c.ctrlreg[4] = state.cr4;
        let extensions = state.cr4 & CR4_DE != 0;
        for register in [0, 1, 2, 3, 6, 7] {
            c.debugreg[usize::from(register)] = state.debug.read(register, extensions).unwrap_or(0);
        }
    });
}

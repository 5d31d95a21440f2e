//! Giving a vCPU that does not run the state that a kernel (`VCPUOP_initialise`) or a tool wrote for it.
//!
//! Fact: `struct vcpu_guest_context` (`arch-x86/xen.h`). Everything is checked before anything is set; the frames it
//! names are taken first, because that is what can fail or be interrupted.

use core::sync::atomic::Ordering;

use guest_abi::errno::Errno;
use guest_abi::x86_64::*;
use hv_core::call::CallError;
use hv_core::mmu::{Caller, GDT_ENTRIES};
use hv_pv::control::{CR0_TS, CR4_DE};
use hv_pv::regs::{Mode, Regs, flags};
use hv_pv::trap::{Handler, TrapEntry};
use hv_types::{GuestVa, Mfn};

use crate::emulate;
use crate::mem::PAGE;
use crate::paging::{self, mmu};
use crate::vcpu::{Bases, Vcpu};

/// Entries an LDT can have.
const LDT_ENTRIES: u64 = 8192;
fn handler(address: u64, masks: bool) -> Result<Option<Handler>, Errno> {
    Handler::new(GuestVa(address), masks).map_err(|_| Errno::EINVAL)
}

/// What was checked, ready to be stored.
struct Checked {
    event: Option<Handler>,
    failsafe: Option<Handler>,
    syscall: Option<Handler>,
    kernel: Mfn,
    user: Option<Mfn>,
    mode: Mode,
}

fn check(c: &VcpuGuestContext) -> Result<Checked, Errno> {
    for trap in &c.trap_ctxt {
        TrapEntry::new(trap.flags, trap.cs, GuestVa(trap.address)).map_err(|_| Errno::EINVAL)?;
    }
    let addresses = [c.user_regs.rip, c.fs_base, c.gs_base_kernel, c.gs_base_user, c.kernel_sp];
    if !addresses.iter().all(|&address| GuestVa(address).is_canonical()) {
        return Err(Errno::EINVAL);
    }
    if c.ldt_ents > LDT_ENTRIES
        || c.ldt_ents != 0
            && (!c.ldt_base.is_multiple_of(PAGE) || !GuestVa(c.ldt_base).is_guest_range(c.ldt_ents * 8))
    {
        return Err(Errno::EINVAL);
    }
    if c.gdt_ents > u64::from(GDT_ENTRIES) {
        return Err(Errno::EINVAL);
    }
    let user = Some(Mfn(cr3_to_pfn(c.ctrlreg[1] & !1))).filter(|mfn| mfn.0 != 0);
    let mode = if c.flags & VGCF_IN_KERNEL != 0 { Mode::Kernel } else { Mode::User };
    if mode == Mode::User && user.is_none() {
        return Err(Errno::EINVAL);
    }
    Ok(Checked {
        event: handler(c.event_callback_eip, true)?,
        failsafe: handler(c.failsafe_callback_eip, c.flags & VGCF_FAILSAFE_DISABLES_EVENTS != 0)?,
        syscall: handler(c.syscall_callback_eip, c.flags & VGCF_SYSCALL_DISABLES_EVENTS != 0)?,
        kernel: Mfn(cr3_to_pfn(c.ctrlreg[3])),
        user,
        mode,
    })
}

/// Gives `vcpu`, which has never run or is held, this context. `EINVAL`: something in it that no guest may have, or
/// frames that are not its domain's; then nothing has changed but references that go with the vCPU.
/// [`CallError::Retry`]: call again.
pub fn set(vcpu: &'static Vcpu, c: &VcpuGuestContext) -> Result<(), CallError> {
    let checked = check(c)?;
    let caller = paging::caller(vcpu);
    mmu().set_roots(&caller, checked.kernel, checked.user)?;
    set_gdt(&caller, c)?;
    vcpu.mmu.set_first_ldt(c.ldt_base, c.ldt_ents as u32);
    vcpu.ldt_entries.set(c.ldt_ents as u32);
    paging::map_gdt(vcpu);
    for (place, trap) in vcpu.traps.iter().zip(&c.trap_ctxt) {
        place.set(TrapEntry::new(trap.flags, trap.cs, GuestVa(trap.address)).unwrap_or(TrapEntry::EMPTY));
    }
    vcpu.callbacks.event.set(checked.event);
    vcpu.callbacks.failsafe.set(checked.failsafe);
    vcpu.callbacks.syscall.set(checked.syscall);
    vcpu.kernel_sp.set(c.kernel_sp);
    vcpu.mode.set(checked.mode);
    set_registers(vcpu, c, checked.mode);
    set_control(vcpu, c);
    if c.flags & VGCF_I387_VALID != 0 {
        vcpu.fpu.set_legacy(&c.fpu_ctxt);
    }
    vcpu.initialised.store(true, Ordering::Release);
    Ok(())
}

fn set_gdt(caller: &Caller<'_>, c: &VcpuGuestContext) -> Result<(), Errno> {
    let count = (c.gdt_ents as usize).div_ceil(512);
    mmu().set_gdt(caller, c.gdt_frames.get(..count).unwrap_or(&[]), c.gdt_ents as u32)
}

fn set_registers(vcpu: &Vcpu, c: &VcpuGuestContext, mode: Mode) {
    let r = &c.user_regs;
    vcpu.saved.set(Regs {
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
        cs: u64::from(r.cs) | 3,
        rflags: r.rflags & 0xffff_ffff & !(flags::IOPL | flags::VM) | flags::IF | 2,
        rsp: r.rsp,
        ss: u64::from(r.ss) | 3,
        ..Regs::default()
    });
    vcpu.selectors.set([r.ds, r.es, r.fs, r.gs]);
    let (gs, other_gs) = match mode {
        Mode::Kernel => (c.gs_base_kernel, c.gs_base_user),
        Mode::User => (c.gs_base_user, c.gs_base_kernel),
    };
    vcpu.bases.set(Bases { fs: c.fs_base, gs, other_gs });
}

fn set_control(vcpu: &Vcpu, c: &VcpuGuestContext) {
    vcpu.with_control(|state| {
        state.task_switched = c.ctrlreg[0] & CR0_TS != 0;
        state.cr4 = emulate::cr4_policy().view(c.ctrlreg[4]);
        // Linux gives its other vCPUs the level of the first this way.
        let _ = state.set_iopl((c.user_regs.rflags & flags::IOPL) as u32 >> flags::IOPL.trailing_zeros());
        let extensions = state.cr4 & CR4_DE != 0;
        // Breakpoints that no guest may have are left out, as when the register is written.
        for register in [0, 1, 2, 3, 6, 7] {
            let _ = state.debug.write(register, c.debugreg[usize::from(register)], extensions);
        }
    });
}

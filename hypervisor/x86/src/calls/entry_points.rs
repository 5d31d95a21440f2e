//! Calls by which a kernel says where and how it wants to be entered: trap table, callbacks, stack, segment bases,
//! debug registers, `iret`.

use core::mem::size_of;

use guest_abi::callback::*;
use guest_abi::errno::Errno;
use guest_abi::x86_64::TrapInfo;
use guest_abi::xen::*;
use hv_pv::descriptor::SegmentBase;
use hv_pv::iret::IretFrame;
use hv_pv::regs::{Mode, Regs};
use hv_pv::trap::{self, Handler, TrapEntry};
use hv_types::GuestVa;

use crate::cpu::msr::{FS_BASE, GS_BASE, KERNEL_GS_BASE};
use crate::domain::{self, Crash};
use crate::guest::Caller;
use crate::hypercall::{Outcome, read};
use crate::vcpu::Vcpu;
use crate::{cpu, emulate};

/// `set_trap_table`: entries until one with address zero; a null pointer clears the table.
#[inline(never)]
pub fn set_trap_table(vcpu: &Vcpu, table: u64) -> Outcome {
    if table == 0 {
        vcpu.traps.iter().for_each(|t| t.set(TrapEntry::EMPTY));
        return Ok(0);
    }
    // One entry a vector is all a table needs; a longer one would only overwrite.
    for index in 0..256u64 {
        let info: TrapInfo = read(table.wrapping_add(index * size_of::<TrapInfo>() as u64))?;
        if info.address == 0 {
            return Ok(0);
        }
        let entry = TrapEntry::new(info.flags, info.cs, GuestVa(info.address)).map_err(|_| Errno::EINVAL)?;
        vcpu.traps[usize::from(info.vector)].set(entry);
    }
    Ok(0)
}

/// `set_callbacks`: event, failsafe and system-call entry points at once.
#[inline(never)]
pub fn set_callbacks(vcpu: &Vcpu, event: u64, failsafe: u64, syscall: u64) -> Outcome {
    let handler = |address, mask| Handler::new(GuestVa(address), mask).map_err(|_| Errno::EINVAL);
    let (event, failsafe, syscall) =
        (handler(event, true)?, handler(failsafe, true)?, handler(syscall, true)?);
    vcpu.callbacks.event.set(event);
    vcpu.callbacks.failsafe.set(failsafe);
    vcpu.callbacks.syscall.set(syscall);
    Ok(0)
}

/// `callback_op`.
#[inline(never)]
pub fn callback_op(vcpu: &Vcpu, command: u32, argument: u64) -> Outcome {
    match command {
        CALLBACKOP_REGISTER => {
            let r: CallbackRegister = read(argument)?;
            register(vcpu, r.kind, r.flags & CALLBACKF_MASK_EVENTS != 0, GuestVa(r.address))
        }
        CALLBACKOP_UNREGISTER => {
            let kind = Caller.read_u16(argument)?;
            match kind {
                CALLBACKTYPE_EVENT
                | CALLBACKTYPE_FAILSAFE
                | CALLBACKTYPE_SYSCALL
                | CALLBACKTYPE_SYSENTER
                | CALLBACKTYPE_SYSCALL32 => Err(Errno::EINVAL.into()),
                CALLBACKTYPE_NMI => {
                    vcpu.traps[usize::from(trap::NMI)].set(TrapEntry::EMPTY);
                    Ok(0)
                }
                _ => Err(Errno::EINVAL.into()),
            }
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn register(vcpu: &Vcpu, kind: u16, mask: bool, address: GuestVa) -> Outcome {
    if kind == CALLBACKTYPE_NMI {
        return register_nmi(vcpu, address);
    }
    let handler = |mask| Handler::new(address, mask).map_err(|_| Errno::EINVAL);
    let callbacks = &vcpu.callbacks;
    match kind {
        CALLBACKTYPE_EVENT => callbacks.event.set(handler(true)?),
        CALLBACKTYPE_FAILSAFE => callbacks.failsafe.set(handler(mask)?),
        CALLBACKTYPE_SYSCALL => callbacks.syscall.set(handler(mask)?),
        CALLBACKTYPE_SYSCALL32 => callbacks.syscall32.set(handler(mask)?),
        CALLBACKTYPE_SYSENTER => callbacks.sysenter.set(handler(mask)?),
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

/// The NMI callback is the trap table's entry 2.
pub fn register_nmi(vcpu: &Vcpu, address: GuestVa) -> Outcome {
    let entry = TrapEntry::nmi(address).map_err(|_| Errno::EINVAL)?;
    vcpu.traps[usize::from(trap::NMI)].set(entry);
    Ok(0)
}

/// `stack_switch`: stack for entries from user mode. The selector is always the flat one in 64-bit mode.
pub fn stack_switch(vcpu: &Vcpu, _ss: u64, sp: u64) -> Outcome {
    vcpu.kernel_sp.set(sp);
    Ok(0)
}

/// `set_segment_base`. The kernel calls, so that its own GS base is loaded and the user's is the hidden one.
#[inline(never)]
pub fn set_segment_base(which: u32, base: u64) -> Outcome {
    let (msr, base) = match SegmentBase::new(which, base)? {
        SegmentBase::Fs(base) => (FS_BASE, base),
        SegmentBase::GsUser(base) => (KERNEL_GS_BASE, base),
        SegmentBase::GsKernel(base) => (GS_BASE, base),
        SegmentBase::GsUserSelector(selector) => return set_user_gs(selector),
    };
    // SAFETY: the guest's own base, canonical; the hypervisor uses neither FS nor GS.
    unsafe { cpu::wrmsr(msr, base) };
    Ok(0)
}

/// Loads a selector into the user's GS; one that the guest's tables do not offer loads null.
fn set_user_gs(selector: u16) -> Outcome {
    // SAFETY: SWAPGS twice brings the kernel's base back; a fault loads the null selector instead.
    unsafe {
        core::arch::asm!(
            "swapgs",
            "2: mov gs, {sel:e}",
            "3: swapgs",
            ".pushsection .text.entry, \"ax\"", "4: xor {sel:e}, {sel:e}", "mov gs, {sel:e}", "jmp 3b", ".popsection",
            ".pushsection .ex_table, \"a\"", ".long 2b - ., 4b - .", ".popsection",
            sel = inout(reg) u32::from(selector) => _, options(nostack));
    }
    Ok(0)
}

/// `iret`: the frame at the guest's stack pointer replaces its registers. No result: rax comes from the frame.
#[inline]
pub fn iret(regs: &mut Regs, vcpu: &Vcpu) {
    let Ok(words) = Caller.read_words::<9>(regs.rsp) else {
        return domain::crash(vcpu, regs, Crash::KernelStack);
    };
    let frame = IretFrame(words);
    if frame.mode() == Mode::User {
        if vcpu.mmu.user_root().is_none() {
            return domain::crash(vcpu, regs, Crash::NoUserRoot);
        }
        vcpu.toggle();
    }
    frame.apply(regs);
    vcpu.set_upcall_mask(frame.upcall_mask());
    vcpu.with_control(|c| c.restore_iopl(frame.iopl()));
}

/// `fpu_taskswitch`: CR0.TS for the guest.
pub fn fpu_taskswitch(vcpu: &Vcpu, set: u64) -> Outcome {
    vcpu.set_task_switched(set != 0);
    Ok(0)
}

/// `set_debugreg`. Breakpoints on the hypervisor's addresses are refused.
#[inline(never)]
pub fn set_debugreg(vcpu: &Vcpu, register: u64, value: u64) -> Outcome {
    let Ok(register @ 0..=7) = u8::try_from(register) else { return Err(Errno::ENODEV.into()) };
    vcpu.with_control(|c| {
        let extensions = c.cr4 & hv_pv::control::CR4_DE != 0;
        c.debug.write(register, value, extensions).map_err(Errno::from)?;
        emulate::load_debug(c);
        Ok(0)
    })
}

/// `get_debugreg`. The number's errors look like values, as in the reference.
#[inline(never)]
pub fn get_debugreg(vcpu: &Vcpu, register: u64) -> Outcome {
    let Ok(register @ 0..=7) = u8::try_from(register) else { return Err(Errno::ENODEV.into()) };
    vcpu.with_control(|c| {
        let extensions = c.cr4 & hv_pv::control::CR4_DE != 0;
        Ok(c.debug.read(register, extensions).map_err(Errno::from)?)
    })
}

/// `vm_assist`.
#[inline(never)]
pub fn vm_assist(vcpu: &Vcpu, command: u32, kind: u32) -> Outcome {
    const OFFERED: u64 = 1 << VMASST_TYPE_4GB_SEGMENTS
        | 1 << VMASST_TYPE_4GB_SEGMENTS_NOTIFY
        | 1 << VMASST_TYPE_WRITABLE_PAGETABLES
        | 1 << VMASST_TYPE_PAE_EXTENDED_CR3
        | 1 << VMASST_TYPE_ARCHITECTURAL_IOPL
        | 1 << VMASST_TYPE_RUNSTATE_UPDATE_FLAG
        | 1 << VMASST_TYPE_M2P_STRICT;
    if kind >= 64 || OFFERED >> kind & 1 == 0 {
        return Err(Errno::EINVAL.into());
    }
    match command {
        VMASST_CMD_ENABLE => vcpu.domain.set_assist(kind, true),
        VMASST_CMD_DISABLE => vcpu.domain.set_assist(kind, false),
        _ => return Err(Errno::ENOSYS.into()),
    }
    if kind == VMASST_TYPE_ARCHITECTURAL_IOPL {
        let on = vcpu.domain.assists(kind);
        vcpu.with_control(|c| c.architectural_iopl = on);
    }
    Ok(0)
}

/// `nmi_op`: the NMI callback.
#[inline(never)]
pub fn nmi_op(vcpu: &Vcpu, command: u32, argument: u64) -> Outcome {
    use guest_abi::nmi::{XENNMI_REGISTER_CALLBACK, XENNMI_UNREGISTER_CALLBACK, XennmiCallback};
    match command {
        XENNMI_REGISTER_CALLBACK => {
            let callback: XennmiCallback = read(argument)?;
            register_nmi(vcpu, GuestVa(callback.handler_address))
        }
        XENNMI_UNREGISTER_CALLBACK => {
            vcpu.traps[usize::from(trap::NMI)].set(TrapEntry::EMPTY);
            Ok(0)
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

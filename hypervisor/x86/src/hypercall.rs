//! The hypercall door: number and arguments in registers, one result in rax.
//!
//! Facts: arguments in rdi, rsi, rdx, r10, r8, r9 (`arch-x86/xen-x86_64.h`); rcx and r11 are lost to SYSCALL.

use core::mem::{offset_of, size_of};

use guest_abi::call::Hypercall;
use guest_abi::call::number::*;
use guest_abi::errno::Errno;
use hv_core::call::CallError;
use hv_core::memory_op::memory_op;
use hv_core::port::GuestSpace;
use hv_core::sched::sched_op;
use hv_core::vcpu::{VcpuCaller, vcpu_op};
use hv_core::{event, grant};
use hv_pv::regs::Regs;
use hv_types::{GuestVa, VcpuId};
use zerocopy::{FromBytes, IntoBytes};

use crate::calls::{console, control, devices, entry_points, multicall, sysctl, version};
use crate::domain::{self, Crash};
use crate::guest::Caller;
use crate::hub;
use crate::machine::Machine;
use crate::paging::{caller, mmu};
use crate::percpu::this_cpu;
use crate::vcpu::Vcpu;

/// What a call answers, or who pays.
pub type Outcome = Result<u64, CallError>;

/// Reads a structure of the public headers from the caller's memory, once.
#[inline(always)]
pub fn read<T: FromBytes + IntoBytes + Default>(at: u64) -> Result<T, CallError> {
    let mut value = T::default();
    Caller.read(GuestVa(at), value.as_mut_bytes())?;
    Ok(value)
}

/// Length of SYSCALL.
const SYSCALL_LEN: u64 = 2;

/// The number in a register of the guest: all 64 bits count.
#[inline(always)]
pub fn number_of(register: u64) -> u32 {
    u32::try_from(register).unwrap_or(u32::MAX)
}

/// A hypercall of the running kernel, other than `iret`, which has a door of its own.
#[inline(always)]
pub fn enter(regs: &mut Regs, vcpu: &'static Vcpu) {
    this_cpu().begin_call();
    match call(vcpu, number_of(regs.rax), arguments(regs)) {
        Ok(value) => regs.rax = value,
        Err(CallError::Errno(errno)) => regs.rax = errno.as_result() as u64,
        Err(error) => failed(regs, vcpu, error),
    }
}

/// The six argument registers, in their order.
#[inline(always)]
fn arguments(regs: &Regs) -> &[u64; 6] {
    const { assert!(offset_of!(Regs, r9) == offset_of!(Regs, rdi) + 5 * size_of::<u64>()) };
    // SAFETY: six words from `rdi` to `r9` within `regs`, in the order of arguments (the layout test of `Regs`).
    unsafe { &*core::ptr::from_ref(regs).byte_add(offset_of!(Regs, rdi)).cast() }
}

#[cold]
#[inline(never)]
fn failed(regs: &mut Regs, vcpu: &'static Vcpu, error: CallError) {
    match error {
        CallError::Errno(errno) => regs.rax = errno.as_result() as u64,
        CallError::Retry(again) => {
            [regs.rdi, regs.rsi, regs.rdx, regs.r10] = again.args;
            regs.rip = regs.rip.wrapping_sub(SYSCALL_LEN);
        }
        CallError::CrashCaller(why) => domain::crash(vcpu, regs, Crash::Rule(why)),
    }
}

/// Performs one call; also for the entries of a multicall.
///
/// Each row is a function of its own: a common frame for all of them would cost every call what the largest needs.
#[inline]
pub fn call(vcpu: &'static Vcpu, number: u32, a: &[u64; 6]) -> Outcome {
    match number {
        MMU_UPDATE => mmu_update(vcpu, a),
        UPDATE_VA_MAPPING => update_va_mapping(vcpu, a),
        MMUEXT_OP => mmuext_op(vcpu, a),
        UPDATE_VA_MAPPING_OTHERDOMAIN => update_va_mapping_otherdomain(vcpu, a),
        SET_GDT => set_gdt(vcpu, a),
        UPDATE_DESCRIPTOR => update_descriptor(vcpu, a),
        XEN_VERSION => version::xen_version(vcpu, a[0] as u32, a[1]),
        SET_TIMER_OP => set_timer_op(vcpu, a),
        SCHED_OP => schedule(vcpu, a),
        EVENT_CHANNEL_OP => event_channel(vcpu, a),
        VCPU_OP => vcpu_operation(vcpu, a),
        PHYSDEV_OP => devices::physdev_op(vcpu, a[0] as u32, a[1]),
        PLATFORM_OP => devices::platform_op(vcpu, a[0]),
        MEMORY_OP => memory(vcpu, a),
        GRANT_TABLE_OP if grant::is_nothing(a[0] as u32, GuestVa(a[1]), a[2] as u32) => Ok(0),
        GRANT_TABLE_OP => grant_table(vcpu, a),
        SYSCTL => sysctl::sysctl(vcpu, a[0]),
        NMI_OP => entry_points::nmi_op(vcpu, a[0] as u32, a[1]),
        SET_TRAP_TABLE => entry_points::set_trap_table(vcpu, a[0]),
        STACK_SWITCH => entry_points::stack_switch(vcpu, a[0], a[1]),
        SET_CALLBACKS => entry_points::set_callbacks(vcpu, a[0], a[1], a[2]),
        FPU_TASKSWITCH => entry_points::fpu_taskswitch(vcpu, a[0]),
        SET_DEBUGREG => entry_points::set_debugreg(vcpu, a[0], a[1]),
        GET_DEBUGREG => entry_points::get_debugreg(vcpu, a[0]),
        MULTICALL => multicall::multicall(vcpu, a[0], a[1]),
        CONSOLE_IO => console::console_io(vcpu, a[0] as u32, a[1], a[2]),
        VM_ASSIST => entry_points::vm_assist(vcpu, a[0] as u32, a[1] as u32),
        SET_SEGMENT_BASE => entry_points::set_segment_base(a[0] as u32, a[1]),
        CALLBACK_OP => entry_points::callback_op(vcpu, a[0] as u32, a[1]),
        CONTROL => control::control(vcpu, a[0]),
        _ => Err(unknown(vcpu, number)),
    }
}

#[inline(never)]
fn mmu_update(vcpu: &'static Vcpu, a: &[u64; 6]) -> Outcome {
    mmu().do_mmu_update(&caller(vcpu), &Caller, GuestVa(a[0]), a[1] as u32, GuestVa(a[2]), a[3] as u32)
}

#[inline(never)]
fn update_va_mapping(vcpu: &'static Vcpu, a: &[u64; 6]) -> Outcome {
    mmu().do_update_va_mapping(&caller(vcpu), &Caller, GuestVa(a[0]), a[1], a[2])
}

#[inline(never)]
fn update_va_mapping_otherdomain(vcpu: &'static Vcpu, a: &[u64; 6]) -> Outcome {
    mmu().do_update_va_mapping_otherdomain(&caller(vcpu), &Caller, GuestVa(a[0]), a[1], a[2], a[3] as u16)
}

#[inline(never)]
fn mmuext_op(vcpu: &'static Vcpu, a: &[u64; 6]) -> Outcome {
    mmu().do_mmuext_op(&caller(vcpu), &Caller, GuestVa(a[0]), a[1] as u32, GuestVa(a[2]), a[3] as u32)
}

#[inline(never)]
fn set_gdt(vcpu: &'static Vcpu, a: &[u64; 6]) -> Outcome {
    mmu().do_set_gdt(&caller(vcpu), &Caller, GuestVa(a[0]), a[1] as u32)
}

#[inline(never)]
fn update_descriptor(vcpu: &'static Vcpu, a: &[u64; 6]) -> Outcome {
    mmu().do_update_descriptor(&caller(vcpu), a[0], a[1])
}

#[inline(never)]
fn set_timer_op(vcpu: &'static Vcpu, a: &[u64; 6]) -> Outcome {
    hub::set_timer_op(vcpu, a[0]);
    Ok(0)
}

#[inline(never)]
fn schedule(vcpu: &'static Vcpu, a: &[u64; 6]) -> Outcome {
    let result = sched_op(&Machine, &Caller, hub::sched_caller(vcpu), a[0] as u32, GuestVa(a[1]));
    result.map(|value| value as u64)
}

#[inline(never)]
fn event_channel(vcpu: &'static Vcpu, a: &[u64; 6]) -> Outcome {
    let caller = event::Caller { events: &vcpu.domain.events, privileged: vcpu.domain.privileged };
    event::event_channel_op(&Machine, &Caller, caller, a[0] as u32, GuestVa(a[1])).map(|v| v as u64)
}

#[inline(never)]
fn vcpu_operation(vcpu: &'static Vcpu, a: &[u64; 6]) -> Outcome {
    let caller = VcpuCaller { events: &vcpu.domain.events, vcpu: VcpuId(vcpu.id) };
    vcpu_op(&Machine, &Caller, caller, a[0] as u32, a[1] as u32, GuestVa(a[2])).map(|v| v as u64)
}

#[inline(never)]
fn memory(vcpu: &'static Vcpu, a: &[u64; 6]) -> Outcome {
    memory_op(mmu(), &Caller, &caller(vcpu), a[0], GuestVa(a[1])).map(|v| v as u64)
}

#[inline(never)]
fn grant_table(vcpu: &'static Vcpu, a: &[u64; 6]) -> Outcome {
    let result =
        grant::grant_table_op(mmu(), &Caller, &caller(vcpu), a[0] as u32, GuestVa(a[1]), a[2] as u32);
    result.map(|v| v as u64)
}

/// A call that is not implemented is logged once a domain and number.
#[cold]
fn unknown(vcpu: &Vcpu, number: u32) -> CallError {
    if vcpu.domain.first_unknown(number) {
        let name = Hypercall::from_number(number).map_or("no such call", Hypercall::name);
        log::info!("d{}v{}: hypercall {number} ({name}) is not implemented", vcpu.domain.id.0, vcpu.id);
    }
    Errno::ENOSYS.into()
}

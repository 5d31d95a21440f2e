//! The hypercall door: number and arguments in registers, one result in rax.
//!
//! Facts: arguments in rdi, rsi, rdx, r10, r8, r9 (`arch-x86/xen-x86_64.h`); rcx and r11 are lost to SYSCALL.

use guest_abi::call::Hypercall;
use guest_abi::call::number::*;
use guest_abi::errno::Errno;
use hv_core::call::CallError;
use hv_core::event;
use hv_core::grant::grant_table_op;
use hv_core::memory_op::memory_op;
use hv_core::port::GuestSpace;
use hv_core::sched::sched_op;
use hv_core::vcpu::{VcpuCaller, vcpu_op};
use hv_pv::regs::Regs;
use hv_types::{GuestVa, VcpuId};
use zerocopy::{FromBytes, IntoBytes};

use crate::calls::{console, devices, entry_points, multicall, sysctl, version};
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

/// A hypercall of the running kernel.
#[inline(always)]
pub fn enter(regs: &mut Regs, vcpu: &'static Vcpu) {
    let number = number_of(regs.rax);
    if number == IRET {
        return entry_points::iret(regs, vcpu);
    }
    this_cpu().begin_call();
    let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
    match call(vcpu, number, &args) {
        Ok(value) => regs.rax = value,
        Err(error) => failed(regs, vcpu, error),
    }
}

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
#[inline]
pub fn call(vcpu: &'static Vcpu, number: u32, a: &[u64; 6]) -> Outcome {
    let space = &Caller;
    match number {
        MMU_UPDATE => {
            mmu().do_mmu_update(&caller(vcpu), space, GuestVa(a[0]), a[1] as u32, GuestVa(a[2]), a[3] as u32)
        }
        UPDATE_VA_MAPPING => mmu().do_update_va_mapping(&caller(vcpu), space, GuestVa(a[0]), a[1], a[2]),
        MMUEXT_OP => {
            mmu().do_mmuext_op(&caller(vcpu), space, GuestVa(a[0]), a[1] as u32, GuestVa(a[2]), a[3] as u32)
        }
        UPDATE_VA_MAPPING_OTHERDOMAIN => mmu().do_update_va_mapping_otherdomain(
            &caller(vcpu),
            space,
            GuestVa(a[0]),
            a[1],
            a[2],
            a[3] as u16,
        ),
        SET_GDT => mmu().do_set_gdt(&caller(vcpu), space, GuestVa(a[0]), a[1] as u32),
        UPDATE_DESCRIPTOR => mmu().do_update_descriptor(&caller(vcpu), a[0], a[1]),
        XEN_VERSION => version::xen_version(vcpu, a[0] as u32, a[1]),
        SET_TIMER_OP => {
            hub::set_timer_op(vcpu, a[0]);
            Ok(0)
        }
        SCHED_OP => {
            let result = sched_op(&Machine, space, hub::sched_caller(vcpu), a[0] as u32, GuestVa(a[1]));
            result.map(|value| value as u64)
        }
        EVENT_CHANNEL_OP => {
            let caller = event::Caller { events: &vcpu.domain.events, privileged: vcpu.domain.privileged };
            event::event_channel_op(&Machine, space, caller, a[0] as u32, GuestVa(a[1])).map(|v| v as u64)
        }
        VCPU_OP => {
            let caller = VcpuCaller { events: &vcpu.domain.events, vcpu: VcpuId(vcpu.id) };
            vcpu_op(&Machine, space, caller, a[0] as u32, a[1] as u32, GuestVa(a[2])).map(|v| v as u64)
        }
        PHYSDEV_OP => devices::physdev_op(vcpu, a[0] as u32, a[1]),
        PLATFORM_OP => devices::platform_op(vcpu, a[0]),
        MEMORY_OP => memory_op(&mmu(), space, &caller(vcpu), a[0], GuestVa(a[1])).map(|v| v as u64),
        GRANT_TABLE_OP => {
            let result =
                grant_table_op(&mmu(), space, &caller(vcpu), a[0] as u32, GuestVa(a[1]), a[2] as u32);
            result.map(|v| v as u64)
        }
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
        _ => Err(unknown(vcpu, number)),
    }
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

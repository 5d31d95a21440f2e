//! Where every entry arrives, and which path it takes.

use hv_pv::regs::{Mode, Regs};
use hv_pv::trap::{self, software_interrupt};
use hv_types::GuestVa;

use crate::calls::entry_points;
use crate::domain::{self, Crash};
use crate::guest::{self, Caller};
use crate::percpu::this_cpu;
use crate::vcpu::{Vcpu, current};
use crate::{cpu, deliver, emulate, hypercall, interrupt, paging, panic};

/// Lowest vector that is not an exception.
const FIRST_INTERRUPT: u8 = 0x20;
const LINUX_SYSCALL: u8 = 0x80;

/// Exceptions and interrupts.
pub extern "C" fn on_trap(regs: &mut Regs) {
    if regs.cs & 3 == 0 {
        return from_hypervisor(regs);
    }
    let vcpu = current();
    match regs.vector() {
        trap::PF => page_fault(regs, vcpu),
        trap::NMI => return interrupt::nmi(regs),
        trap::MC => return interrupt::machine_check(regs),
        8 => panic::fatal(regs, "double fault"),
        trap::GP => general_protection(regs, vcpu),
        trap::UD => invalid_opcode(regs, vcpu),
        trap::DB => debug(regs, vcpu),
        trap::NM => device_not_available(regs, vcpu),
        LINUX_SYSCALL => software(regs, vcpu, LINUX_SYSCALL, 0),
        vector @ 0..FIRST_INTERRUPT => {
            let error = trap::has_error_code(vector).then_some(regs.error_code);
            deliver::exception(regs, vcpu, vector, error);
        }
        vector => interrupt::handle(vector),
    }
    deliver::before_return(regs);
}

/// Traps in the hypervisor itself: an interrupt of an idle CPU, a foreseen fault, or our bug.
fn from_hypervisor(regs: &mut Regs) {
    const AC: u64 = 1 << 18;
    let vector = regs.vector();
    match vector {
        trap::NMI => interrupt::nmi(regs),
        trap::MC => interrupt::machine_check(regs),
        trap::DB => debug_in_hypervisor(),
        trap::PF if ldt_page_was_absent() => {}
        FIRST_INTERRUPT.. => interrupt::handle(vector),
        _ => match guest::fixup(regs.rip) {
            Some(to) => {
                this_cpu().last_fault.set((vector, regs.error_code));
                regs.rip = to;
                // The fault came between STAC and CLAC.
                regs.rflags &= !AC;
            }
            None => panic::fatal(regs, "exception in the hypervisor"),
        },
    }
}

/// A guest's breakpoint fired on an access that the hypervisor made for it. The guest may learn of it by its DR6; it is
/// no reason to stop anybody.
fn debug_in_hypervisor() {
    let dr6 = cpu::dr6();
    // SAFETY: clears the status for the next exception.
    unsafe { cpu::set_dr6(0xffff_0ff0) };
    if !this_cpu().current.load(core::sync::atomic::Ordering::Relaxed).is_null() {
        current().with_control(|c| c.debug.record(dr6));
    }
}

/// Loading a guest's selector, here or by IRET, reached a page of its LDT that was not mapped yet.
fn ldt_page_was_absent() -> bool {
    let address = cpu::cr2();
    GuestVa(address).is_hypervisor()
        && !this_cpu().current.load(core::sync::atomic::Ordering::Relaxed).is_null()
        && paging::fault_in_window(current(), address)
}

/// A hypercall other than `iret`. True: return by SYSRET.
pub extern "C" fn on_hypercall(regs: &mut Regs) -> bool {
    hypercall::enter(regs, current());
    after_hypercall(regs)
}

/// `iret`, where the way of [`quick`](crate::quick) did not do. True: return by SYSRET.
pub extern "C" fn on_iret(regs: &mut Regs) -> bool {
    entry_points::iret(regs, current());
    after_hypercall(regs)
}

/// SYSCALL in user mode, likewise.
pub extern "C" fn on_system_call(regs: &mut Regs) -> bool {
    deliver::system_call(regs, current());
    after_hypercall(regs)
}

/// What is left to do behind a hypercall. True: return by SYSRET.
#[inline]
pub extern "C" fn after_hypercall(regs: &mut Regs) -> bool {
    deliver::before_return(regs);
    may_sysret(regs)
}

/// A frame did not fit on the kernel's stack.
pub extern "C" fn on_kernel_stack_fault(regs: &mut Regs) {
    domain::crash(current(), regs, Crash::KernelStack);
    deliver::before_return(regs);
}

/// `mmu_update` with the one request at `list`. False if it is not of the ordinary kind, and nothing happened.
pub extern "C" fn one_update(list: u64, vcpu: &'static Vcpu) -> bool {
    match Caller.read_words::<2>(list) {
        Ok([pointer, value]) => paging::mmu().one_leaf_update(&paging::caller(vcpu), pointer, value),
        Err(_) => false,
    }
}

/// SYSRET restores only the flat 64-bit selectors, takes rcx and r11 away, and faults in ring 0 where the address
/// is not canonical.
#[inline(always)]
fn may_sysret(regs: &Regs) -> bool {
    let canonical = ((regs.rip as i64) << 16 >> 16) as u64 == regs.rip;
    regs.entry_vector & Regs::LAZY_RETURN != 0 && regs.cs == u64::from(crate::desc::GUEST_CS) && canonical
}

fn page_fault(regs: &mut Regs, vcpu: &'static Vcpu) {
    let address = cpu::cr2();
    if GuestVa(address).is_hypervisor() && paging::fault_in_window(vcpu, address) {
        return;
    }
    const FROM_USER: u32 = 4;
    if regs.error_code & FROM_USER == 0 && emulate::native_iret(regs) {
        return;
    }
    const WRITE_TO_PRESENT: u32 = 3;
    if regs.error_code & 0xb == WRITE_TO_PRESENT
        && vcpu.mode.get() == Mode::Kernel
        && paging::page_table_write(regs, vcpu, address)
    {
        return;
    }
    deliver::page_fault(regs, vcpu, address, regs.error_code);
}

/// #GP: an `INT n` of the guest if the error code says so, else an instruction that its kernel may not run here.
fn general_protection(regs: &mut Regs, vcpu: &'static Vcpu) {
    let error = regs.error_code;
    // External events aside, bit 1 says that the IDT was at fault.
    if error & 3 == 2 {
        let mut code = [0u8; 2];
        let fetched =
            Caller.read_u8(regs.rip).and_then(|a| Ok([a, Caller.read_u8(regs.rip.wrapping_add(1))?]));
        let known = fetched.is_ok();
        if let Ok(bytes) = fetched {
            code = bytes;
        }
        let (vector, len) = software_interrupt(error, if known { &code } else { &[] });
        return software(regs, vcpu, vector, u64::from(len));
    }
    if error == 0 && emulate::privileged(regs, vcpu) {
        return;
    }
    deliver::exception(regs, vcpu, trap::GP, Some(error));
}

/// `INT vector`: allowed by the guest's own gate, or a #GP as the processor would give.
fn software(regs: &mut Regs, vcpu: &'static Vcpu, vector: u8, len: u64) {
    let entry = vcpu.traps[usize::from(vector)].get();
    if entry.handler().is_some() && entry.allows_software_interrupt(vcpu.mode.get()) {
        regs.rip = regs.rip.wrapping_add(len);
        return deliver::exception(regs, vcpu, vector, None);
    }
    // The gate of INT 0x80 let it pass, so that RIP is behind the instruction already.
    if len == 0 {
        regs.rip = regs.rip.wrapping_sub(2);
    }
    deliver::exception(regs, vcpu, trap::GP, Some(u32::from(vector) << 3 | 2));
}

fn invalid_opcode(regs: &mut Regs, vcpu: &'static Vcpu) {
    if !emulate::forced(regs, vcpu) {
        deliver::exception(regs, vcpu, trap::UD, None);
    }
}

/// #DB: the guest's DR6 gathers what the processor reports.
fn debug(regs: &mut Regs, vcpu: &'static Vcpu) {
    const FIXED: u64 = 0xffff_0ff0;
    let dr6 = cpu::dr6();
    // SAFETY: clears the status for the next exception.
    unsafe { cpu::set_dr6(FIXED) };
    vcpu.with_control(|c| c.debug.record(dr6));
    deliver::exception(regs, vcpu, trap::DB, None);
}

/// An emulated instruction of a guest that single-steps has ended.
pub fn single_step(regs: &mut Regs, vcpu: &'static Vcpu) {
    vcpu.with_control(|c| c.debug.record(hv_pv::debug::STATUS_STEP));
    deliver::exception(regs, vcpu, trap::DB, None);
}

/// #NM: the guest set TS; the reference clears it before the guest hears of it.
fn device_not_available(regs: &mut Regs, vcpu: &'static Vcpu) {
    vcpu.set_task_switched(false);
    deliver::exception(regs, vcpu, trap::NM, None);
}

/// IRET refused the guest's frame: non-canonical address, or selectors that its tables do not offer.
pub extern "C" fn on_bad_iret(regs: &mut Regs) {
    // An NMI's or the idle loop's return never fails; the guest's registers lie in their usual place.
    if core::ptr::from_ref(regs) as u64 + size_of::<Regs>() as u64 != core::ptr::from_ref(this_cpu()) as u64 {
        panic::fatal(regs, "IRET failed inside the hypervisor");
    }
    // The guest gets what the processor said, as if its next instruction had raised it.
    let (vector, error) = this_cpu().last_fault.get();
    let error = trap::has_error_code(vector).then_some(error);
    deliver::exception(regs, current(), vector, error);
    deliver::before_return(regs);
}

/// SYSCALL from a 32-bit program.
pub extern "C" fn on_syscall32(regs: &mut Regs) {
    let vcpu = current();
    deliver::compat_call(regs, vcpu, vcpu.callbacks.syscall32.get(), (trap::UD, None));
    deliver::before_return(regs);
}

/// SYSENTER from user mode.
pub extern "C" fn on_sysenter(regs: &mut Regs) {
    let vcpu = current();
    deliver::compat_call(regs, vcpu, vcpu.callbacks.sysenter.get(), (trap::GP, Some(0)));
    deliver::before_return(regs);
}

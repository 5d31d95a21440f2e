//! Entering the guest's kernel: exceptions, callbacks, system calls; and the last look before every return.

use core::sync::atomic::Ordering;

use hv_pv::bounce::{self, BadStack, Frame, Origin};
use hv_pv::regs::{Mode, Regs};
use hv_pv::trap::{self, Event, Handler};

use crate::domain::{self, Crash};
use crate::guest::Caller;
use crate::percpu::this_cpu;
use crate::vcpu::{Vcpu, current};
use crate::work;

#[inline(always)]
fn origin<'a>(vcpu: &Vcpu, regs: &'a Regs) -> Origin<'a> {
    Origin {
        regs,
        mode: vcpu.mode.get(),
        kernel_sp: vcpu.kernel_sp.get(),
        upcall_mask: vcpu.upcall_mask(),
        iopl: vcpu.with_control(|c| c.shown_iopl()),
    }
}

/// Puts a planned frame on the guest's kernel stack, on its kernel's page table; answers the new stack pointer.
#[inline(always)]
fn store<const N: usize>(vcpu: &Vcpu, planned: Result<Frame<N>, BadStack>) -> Result<u64, Crash> {
    let frame = planned.map_err(|_| Crash::KernelStack)?;
    if vcpu.mode.get() == Mode::User {
        vcpu.toggle();
    }
    Caller.write_words(frame.sp, &frame.words).map_err(|_| Crash::KernelStack)?;
    Ok(frame.sp)
}

/// Gives exception `vector` to the guest.
#[inline]
pub fn exception(regs: &mut Regs, vcpu: &Vcpu, vector: u8, error: Option<u32>) {
    let Some(handler) = vcpu.traps[usize::from(vector)].get().handler() else {
        return domain::crash(vcpu, regs, Crash::NoHandler(vector));
    };
    let from = origin(vcpu, regs);
    let done = match error {
        Some(error) => store(vcpu, from.frame_with_error(error)),
        None => store(vcpu, from.frame()),
    };
    match done {
        Ok(sp) => {
            bounce::enter(regs, handler, sp);
            if handler.masks_events {
                vcpu.set_upcall_mask(1);
            }
        }
        Err(why) => domain::crash(vcpu, regs, why),
    }
}

/// Gives what a rule of `hv-pv` decided to the guest.
pub fn event(regs: &mut Regs, vcpu: &Vcpu, event: Event) {
    match event {
        Event::Plain(vector) => exception(regs, vcpu, vector, None),
        Event::GeneralProtection(error) => exception(regs, vcpu, trap::GP, Some(error)),
        Event::Stack(error) => exception(regs, vcpu, 12, Some(error)),
        Event::PageFault { address, error } => page_fault(regs, vcpu, address, error),
    }
}

/// Gives a page fault to the guest.
#[inline]
pub fn page_fault(regs: &mut Regs, vcpu: &Vcpu, address: u64, error: u32) {
    vcpu.set_cr2(address);
    let error = trap::page_fault_error(error, vcpu.mode.get());
    exception(regs, vcpu, trap::PF, Some(error));
}

/// Enters a callback of the guest's kernel; without one the domain crashes for `why`.
fn callback(regs: &mut Regs, vcpu: &Vcpu, handler: Option<Handler>, mask: bool, why: Crash) {
    let Some(handler) = handler else { return domain::crash(vcpu, regs, why) };
    let planned = origin(vcpu, regs).frame();
    match store(vcpu, planned) {
        Ok(sp) => {
            bounce::enter(regs, handler, sp);
            if mask || handler.masks_events {
                vcpu.set_upcall_mask(1);
            }
        }
        Err(why) => domain::crash(vcpu, regs, why),
    }
}

/// SYSCALL in user mode: enters the kernel's callback.
#[inline]
pub fn system_call(regs: &mut Regs, vcpu: &Vcpu) {
    let Some(handler) = vcpu.callbacks.syscall.get() else {
        // The reference answers with #UD where no callback is registered.
        return exception(regs, vcpu, trap::UD, None);
    };
    let planned = origin(vcpu, regs).frame();
    match store(vcpu, planned) {
        Ok(sp) => {
            bounce::enter_system_call(regs, handler, sp);
            if handler.masks_events {
                vcpu.set_upcall_mask(1);
            }
        }
        Err(why) => domain::crash(vcpu, regs, why),
    }
}

/// A system call of a 32-bit program; without a callback the instruction is refused with `(vector, error code)`. In
/// kernel mode such a call cannot be meant.
pub fn compat_call(regs: &mut Regs, vcpu: &Vcpu, handler: Option<Handler>, refused: (u8, Option<u32>)) {
    match handler {
        Some(handler) if vcpu.mode.get() == Mode::User => {
            callback(regs, vcpu, Some(handler), handler.masks_events, Crash::KernelStack);
        }
        _ => {
            // SYSCALL and SYSENTER are two bytes long; of a SYSENTER's address nothing is known.
            regs.rip = regs.rip.saturating_sub(2);
            exception(regs, vcpu, refused.0, refused.1);
        }
    }
}

/// An NMI for the guest's kernel.
pub fn nmi(regs: &mut Regs, vcpu: &Vcpu) {
    exception(regs, vcpu, trap::NMI, None);
}

/// The last look before a return to the guest: waiting work, then pending events.
#[inline(always)]
pub fn before_return(regs: &mut Regs) {
    loop {
        if this_cpu().work.load(Ordering::Relaxed) != 0 {
            work::run(regs);
        }
        let vcpu = current();
        if !vcpu.wants_upcall() {
            return;
        }
        upcall(regs, vcpu);
    }
}

#[inline(never)]
fn upcall(regs: &mut Regs, vcpu: &Vcpu) {
    callback(regs, vcpu, vcpu.callbacks.event.get(), true, Crash::NoEventCallback);
}

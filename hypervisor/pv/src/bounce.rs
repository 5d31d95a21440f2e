//! Giving a trap to the guest's kernel: the frame on its stack and the registers it continues with.
//!
//! Facts: `xen-asm.S` of Linux pops `rcx` and `r11` and finds the processor's own frame below; the saved event mask
//! is a byte of the `cs` word (`struct cpu_user_regs`, `arch-x86/xen-x86_64.h`). Nothing changes before the frame is
//! on the guest's stack: [`Origin::frame`] plans, [`enter`] commits and cannot fail.

use guest_abi::x86_64::{FLAT_KERNEL_CS, FLAT_KERNEL_SS, HYPERVISOR_VIRT_END};

use crate::regs::{Mode, Regs, flags};
use crate::trap::Handler;

/// End of the lower half.
const LOWER_HALF_END: u64 = 0x0000_8000_0000_0000;

/// The guest's kernel stack lies in the hypervisor's range or is not canonical. The domain is crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadStack;

/// What a vCPU was doing when it trapped, as far as its kernel is told.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The interrupted registers.
    pub regs: &'a Regs,
    /// Which side of the guest they belong to.
    pub mode: Mode,
    /// The stack that `stack_switch` named, used when leaving user mode.
    pub kernel_sp: u64,
    /// The vCPU's event mask (`evtchn_upcall_mask`), read once.
    pub upcall_mask: u8,
    /// The I/O privilege level to show, in the place RFLAGS has it: zero unless the guest asked for the assist.
    pub iopl: u64,
}

/// Words for the guest's stack, lowest address first: `rcx`, `r11`, the error code if there is one, `rip`, `cs` with
/// the event mask, `rflags`, `rsp`, `ss`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<const N: usize> {
    /// Where the first word goes, and the guest's new stack pointer.
    pub sp: u64,
    /// The words.
    pub words: [u64; N],
}

impl Origin<'_> {
    /// The frame of an event, a callback, or an exception without an error code.
    #[inline(always)]
    pub fn frame(&self) -> Result<Frame<7>, BadStack> {
        let sp = self.stack(7)?;
        let [rip, cs, rflags, rsp, ss] = self.iret_words();
        Ok(Frame { sp, words: [self.regs.rcx, self.regs.r11, rip, cs, rflags, rsp, ss] })
    }

    /// The frame of an exception with an error code.
    #[inline(always)]
    pub fn frame_with_error(&self, error: u32) -> Result<Frame<8>, BadStack> {
        let sp = self.stack(8)?;
        let [rip, cs, rflags, rsp, ss] = self.iret_words();
        Ok(Frame { sp, words: [self.regs.rcx, self.regs.r11, error as u64, rip, cs, rflags, rsp, ss] })
    }

    /// The frame of the failsafe callback, which hears that a segment selector could not be loaded: it has what the
    /// selectors were (ds, es, fs, gs) behind `r11`. A return that the processor refuses is not its business; that is
    /// the refused context's own exception.
    #[cold]
    pub fn frame_with_segments(&self, segments: [u16; 4]) -> Result<Frame<11>, BadStack> {
        let sp = self.stack(11)?;
        let [ds, es, fs, gs] = segments.map(u64::from);
        let [rip, cs, rflags, rsp, ss] = self.iret_words();
        Ok(Frame { sp, words: [self.regs.rcx, self.regs.r11, ds, es, fs, gs, rip, cs, rflags, rsp, ss] })
    }

    /// The stack pointer below `words` words. No word of the frame lies in the hypervisor's range.
    #[inline(always)]
    fn stack(&self, words: u64) -> Result<u64, BadStack> {
        let top = match self.mode {
            Mode::Kernel => self.regs.rsp,
            Mode::User => self.kernel_sp,
        };
        let sp = (top & !15).wrapping_sub(words * 8);
        if sp >= HYPERVISOR_VIRT_END || sp <= LOWER_HALF_END - words * 8 { Ok(sp) } else { Err(BadStack) }
    }

    #[inline(always)]
    fn iret_words(&self) -> [u64; 5] {
        let regs = self.regs;
        // A selector of ring 0 tells the guest that its kernel was interrupted.
        let cs = match self.mode {
            Mode::Kernel => regs.cs & 0xfffc,
            Mode::User => regs.cs & 0xffff,
        };
        let enabled = if self.upcall_mask == 0 { flags::IF } else { 0 };
        let shown = regs.rflags & 0xffff_ffff & !(flags::IF | flags::IOPL);
        [
            regs.rip,
            cs | (self.upcall_mask as u64) << 32,
            shown | enabled | self.iopl,
            regs.rsp,
            regs.ss & 0xffff,
        ]
    }
}

/// Flags that the kernel does not inherit from what was interrupted.
pub const CLEARED: u64 = flags::AC | flags::VM | flags::RF | flags::NT | flags::TF;

/// Sends the guest to `handler` on the stack at `sp` (of a [`Frame`] that has been stored).
///
/// The caller sets the event mask if the handler masks events, and is on the kernel's page table.
#[inline(always)]
pub fn enter(regs: &mut Regs, handler: Handler, sp: u64) {
    regs.entry_vector |= Regs::LAZY_RETURN;
    regs.rip = handler.address();
    regs.cs = FLAT_KERNEL_CS as u64;
    regs.rflags &= !CLEARED;
    regs.rsp = sp;
    regs.ss = FLAT_KERNEL_SS as u64;
}

/// Like [`enter`] for the system-call callbacks: the direction flag is cleared as well, as the guest's virtual
/// SYSCALL mask says.
#[inline(always)]
pub fn enter_system_call(regs: &mut Regs, handler: Handler, sp: u64) {
    enter(regs, handler, sp);
    regs.rflags &= !flags::DF;
}

#[cfg(test)]
#[path = "bounce_tests.rs"]
mod tests;

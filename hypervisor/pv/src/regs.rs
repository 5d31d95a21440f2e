//! The registers of an interrupted guest, as the entry code leaves them on the hypervisor's stack.

/// RFLAGS bits that the rules speak of.
pub mod flags {
    /// Single step.
    pub const TF: u64 = 1 << 8;
    /// Interrupts on. Always set in a running guest; the guest's own wish is the event mask.
    pub const IF: u64 = 1 << 9;
    /// String operations run downwards.
    pub const DF: u64 = 1 << 10;
    /// I/O privilege level. Always zero in a running guest.
    pub const IOPL: u64 = 3 << 12;
    /// Nested task.
    pub const NT: u64 = 1 << 14;
    /// Resume: suppresses one instruction breakpoint.
    pub const RF: u64 = 1 << 16;
    /// Virtual 8086 mode. Never set in long mode.
    pub const VM: u64 = 1 << 17;
    /// Alignment check.
    pub const AC: u64 = 1 << 18;
}

/// Whether the guest was running its kernel or its user programs; both are ring 3 for the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// On the kernel's page table.
    Kernel,
    /// On the user page table.
    User,
}

/// General registers and the processor's trap frame, lowest address first.
///
/// The order is the entry code's: it pushes `r9` first and `r15` last, below the frame that the processor pushed. From
/// `rdi` to `r9` they are the arguments of a hypercall, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub rcx: u64,
    pub rax: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub r10: u64,
    pub r8: u64,
    pub r9: u64,
    /// The processor's error code, or zero.
    pub error_code: u32,
    /// Vector in the low byte, and [`Regs::LAZY_RETURN`].
    pub entry_vector: u32,
    pub rip: u64,
    /// Selector in the low 16 bits, the rest zero.
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    /// Selector in the low 16 bits, the rest zero.
    pub ss: u64,
}

impl Regs {
    /// Bit of `entry_vector`: the guest does not rely on `rcx` and `r11`, so that SYSRET may return to it.
    ///
    /// Set by the system-call entry and by every bounce; cleared by an `iret` that restores both registers.
    /// SYSRET also needs a canonical `rip` and the flat selectors, which the return path checks.
    pub const LAZY_RETURN: u32 = 0x100;

    /// The code selector.
    #[inline(always)]
    pub const fn cs(&self) -> u16 {
        self.cs as u16
    }

    /// The stack selector.
    #[inline(always)]
    pub const fn ss(&self) -> u16 {
        self.ss as u16
    }

    /// The vector that entered the hypervisor.
    #[inline(always)]
    pub const fn vector(&self) -> u8 {
        self.entry_vector as u8
    }

    /// The 64-bit register numbered as instructions number it (0 is rax, 4 rsp, 15 r15); taken modulo 16.
    #[inline]
    pub const fn gpr(&self, number: u8) -> u64 {
        match number & 15 {
            0 => self.rax,
            1 => self.rcx,
            2 => self.rdx,
            3 => self.rbx,
            4 => self.rsp,
            5 => self.rbp,
            6 => self.rsi,
            7 => self.rdi,
            8 => self.r8,
            9 => self.r9,
            10 => self.r10,
            11 => self.r11,
            12 => self.r12,
            13 => self.r13,
            14 => self.r14,
            _ => self.r15,
        }
    }

    /// Writable form of [`Regs::gpr`].
    #[inline]
    pub const fn gpr_mut(&mut self, number: u8) -> &mut u64 {
        match number & 15 {
            0 => &mut self.rax,
            1 => &mut self.rcx,
            2 => &mut self.rdx,
            3 => &mut self.rbx,
            4 => &mut self.rsp,
            5 => &mut self.rbp,
            6 => &mut self.rsi,
            7 => &mut self.rdi,
            8 => &mut self.r8,
            9 => &mut self.r9,
            10 => &mut self.r10,
            11 => &mut self.r11,
            12 => &mut self.r12,
            13 => &mut self.r13,
            14 => &mut self.r14,
            _ => &mut self.r15,
        }
    }

    /// Writes a register as an instruction with an operand of `bytes` (1, 2, 4 or 8) does: 32-bit results clear the
    /// upper half, narrower ones keep what surrounds them. Byte registers are numbered as with a REX prefix.
    #[inline]
    pub const fn set_gpr_sized(&mut self, number: u8, bytes: u8, value: u64) {
        let slot = self.gpr_mut(number);
        *slot = match bytes {
            1 => (*slot & !0xff) | (value & 0xff),
            2 => (*slot & !0xffff) | (value & 0xffff),
            4 => value & 0xffff_ffff,
            _ => value,
        };
    }

    /// True if the guest asked for a trap after each instruction.
    #[inline(always)]
    pub const fn single_steps(&self) -> bool {
        self.rflags & flags::TF != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn the_layout_is_the_entry_codes() {
        assert_eq!(offset_of!(Regs, r15), 0);
        assert_eq!(offset_of!(Regs, r11), 48);
        assert_eq!(offset_of!(Regs, rdi), 72);
        assert_eq!(offset_of!(Regs, r9), 72 + 5 * 8);
        assert_eq!(offset_of!(Regs, error_code), 120);
        assert_eq!(offset_of!(Regs, entry_vector), 124);
        assert_eq!(offset_of!(Regs, rip), 128);
        assert_eq!(size_of::<Regs>(), 168);
    }

    #[test]
    fn every_number_names_a_register_of_its_own() {
        let mut regs = Regs::default();
        for n in 0..16 {
            *regs.gpr_mut(n) = u64::from(n) + 100;
        }
        for n in 0..16 {
            assert_eq!(regs.gpr(n), u64::from(n) + 100);
        }
        assert_eq!((regs.rax, regs.rbx, regs.rsp, regs.rdi, regs.r15), (100, 103, 104, 107, 115));
    }

    #[test]
    fn narrow_writes_keep_what_the_processor_keeps() {
        let mut regs = Regs { rax: u64::MAX, rcx: u64::MAX, rdx: u64::MAX, ..Regs::default() };
        regs.set_gpr_sized(0, 1, 0x12);
        regs.set_gpr_sized(1, 2, 0x1234);
        regs.set_gpr_sized(2, 4, 0x1_2345_6789);
        assert_eq!(regs.rax, 0xffff_ffff_ffff_ff12);
        assert_eq!(regs.rcx, 0xffff_ffff_ffff_1234);
        assert_eq!(regs.rdx, 0x2345_6789);
    }
}

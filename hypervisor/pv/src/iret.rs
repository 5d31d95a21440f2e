//! `HYPERVISOR_iret`: the frame that a guest's kernel leaves on its stack, and what it makes of the registers.
//!
//! Facts: `struct iret_context` and its comment in `arch-x86/xen-x86_64.h`; Linux's `xen_iret`.

use guest_abi::x86_64::VGCF_IN_SYSCALL;

use crate::regs::{Mode, Regs, flags};

/// The nine words at the guest's `rsp`, read once: `rax`, `r11`, `rcx`, `flags`, `rip`, `cs`, `rflags`, `rsp`, `ss`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IretFrame(pub [u64; 9]);

impl IretFrame {
    /// The side of the guest that continues: a selector of ring 3 is user mode.
    ///
    /// A guest that names user mode and has no user page table is crashed, before anything changes.
    #[inline(always)]
    pub const fn mode(&self) -> Mode {
        if self.0[5] & 3 == 3 { Mode::User } else { Mode::Kernel }
    }

    /// The event mask to restore (0 or 1).
    #[inline(always)]
    pub const fn upcall_mask(&self) -> u8 {
        (self.0[6] & flags::IF == 0) as u8
    }

    /// The virtual I/O privilege level to restore when the guest has the assist, in its RFLAGS place.
    #[inline(always)]
    pub const fn iopl(&self) -> u64 {
        self.0[6] & flags::IOPL
    }

    /// Restores the registers. Ring 3, interrupts on and IOPL 0 are forced, whatever the frame says.
    ///
    /// `rip` may be non-canonical and the selectors may be anything of ring 3: a fault while returning is the
    /// guest's, by its failsafe callback.
    #[inline(always)]
    pub fn apply(&self, regs: &mut Regs) {
        let [rax, r11, rcx, context, rip, cs, rflags, rsp, ss] = self.0;
        regs.rax = rax;
        regs.rip = rip;
        regs.cs = cs & 0xffff | 3;
        regs.rflags = rflags & 0xffff_ffff & !(flags::IOPL | flags::VM) | flags::IF | 2;
        regs.rsp = rsp;
        regs.ss = ss & 0xffff | 3;
        if context & VGCF_IN_SYSCALL == 0 {
            regs.entry_vector &= !Regs::LAZY_RETURN;
            regs.r11 = r11;
            regs.rcx = rcx;
        }
    }
}

/// The five words that the processor's own IRET takes: `rip`, `cs`, `rflags`, `rsp`, `ss`.
///
/// A guest's kernel may use it to stay in its ring; Linux does so to serialise. The processor does that without help,
/// except that QEMU before 8 takes the stack for the hypervisor's and faults where SMAP is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NativeIret(pub [u64; 5]);

impl NativeIret {
    /// Flags that ring 3 cannot change by IRET.
    const KEPT: u64 = flags::IOPL | flags::IF | flags::VM;

    /// Does what the instruction does in ring 3. False, and nothing changes, where the processor would refuse: the
    /// selectors are not of ring 3, or the address is not canonical.
    pub fn apply(&self, regs: &mut Regs) -> bool {
        let [rip, cs, rflags, rsp, ss] = self.0;
        let canonical = ((rip as i64) << 16 >> 16) as u64 == rip;
        if cs & 3 != 3 || ss & 3 != 3 || !canonical {
            return false;
        }
        regs.entry_vector &= !Regs::LAZY_RETURN;
        regs.rip = rip;
        regs.cs = cs & 0xffff;
        regs.rflags = rflags & 0xffff_ffff & !Self::KEPT | regs.rflags & Self::KEPT | 2;
        regs.rsp = rsp;
        regs.ss = ss & 0xffff;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(context: u64, cs: u64, rflags: u64) -> IretFrame {
        IretFrame([0xa, 0xb, 0xc, context, 0x40_1000, cs, rflags, 0x7fff_0000, 0x2b])
    }

    #[test]
    fn a_return_to_user_mode_restores_all_and_unmasks() {
        let iret = frame(0, 0x33, 0x246);
        assert_eq!((iret.mode(), iret.upcall_mask()), (Mode::User, 0));
        let mut regs = Regs { entry_vector: Regs::LAZY_RETURN, ..Regs::default() };
        iret.apply(&mut regs);
        assert_eq!((regs.rax, regs.r11, regs.rcx), (0xa, 0xb, 0xc));
        assert_eq!(
            (regs.rip, regs.cs, regs.rflags, regs.rsp, regs.ss),
            (0x40_1000, 0x33, 0x246, 0x7fff_0000, 0x2b)
        );
        assert_eq!(regs.entry_vector, 0);
    }

    #[test]
    fn a_return_to_the_kernel_keeps_ring_three_and_the_mask() {
        let iret = frame(0, 0xe030, 0x46);
        assert_eq!((iret.mode(), iret.upcall_mask()), (Mode::Kernel, 1));
        let mut regs = Regs::default();
        iret.apply(&mut regs);
        assert_eq!((regs.cs, regs.rflags), (0xe033, 0x246));
    }

    #[test]
    fn a_system_call_return_discards_rcx_and_r11() {
        let mut regs = Regs { entry_vector: Regs::LAZY_RETURN, r11: 1, rcx: 2, ..Regs::default() };
        frame(VGCF_IN_SYSCALL, 0x33, 0x202).apply(&mut regs);
        assert_eq!((regs.r11, regs.rcx, regs.entry_vector), (1, 2, Regs::LAZY_RETURN));
    }

    #[test]
    fn the_processors_own_iret_keeps_ring_and_interrupts() {
        let mut regs = Regs { rflags: 0x246, ..Regs::default() };
        assert!(NativeIret([0x40_1000, 0xe033, 0x3046, 0x7000, 0xe02b]).apply(&mut regs));
        assert_eq!((regs.rip, regs.cs, regs.rflags, regs.rsp), (0x40_1000, 0xe033, 0x246, 0x7000));
        let before = regs;
        assert!(!NativeIret([0x40_1000, 0xe030, 0x46, 0x7000, 0xe02b]).apply(&mut regs), "ring 0");
        assert!(!NativeIret([1 << 47, 0xe033, 0x46, 0x7000, 0xe02b]).apply(&mut regs), "not canonical");
        assert_eq!(regs, before);
    }

    proptest! {
        #[test]
        fn no_frame_gives_privilege(words in any::<[u64; 9]>()) {
            let mut regs = Regs::default();
            IretFrame(words).apply(&mut regs);
            prop_assert_eq!((regs.cs & 3, regs.ss & 3), (3, 3));
            prop_assert!(regs.cs <= 0xffff && regs.ss <= 0xffff);
            prop_assert_eq!(regs.rflags & (flags::IOPL | flags::VM | flags::IF), flags::IF);
        }
    }
}

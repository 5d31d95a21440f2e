//! String instructions (STOS, MOVS) of a guest's kernel that write a page table, one element at a time.
//!
//! A repeated instruction is done as the processor does it between two interrupts: one element, the counter and the
//! pointers moved on, and the instruction runs again while the counter is not zero.

use hv_types::{GuestVa, PAGE_SHIFT};

use crate::ptwr::{EntryWrite, NotEmulated};
use crate::regs::{Regs, flags};

/// A decoded string write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringWrite {
    address: GuestVa,
    bytes: u8,
    length: u8,
    repeated: bool,
    moves: bool,
}

impl StringWrite {
    /// Decodes the instruction at the start of `code` (64-bit mode), which faulted writing to `fault`.
    pub fn decode(code: &[u8], regs: &Regs, fault: GuestVa) -> Result<StringWrite, NotEmulated> {
        let (mut at, mut repeated, mut wide, mut narrow) = (0, false, false, false);
        let opcode = loop {
            let byte = *code.get(at).ok_or(NotEmulated::Unknown)?;
            at += 1;
            match byte {
                0xf2 | 0xf3 => repeated = true,
                0x66 => narrow = true,
                0x40..=0x4f => {
                    wide = byte & 8 != 0;
                    // REX stands directly before the opcode.
                    let opcode = *code.get(at).ok_or(NotEmulated::Unknown)?;
                    at += 1;
                    break opcode;
                }
                opcode => break opcode,
            }
            if at > crate::emulate::decode::MAX_LENGTH {
                return Err(NotEmulated::Unknown);
            }
        };
        let (moves, one) = match opcode {
            0xa4 => (true, true),
            0xa5 => (true, false),
            0xaa => (false, true),
            0xab => (false, false),
            _ => return Err(NotEmulated::Unknown),
        };
        let bytes = match (one, wide, narrow) {
            (true, _, _) => 1,
            (false, true, _) => 8,
            (false, false, true) => 2,
            (false, false, false) => 4,
        };
        let aligned = regs.rdi & (u64::from(bytes) - 1) == 0;
        if !aligned || (regs.rdi ^ fault.0) >> PAGE_SHIFT != 0 || repeated && regs.rcx == 0 {
            return Err(NotEmulated::Elsewhere);
        }
        Ok(StringWrite { address: GuestVa(regs.rdi), bytes, length: at as u8, repeated, moves })
    }

    /// Where MOVS reads, and how many bytes; nothing for STOS, which stores RAX.
    pub fn source(&self, regs: &Regs) -> Option<(GuestVa, usize)> {
        self.moves.then_some((GuestVa(regs.rsi), usize::from(self.bytes)))
    }

    /// The write of one element with `value`.
    pub fn element(&self, value: u64) -> EntryWrite {
        EntryWrite::store(self.address, self.bytes, value)
    }

    /// Registers after that element. True if a single-step trap follows.
    pub fn retire(&self, regs: &mut Regs) -> bool {
        let step = u64::from(self.bytes);
        let step = if regs.rflags & flags::DF != 0 { step.wrapping_neg() } else { step };
        regs.rdi = regs.rdi.wrapping_add(step);
        if self.moves {
            regs.rsi = regs.rsi.wrapping_add(step);
        }
        if self.repeated {
            regs.rcx = regs.rcx.wrapping_sub(1);
        }
        if !self.repeated || regs.rcx == 0 {
            regs.rip = regs.rip.wrapping_add(u64::from(self.length));
            regs.rflags &= !flags::RF;
        }
        regs.single_steps()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 0xffff_8880_0123_4000;

    fn regs() -> Regs {
        Regs {
            rdi: PAGE + 8,
            rsi: 0x5000,
            rcx: 2,
            rax: 0x1234,
            rip: 0x1000,
            rflags: 0x202,
            ..Regs::default()
        }
    }

    #[test]
    fn a_repeated_store_goes_on_until_the_counter_is_zero() {
        let mut r = regs();
        let code = [0xf3, 0x48, 0xab];
        let write = StringWrite::decode(&code, &r, GuestVa(PAGE + 8)).unwrap();
        assert_eq!(write.source(&r), None);
        assert_eq!(write.element(r.rax).unconditional(), Some(0x1234));
        assert!(!write.retire(&mut r));
        assert_eq!((r.rdi, r.rcx, r.rip), (PAGE + 16, 1, 0x1000));
        let write = StringWrite::decode(&code, &r, GuestVa(PAGE + 16)).unwrap();
        write.retire(&mut r);
        assert_eq!((r.rdi, r.rcx, r.rip), (PAGE + 24, 0, 0x1003));
    }

    #[test]
    fn a_move_reads_and_goes_downwards_if_told() {
        let mut r = Regs { rflags: 0x602, ..regs() };
        let write = StringWrite::decode(&[0xa5], &r, GuestVa(PAGE + 8)).unwrap();
        assert_eq!(write.source(&r), Some((GuestVa(0x5000), 4)));
        assert_eq!(write.element(0xaabb_ccdd).entry(0x1111_2222_3333_4444), Some(0x1111_2222_aabb_ccdd));
        write.retire(&mut r);
        assert_eq!((r.rdi, r.rsi, r.rcx, r.rip), (PAGE + 4, 0x4ffc, 2, 0x1001));
    }

    #[test]
    fn what_is_elsewhere_or_no_string_write_is_refused() {
        let r = Regs { rdi: PAGE + 9, ..regs() };
        assert_eq!(StringWrite::decode(&[0x48, 0xab], &r, GuestVa(PAGE)), Err(NotEmulated::Elsewhere));
        assert_eq!(
            StringWrite::decode(&[0x48, 0xab], &regs(), GuestVa(PAGE + 4096)),
            Err(NotEmulated::Elsewhere)
        );
        assert_eq!(StringWrite::decode(&[0x90], &regs(), GuestVa(PAGE)), Err(NotEmulated::Unknown));
        assert_eq!(StringWrite::decode(&[0xf3; 16], &regs(), GuestVa(PAGE)), Err(NotEmulated::Unknown));
        assert_eq!(StringWrite::decode(&[], &regs(), GuestVa(PAGE)), Err(NotEmulated::Unknown));
    }
}

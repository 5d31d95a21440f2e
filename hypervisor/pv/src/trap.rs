//! The guest's trap table: what `set_trap_table` and `callback_op` may register, and which handler a vector has.
//!
//! Facts: `struct trap_info`, `TI_GET_DPL` and `TI_GET_IF` of the public header `arch-x86/xen.h`.

use core::mem::offset_of;
use core::num::NonZeroU64;
use guest_abi::x86_64::{FLAT_KERNEL_CS, TI_DPL_MASK, TI_MASK_EVENTS};
use hv_types::GuestVa;

use crate::regs::Mode;

/// Vectors for which the processor supplies an error code: #DF, #TS, #NP, #SS, #GP, #PF, #AC.
const WITH_ERROR_CODE: u32 = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17;

/// Debug exception.
pub const DB: u8 = 1;
/// Non-maskable interrupt.
pub const NMI: u8 = 2;
/// Invalid opcode.
pub const UD: u8 = 6;
/// Device not available.
pub const NM: u8 = 7;
/// General protection.
pub const GP: u8 = 13;
/// Page fault.
pub const PF: u8 = 14;
/// Machine check.
pub const MC: u8 = 18;

/// True if the frame of exception `vector` carries an error code.
#[inline(always)]
pub const fn has_error_code(vector: u8) -> bool {
    vector < 32 && WITH_ERROR_CODE & (1 << vector) != 0
}

/// An exception that a rule decided to give the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A vector without an error code.
    Plain(u8),
    /// #GP with its error code.
    GeneralProtection(u32),
    /// #SS with its error code.
    Stack(u32),
    /// #PF: the address for CR2, and its error code without the user bit, which the bounce adds.
    PageFault {
        /// First byte that could not be reached.
        address: u64,
        /// Bits of the processor's error code (1 write, 4 fetch).
        error: u32,
    },
}

impl Event {
    /// The vector to look up.
    #[inline]
    pub const fn vector(self) -> u8 {
        match self {
            Event::Plain(vector) => vector,
            Event::GeneralProtection(_) => GP,
            Event::Stack(_) => 12,
            Event::PageFault { .. } => PF,
        }
    }
}

/// Bit of a page fault's error code: the access came from user mode.
pub const PF_USER: u32 = 1 << 2;

/// The page-fault error code as the guest must see it: both of its modes are user mode for the processor.
#[inline(always)]
pub const fn page_fault_error(error: u32, mode: Mode) -> u32 {
    match mode {
        Mode::Kernel => error & !PF_USER,
        Mode::User => error | PF_USER,
    }
}

/// Where a bounce goes: an address that is canonical and not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handler {
    address: NonZeroU64,
    /// Events are masked on the way in (an interrupt gate).
    pub masks_events: bool,
}

/// The address is not canonical: `-EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotCanonical;

impl Handler {
    /// Where the address is, for the entry code.
    pub const ADDRESS: usize = offset_of!(Handler, address);
    /// Where the flag is, for the entry code.
    pub const MASKS_EVENTS: usize = offset_of!(Handler, masks_events);

    /// The checkpoint for every address that a guest registers as a callback. `Ok(None)` means none, by the zero
    /// address.
    #[inline]
    pub const fn new(address: GuestVa, masks_events: bool) -> Result<Option<Handler>, NotCanonical> {
        if !address.is_canonical() {
            return Err(NotCanonical);
        }
        match NonZeroU64::new(address.0) {
            None => Ok(None),
            Some(address) => Ok(Some(Handler { address, masks_events })),
        }
    }

    /// Where the guest continues.
    #[inline(always)]
    pub const fn address(self) -> u64 {
        self.address.get()
    }
}

/// One entry of the guest's virtual IDT, as the guest registered it after the fix-ups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrapEntry {
    address: u64,
    cs: u16,
    flags: u8,
}

impl TrapEntry {
    /// Where the address is, for the entry code; zero is none.
    pub const ADDRESS: usize = offset_of!(TrapEntry, address);
    /// Where the flags are, for the entry code.
    pub const FLAGS: usize = offset_of!(TrapEntry, flags);
    /// No handler.
    pub const EMPTY: TrapEntry = TrapEntry { address: 0, cs: 0, flags: 0 };

    /// The checkpoint for an entry of `set_trap_table`: the address must be canonical, the selector's RPL is raised to
    /// the guest's.
    #[inline]
    pub const fn new(flags: u8, cs: u16, address: GuestVa) -> Result<TrapEntry, NotCanonical> {
        if !address.is_canonical() {
            return Err(NotCanonical);
        }
        Ok(TrapEntry { address: address.0, cs: cs | 3, flags })
    }

    /// The entry that `CALLBACKTYPE_nmi` registers: events masked, on the flat code segment.
    pub const fn nmi(address: GuestVa) -> Result<TrapEntry, NotCanonical> {
        TrapEntry::new(TI_MASK_EVENTS, FLAT_KERNEL_CS, address)
    }

    /// The handler, if there is one.
    #[inline(always)]
    pub const fn handler(&self) -> Option<Handler> {
        match NonZeroU64::new(self.address) {
            None => None,
            Some(address) => Some(Handler { address, masks_events: self.flags & TI_MASK_EVENTS != 0 }),
        }
    }

    /// True if the guest may reach this entry by `INT n` from `mode`. Zero lets nobody, as in the reference.
    #[inline]
    pub const fn allows_software_interrupt(&self, mode: Mode) -> bool {
        let dpl = self.flags & TI_DPL_MASK;
        match mode {
            Mode::Kernel => dpl >= 1,
            Mode::User => dpl == 3,
        }
    }

    /// Address, selector and flags, for `getvcpucontext` and saved state.
    pub const fn parts(&self) -> (u64, u16, u8) {
        (self.address, self.cs, self.flags)
    }
}

/// The vector and the length of the `INT n` that raised #GP with an IDT error code.
///
/// `code` is what could be fetched at the guest's RIP. The instruction says the vector on every machine; an error
/// code does not (QEMU before 8 scales it by 16).
#[inline]
pub const fn software_interrupt(error_code: u32, code: &[u8]) -> (u8, u8) {
    match code {
        [0xcd, vector, ..] => (*vector, 2),
        _ => ((error_code >> 3) as u8, 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canonical_address_registers_and_another_does_not() {
        let entry = TrapEntry::new(4 | 3, 0xe030, GuestVa(0xffff_ffff_8100_0000)).unwrap();
        assert_eq!(entry.parts(), (0xffff_ffff_8100_0000, 0xe033, 7));
        assert!(entry.handler().unwrap().masks_events);
        assert_eq!(TrapEntry::new(0, 0xe033, GuestVa(1 << 47)), Err(NotCanonical));
        assert_eq!(Handler::new(GuestVa(1 << 63), false), Err(NotCanonical));
        assert_eq!(Handler::new(GuestVa(0), true), Ok(None));
        assert_eq!(Handler::new(GuestVa(0x1000), true).unwrap().unwrap().address(), 0x1000);
    }

    #[test]
    fn int_n_obeys_the_dpl() {
        let at = |dpl| TrapEntry::new(dpl, 0xe033, GuestVa(0x1000)).unwrap();
        assert!(!at(0).allows_software_interrupt(Mode::Kernel));
        assert!(at(1).allows_software_interrupt(Mode::Kernel));
        assert!(!at(1).allows_software_interrupt(Mode::User));
        assert!(at(3).allows_software_interrupt(Mode::User));
    }

    #[test]
    fn the_instruction_names_the_vector_before_the_error_code_does() {
        assert_eq!(software_interrupt(0x20 * 16 + 2, &[0xcd, 0x20]), (0x20, 2));
        assert_eq!(software_interrupt(0x20 * 8 + 2, &[]), (0x20, 2));
    }

    #[test]
    fn only_seven_exceptions_carry_an_error_code() {
        let with: Vec<u8> = (0..=255).filter(|v| has_error_code(*v)).collect();
        assert_eq!(with, [8, 10, 11, 12, 13, 14, 17]);
    }

    #[test]
    fn the_user_bit_is_the_guests_and_not_the_processors() {
        assert_eq!(page_fault_error(0b111, Mode::Kernel), 0b011);
        assert_eq!(page_fault_error(0b010, Mode::User), 0b110);
    }
}

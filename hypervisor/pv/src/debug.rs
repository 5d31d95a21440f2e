//! Debug registers: what a guest may put in them, for `set_debugreg` and for MOV to DR alike.

use guest_abi::Errno;
use hv_types::GuestVa;

use crate::trap::{Event, UD};

/// DR6 bits that read as one.
const STATUS_ONES: u64 = 0xffff_0ff0;
/// DR6 bits that can be set, with those that read as one.
const STATUS_MASK: u64 = 0xffff_efff;
/// DR7 bit that reads as one.
const CONTROL_ONES: u64 = 1 << 10;
/// DR7 bits that can be set.
const CONTROL_MASK: u64 = 0xffff_27ff;
/// General detect would trap the hypervisor's own accesses.
const GENERAL_DETECT: u64 = 1 << 13;
/// Local and global enables of the four breakpoints.
const ACTIVE: u64 = 0xff;
/// DR6: a single step caused the exception.
pub const STATUS_STEP: u64 = 1 << 14;

/// Why a value is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugError {
    /// No such register (DR4 and DR5 with CR4.DE).
    Absent,
    /// Reserved bits.
    Reserved,
    /// A breakpoint in the hypervisor, general detect, or an I/O breakpoint without CR4.DE.
    Forbidden,
}

impl DebugError {
    /// The exception that the instruction raises.
    pub const fn event(self) -> Event {
        match self {
            DebugError::Absent => Event::Plain(UD),
            DebugError::Reserved | DebugError::Forbidden => Event::GeneralProtection(0),
        }
    }
}

impl From<DebugError> for Errno {
    fn from(error: DebugError) -> Errno {
        match error {
            DebugError::Absent => Errno::ENODEV,
            DebugError::Reserved => Errno::EINVAL,
            DebugError::Forbidden => Errno::EPERM,
        }
    }
}

/// A vCPU's debug registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugRegisters {
    addresses: [u64; 4],
    status: u64,
    control: u64,
    /// Enables of I/O breakpoints: shown to the guest, never given to the processor, which would match the
    /// hypervisor's accesses.
    io_enables: u64,
}

impl Default for DebugRegisters {
    fn default() -> Self {
        DebugRegisters { addresses: [0; 4], status: STATUS_ONES, control: CONTROL_ONES, io_enables: 0 }
    }
}

impl DebugRegisters {
    /// The guest's view of DR`number`. `extensions` is CR4.DE of the guest.
    pub const fn read(&self, number: u8, extensions: bool) -> Result<u64, DebugError> {
        match (number, extensions) {
            (0..=3, _) => Ok(self.addresses[number as usize]),
            (6, _) | (4, false) => Ok(self.status),
            (7, _) | (5, false) => Ok(self.control | self.io_enables),
            _ => Err(DebugError::Absent),
        }
    }

    /// Writes DR`number`. After success the processor's registers are loaded again from [`Self::hardware`].
    pub const fn write(&mut self, number: u8, value: u64, extensions: bool) -> Result<(), DebugError> {
        match (number, extensions) {
            (0..=3, _) => self.write_address(number as usize, value),
            (6, _) | (4, false) => self.write_status(value),
            (7, _) | (5, false) => self.write_control(value, extensions),
            _ => Err(DebugError::Absent),
        }
    }

    const fn write_address(&mut self, index: usize, value: u64) -> Result<(), DebugError> {
        if !GuestVa(value).is_guest_range(1) {
            return Err(DebugError::Forbidden);
        }
        self.addresses[index] = value;
        Ok(())
    }

    const fn write_status(&mut self, value: u64) -> Result<(), DebugError> {
        if value >> 32 != 0 {
            return Err(DebugError::Reserved);
        }
        self.status = value & STATUS_MASK | STATUS_ONES;
        Ok(())
    }

    const fn write_control(&mut self, value: u64, extensions: bool) -> Result<(), DebugError> {
        if value >> 32 != 0 {
            return Err(DebugError::Reserved);
        }
        if value & GENERAL_DETECT != 0 {
            return Err(DebugError::Forbidden);
        }
        let value = value & CONTROL_MASK | CONTROL_ONES;
        let io = if value & ACTIVE != 0 { io_breakpoints(value) } else { 0 };
        if io != 0 && !extensions {
            return Err(DebugError::Forbidden);
        }
        self.io_enables = value & io;
        self.control = value & !self.io_enables;
        Ok(())
    }

    /// Adds causes to DR6 as a debug exception does, and the bits that read as one.
    pub const fn record(&mut self, causes: u64) {
        self.status |= causes & STATUS_MASK | STATUS_ONES;
    }

    /// DR0 to DR3, DR6 and DR7 for the processor.
    pub const fn hardware(&self) -> ([u64; 4], u64, u64) {
        (self.addresses, self.status, self.control)
    }

    /// True if a breakpoint is enabled, so that a context switch must load the registers.
    #[inline]
    pub const fn is_active(&self) -> bool {
        self.control & ACTIVE != 0
    }

    /// DR6 bits of the I/O breakpoints that `bytes` bytes at `port` hit.
    pub fn io_matches(&self, port: u16, bytes: u8) -> u64 {
        if self.io_enables == 0 {
            return 0;
        }
        let (first, end) = (u64::from(port), u64::from(port) + u64::from(bytes));
        (0..4).filter(|n| self.io_enables >> (2 * n) & 3 != 0).fold(0, |hits, n: u32| {
            let width: u64 = [1, 2, 8, 4][(self.control >> (18 + 4 * n) & 3) as usize];
            let start = self.addresses[n as usize] & !(width - 1);
            if start < end && start.saturating_add(width) > first { hits | 1 << n } else { hits }
        })
    }
}

/// Enable bits of the breakpoints of DR7 whose type is I/O.
const fn io_breakpoints(control: u64) -> u64 {
    let (mut enables, mut n) = (0, 0);
    while n < 4 {
        if control >> (16 + 4 * n) & 3 == 2 {
            enables |= 3 << (2 * n);
        }
        n += 1;
    }
    enables
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_breakpoint_is_in_the_guest_and_not_in_the_hypervisor() {
        let mut debug = DebugRegisters::default();
        assert_eq!(debug.write(0, 0xffff_ffff_8100_0000, false), Ok(()));
        assert_eq!(debug.read(0, false), Ok(0xffff_ffff_8100_0000));
        assert_eq!(debug.write(1, 0xffff_82d0_4000_0000, false), Err(DebugError::Forbidden));
        assert_eq!(debug.write(1, 1 << 50, false), Err(DebugError::Forbidden));
        assert_eq!(debug.write(3, 0x7fff_ffff_ffff, false), Ok(()));
    }

    #[test]
    fn reserved_bits_read_as_they_must() {
        let mut debug = DebugRegisters::default();
        debug.write(6, 0x5000, false).unwrap();
        assert_eq!(debug.read(6, false), Ok(0xffff_4ff0));
        debug.write(7, 0xd801, false).unwrap();
        assert_eq!(debug.read(7, false), Ok(0x0401));
        assert_eq!(debug.write(7, 1 << 32, false), Err(DebugError::Reserved));
        assert_eq!(debug.write(6, 1 << 32, false), Err(DebugError::Reserved));
        assert_eq!(debug.write(7, GENERAL_DETECT, false), Err(DebugError::Forbidden));
    }

    #[test]
    fn registers_four_and_five_are_aliases_until_the_extensions_are_on() {
        let mut debug = DebugRegisters::default();
        assert_eq!(debug.read(4, false), debug.read(6, false));
        assert_eq!(debug.write(5, 1, false), Ok(()));
        assert_eq!(debug.write(5, 1, true), Err(DebugError::Absent));
        assert_eq!(debug.read(4, true), Err(DebugError::Absent));
        assert_eq!(debug.read(8, false), Err(DebugError::Absent));
        assert_eq!(Errno::from(DebugError::Absent), Errno::ENODEV);
    }

    #[test]
    fn an_io_breakpoint_is_emulated_and_needs_the_extensions() {
        let mut debug = DebugRegisters::default();
        debug.write(0, 0x3f8, true).unwrap();
        let io = 1 | 2 << 16 | 1 << 18;
        assert_eq!(debug.write(7, io, false), Err(DebugError::Forbidden));
        assert_eq!(debug.write(7, io, true), Ok(()));
        assert_eq!(debug.hardware().2 & 3, 0);
        assert_eq!(debug.read(7, true), Ok(io | CONTROL_ONES));
        assert_eq!((debug.io_matches(0x3f9, 1), debug.io_matches(0x3fa, 1)), (1, 0));
    }

    proptest! {
        #[test]
        fn the_processor_never_gets_a_forbidden_value(writes in prop::collection::vec((0u8..9, any::<u64>(), any::<bool>()), 1..20)) {
            let mut debug = DebugRegisters::default();
            for (number, value, extensions) in writes {
                let before = debug;
                for value in [value, value & 0xffff_ffff] {
                    if debug.write(number, value, extensions).is_err() {
                        prop_assert_eq!(debug, before);
                    } else {
                        break;
                    }
                }
                let (addresses, status, control) = debug.hardware();
                prop_assert!(addresses.iter().all(|a| GuestVa(*a).is_guest_range(1)));
                prop_assert_eq!((status >> 32, control >> 32, control & GENERAL_DETECT), (0, 0, 0));
                prop_assert_eq!(control & io_breakpoints(control), 0);
            }
        }
    }
}

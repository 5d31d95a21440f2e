//! ACPI's fixed hardware at the end: sleep states and the reset register.

use guest_abi::Errno;
use hv_core::platform::op::Sleep;

use super::acpi::{Platform, Register};
use super::mmio::Block;
use super::time;
use crate::cpu;

fn write16(register: Register, value: u16) {
    match register {
        // SAFETY: ACPI names the port as PM1 control; entering a sleep state is what was asked for.
        Register::Port(port) => unsafe { cpu::outw(port, value) },
        Register::Memory(address) => {
            // SAFETY: as above.
            if let Some(block) = unsafe { Block::map(address, 2) } {
                block.write16(0, value);
            }
        }
    }
}

fn write8(register: Register, value: u8) {
    match register {
        // SAFETY: ACPI names the port as the sleep control or the reset register, and nothing runs afterwards.
        Register::Port(port) => unsafe { cpu::outb(port, value) },
        Register::Memory(address) => {
            // SAFETY: as above.
            if let Some(block) = unsafe { Block::map(address, 1) } {
                block.write8(0, value);
            }
        }
    }
}

/// Powers the machine off (S5) with the values that dom0 found in its ACPI tables. Returns only if that did not work:
/// `EPERM`: there is no register; `EOPNOTSUPP`: another state; `EIO`: the machine is still on.
pub fn enter(platform: &Platform, sleep: Sleep) -> Errno {
    const ENABLE: u16 = 1 << 13;
    if sleep.state != 5 {
        return Errno::EOPNOTSUPP;
    }
    if sleep.extended {
        let Some(register) = platform.sleep_control else { return Errno::EPERM };
        write8(register, (sleep.a as u8) << 2 | 1 << 5);
    } else {
        let [Some(a), b] = platform.pm1_control else { return Errno::EPERM };
        write16(a, sleep.a | ENABLE);
        if let Some(b) = b {
            write16(b, sleep.b | ENABLE);
        }
    }
    time::wait(1_000_000_000);
    Errno::EIO
}

/// Resets the machine by the register that ACPI names. Returns if there is none or it does nothing.
pub fn reset(platform: &Platform) {
    if let Some((register, value)) = platform.reset {
        write8(register, value);
        time::wait(50_000_000);
    }
}

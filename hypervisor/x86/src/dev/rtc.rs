//! The CMOS clock. Read without waiting for a second to begin: what it shows is right to a second, and dom0 sets the
//! time as soon as it knows better.

use hv_core::platform::clock::Cmos;

use crate::cpu;

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const UPDATING: u8 = 0x80;
/// An update takes at most 2 ms; a read of a port about a microsecond.
const PATIENCE: u32 = 5_000;

/// Reads a CMOS register. Bit 7 of the index would switch NMI off and stays clear.
fn read(register: u8) -> u8 {
    // SAFETY: the hypervisor owns the index register at boot, before dom0 runs.
    unsafe {
        cpu::outb(INDEX, register & 0x7f);
        cpu::inb(DATA)
    }
}

fn read_all(century: Option<u8>) -> Cmos {
    for _ in 0..PATIENCE {
        if read(STATUS_A) & UPDATING == 0 {
            break;
        }
    }
    Cmos {
        fields: [0x00, 0x02, 0x04, 0x07, 0x08, 0x09].map(read),
        century: century.map(read),
        status_b: read(STATUS_B),
    }
}

/// Seconds since 1970 by the CMOS clock, which is taken to show UTC; `None` if it shows no date. `century` is the
/// register that ACPI names.
pub fn seconds(century: Option<u8>) -> Option<u64> {
    let mut last = read_all(century);
    // An update between two registers shows as a difference; two are never a millisecond apart.
    for _ in 0..4 {
        let again = read_all(century);
        if again == last {
            break;
        }
        last = again;
    }
    last.date().map(|date| date.unix_seconds())
}

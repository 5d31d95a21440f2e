//! The two old interrupt controllers: moved away from the exceptions' vectors and masked for good.

use super::vector;
use crate::cpu;

const COMMAND: [u16; 2] = [0x20, 0xa0];
const DATA: [u16; 2] = [0x21, 0xa1];

/// Silences both controllers. A spurious interrupt may still arrive at [`vector::PIC`] + 7 or + 15.
pub fn silence() {
    // SAFETY: the hypervisor owns these ports. The sequence is the controllers' initialisation: begin, vector, wiring,
    // mode; then all inputs masked.
    unsafe {
        for (n, wiring) in [4, 2].into_iter().enumerate() {
            cpu::outb(COMMAND[n], 0x11);
            cpu::outb(DATA[n], vector::PIC + 8 * n as u8);
            cpu::outb(DATA[n], wiring);
            cpu::outb(DATA[n], 1);
        }
        cpu::outb(DATA[1], 0xff);
        cpu::outb(DATA[0], 0xff);
    }
}

/// The masks of both controllers, as dom0 reads them: everything is masked.
pub const MASKS: [u8; 2] = [0xff, 0xff];

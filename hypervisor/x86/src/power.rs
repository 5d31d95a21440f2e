//! Ending: power off, reboot, or halt.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::{cpu, println};

static NO_REBOOT: AtomicBool = AtomicBool::new(false);

/// `noreboot`: stay halted after a failure, so that the console can be read.
pub fn set_no_reboot(value: bool) {
    NO_REBOOT.store(value, Ordering::Relaxed);
}

/// What follows a fatal error.
pub fn after_fatal() -> ! {
    if NO_REBOOT.load(Ordering::Relaxed) {
        println!("Halted, as `noreboot` asks. Reset the machine.");
        cpu::halt_for_ever();
    }
    println!("Rebooting.");
    reboot()
}

/// Resets the machine: by the reset control register, the keyboard controller, and at last a triple fault.
pub fn reboot() -> ! {
    if let Some(platform) = crate::dev::firmware::platform() {
        crate::dev::sleep::reset(platform);
    }
    // SAFETY: nothing of the hypervisor runs after the reset; the ports are those of a PC.
    unsafe {
        cpu::outb(0xcf9, 0x02);
        cpu::outb(0xcf9, 0x06);
        for _ in 0..100 {
            cpu::outb(0x64, 0xfe);
        }
        core::arch::asm!("lidt [{}]", "int3", in(reg) &[0u64; 2], options(noreturn));
    }
}

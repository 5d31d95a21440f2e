//! What the claim guests stand on: an entry point with Xen's ELF notes, hypercalls, a console, traps, and just
//! enough memory management to ask the hypervisor questions.
//!
//! A guest is one vCPU, one program, one claim. It prints lines that hold no number of the machine (no address,
//! no frame, no time), so that the answers of two hypervisors can be compared as text.
//!
//! Nothing here is shared between threads or re-entered: there is one vCPU, and traps only record.

#![no_std]
#![deny(missing_docs)]

pub mod console;
mod entry;
pub mod event;
pub mod hypercall;
pub mod mm;
pub mod time;
pub mod trap;

use core::panic::PanicInfo;
use guest_abi::{Hypercall, sched, xen::StartInfo};

pub use guest_abi as abi;
pub use hypercall::{Answer, call};

/// Names the function that makes the guest's claim.
#[macro_export]
macro_rules! claim {
    ($run:path) => {
        #[unsafe(no_mangle)]
        fn claim_main() {
            $run()
        }
    };
}

unsafe extern "Rust" {
    safe fn claim_main();
}

/// Where the entry code goes: says which claim begins, makes it, and stops the machine.
extern "C" fn begin(start_info: *const StartInfo) -> ! {
    time::note_start();
    mm::set_start_info(start_info);
    console::raw("\n| begin\n");
    trap::install();
    claim_main();
    finish()
}

/// Says that the claim is complete and stops the domain; the runner's QEMU ends at a reboot.
pub fn finish() -> ! {
    console::raw("| end\n");
    stop(sched::SHUTDOWN_REBOOT)
}

/// Stops the domain.
pub fn stop(reason: u32) -> ! {
    let shutdown = sched::SchedShutdown { reason };
    loop {
        call(Hypercall::SchedOp, &[u64::from(sched::SCHEDOP_SHUTDOWN), &raw const shutdown as u64]);
    }
}

/// A number of the command line.
pub fn option(name: &str) -> Option<u64> {
    let info = mm::start_info();
    let end = info.cmd_line.iter().position(|byte| *byte == 0)?;
    let line = core::str::from_utf8(&info.cmd_line[..end]).ok()?;
    line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// Prints the failure; the missing `end` line tells the runner.
#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    say!("panic: {info}");
    stop(sched::SHUTDOWN_CRASH)
}

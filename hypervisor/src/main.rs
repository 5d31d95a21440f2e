//! The binary: wiring, no logic.
#![no_std]
#![no_main]

use boot_entry as _;

/// Called by the entry code with the loader's information and the image's machine address.
#[unsafe(no_mangle)]
extern "C" fn hv_main(mbi: u64, base: u64) -> ! {
    // SAFETY: this is the entry code's one call.
    unsafe { hv_x86::start::begin(mbi, base) }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    hv_x86::panic::rust_panic(info)
}

//! The console of a guest that is not dom0: a ring of bytes that a daemon reads.

use claim::abi::io::XenconsInterface;
use claim::{event, mm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

/// Bytes of the ring to the daemon.
const SIZE: usize = 2048;

/// Writes a line and tells the daemon. What does not fit in the ring is lost: there are few lines, and nobody reads slowly.
pub fn line(text: &str) {
    let info = mm::start_info();
    let page = mm::virt_of(info.console);
    let index = |offset: usize| {
        // SAFETY: the builder maps the console's page; the daemon changes its indices only atomically.
        unsafe { AtomicU32::from_ptr((page + offset as u64) as *mut u32) }
    };
    let produced = index(offset_of!(XenconsInterface, out_prod));
    let mut at = produced.load(Ordering::SeqCst);
    let used = at.wrapping_sub(index(offset_of!(XenconsInterface, out_cons)).load(Ordering::SeqCst));
    let room = SIZE.saturating_sub(used as usize);
    for byte in text.bytes().chain(*b"\r\n").take(room) {
        let place = page + offset_of!(XenconsInterface, output) as u64 + u64::from(at) % SIZE as u64;
        // SAFETY: inside the ring; the daemon reads no further than `out_prod`.
        unsafe { (place as *mut u8).write_volatile(byte) };
        at = at.wrapping_add(1);
    }
    produced.store(at, Ordering::SeqCst);
    event::send(info.console_evtchn);
}

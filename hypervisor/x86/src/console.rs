//! The log: levels, timestamps, a ring that dom0 can read, and the serial line.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hv_core::console::GuestLine;
use spin::Mutex;

use crate::cpu;
use crate::dev::{serial, vga};

/// Bytes of the ring (`conring_size=` of the reference defaults to 16 KiB).
const RING: usize = 32 * 1024;

struct Ring {
    bytes: [u8; RING],
    /// Bytes ever written.
    written: u64,
    /// Bytes written before the last clearing.
    cleared: u64,
    /// What dom0 has begun to write on the serial line.
    guest: GuestLine,
}

static LOG: Mutex<Ring> =
    Mutex::new(Ring { bytes: [0; RING], written: 0, cleared: 0, guest: GuestLine::new() });

/// Dom0's lines go into the ring too (`console_to_ring`).
static RING_HAS_GUEST: AtomicBool = AtomicBool::new(false);

/// The serial line that log and guest console go to.
static SINK: spin::Once<fn(&[u8])> = spin::Once::new();

/// Nanoseconds since boot, once time is known.
static CLOCK: spin::Once<fn() -> u64> = spin::Once::new();

static START: AtomicU64 = AtomicU64::new(0);

/// Names the device that output goes to from now on.
pub fn set_sink(sink: fn(&[u8])) {
    SINK.call_once(|| sink);
}

/// What dom0 writes is kept in the ring, too, from now on.
pub fn keep_guest_in_ring() {
    RING_HAS_GUEST.store(true, Ordering::Relaxed);
}

/// Names the clock of timestamps.
pub fn set_clock(clock: fn() -> u64) {
    CLOCK.call_once(|| clock);
}

/// Waits for the transmitter of the first serial port, then sends.
fn early_byte(byte: u8) {
    for _ in 0..100_000 {
        // SAFETY: the line status register of COM1; reading it has no effect we rely on.
        if unsafe { cpu::inb(0x3fd) } & 0x20 != 0 {
            break;
        }
    }
    // SAFETY: the transmit register of COM1, which is the hypervisor's.
    unsafe { cpu::outb(0x3f8, byte) };
}

fn emit(bytes: &[u8]) {
    match SINK.get() {
        Some(sink) => sink(bytes),
        None => bytes.iter().for_each(|b| {
            if *b == b'\n' {
                early_byte(b'\r');
            }
            early_byte(*b);
        }),
    }
}

impl Ring {
    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.bytes[(self.written % RING as u64) as usize] = *byte;
            self.written += 1;
        }
    }
}

/// Copies what the ring holds from byte `from` on (counted since boot) into `into`; returns bytes copied and the
/// count up to which the ring was read.
pub fn read_ring(from: u64, into: &mut [u8]) -> (usize, u64) {
    let ring = LOG.lock();
    let first = from.max(ring.cleared).max(ring.written.saturating_sub(RING as u64));
    let len = (ring.written.saturating_sub(first) as usize).min(into.len());
    for (i, byte) in into[..len].iter_mut().enumerate() {
        *byte = ring.bytes[((first + i as u64) % RING as u64) as usize];
    }
    (len, first + len as u64)
}

/// Shows what the ring holds on a device that was opened late.
pub fn replay(device: fn(&[u8])) {
    let mut at = 0;
    let mut chunk = [0; 256];
    loop {
        let (len, next) = read_ring(at, &mut chunk);
        if len == 0 {
            break;
        }
        device(&chunk[..len]);
        at = next;
    }
}

/// Forgets what the ring holds.
pub fn clear_ring() {
    let mut ring = LOG.lock();
    ring.cleared = ring.written;
}

/// Writes to ring and line.
struct Message<'a>(&'a mut Ring);

impl Write for Message<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.0.push(s.as_bytes());
        emit(s.as_bytes());
        Ok(())
    }
}

/// Prints without level or timestamp; whole lines, which neither another CPU's nor dom0's are mixed with.
pub fn print(args: fmt::Arguments) {
    let mut ring = LOG.lock();
    emit(ring.guest.before());
    let _ = Message(&mut ring).write_fmt(args);
    emit(ring.guest.after());
}

/// Prints a line without level or timestamp.
#[macro_export]
macro_rules! println {
    ($($t:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($t)*))) };
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        let ns = CLOCK.get().map_or(0, |c| c());
        let level = match record.level() {
            log::Level::Error => "<0>",
            log::Level::Warn => "<1>",
            log::Level::Info => "<2>",
            log::Level::Debug | log::Level::Trace => "<3>",
        };
        print(format_args!(
            "(XL) [{:5}.{:06}] {}{}\n",
            ns / 1_000_000_000,
            ns / 1000 % 1_000_000,
            if record.level() <= log::Level::Warn { level } else { "" },
            record.args()
        ));
    }

    fn flush(&self) {}
}

/// Makes `log` macros print here, up to `level`.
pub fn install(level: log::LevelFilter) {
    let _ = log::set_logger(&Logger);
    log::set_max_level(level);
    START.store(cpu::rdtsc(), Ordering::Relaxed);
}

/// Ticks of the TSC since the log began, which is with the first Rust code.
pub fn ticks_since_start() -> u64 {
    cpu::rdtsc().wrapping_sub(START.load(Ordering::Relaxed))
}

/// Lets a hypervisor fault print although the lock may be held by the code that faulted.
///
/// # Safety
/// No other CPU prints, and this CPU never returns to what it was doing.
pub unsafe fn break_locks() {
    // A ticket lock must not be unlocked when nobody holds it: it would serve a ticket that nobody drew.
    if LOG.is_locked() {
        // SAFETY: the caller's duty.
        unsafe { LOG.force_unlock() };
    }
    // SAFETY: as above.
    unsafe {
        serial::break_lock();
        vga::break_lock();
    }
}

/// Writes what dom0 says; it is no log message, so that no prefix is put before it.
pub fn write_guest(bytes: &[u8]) {
    let mut ring = LOG.lock();
    if RING_HAS_GUEST.load(Ordering::Relaxed) {
        ring.push(bytes);
    }
    ring.guest.write(bytes);
    emit(bytes);
}

/// Takes typed bytes; returns how many.
pub fn take_input(into: &mut [u8]) -> usize {
    crate::dev::serial::read(into)
}

//! The serial line: a 16550, polled for sending, by interrupt or polled for receiving.

use arrayvec::ArrayVec;
use hv_core::platform::line::{Parity, Settings};
use spin::Mutex;
use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::{IER, Parity as UartParity, WordLength};
use uart_16550::{BaudRate, Config, Uart16550};

use super::acpi::Platform;
use super::{irq, vector};
use crate::cpu;

/// How often the line is asked whether it can take more. A queue of characters takes 16 ms at 9600 bits a second, and
/// a question about a microsecond.
const PATIENCE: u32 = 50_000;
/// Characters that wait for a reader.
const INPUT: usize = 256;

struct Line {
    uart: Uart16550<PioBackend>,
    /// The line did not take a character in time: one question a character, until it does again.
    stuck: bool,
    input: ArrayVec<u8, INPUT>,
}

// SAFETY: the backend holds a port number; the lock below makes one CPU at a time use it.
unsafe impl Send for Line {}

static LINE: Mutex<Option<Line>> = Mutex::new(None);

/// Why there is no serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The port number cannot be a UART's.
    BadPort,
    /// Nothing answers there.
    Absent,
    /// The speed cannot be had from the clock.
    BadSpeed,
}

/// Sets the line up. Without a speed in the settings, the one that is set stays.
pub fn init(settings: &Settings) -> Result<(), Error> {
    // SAFETY: the port is a UART's by the administrator's word or a PC's custom, and the hypervisor owns it.
    let mut uart = unsafe { Uart16550::new_port(settings.port) }.map_err(|_| Error::BadPort)?;
    let baud = settings.baud.or_else(|| current_speed(settings)).unwrap_or(115_200);
    let config = Config {
        frequency: settings.clock,
        baud_rate: BaudRate::from_integer(baud),
        data_bits: match settings.data_bits {
            5 => WordLength::FiveBits,
            6 => WordLength::SixBits,
            7 => WordLength::SevenBits,
            _ => WordLength::EightBits,
        },
        extra_stop_bits: settings.stop_bits > 1,
        parity: match settings.parity {
            Parity::None => UartParity::Disabled,
            Parity::Odd => UartParity::Odd,
            Parity::Even => UartParity::Even,
            Parity::Mark => UartParity::Forced1,
            Parity::Space => UartParity::Forced0,
        },
        ..Config::DEFAULT
    };
    uart.init(config).map_err(|error| match error {
        uart_16550::InitError::DeviceNotPresent => Error::Absent,
        _ => Error::BadSpeed,
    })?;
    *LINE.lock() = Some(Line { uart, stuck: false, input: ArrayVec::new() });
    Ok(())
}

/// The speed that the firmware or the loader set; `None` if the divisor is not set or there is no UART.
fn current_speed(settings: &Settings) -> Option<u32> {
    const LINE_CONTROL: u16 = 3;
    const DIVISOR_ACCESS: u8 = 0x80;
    let port = settings.port;
    // SAFETY: a UART's registers, which the hypervisor owns; line control is put back as it was.
    let divisor = unsafe {
        let control = cpu::inb(port + LINE_CONTROL);
        cpu::outb(port + LINE_CONTROL, control | DIVISOR_ACCESS);
        let divisor = u16::from_le_bytes([cpu::inb(port), cpu::inb(port + 1)]);
        cpu::outb(port + LINE_CONTROL, control);
        divisor
    };
    (1..u16::MAX).contains(&divisor).then(|| settings.clock / 16 / u32::from(divisor))
}

impl Line {
    /// Sends up to a queue's worth of characters at a time.
    fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let tries = if self.stuck { 1 } else { PATIENCE };
            let sent = (0..tries).map(|_| self.uart.send_bytes(bytes)).find(|sent| *sent > 0);
            self.stuck = sent.is_none();
            bytes = &bytes[sent.unwrap_or(bytes.len())..];
        }
    }

    fn receive(&mut self) {
        for _ in 0..INPUT {
            let Ok(byte) = self.uart.try_receive_byte() else { break };
            // A reader that is too slow loses the newest.
            let _ = self.input.try_push(byte);
        }
    }
}

/// Sends, a newline as carriage return and newline. A line that takes nothing loses characters rather than time.
pub fn write(bytes: &[u8]) {
    let mut line = LINE.lock();
    let Some(line) = line.as_mut() else { return };
    let mut chunk = ArrayVec::<u8, 16>::new();
    for byte in bytes {
        if chunk.remaining_capacity() < 2 {
            line.send(&chunk);
            chunk.clear();
        }
        if *byte == b'\n' {
            chunk.push(b'\r');
        }
        chunk.push(*byte);
    }
    line.send(&chunk);
}

/// Looks for received characters. True if there are any to [`read`].
pub fn poll() -> bool {
    let mut line = LINE.lock();
    let Some(line) = line.as_mut() else { return false };
    line.receive();
    !line.input.is_empty()
}

/// Takes received characters, oldest first; returns how many.
pub fn read(into: &mut [u8]) -> usize {
    let mut line = LINE.lock();
    let Some(line) = line.as_mut() else { return 0 };
    line.receive();
    let count = into.len().min(line.input.len());
    for (to, byte) in into.iter_mut().zip(line.input.drain(..count)) {
        *to = byte;
    }
    count
}

/// Received characters interrupt from now on (vector [`vector::SERIAL`]). False if the line has no interrupt, or the
/// machine does not have it free: then it must be polled.
pub fn enable_interrupt(settings: &Settings, platform: &Platform) -> bool {
    let Some(isa) = settings.irq else { return false };
    if LINE.lock().is_none() || irq::claim_isa(platform, isa, vector::SERIAL).is_err() {
        return false;
    }
    if let Some(line) = LINE.lock().as_mut() {
        line.uart.enable_interrupts(IER::DATA_READY);
    }
    true
}

/// The line interrupts; the caller acknowledges. True if there are characters to [`read`].
pub fn on_interrupt() -> bool {
    if let Some(line) = LINE.lock().as_mut() {
        // Reading the cause ends an interrupt that no character explains.
        let _ = line.uart.isr();
    }
    poll()
}

/// Lets a hypervisor fault print although the code that faulted may hold the lock.
///
/// # Safety
/// No other CPU prints, and this CPU never returns to what it was doing.
pub unsafe fn break_lock() {
    // A ticket lock must not be unlocked when nobody holds it.
    if LINE.is_locked() {
        // SAFETY: the caller's duty.
        unsafe { LINE.force_unlock() };
    }
}

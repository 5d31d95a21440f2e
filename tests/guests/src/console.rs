//! Lines for the runner: each begins with `| `, which no hypervisor's log does.

use crate::call;
use core::fmt::{self, Write};
use guest_abi::{Hypercall, xen};

/// Writes text to the hypervisor's console as it is.
pub fn raw(text: &str) {
    call(Hypercall::ConsoleIo, &[u64::from(xen::CONSOLEIO_WRITE), text.len() as u64, text.as_ptr() as u64]);
}

/// One line on its way; longer ones lose their tail.
pub struct Line {
    bytes: [u8; 200],
    used: usize,
}

impl Line {
    /// Formats a line and writes it with one hypercall.
    pub fn write(arguments: fmt::Arguments<'_>) {
        let mut line = Line { bytes: [0; 200], used: 0 };
        // Truncation is the only error there is.
        let _ = line.write_str("| ");
        let _ = line.write_fmt(arguments);
        line.used = line.used.min(line.bytes.len() - 1);
        line.bytes[line.used] = b'\n';
        raw(core::str::from_utf8(&line.bytes[..=line.used]).unwrap_or("| ?\n"));
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.len() - 1 - self.used;
        let taken = text.len().min(room);
        self.bytes[self.used..self.used + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.used += taken;
        if taken == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Says a line.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::console::Line::write(format_args!($($argument)*))
    };
}

/// Says what was asked and what a hypercall answered.
#[macro_export]
macro_rules! ask {
    ($what:literal, $answer:expr) => {
        $crate::say!(concat!($what, ": {}"), $crate::Answer($answer))
    };
}

/// Says what was attempted and how it ended.
#[macro_export]
macro_rules! outcome {
    ($what:literal, $attempt:expr) => {
        $crate::say!(concat!($what, ": {}"), $crate::trap::Outcome($attempt))
    };
}

//! Bytes of the instruction that a guest trapped on.

use hv_core::port::GuestSpace;
use hv_types::{GuestVa, PAGE_MASK, PAGE_SIZE};

use crate::emulate::decode::MAX_LENGTH;
use crate::trap::Event;

/// The first bytes at an address: as many as an instruction may have, unless the page ends before and the next one
/// cannot be read.
pub struct Code {
    buffer: [u8; 16],
    length: usize,
    at: GuestVa,
}

impl Code {
    /// Reads the bytes at `at`. The error is the page fault to give to the guest.
    #[inline(always)]
    pub fn fetch<S: GuestSpace>(at: GuestVa, space: &S) -> Result<Code, Event> {
        if at.0 & PAGE_MASK > PAGE_SIZE - 16 {
            return Code::fetch_across(at, space);
        }
        let mut buffer = [0; 16];
        match space.read(at, &mut buffer) {
            Ok(()) => Ok(Code { buffer, length: MAX_LENGTH, at }),
            Err(_) => Err(Event::PageFault { address: at.0, error: 0 }),
        }
    }

    #[cold]
    fn fetch_across<S: GuestSpace>(at: GuestVa, space: &S) -> Result<Code, Event> {
        let mut buffer = [0; 16];
        let here = ((PAGE_SIZE - (at.0 & PAGE_MASK)) as usize).min(MAX_LENGTH);
        let (first, rest) = buffer.split_at_mut(here);
        if space.read(at, first).is_err() {
            return Err(Event::PageFault { address: at.0, error: 0 });
        }
        let rest = &mut rest[..MAX_LENGTH - here];
        let whole = space.read(GuestVa(at.0.wrapping_add(here as u64)), rest).is_ok();
        if !whole {
            rest.fill(0);
        }
        Ok(Code { buffer, length: if whole { MAX_LENGTH } else { here }, at })
    }

    /// The bytes that could be read: at least one.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// The first eight bytes as a little-endian word; bytes that could not be read are zero.
    #[inline(always)]
    pub fn word(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.buffer;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// The page fault of needing more bytes than these.
    pub fn fault_behind(&self) -> Event {
        Event::PageFault { address: self.at.0.wrapping_add(self.length as u64), error: 0 }
    }
}

//! Bit streams: Zstandard writes most of them to be read from their end.

use super::{Stop, window};

/// A stream that is read from its last bit to its first.
pub(super) struct Backward<'a> {
    bytes: &'a [u8],
    /// Bits not yet read.
    left: usize,
}

impl<'a> Backward<'a> {
    /// The highest bit set in the last byte marks the end.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Stop> {
        let last = *bytes.last().ok_or(Stop::Corrupt("empty bit stream"))?;
        let mark = last.checked_ilog2().ok_or(Stop::Corrupt("bit stream without an end"))?;
        Ok(Self { bytes, left: (bytes.len() - 1) * 8 + mark as usize })
    }

    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// The next `count` bits, at most 56; zeros stand before the stream's beginning.
    #[inline]
    pub(super) fn peek(&self, count: u32) -> u64 {
        let mask = (1u64 << count) - 1;
        match self.left.checked_sub(count as usize) {
            Some(at) => window(self.bytes, at / 8) >> (at % 8) & mask,
            None => {
                let missing = count as usize - self.left;
                window(self.bytes, 0) << missing & mask & (u64::MAX << missing)
            }
        }
    }

    #[inline]
    pub(super) fn skip(&mut self, count: u32) -> Result<(), Stop> {
        self.left = self.left.checked_sub(count as usize).ok_or(Stop::Corrupt("bit stream too short"))?;
        Ok(())
    }

    #[inline]
    pub(super) fn read(&mut self, count: u32) -> Result<u64, Stop> {
        let value = self.peek(count);
        self.skip(count)?;
        Ok(value)
    }
}

/// A stream that is read from its first bit.
pub(super) struct Forward<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Forward<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next `count` bits, at most 16; zeros stand behind the end.
    pub(super) fn peek(&self, count: u32) -> u32 {
        (window(self.bytes, self.at / 8) >> (self.at % 8)) as u32 & ((1 << count) - 1)
    }

    pub(super) fn skip(&mut self, count: u32) {
        self.at += count as usize;
    }

    pub(super) fn read(&mut self, count: u32) -> u32 {
        let value = self.peek(count);
        self.skip(count);
        value
    }

    /// Bytes begun; an error if they are more than there are.
    pub(super) fn bytes_read(&self) -> Result<usize, Stop> {
        let read = self.at.div_ceil(8);
        if read <= self.bytes.len() { Ok(read) } else { Err(Stop::Truncated) }
    }
}

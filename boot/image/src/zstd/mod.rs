//! Zstandard (RFC 8878), decoded straight into the output.
//!
//! The output is the window, so a frame may use one of any size and no memory is spent on it. What is on the heap has
//! a fixed size: a block's literals and the tables, 140 KiB.
#![allow(clippy::arithmetic_side_effects)] // on sizes of at most 21 bits, offsets of 32, and positions in slices

mod bits;
mod fse;
mod huffman;
mod sequences;

use alloc::vec::Vec;

use crate::bytes::{u16_at, u64_at};
use crate::checksum::xxh64;
use crate::decompress::{DecompressError, Format};
use huffman::Huffman;
use sequences::Sequences;

const MAGIC: u32 = 0xfd2f_b528;
/// Magic numbers of frames to be skipped, without the low four bits.
const SKIPPABLE: u32 = 0x184d_2a50;
const MAX_BLOCK: usize = 128 << 10;

/// Why decoding stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Corrupt(&'static str),
    Truncated,
    /// The output is full and there is more.
    Full,
    Checksum,
    OutOfMemory,
}

/// Fills `out` and returns the length of the result.
pub(crate) fn decompress(data: &[u8], out: &mut [u8]) -> Result<usize, DecompressError> {
    let mut output = Output { bytes: out, pos: 0, frame: 0 };
    let result = frames(data, &mut output);
    let (at, format) = (output.pos, Format::Zstd);
    match result {
        Ok(()) => Ok(at),
        Err(Stop::Corrupt(what)) => Err(DecompressError::Corrupt { format, what, at }),
        Err(Stop::Truncated) => Err(DecompressError::Truncated { format, at }),
        Err(Stop::Full) => {
            Err(DecompressError::WrongLength { declared: out.len(), found: out.len().saturating_add(1) })
        }
        Err(Stop::Checksum) => Err(DecompressError::Checksum(format)),
        Err(Stop::OutOfMemory) => Err(DecompressError::OutOfMemory { needed: MAX_BLOCK as u64 }),
    }
}

fn frames(data: &[u8], output: &mut Output<'_>) -> Result<(), Stop> {
    let mut input = Input(data);
    let mut decoder = Decoder::new()?;
    while !input.0.is_empty() {
        let magic = input.number(4)? as u32;
        if magic & !0xf == SKIPPABLE {
            let len = input.number(4)? as usize;
            input.take(len)?;
        } else if magic == MAGIC {
            decoder.frame(&mut input, output)?;
        } else {
            return Err(Stop::Corrupt("no frame where one should begin"));
        }
    }
    Ok(())
}

/// The data not yet read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Stop::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        self.number(1).map(|value| value as u8)
    }

    /// A little-endian number of at most 8 bytes.
    fn number(&mut self, len: usize) -> Result<u64, Stop> {
        Ok(self.take(len)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }
}

/// The output and how far it is filled.
struct Output<'a> {
    bytes: &'a mut [u8],
    pos: usize,
    /// Where the frame began: matches do not reach behind it.
    frame: usize,
}

impl Output<'_> {
    fn append(&mut self, data: &[u8]) -> Result<(), Stop> {
        self.bytes.get_mut(self.pos..self.pos + data.len()).ok_or(Stop::Full)?.copy_from_slice(data);
        self.pos += data.len();
        Ok(())
    }

    fn fill(&mut self, byte: u8, len: usize) -> Result<(), Stop> {
        self.bytes.get_mut(self.pos..self.pos + len).ok_or(Stop::Full)?.fill(byte);
        self.pos += len;
        Ok(())
    }

    /// Repeats `len` bytes from `offset` bytes before the end, which may overlap what is written.
    fn repeat(&mut self, offset: usize, len: usize) -> Result<(), Stop> {
        if offset == 0 || offset > self.pos - self.frame {
            return Err(Stop::Corrupt("match before the beginning"));
        }
        if len > self.bytes.len() - self.pos {
            return Err(Stop::Full);
        }
        let from = self.pos - offset;
        let end = self.pos + len;
        while self.pos < end {
            // What has been written repeats with the same offset, so each turn can copy more.
            let count = (end - self.pos).min(self.pos - from);
            self.bytes.copy_within(from..from + count, self.pos);
            self.pos += count;
        }
        Ok(())
    }
}

/// What one block leaves to the next, and memory to work in.
struct Decoder {
    huffman: Huffman,
    sequences: Sequences,
    literals: Vec<u8>,
}

impl Decoder {
    fn new() -> Result<Self, Stop> {
        let mut literals = Vec::new();
        literals.try_reserve_exact(MAX_BLOCK).map_err(|_| Stop::OutOfMemory)?;
        literals.resize(MAX_BLOCK, 0);
        Ok(Self { huffman: Huffman::new()?, sequences: Sequences::new()?, literals })
    }

    fn frame(&mut self, input: &mut Input<'_>, output: &mut Output<'_>) -> Result<(), Stop> {
        output.frame = output.pos;
        self.huffman.forget();
        self.sequences.forget();
        let checksum = header(input)?;
        loop {
            let header = input.number(3)? as usize;
            let size = header >> 3;
            match header >> 1 & 3 {
                0 => output.append(input.take(size)?)?,
                1 => output.fill(input.byte()?, size)?,
                2 if size > MAX_BLOCK => return Err(Stop::Corrupt("block too large")),
                2 => self.block(input.take(size)?, output)?,
                _ => return Err(Stop::Corrupt("unknown kind of block")),
            }
            if header & 1 != 0 {
                break;
            }
        }
        if checksum {
            let stored = input.number(4)?;
            let frame = output.bytes.get(output.frame..output.pos).unwrap_or_default();
            if xxh64(frame) & 0xffff_ffff != stored {
                return Err(Stop::Checksum);
            }
        }
        Ok(())
    }

    fn block(&mut self, data: &[u8], output: &mut Output<'_>) -> Result<(), Stop> {
        let mut input = Input(data);
        let len = literals(&mut input, &mut self.huffman, &mut self.literals)?;
        let literals = self.literals.get(..len).unwrap_or_default();
        self.sequences.execute(&mut input, literals, output)
    }
}

/// Reads a frame's header; the value says whether a checksum follows the last block.
fn header(input: &mut Input<'_>) -> Result<bool, Stop> {
    let flags = input.byte()?;
    if flags & 8 != 0 {
        return Err(Stop::Corrupt("reserved bit in the frame header"));
    }
    let single = flags & 0x20 != 0;
    if !single {
        input.byte()?; // the window's size: whatever it is, the output is large enough
    }
    let dictionary = input.number(choose(flags, [0, 1, 2, 4]))?;
    if dictionary != 0 {
        return Err(Stop::Corrupt("it needs an external dictionary"));
    }
    let size = choose(flags >> 6, [usize::from(single), 2, 4, 8]);
    input.take(size)?; // the caller knows the length from elsewhere and compares
    Ok(flags & 4 != 0)
}

/// Decodes a block's literals into `target`; the value is their number.
fn literals(input: &mut Input<'_>, huffman: &mut Huffman, target: &mut [u8]) -> Result<usize, Stop> {
    let first = *input.0.first().ok_or(Stop::Truncated)?;
    let (kind, format) = (first & 3, first >> 2 & 3);
    if kind < 2 {
        let (header_len, shift) = choose(format, [(1, 3), (2, 4), (1, 3), (3, 4)]);
        let len = (input.number(header_len)? >> shift) as usize;
        let target = target.get_mut(..len).ok_or(Stop::Corrupt("too many literals"))?;
        match kind {
            0 => target.copy_from_slice(input.take(len)?),
            _ => target.fill(input.byte()?),
        }
        return Ok(len);
    }
    let (header_len, bits) = choose(format, [(3, 10), (3, 10), (4, 14), (5, 18)]);
    let header = input.number(header_len)? >> 4;
    let len = (header & ((1 << bits) - 1)) as usize;
    let mut data = Input(input.take((header >> bits) as usize)?);
    let target = target.get_mut(..len).ok_or(Stop::Corrupt("too many literals"))?;
    if kind == 2 {
        huffman.read(&mut data)?;
    }
    if format == 0 {
        huffman.decode(data.0, target)?
    } else {
        four_streams(&mut data, huffman, target)?
    }
    Ok(len)
}

/// Four bit streams, a quarter of the literals each.
fn four_streams(data: &mut Input<'_>, huffman: &Huffman, target: &mut [u8]) -> Result<(), Stop> {
    let sizes = data.take(6)?;
    let quarter = target.len().div_ceil(4);
    let mut rest = target;
    for stream in 0..3 {
        let size = usize::from(u16_at(sizes, stream * 2).unwrap_or_default());
        let (part, tail) = rest.split_at_mut_checked(quarter).ok_or(Stop::Corrupt("too few literals"))?;
        huffman.decode(data.take(size)?, part)?;
        rest = tail;
    }
    huffman.decode(data.0, rest)
}

/// By the lowest two bits.
fn choose<T>(bits: u8, [zero, one, two, three]: [T; 4]) -> T {
    match bits & 3 {
        0 => zero,
        1 => one,
        2 => two,
        _ => three,
    }
}

/// Eight bytes of `bytes` from `at` on, zeros behind its end.
#[inline]
fn window(bytes: &[u8], at: usize) -> u64 {
    u64_at(bytes, at).unwrap_or_else(|| {
        bytes.get(at..).unwrap_or_default().iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
    })
}

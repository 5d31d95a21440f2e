//! The xz container: blocks of LZMA2, with or without the x86 branch filter, and their checks.

use crate::bytes::{u32_at, u64_at};
use crate::checksum::{crc32, crc64};
use crate::decompress::{DecompressError, Format};
use crate::lzma::{Output, lzma2};
use crate::x86_filter;

const HEADER_LEN: usize = 12;
const FILTER_X86: u64 = 0x04;
const FILTER_LZMA2: u64 = 0x21;

/// Fills `out` and returns the length of the result.
pub(crate) fn decompress(data: &[u8], out: &mut [u8]) -> Result<usize, DecompressError> {
    let check = stream_check(data)?;
    let mut rest = data.get(HEADER_LEN..).unwrap_or_default();
    let mut done = 0usize;
    let mut blocks = 0u64;
    // A zero where a block header would begin marks the index.
    while *rest.first().ok_or(truncated(done))? != 0 {
        let block = Block::parse(rest, done)?;
        let target = out.get_mut(done..).unwrap_or_default();
        let (tail, written) = block.decompress(target).map_err(|e| in_output(e, done))?;
        let padding = rest.len().wrapping_sub(tail.len()).wrapping_neg() & 3;
        let sum = tail.get(padding..).ok_or(truncated(done))?;
        check.verify(target.get(..written).unwrap_or_default(), sum, done)?;
        rest = sum.get(check.len()..).ok_or(truncated(done))?;
        done = done.saturating_add(written);
        blocks = blocks.saturating_add(1);
    }
    check_end(rest, blocks).ok_or(corrupt("bad index or footer", done))?;
    Ok(done)
}

/// The index names every block and is followed by the footer.
fn check_end(index: &[u8], blocks: u64) -> Option<()> {
    let mut fields = Fields(index.get(1..)?);
    if fields.number().ok()? != blocks {
        return None;
    }
    for _ in 0..blocks {
        fields.number().ok()?; // length in the file
        fields.number().ok()?; // length of the output
    }
    let len = index.len().checked_sub(fields.0.len())?.next_multiple_of(4);
    let (fields, rest) = index.split_at_checked(len)?;
    let footer = rest.get(4..16)?;
    let sums = u32_at(rest, 0)? == crc32(fields) && u32_at(footer, 0)? == crc32(footer.get(4..10)?);
    (sums && footer.ends_with(b"YZ")).then_some(())
}

fn corrupt(what: &'static str, at: usize) -> DecompressError {
    DecompressError::Corrupt { format: Format::Xz, what, at }
}

fn truncated(at: usize) -> DecompressError {
    DecompressError::Truncated { format: Format::Xz, at }
}

/// Positions in a block become positions in the output.
fn in_output(error: DecompressError, base: usize) -> DecompressError {
    match error {
        DecompressError::Corrupt { format, what, at } => {
            DecompressError::Corrupt { format, what, at: at.saturating_add(base) }
        }
        DecompressError::Truncated { format, at } => {
            DecompressError::Truncated { format, at: at.saturating_add(base) }
        }
        DecompressError::WrongLength { declared, found } => DecompressError::WrongLength {
            declared: declared.saturating_add(base),
            found: found.saturating_add(base),
        },
        other => other,
    }
}

/// What stands behind each block.
#[derive(Clone, Copy)]
enum Check {
    None,
    Crc32,
    Crc64,
}

impl Check {
    const fn len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Crc32 => 4,
            Self::Crc64 => 8,
        }
    }

    fn verify(self, output: &[u8], stored: &[u8], at: usize) -> Result<(), DecompressError> {
        let same = match self {
            Self::None => Some(true),
            Self::Crc32 => u32_at(stored, 0).map(|sum| sum == crc32(output)),
            Self::Crc64 => u64_at(stored, 0).map(|sum| sum == crc64(output)),
        };
        match same {
            Some(true) => Ok(()),
            Some(false) => Err(DecompressError::Checksum(Format::Xz)),
            None => Err(truncated(at)),
        }
    }
}

fn stream_check(data: &[u8]) -> Result<Check, DecompressError> {
    let flags = data.get(6..8).ok_or(truncated(0))?;
    if u32_at(data, 8) != Some(crc32(flags)) {
        return Err(corrupt("bad stream header", 0));
    }
    match flags {
        [0, 0] => Ok(Check::None),
        [0, 1] => Ok(Check::Crc32),
        [0, 4] => Ok(Check::Crc64),
        [0, 10] => Err(DecompressError::Unsupported("xz with SHA-256 check")),
        _ => Err(corrupt("unknown check", 0)),
    }
}

/// A block header, decoded, and the data behind it.
struct Block<'a> {
    x86_start: Option<u32>,
    data: &'a [u8],
}

impl<'a> Block<'a> {
    fn parse(rest: &'a [u8], at: usize) -> Result<Self, DecompressError> {
        let len = usize::from(*rest.first().ok_or(truncated(at))?).saturating_add(1).saturating_mul(4);
        let (header, data) = rest.split_at_checked(len).ok_or(truncated(at))?;
        let (fields, sum) = header.split_at_checked(len.saturating_sub(4)).ok_or(truncated(at))?;
        if u32_at(sum, 0) != Some(crc32(fields)) {
            return Err(corrupt("bad block header", at));
        }
        let mut fields = Fields(fields.get(1..).unwrap_or_default());
        let x86_start = fields.filters().map_err(|what| match what {
            FilterError::Malformed => corrupt("bad filter list", at),
            FilterError::Unknown => DecompressError::Unsupported("xz with a filter other than x86 and LZMA2"),
        })?;
        Ok(Self { x86_start, data })
    }

    /// What follows the block's data, and the length of its output.
    fn decompress(&self, out: &mut [u8]) -> Result<(&'a [u8], usize), DecompressError> {
        let declared = out.len();
        let mut output = Output { bytes: out, pos: 0, start: 0 };
        let mut rest = self.data;
        let decoded = lzma2(&mut rest, &mut output);
        let written = output.pos;
        decoded.map_err(|stop| stop.report(Format::Xz, written, declared))?;
        if let Some(start) = self.x86_start {
            x86_filter::decode(out.get_mut(..written).unwrap_or_default(), start);
        }
        Ok((rest, written))
    }
}

enum FilterError {
    Malformed,
    Unknown,
}

/// The bytes of a block header that are not decoded yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Start offset of the x86 filter if there is one; LZMA2 must be the last filter.
    fn filters(&mut self) -> Result<Option<u32>, FilterError> {
        let flags = self.byte()?;
        if flags & 0x3c != 0 {
            return Err(FilterError::Malformed);
        }
        for present in [0x40, 0x80] {
            if flags & present != 0 {
                self.number()?; // compressed and uncompressed size: the decoder finds both itself
            }
        }
        match flags & 3 {
            0 => self.lzma2().map(|()| None),
            1 => {
                let start = self.x86()?;
                self.lzma2().map(|()| Some(start))
            }
            _ => Err(FilterError::Unknown),
        }
    }

    fn x86(&mut self) -> Result<u32, FilterError> {
        match self.filter()? {
            (FILTER_X86, []) => Ok(0),
            (FILTER_X86, properties) => u32_at(properties, 0).ok_or(FilterError::Malformed),
            _ => Err(FilterError::Unknown),
        }
    }

    /// Its property is the dictionary's size: whatever it is, the output is large enough.
    fn lzma2(&mut self) -> Result<(), FilterError> {
        match self.filter()? {
            (FILTER_LZMA2, [0..=40]) => Ok(()),
            (FILTER_LZMA2, _) => Err(FilterError::Malformed),
            _ => Err(FilterError::Unknown),
        }
    }

    fn filter(&mut self) -> Result<(u64, &'a [u8]), FilterError> {
        let id = self.number()?;
        let len = usize::try_from(self.number()?).map_err(|_| FilterError::Malformed)?;
        let (properties, rest) = self.0.split_at_checked(len).ok_or(FilterError::Malformed)?;
        self.0 = rest;
        Ok((id, properties))
    }

    fn byte(&mut self) -> Result<u8, FilterError> {
        let (&byte, rest) = self.0.split_first().ok_or(FilterError::Malformed)?;
        self.0 = rest;
        Ok(byte)
    }

    /// A variable-length number: 7 bits a byte, at most 9 bytes.
    fn number(&mut self) -> Result<u64, FilterError> {
        let mut value = 0u64;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).ok_or(FilterError::Malformed)?;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(FilterError::Malformed)
    }
}

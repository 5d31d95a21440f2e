//! LZMA: the compression inside of xz (as LZMA2) and of the older files of `lzma` ("lzma alone").
//!
//! Decoded straight into the output, which is the dictionary: whatever size a file declares, the heap holds only
//! the probabilities, 28 KiB.

mod model;
mod range;

use crate::bytes::{array, u64_at};
use crate::decompress::{DecompressError, Format};
use model::Model;
use range::RangeDecoder;

/// Why decoding stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The data break a rule.
    Corrupt(&'static str),
    /// The data end too early.
    Truncated,
    /// The output is full and there is more.
    Full,
    /// No memory for the probabilities.
    OutOfMemory,
}

impl Stop {
    /// As the caller of a format sees it; `at` bytes of an output of `declared` were complete.
    pub(crate) fn report(self, format: Format, at: usize, declared: usize) -> DecompressError {
        match self {
            Self::Corrupt(what) => DecompressError::Corrupt { format, what, at },
            Self::Truncated => DecompressError::Truncated { format, at },
            Self::Full => DecompressError::WrongLength { declared, found: declared.saturating_add(1) },
            Self::OutOfMemory => DecompressError::OutOfMemory { needed: Model::HEAP },
        }
    }
}

/// The output and how far it is filled.
pub(crate) struct Output<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) pos: usize,
    /// Where the dictionary begins: matches do not reach behind it.
    pub(crate) start: usize,
}

impl Output<'_> {
    /// Appends bytes as they are.
    fn append(&mut self, data: &[u8]) -> Result<(), Stop> {
        let end = self.pos.checked_add(data.len()).ok_or(Stop::Full)?;
        self.bytes.get_mut(self.pos..end).ok_or(Stop::Full)?.copy_from_slice(data);
        self.pos = end;
        Ok(())
    }
}

/// Decodes a file of `lzma` into `out` and returns the length of the result.
pub(crate) fn decompress(data: &[u8], out: &mut [u8]) -> Result<usize, DecompressError> {
    let declared = out.len();
    let mut output = Output { bytes: out, pos: 0, start: 0 };
    match alone(data, &mut output) {
        Ok(()) => Ok(output.pos),
        Err(stop) => Err(stop.report(Format::Lzma, output.pos, declared)),
    }
}

fn alone(data: &[u8], output: &mut Output<'_>) -> Result<(), Stop> {
    let [properties] = array(data, 0).ok_or(Stop::Truncated)?;
    // The dictionary's size is of no interest: the output is large enough.
    let len = u64_at(data, 5).ok_or(Stop::Truncated)?;
    let mut input = data.get(13..).ok_or(Stop::Truncated)?;
    let mut model = Model::new()?;
    model.set_properties(properties)?;
    let mut range = RangeDecoder::new(&mut input)?;
    if len == u64::MAX {
        return model.decode_to_marker(&mut range, output);
    }
    let len = usize::try_from(len).map_err(|_| Stop::Full)?;
    if len > output.bytes.len() {
        return Err(Stop::Full);
    }
    model.decode(&mut range, output, len)?;
    range.finish()
}

/// Decodes an LZMA2 stream; `data` is left behind it.
pub(crate) fn lzma2(data: &mut &[u8], output: &mut Output<'_>) -> Result<(), Stop> {
    let mut model = Model::new()?;
    // What the first chunks must bring: a dictionary, then properties.
    let (mut dictionary, mut properties) = (false, false);
    loop {
        let control = take_byte(data)?;
        if control == 0 {
            return Ok(());
        }
        if control == 1 || control >= 0xe0 {
            output.start = output.pos;
            dictionary = true;
        } else if !dictionary {
            return Err(Stop::Corrupt("chunk without a dictionary"));
        }
        if control < 0x80 {
            if control > 2 {
                return Err(Stop::Corrupt("unknown kind of chunk"));
            }
            let len = take_len(data)?;
            output.append(take(data, len)?)?;
            continue;
        }
        let high = usize::from(control & 0x1f).wrapping_shl(16);
        let len = high.saturating_add(take_len(data)?);
        let packed = take_len(data)?;
        match control >> 5 & 3 {
            0 => {}
            1 => model.reset(),
            _ => {
                model.set_properties(take_byte(data)?)?;
                properties = true;
            }
        }
        if !properties {
            return Err(Stop::Corrupt("chunk without properties"));
        }
        let end = output.pos.saturating_add(len);
        if end > output.bytes.len() {
            return Err(Stop::Full);
        }
        let mut chunk = take(data, packed)?;
        let mut range = RangeDecoder::new(&mut chunk)?;
        model.decode(&mut range, output, end)?;
        range.finish()?;
    }
}

fn take<'a>(data: &mut &'a [u8], len: usize) -> Result<&'a [u8], Stop> {
    let (taken, rest) = data.split_at_checked(len).ok_or(Stop::Truncated)?;
    *data = rest;
    Ok(taken)
}

fn take_byte(data: &mut &[u8]) -> Result<u8, Stop> {
    let [byte] = array(take(data, 1)?, 0).ok_or(Stop::Truncated)?;
    Ok(byte)
}

/// Two bytes, the high one first, for lengths of 1 to 65536.
fn take_len(data: &mut &[u8]) -> Result<usize, Stop> {
    let bytes = array(take(data, 2)?, 0).ok_or(Stop::Truncated)?;
    Ok(usize::from(u16::from_be_bytes(bytes)).saturating_add(1))
}

//! gzip (RFC 1952): one member.

use alloc::boxed::Box;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress as inflate};

use crate::bytes::{u16_at, u32_at};
use crate::checksum::crc32;
use crate::decompress::{DecompressError, Format};

const HEADER_LEN: usize = 10;
const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;

/// Fills `out` and returns the length of the result.
pub(crate) fn decompress(data: &[u8], out: &mut [u8]) -> Result<usize, DecompressError> {
    let corrupt = |what, at| DecompressError::Corrupt { format: Format::Gzip, what, at };
    let truncated = |at| DecompressError::Truncated { format: Format::Gzip, at };
    if data.get(2).is_some_and(|&method| method != 8) {
        return Err(corrupt("unknown method", 0));
    }
    let body = body(data).ok_or(truncated(0))?;
    let mut state = Box::new(DecompressorOxide::new());
    let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (status, read, written) = inflate(&mut state, body, out, 0, flags);
    match status {
        TINFLStatus::Done => {}
        TINFLStatus::HasMoreOutput => {
            return Err(DecompressError::WrongLength {
                declared: out.len(),
                found: written.saturating_add(1),
            });
        }
        TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => {
            return Err(truncated(written));
        }
        _ => return Err(corrupt("bad deflate stream", written)),
    }
    let trailer = body.get(read..).and_then(|rest| Some((u32_at(rest, 0)?, u32_at(rest, 4)?)));
    let (crc, len) = trailer.ok_or(truncated(written))?;
    if out.get(..written).map(crc32) != Some(crc) {
        return Err(DecompressError::Checksum(Format::Gzip));
    }
    if usize::try_from(len) != Ok(written) {
        return Err(corrupt("wrong length field", written));
    }
    Ok(written)
}

/// What follows the header and its optional fields.
fn body(data: &[u8]) -> Option<&[u8]> {
    let flags = *data.get(3)?;
    let mut at = HEADER_LEN;
    if flags & FEXTRA != 0 {
        at = at.checked_add(2)?.checked_add(usize::from(u16_at(data, at)?))?;
    }
    for field in [FNAME, FCOMMENT] {
        if flags & field != 0 {
            let text = data.get(at..)?;
            at = at.checked_add(text.iter().position(|&b| b == 0)?)?.checked_add(1)?;
        }
    }
    if flags & FHCRC != 0 {
        at = at.checked_add(2)?;
    }
    data.get(at..)
}

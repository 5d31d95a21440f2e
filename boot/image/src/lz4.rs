//! The legacy lz4 frame, which the Linux build uses: a magic number, then blocks of at most 8 MiB of output, each
//! preceded by its compressed length.

use lz4_flex::block::decompress_into;

use crate::bytes::u32_at;
use crate::decompress::{DecompressError, Format};

const MAGIC: u32 = 0x184c_2102;
const BLOCK_LEN: usize = 8 << 20;

/// Fills `out` and returns the length of the result.
pub(crate) fn decompress(data: &[u8], out: &mut [u8]) -> Result<usize, DecompressError> {
    let corrupt = |what, at| DecompressError::Corrupt { format: Format::Lz4, what, at };
    let mut rest = data.get(4..).unwrap_or_default();
    let mut done = 0usize;
    while !rest.is_empty() {
        let truncated = DecompressError::Truncated { format: Format::Lz4, at: done };
        let len = u32_at(rest, 0).ok_or(truncated)?;
        rest = rest.get(4..).unwrap_or_default();
        if len == MAGIC {
            continue; // concatenated frames
        }
        let (block, tail) =
            usize::try_from(len).ok().and_then(|n| rest.split_at_checked(n)).ok_or(truncated)?;
        let end = done.saturating_add(BLOCK_LEN).min(out.len());
        let target = out.get_mut(done..end).unwrap_or_default();
        let written = decompress_into(block, target).map_err(|_| corrupt("bad block", done))?;
        done = done.saturating_add(written);
        rest = tail;
    }
    Ok(done)
}

//! Zstandard (RFC 8878): one frame.

use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::FrameDecoderError;

use crate::checksum::xxh64;
use crate::decompress::{DecompressError, Format};

/// The largest window accepted, in bytes: what Debian 13 compresses its kernels with.
const MAX_WINDOW: u64 = 128 << 20;

/// Fills `out` and returns the length of the result.
pub(crate) fn decompress(data: &[u8], out: &mut [u8]) -> Result<usize, DecompressError> {
    let corrupt = |what| DecompressError::Corrupt { format: Format::Zstd, what, at: 0 };
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(MAX_WINDOW);
    let written = decoder.decode_all(data, out).map_err(|e| match e {
        FrameDecoderError::WindowSizeTooBig { requested, .. } => {
            DecompressError::OutOfMemory { needed: requested }
        }
        FrameDecoderError::TargetTooSmall => {
            DecompressError::WrongLength { declared: out.len(), found: out.len().saturating_add(1) }
        }
        FrameDecoderError::DictNotProvided { .. } => corrupt("it needs an external dictionary"),
        FrameDecoderError::ReadFrameHeaderError(_) => corrupt("bad frame header"),
        FrameDecoderError::FailedToReadBlockHeader(_) => corrupt("bad block header"),
        FrameDecoderError::FailedToReadBlockBody(_) => corrupt("bad block"),
        FrameDecoderError::FailedToReadChecksum(_) => corrupt("no checksum"),
        _ => corrupt("bad frame"),
    })?;
    if let Some(stored) = decoder.get_checksum_from_data() {
        let hash = out.get(..written).map(xxh64);
        if hash.map(|h| h & 0xffff_ffff) != Some(u64::from(stored)) {
            return Err(DecompressError::Checksum(Format::Zstd));
        }
    }
    Ok(written)
}

//! The file format of `lzma` ("lzma alone"): properties, dictionary size, length, one LZMA stream.

use lzma_rust2::{Error, LzmaReader, Read};

use crate::decompress::{DecompressError, Format};

/// The largest dictionary accepted, in bytes.
pub(crate) const MAX_DICTIONARY: u32 = 128 << 20;

/// Fills `out` and returns the length of the result.
pub(crate) fn decompress(data: &[u8], out: &mut [u8]) -> Result<usize, DecompressError> {
    let limit_kib = (MAX_DICTIONARY >> 10).saturating_add(1024);
    let mut reader =
        LzmaReader::new_mem_limit(data, limit_kib, None).map_err(|e| translate(e, Format::Lzma, 0))?;
    fill(&mut reader, out, Format::Lzma)
}

/// Reads until the end of the stream, at most `out` full; more output than that is reported as a length.
pub(crate) fn fill<R: Read>(
    reader: &mut R,
    out: &mut [u8],
    format: Format,
) -> Result<usize, DecompressError> {
    let mut done = 0usize;
    loop {
        let target = out.get_mut(done..).unwrap_or_default();
        let mut extra = [0u8; 1];
        let full = target.is_empty();
        let target = if full { &mut extra[..] } else { target };
        match reader.read(target) {
            Ok(0) => return Ok(done),
            Ok(_) if full => return Ok(done.saturating_add(1)),
            Ok(n) => done = done.saturating_add(n),
            Err(e) => return Err(translate(e, format, done)),
        }
    }
}

fn translate(error: Error, format: Format, at: usize) -> DecompressError {
    match error {
        Error::Eof => DecompressError::Truncated { format, at },
        Error::OutOfMemory(_) => DecompressError::OutOfMemory { needed: u64::from(MAX_DICTIONARY) },
        Error::InvalidData(what)
        | Error::InvalidInput(what)
        | Error::Other(what)
        | Error::Unsupported(what)
        | Error::WriteZero(what) => DecompressError::Corrupt { format, what, at },
        Error::Interrupted => DecompressError::Corrupt { format, what: "interrupted", at },
    }
}

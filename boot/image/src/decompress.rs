//! Decompression into memory that the caller provides.

use core::fmt;

use crate::{gzip, lz4, lzma, xz, zstd};

/// How the bytes of a kernel are stored.
///
/// All are decoded straight into the output, which the caller provides and which is the dictionary. The heap needed
/// besides is small and does not depend on the file: raw and lz4 none, gzip 11 KiB, xz and lzma 30 KiB, zstd 150 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Not compressed.
    Raw,
    /// gzip (RFC 1952).
    Gzip,
    /// xz with LZMA2 and, optionally, the x86 branch filter.
    Xz,
    /// Zstandard (RFC 8878).
    Zstd,
    /// The legacy frame of `lz4 -l`.
    Lz4,
    /// The file format of `lzma` ("lzma alone").
    Lzma,
}

impl Format {
    /// The format by the first bytes of the data; the error names a format that is known but not supported.
    pub fn detect(data: &[u8]) -> Result<Self, DecompressError> {
        const KNOWN: [(&[u8], Result<Format, DecompressError>); 8] = [
            (b"\x7fELF", Ok(Format::Raw)),
            (b"\x1f\x8b", Ok(Format::Gzip)),
            (b"\xfd7zXZ\0", Ok(Format::Xz)),
            (b"\x28\xb5\x2f\xfd", Ok(Format::Zstd)),
            (b"\x02\x21\x4c\x18", Ok(Format::Lz4)),
            (b"\x5d\0\0", Ok(Format::Lzma)),
            (b"BZh", Err(DecompressError::Unsupported("bzip2"))),
            (b"\x89LZO\0", Err(DecompressError::Unsupported("lzo"))),
        ];
        KNOWN
            .into_iter()
            .find(|(magic, _)| data.starts_with(magic))
            .map_or(Err(DecompressError::Unsupported("unknown")), |(_, format)| format)
    }

    /// The format's usual name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "uncompressed",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Lzma => "lzma",
        }
    }
}

/// Why data could not be decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecompressError {
    /// The data are in this format, which is not supported.
    Unsupported(&'static str),
    /// The data break the rules of their format.
    Corrupt {
        /// The format.
        format: Format,
        /// What is wrong.
        what: &'static str,
        /// How many bytes of output were complete when it was noticed.
        at: usize,
    },
    /// The data end too early.
    Truncated {
        /// The format.
        format: Format,
        /// How many bytes of output were complete.
        at: usize,
    },
    /// The checksum stored in the data is not that of the output.
    Checksum(Format),
    /// The output is shorter or longer than the file declares.
    WrongLength {
        /// The length declared, in bytes.
        declared: usize,
        /// The length found, in bytes; for a longer output, where decompression stopped.
        found: usize,
    },
    /// There is not enough memory for the dictionary.
    OutOfMemory {
        /// The bytes needed.
        needed: u64,
    },
}

impl fmt::Display for DecompressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const AGAIN: &str = "copy the kernel file again or reinstall its package";
        match *self {
            Self::Unsupported(name) => write!(
                f,
                "the kernel's compression ({name}) is not supported: use one compressed with gzip, xz, zstd, lz4 or lzma"
            ),
            Self::Corrupt { format, what, at } => {
                write!(f, "corrupt {} data after {at} bytes of kernel ({what}): {AGAIN}", format.name())
            }
            Self::Truncated { format, at } => {
                write!(f, "the {} data end after {at} bytes of kernel: {AGAIN}", format.name())
            }
            Self::Checksum(format) => {
                write!(f, "the {} checksum does not match the decompressed kernel: {AGAIN}", format.name())
            }
            Self::WrongLength { declared, found } => {
                write!(f, "the kernel declares {declared} bytes but decompresses to {found}: {AGAIN}")
            }
            Self::OutOfMemory { needed } => {
                write!(
                    f,
                    "not enough memory to decompress the kernel: {needed} bytes are needed for the dictionary"
                )
            }
        }
    }
}

impl core::error::Error for DecompressError {}

/// Decompresses `data` into `out`, which must have exactly the length of the result.
///
/// On an error the content of `out` is not specified.
pub fn decompress(format: Format, data: &[u8], out: &mut [u8]) -> Result<(), DecompressError> {
    let found = match format {
        Format::Raw => copy(data, out),
        Format::Gzip => gzip::decompress(data, out)?,
        Format::Xz => xz::decompress(data, out)?,
        Format::Zstd => zstd::decompress(data, out)?,
        Format::Lz4 => lz4::decompress(data, out)?,
        Format::Lzma => lzma::decompress(data, out)?,
    };
    if found == out.len() { Ok(()) } else { Err(DecompressError::WrongLength { declared: out.len(), found }) }
}

fn copy(data: &[u8], out: &mut [u8]) -> usize {
    if data.len() == out.len() {
        out.copy_from_slice(data);
    }
    data.len()
}

//! Finding the kernel in its file: the Linux boot protocol's setup header, gzip, or plain ELF.

use core::fmt;

use crate::bytes::{slice, u16_at, u32_at};
use crate::decompress::{DecompressError, Format, decompress};

/// The largest uncompressed kernel accepted, in bytes. What a file declares is only a claim.
pub const MAX_KERNEL_LEN: usize = 512 << 20;

/// Offsets of the setup header (Linux: `Documentation/arch/x86/boot.rst`).
mod header {
    pub(super) const SETUP_SECTS: usize = 0x1f1;
    pub(super) const BOOT_FLAG: usize = 0x1fe;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
}

const BOOT_FLAG: u16 = 0xaa55;
const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// The first protocol that says where the payload is.
const MIN_VERSION: u16 = 0x0208;
const SECTOR: u64 = 512;
/// The Linux build appends the uncompressed length, little-endian; gzip ends in it by itself.
const LENGTH_FIELD: usize = 4;

/// Why a file is not a kernel that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// The file is empty or shorter than its own header.
    TooShort,
    /// Neither a bzImage nor ELF nor gzip.
    NotAKernel,
    /// A bzImage of a boot protocol that does not say where the kernel is (older than 2.08, Linux 2.6.26).
    OldProtocol {
        /// Version as in the header, major in the high byte.
        version: u16,
    },
    /// The payload that the header names is not inside the file.
    PayloadOutside {
        /// Offset of the payload in the file, in bytes.
        offset: u64,
        /// Length of the payload, in bytes.
        len: u64,
        /// Length of the file, in bytes.
        file: usize,
    },
    /// The declared length is zero or more than [`MAX_KERNEL_LEN`].
    BadLength {
        /// The declared length, in bytes.
        len: usize,
    },
    /// The compression is not supported.
    Compression(DecompressError),
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort => f.write_str("the kernel file is empty or cut short: copy it again"),
            Self::NotAKernel => f.write_str(
                "the file is neither a bzImage nor an ELF kernel: use a kernel (vmlinuz) as first module, its initramfs after it",
            ),
            Self::OldProtocol { version } => write!(
                f,
                "boot protocol {}.{:02} does not say where the kernel is: use Linux 2.6.26 or newer (2.08)",
                version >> 8,
                version & 0xff
            ),
            Self::PayloadOutside { offset, len, file } => write!(
                f,
                "the kernel is {len} bytes at offset {offset}, but the file has {file} bytes: it is cut short, copy it again"
            ),
            Self::BadLength { len } => write!(
                f,
                "the kernel declares an uncompressed length of {len} bytes, allowed are 1 to {MAX_KERNEL_LEN}: the file is corrupt, copy it again"
            ),
            Self::Compression(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for FormatError {}

/// A kernel file, located and not yet decompressed.
#[derive(Clone, Copy, Debug)]
pub struct KernelFile<'a> {
    format: Format,
    payload: &'a [u8],
    uncompressed_len: usize,
}

impl<'a> KernelFile<'a> {
    /// Looks into a file: bzImage (boot protocol 2.08 or newer), ELF, or ELF compressed with gzip.
    pub fn parse(file: &'a [u8]) -> Result<Self, FormatError> {
        if file.is_empty() {
            return Err(FormatError::TooShort);
        }
        if u32_at(file, header::MAGIC) == Some(MAGIC) && u16_at(file, header::BOOT_FLAG) == Some(BOOT_FLAG) {
            return Self::from_payload(bzimage_payload(file)?);
        }
        match Format::detect(file) {
            Ok(Format::Raw | Format::Gzip) => Self::from_payload(file),
            _ => Err(FormatError::NotAKernel),
        }
    }

    fn from_payload(data: &'a [u8]) -> Result<Self, FormatError> {
        let format = Format::detect(data).map_err(FormatError::Compression)?;
        let (body, length) = data.split_last_chunk::<LENGTH_FIELD>().ok_or(FormatError::TooShort)?;
        let declared = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (payload, len) = match format {
            Format::Raw => (data, data.len()),
            Format::Gzip => (data, declared),
            Format::Xz | Format::Zstd | Format::Lz4 | Format::Lzma => (body, declared),
        };
        if len == 0 || len > MAX_KERNEL_LEN {
            return Err(FormatError::BadLength { len });
        }
        Ok(Self { format, payload, uncompressed_len: len })
    }

    /// How the kernel is compressed.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Length of the ELF file in bytes, as declared: what [`extract_into`](Self::extract_into) wants as buffer.
    /// At least 1 and at most [`MAX_KERNEL_LEN`].
    pub const fn uncompressed_len(&self) -> usize {
        self.uncompressed_len
    }

    /// The ELF file itself if it is not compressed, so that no copy is needed.
    pub fn elf_in_place(&self) -> Option<&'a [u8]> {
        (self.format == Format::Raw).then_some(self.payload)
    }

    /// Decompresses into `out`, which must be [`uncompressed_len`](Self::uncompressed_len) bytes long. On an error
    /// the content of `out` is not specified. [`Format`] says how much heap it takes.
    pub fn extract_into(&self, out: &mut [u8]) -> Result<(), DecompressError> {
        decompress(self.format, self.payload, out)
    }
}

fn bzimage_payload(file: &[u8]) -> Result<&[u8], FormatError> {
    let version = u16_at(file, header::VERSION).ok_or(FormatError::TooShort)?;
    if version < MIN_VERSION {
        return Err(FormatError::OldProtocol { version });
    }
    let setup = match file.get(header::SETUP_SECTS) {
        Some(0) => 4, // the protocol's default
        Some(&n) => u64::from(n),
        None => return Err(FormatError::TooShort),
    };
    let field = |at| u32_at(file, at).map(u64::from).ok_or(FormatError::TooShort);
    let offset =
        setup.saturating_add(1).saturating_mul(SECTOR).saturating_add(field(header::PAYLOAD_OFFSET)?);
    let len = field(header::PAYLOAD_LENGTH)?;
    slice(file, offset, len).ok_or(FormatError::PayloadOutside { offset, len, file: file.len() })
}

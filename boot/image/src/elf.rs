//! Reading ELF64 files: program headers, section headers, notes.

use core::fmt;

use crate::bytes::{slice, u16_at, u32_at, u64_at};

const CLASS_64: u8 = 2;
const DATA_LITTLE: u8 = 1;
const MACHINE_X86_64: u16 = 62;
const TYPE_EXEC: u16 = 2;
const TYPE_DYN: u16 = 3;
const PROGRAM_HEADER_LEN: u16 = 56;
const SECTION_HEADER_LEN: u16 = 64;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const SHT_NOTE: u32 = 7;
/// No kernel has nearly as many; it bounds the time spent on a hostile file.
const MAX_PROGRAM_HEADERS: u16 = 64;
const MAX_SECTIONS: u16 = 1024;

/// Why a file is not an ELF kernel that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// The magic number is missing.
    NotElf,
    /// A 32-bit file.
    ThirtyTwoBit,
    /// Not little-endian x86-64.
    WrongMachine {
        /// `e_machine` of the file.
        machine: u16,
    },
    /// Neither an executable nor a position-independent one.
    NotExecutable,
    /// A header or what it names is outside of the file, or its size is not the standard's.
    Malformed(&'static str),
    /// No segment is to be loaded.
    NothingToLoad,
    /// Two segments claim the same memory.
    Overlap {
        /// Physical address of the second one, as the file states it.
        paddr: u64,
    },
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotElf => {
                f.write_str("the kernel is not an ELF file: use a Linux kernel with Xen PV support")
            }
            Self::ThirtyTwoBit => f.write_str(
                "32-bit PV kernels are not supported: use the amd64 kernel (32-bit programs run on it)",
            ),
            Self::WrongMachine { machine } => {
                write!(f, "the kernel is for another machine (ELF machine {machine}): use an x86-64 kernel")
            }
            Self::NotExecutable => f.write_str("the ELF file is not an executable: use vmlinux or vmlinuz"),
            Self::Malformed(what) => {
                write!(f, "the kernel's ELF file is corrupt ({what}): reinstall the kernel")
            }
            Self::NothingToLoad => {
                f.write_str("the kernel's ELF file has nothing to load: reinstall the kernel")
            }
            Self::Overlap { paddr } => {
                write!(
                    f,
                    "two segments of the kernel overlap at {paddr:#x}: the ELF file is corrupt, reinstall the kernel"
                )
            }
        }
    }
}

impl core::error::Error for ElfError {}

/// A part of the kernel: where it goes and what goes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Virtual address of the first byte in the new domain.
    pub va: u64,
    /// The bytes from the file.
    pub data: &'a [u8],
    /// Length in memory, at least that of `data`; the remainder is zero.
    pub mem_len: u64,
}

/// A `PT_LOAD` program header with its bytes, before the notes say where physical address 0 is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load<'a> {
    pub(crate) paddr: u64,
    pub(crate) data: &'a [u8],
    pub(crate) mem_len: u64,
}

/// A table of fixed-size headers.
#[derive(Clone, Copy, Debug)]
struct Table<'a> {
    bytes: &'a [u8],
    entry: usize,
}

impl<'a> Table<'a> {
    fn rows(self) -> impl Iterator<Item = &'a [u8]> {
        self.bytes.chunks_exact(self.entry.max(1))
    }
}

/// An ELF64 file whose headers are inside the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elf<'a> {
    file: &'a [u8],
    pub(crate) entry: u64,
    programs: Table<'a>,
    sections: Table<'a>,
}

impl<'a> Elf<'a> {
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, ElfError> {
        if !file.starts_with(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        let short = ElfError::Malformed("header cut short");
        let (class, order) = (file.get(4).ok_or(short)?, file.get(5).ok_or(short)?);
        let machine = u16_at(file, 18).ok_or(short)?;
        if *class != CLASS_64 {
            return Err(ElfError::ThirtyTwoBit);
        }
        if *order != DATA_LITTLE || machine != MACHINE_X86_64 {
            return Err(ElfError::WrongMachine { machine });
        }
        if !matches!(u16_at(file, 16), Some(TYPE_EXEC | TYPE_DYN)) {
            return Err(ElfError::NotExecutable);
        }
        let entry = u64_at(file, 24).ok_or(short)?;
        let programs = table(file, 32, 54, PROGRAM_HEADER_LEN, MAX_PROGRAM_HEADERS)
            .ok_or(ElfError::Malformed("program headers"))?;
        // A file may be stripped of its sections, and only old kernels' notes are looked for there.
        let sections =
            table(file, 40, 58, SECTION_HEADER_LEN, MAX_SECTIONS).unwrap_or(Table { bytes: &[], entry: 64 });
        Ok(Self { file, entry, programs, sections })
    }

    /// Everything to be loaded, in the file's order.
    pub(crate) fn loads(&self) -> impl Iterator<Item = Result<Load<'a>, ElfError>> + use<'a> {
        let file = self.file;
        self.programs
            .rows()
            .filter(|row| u32_at(row, 0) == Some(PT_LOAD))
            .map(move |row| load(file, row).ok_or(ElfError::Malformed("segment outside of the file")))
    }

    /// Contents of the note segments.
    pub(crate) fn note_segments(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let file = self.file;
        self.programs
            .rows()
            .filter(|row| u32_at(row, 0) == Some(PT_NOTE))
            .filter_map(move |row| data(file, row, 8, 32))
    }

    /// Contents of the note sections.
    pub(crate) fn note_sections(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let file = self.file;
        self.sections
            .rows()
            .filter(|row| u32_at(row, 4) == Some(SHT_NOTE))
            .filter_map(move |row| data(file, row, 24, 32))
    }
}

/// The header table whose offset is at `offset_at` and whose entry size and count are at `sizes_at`.
fn table(file: &[u8], offset_at: usize, sizes_at: usize, entry: u16, max: u16) -> Option<Table<'_>> {
    let offset = u64_at(file, offset_at)?;
    let size = u16_at(file, sizes_at)?;
    let count = u16_at(file, sizes_at.checked_add(2)?)?;
    if size != entry || count > max {
        return None;
    }
    let bytes = slice(file, offset, u64::from(entry).checked_mul(u64::from(count))?)?;
    Some(Table { bytes, entry: usize::from(entry) })
}

fn data<'a>(file: &'a [u8], row: &[u8], offset_at: usize, len_at: usize) -> Option<&'a [u8]> {
    slice(file, u64_at(row, offset_at)?, u64_at(row, len_at)?)
}

fn load<'a>(file: &'a [u8], row: &[u8]) -> Option<Load<'a>> {
    let data = data(file, row, 8, 32)?;
    let paddr = u64_at(row, 24)?;
    let mem_len = u64_at(row, 40)?;
    paddr.checked_add(mem_len)?;
    (data.len() as u64 <= mem_len).then_some(Load { paddr, data, mem_len })
}

/// One ELF note.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) kind: u32,
    pub(crate) desc: &'a [u8],
}

/// The notes in a note segment; it ends at the first one that does not fit.
pub(crate) fn notes(mut bytes: &[u8]) -> impl Iterator<Item = Note<'_>> {
    core::iter::from_fn(move || {
        let name_len = u64::from(u32_at(bytes, 0)?);
        let desc_len = u64::from(u32_at(bytes, 4)?);
        let kind = u32_at(bytes, 8)?;
        let name = slice(bytes, 12, name_len)?;
        let desc_at = name_len.next_multiple_of(4).checked_add(12)?;
        let desc = slice(bytes, desc_at, desc_len)?;
        let next = usize::try_from(desc_at.checked_add(desc_len.next_multiple_of(4))?).ok()?;
        bytes = bytes.get(next..).unwrap_or_default();
        Some(Note { name, kind, desc })
    })
}

//! The Xen notes of a kernel (`elfnote.h`) and the features it names (`features.h`).

use core::fmt;

use guest_abi::elfnote::*;
pub use guest_abi::features::Features;

use crate::bytes::{array, u32_at, u64_at};
use crate::elf::{Elf, Note, notes};

/// Why the notes cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteError {
    /// There is not one Xen note.
    NotXen,
    /// The content of a note is not as `elfnote.h` says.
    Malformed {
        /// Number of the note (`XEN_ELFNOTE_*`).
        note: u32,
    },
    /// The text note of features requires one that this version does not know.
    UnknownFeature,
}

impl fmt::Display for NoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotXen => {
                f.write_str("the kernel has no Xen notes: use one built with CONFIG_XEN_PV (every Debian amd64 kernel is)")
            }
            Self::Malformed { note } => {
                write!(f, "Xen note {note} of the kernel is malformed: the file is corrupt, reinstall the kernel")
            }
            Self::UnknownFeature => {
                f.write_str("the kernel requires a hypervisor feature that is unknown here: use another kernel")
            }
        }
    }
}

impl core::error::Error for NoteError {}

/// What the kernel says about itself. A later note replaces an earlier one of the same number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XenNotes<'a> {
    /// Virtual address of the entry point (`ENTRY`).
    pub entry: Option<u64>,
    /// Virtual address of the hypercall page (`HYPERCALL_PAGE`).
    pub hypercall_page: Option<u64>,
    /// Virtual address of guest-physical address 0 (`VIRT_BASE`).
    pub virt_base: Option<u64>,
    /// What the ELF physical addresses are too large by (`PADDR_OFFSET`).
    pub paddr_offset: Option<u64>,
    /// Interface version, `xen-3.0` (`XEN_VERSION`).
    pub xen_version: Option<&'a str>,
    /// Name of the kernel (`GUEST_OS`).
    pub guest_os: Option<&'a str>,
    /// Version of the kernel (`GUEST_VERSION`).
    pub guest_version: Option<&'a str>,
    /// Kind of loader it wants (`LOADER`).
    pub loader: Option<&'a str>,
    /// `yes`, `no` or `bimodal`; means nothing to 64-bit kernels (`PAE_MODE`).
    pub pae_mode: Option<&'a str>,
    /// The features as text (`FEATURES`).
    pub features: Option<&'a str>,
    /// The features as a bitmap (`SUPPORTED_FEATURES`).
    pub supported_features: Option<u64>,
    /// Features that it can use: from both notes.
    pub supported: Features,
    /// Features that it cannot do without: those with a `!` in the text.
    pub required: Features,
    /// The symbol table is wanted behind the kernel (`BSD_SYMTAB`).
    pub bsd_symtab: bool,
    /// The lowest address that the hypervisor may take (`HV_START_LOW`).
    pub hv_start_low: Option<u64>,
    /// Mask and value of a valid page-table entry, the first pair (`L1_MFN_VALID`).
    pub l1_mfn_valid: Option<(u64, u64)>,
    /// A suspend may be cancelled (`SUSPEND_CANCEL`).
    pub suspend_cancel: bool,
    /// Virtual address for the p2m list (`INIT_P2M`).
    pub init_p2m: Option<u64>,
    /// The initial RAM disk may be left unmapped and named by its frame number (`MOD_START_PFN`).
    pub mod_start_pfn: bool,
    /// Physical entry point for PVH (`PHYS32_ENTRY`).
    pub phys32_entry: Option<u64>,
}

impl<'a> XenNotes<'a> {
    /// Reads the note segments, and the note sections if there is no Xen note in a segment.
    pub(crate) fn parse(elf: &Elf<'a>) -> Result<Self, NoteError> {
        let mut result = Self::default();
        let mut found = false;
        for note in elf.note_segments().flat_map(notes) {
            found |= result.take(note)?;
        }
        if !found {
            for note in elf.note_sections().flat_map(notes) {
                found |= result.take(note)?;
            }
        }
        if !found {
            return Err(NoteError::NotXen);
        }
        result.combine_features()?;
        Ok(result)
    }

    /// Whether it was a Xen note.
    fn take(&mut self, note: Note<'a>) -> Result<bool, NoteError> {
        if note.name != b"Xen\0" {
            return Ok(false);
        }
        match note.kind {
            XEN_ELFNOTE_ENTRY => self.entry = Some(number(note)?),
            XEN_ELFNOTE_HYPERCALL_PAGE => self.hypercall_page = Some(number(note)?),
            XEN_ELFNOTE_VIRT_BASE => self.virt_base = Some(number(note)?),
            XEN_ELFNOTE_PADDR_OFFSET => self.paddr_offset = Some(number(note)?),
            XEN_ELFNOTE_XEN_VERSION => self.xen_version = Some(text(note)?),
            XEN_ELFNOTE_GUEST_OS => self.guest_os = Some(text(note)?),
            XEN_ELFNOTE_GUEST_VERSION => self.guest_version = Some(text(note)?),
            XEN_ELFNOTE_LOADER => self.loader = Some(text(note)?),
            XEN_ELFNOTE_PAE_MODE => self.pae_mode = Some(text(note)?),
            XEN_ELFNOTE_FEATURES => self.features = Some(text(note)?),
            XEN_ELFNOTE_BSD_SYMTAB => self.bsd_symtab = text(note)? == "yes",
            XEN_ELFNOTE_HV_START_LOW => self.hv_start_low = Some(number(note)?),
            XEN_ELFNOTE_L1_MFN_VALID => self.l1_mfn_valid = Some(pair(note)?),
            XEN_ELFNOTE_SUSPEND_CANCEL => self.suspend_cancel = number(note)? != 0,
            XEN_ELFNOTE_INIT_P2M => self.init_p2m = Some(number(note)?),
            XEN_ELFNOTE_MOD_START_PFN => self.mod_start_pfn = number(note)? != 0,
            XEN_ELFNOTE_SUPPORTED_FEATURES => self.supported_features = Some(number(note)?),
            XEN_ELFNOTE_PHYS32_ENTRY => self.phys32_entry = Some(number(note)?),
            _ => {} // newer notes are for newer hypervisors
        }
        Ok(true)
    }

    fn combine_features(&mut self) -> Result<(), NoteError> {
        #[expect(clippy::cast_possible_truncation, reason = "features.h has one submap of 32 features")]
        let bits = self.supported_features.unwrap_or(0) as u32;
        self.supported = Features::from_bits_retain(bits);
        for item in self.features.unwrap_or("").split('|').filter(|item| !item.is_empty()) {
            let (name, required) = item.strip_prefix('!').map_or((item, false), |name| (name, true));
            match feature(name) {
                Some(feature) => {
                    self.supported |= feature;
                    if required {
                        self.required |= feature;
                    }
                }
                None if required => return Err(NoteError::UnknownFeature),
                None => {}
            }
        }
        Ok(())
    }
}

/// The feature of a name: `features.h` without `XENFEAT_`, in any case.
fn feature(name: &str) -> Option<Features> {
    // The text note predates most features: `features.h` and its names have not changed since.
    Features::all()
        .iter_names()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, feature)| feature)
}

/// Numbers have 4 or 8 bytes.
fn number(note: Note<'_>) -> Result<u64, NoteError> {
    match note.desc.len() {
        4 => u32_at(note.desc, 0).map(u64::from),
        8 => u64_at(note.desc, 0),
        _ => None,
    }
    .ok_or(NoteError::Malformed { note: note.kind })
}

/// Mask and value, of 4 or 8 bytes each.
fn pair(note: Note<'_>) -> Result<(u64, u64), NoteError> {
    let wide = || Some((array(note.desc, 0).map(u64::from_le_bytes)?, u64_at(note.desc, 8)?));
    let narrow = || Some((u64::from(u32_at(note.desc, 0)?), u64::from(u32_at(note.desc, 4)?)));
    if note.desc.len() == 8 { narrow() } else { wide() }.ok_or(NoteError::Malformed { note: note.kind })
}

/// ASCII up to the first zero.
fn text(note: Note<'_>) -> Result<&str, NoteError> {
    let malformed = NoteError::Malformed { note: note.kind };
    let bytes = note.desc.split(|&b| b == 0).next().ok_or(malformed)?;
    if bytes.is_ascii() { core::str::from_utf8(bytes).map_err(|_| malformed) } else { Err(malformed) }
}

//! What there is to know about a kernel before memory for it is laid out.

use core::fmt;

use crate::elf::{Elf, ElfError, Load, Segment};
use crate::notes::{Features, NoteError, XenNotes};

const INTERFACE: &str = "xen-3.0";

/// A PV kernel runs in ring 3 and manages machine frames itself.
const NEVER_IN_PV: Features = Features::AUTO_TRANSLATED_PHYSMAP.union(Features::SUPERVISOR_MODE_KERNEL);

/// Why a kernel cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// The ELF file.
    Elf(ElfError),
    /// Its notes.
    Note(NoteError),
    /// It is for another version of the interface, or does not say for which.
    Interface,
    /// It wants another loader than the generic one.
    Loader,
    /// It requires features that no PV domain has.
    MissingFeatures(Features),
    /// Its notes say that it cannot be dom0.
    NotDom0,
    /// An address in its headers or notes is not usable.
    BadAddress {
        /// Which one.
        what: &'static str,
        /// The address.
        address: u64,
    },
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Elf(error) => error.fmt(f),
            Self::Note(error) => error.fmt(f),
            Self::Interface => write!(f, "the kernel is not for the {INTERFACE} interface: use another kernel"),
            Self::Loader => f.write_str("the kernel wants a special loader: use one with the note LOADER=generic"),
            Self::MissingFeatures(features) => {
                f.write_str("the kernel requires features that a PV domain cannot have:")?;
                features.iter_names().try_for_each(|(name, _)| write!(f, " {name}"))
            }
            Self::NotDom0 => f.write_str(
                "the kernel cannot be dom0, say its notes: install a kernel with CONFIG_XEN_DOM0 (linux-image-amd64, not -cloud-amd64)",
            ),
            Self::BadAddress { what, address } => {
                write!(f, "the kernel's {what} {address:#x} is not usable: the file is corrupt, reinstall the kernel")
            }
        }
    }
}

impl core::error::Error for KernelError {}

impl From<ElfError> for KernelError {
    fn from(error: ElfError) -> Self {
        Self::Elf(error)
    }
}

impl From<NoteError> for KernelError {
    fn from(error: NoteError) -> Self {
        Self::Note(error)
    }
}

/// A kernel: its segments, addresses and notes, all of them consistent with one another.
#[derive(Clone, Copy, Debug)]
pub struct KernelInfo<'a> {
    elf: Elf<'a>,
    notes: XenNotes<'a>,
    virt_base: u64,
    virt_offset: u64,
    start: u64,
    end: u64,
    entry: u64,
}

impl<'a> KernelInfo<'a> {
    /// Reads an ELF file. Every segment is inside the file, none overlaps another, and the entry point and the
    /// hypercall page are in the kernel.
    pub fn parse(file: &'a [u8]) -> Result<Self, KernelError> {
        let elf = Elf::parse(file)?;
        let notes = XenNotes::parse(&elf)?;
        let virt_base = notes.virt_base.unwrap_or(0);
        // Wrapping on purpose: old kernels have the kernel's virtual addresses as physical ones and subtract them here.
        let virt_offset = virt_base.wrapping_sub(notes.paddr_offset.unwrap_or(0));
        let (low, high) = extent(&elf)?;
        let bad = |what, address| KernelError::BadAddress { what, address };
        let start = low.wrapping_add(virt_offset);
        let len = high.wrapping_sub(low);
        let end = start.checked_add(len).ok_or(bad("load address", start))?;
        if start < virt_base {
            return Err(bad("load address", start));
        }
        let inside = |va: u64| (start..end).contains(&va);
        let entry = notes.entry.unwrap_or(elf.entry);
        if !inside(entry) {
            return Err(bad("entry point", entry));
        }
        if let Some(page) = notes.hypercall_page
            && !(page.is_multiple_of(0x1000)
                && inside(page)
                && page.checked_add(0x1000).is_some_and(|last| last <= end))
        {
            return Err(bad("hypercall page", page));
        }
        Ok(Self { elf, notes, virt_base, virt_offset, start, end, entry })
    }

    /// Whether a PV hypervisor can run it at all.
    ///
    /// `!writable_page_tables`, which Linux names, asks for writes to page tables to be emulated, not for the feature
    /// that `XENVER_get_features` answers; so only what no PV domain can have is refused.
    pub fn check(&self) -> Result<(), KernelError> {
        if !self.notes.xen_version.is_some_and(|version| version.starts_with(INTERFACE)) {
            return Err(KernelError::Interface);
        }
        let generic = self.notes.loader.is_some_and(|loader| loader.starts_with("generic"));
        let linux = self.notes.guest_os.is_some_and(|os| os.starts_with("linux"));
        if !generic && !linux {
            return Err(KernelError::Loader);
        }
        let missing = self.notes.required.intersection(NEVER_IN_PV);
        if missing.is_empty() { Ok(()) } else { Err(KernelError::MissingFeatures(missing)) }
    }

    /// Whether it can run as dom0: [`check`](Self::check), and the notes name the feature `dom0`. A kernel from
    /// before the bitmap of features (Linux 3.x) cannot say, so it may try.
    pub fn check_dom0(&self) -> Result<(), KernelError> {
        self.check()?;
        if self.notes.supported_features.is_some() && !self.notes.supported.contains(Features::DOM0) {
            return Err(KernelError::NotDom0);
        }
        Ok(())
    }

    /// The Xen notes.
    pub const fn notes(&self) -> &XenNotes<'a> {
        &self.notes
    }

    /// Virtual address of guest-physical address 0.
    pub const fn virt_base(&self) -> u64 {
        self.virt_base
    }

    /// Virtual address of the kernel's first byte.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Virtual address behind the kernel's last byte.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Virtual address of the entry point.
    pub const fn entry(&self) -> u64 {
        self.entry
    }

    /// What to load where; all between [`start`](Self::start) and [`end`](Self::end), disjoint, in the file's order.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'a>> + use<'a> {
        let offset = self.virt_offset;
        self.elf.loads().flatten().map(move |load| Segment {
            va: load.paddr.wrapping_add(offset),
            data: load.data,
            mem_len: load.mem_len,
        })
    }
}

/// Lowest and highest physical address of the segments, which are checked on the way.
fn extent(elf: &Elf<'_>) -> Result<(u64, u64), ElfError> {
    let mut range: Option<(u64, u64)> = None;
    for (index, load) in elf.loads().enumerate() {
        let load = load?;
        let end = load_end(&load);
        for earlier in elf.loads().take(index) {
            let earlier = earlier?;
            if load.paddr < load_end(&earlier) && earlier.paddr < end {
                return Err(ElfError::Overlap { paddr: load.paddr });
            }
        }
        range = Some(range.map_or((load.paddr, end), |(low, high)| (low.min(load.paddr), high.max(end))));
    }
    range.ok_or(ElfError::NothingToLoad)
}

fn load_end(load: &Load<'_>) -> u64 {
    load.paddr.saturating_add(load.mem_len)
}

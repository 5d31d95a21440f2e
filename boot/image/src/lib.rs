//! Images of paravirtual kernels: from a kernel file to a plan for a new domain's memory.
//!
//! The way through the crate, the same for dom0 (in the hypervisor) and for domU (in dom0's tools):
//!
//! 1. [`KernelFile::parse`] finds the kernel in a bzImage, a gzip file or a plain ELF file, and says how
//!    large it is uncompressed.
//! 2. [`KernelFile::extract_into`] decompresses it into memory that the caller provides.
//! 3. [`KernelInfo::parse`] reads the ELF file: what to load where, and the Xen notes. [`KernelInfo::check`]
//!    and [`KernelInfo::check_dom0`] say whether this hypervisor can run it.
//! 4. [`BuildPlan::new`] lays out the new domain's first memory, and [`BuildPlan::page_table_entries`] lists
//!    its first page tables. Everything is in frame numbers of the guest (pfn): the builder owns the machine frames.
//!
//! All input is hostile: nothing here panics, reads outside the file, or loops or allocates without a bound.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

extern crate alloc;

mod bytes;
mod bzimage;
mod checksum;
mod decompress;
mod elf;
mod gzip;
mod kernel;
mod lz4;
mod lzma;
mod notes;
mod page_tables;
mod plan;
mod x86_filter;
mod xz;
mod zstd;

pub use bzimage::{FormatError, KernelFile, MAX_KERNEL_LEN};
pub use decompress::{DecompressError, Format, decompress};
pub use elf::{ElfError, Segment};
pub use kernel::{KernelError, KernelInfo};
pub use notes::{Features, NoteError, XenNotes};
pub use page_tables::{PageTableEntries, PageTableEntry};
pub use plan::{BuildPlan, Initrd, PAGE_SIZE, PlanError, PlanInput, Region};

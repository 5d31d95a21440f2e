//! Building a domain's memory: from files to a domain whose vCPU 0 stands at its kernel's entry point.
//!
//! [`Kernel`] unpacks and plans, with nothing but the files and the domain's size; [`Memory`] holds the machine frames
//! that the domain got; [`fill`] writes one into the other.

mod fill;
mod memory;

pub use fill::{Rings, fill};
pub use memory::Memory;

use crate::error::{Error, Kind, Result};
use boot_image::{BuildPlan, KernelFile, KernelInfo, PlanInput};

/// A kernel, uncompressed.
pub struct Kernel {
    elf: Vec<u8>,
}

impl Kernel {
    /// Unpacks a kernel file.
    pub fn unpack(file: Vec<u8>) -> Result<Kernel> {
        let kernel = KernelFile::parse(&file).map_err(invalid)?;
        if kernel.elf_in_place().is_some_and(|elf| elf.len() == file.len()) {
            return Ok(Kernel { elf: file });
        }
        if let Some(elf) = kernel.elf_in_place() {
            return Ok(Kernel { elf: elf.to_vec() });
        }
        let mut elf = vec![0; kernel.uncompressed_len()];
        kernel.extract_into(&mut elf).map_err(invalid)?;
        Ok(Kernel { elf })
    }

    /// The uncompressed file.
    pub fn elf(&self) -> &[u8] {
        &self.elf
    }

    /// Its headers and notes, checked for a paravirtualised domain.
    pub fn info(&self) -> Result<KernelInfo<'_>> {
        let info = KernelInfo::parse(&self.elf).map_err(invalid)?;
        info.check().map_err(invalid)?;
        Ok(info)
    }

    /// Where everything goes in a domain of `nr_pages`.
    pub fn plan(&self, nr_pages: u64, initrd_len: u64) -> Result<BuildPlan> {
        let input = PlanInput { nr_pages, initrd_len, rings: true };
        BuildPlan::new(&self.info()?, input).map_err(|error| match error {
            boot_image::PlanError::TooLittleMemory { needed, nr_pages } => Error::new(
                Kind::Resources,
                format!(
                    "the kernel and its RAM disk need {} MiB to start, but the domain has {} MiB",
                    needed.div_ceil(256),
                    nr_pages / 256
                ),
            )
            .hint("give it more: `memory` in the configuration"),
            other => invalid(other),
        })
    }
}

fn invalid(error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Usage, error.to_string())
}

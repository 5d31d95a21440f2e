//! The machine frames behind a domain's frames.

use crate::error::{Error, Kind, Result};
use crate::host::Hypervisor;

/// Pages of the extents that are tried first: 2 MiB.
const LARGE: u32 = 9;
/// Extents asked for at once.
const BATCH: u64 = 256;

/// A domain's frames; the machine frame of pfn `n` is the nth.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    mfns: Vec<u64>,
}

impl Memory {
    /// Gives a domain `pages` frames, in pieces as large as there are; `progress` is told how many there are.
    pub fn populate(
        host: &(impl Hypervisor + ?Sized),
        domid: u32,
        pages: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Memory> {
        let mut memory = Memory { mfns: Vec::with_capacity(usize::try_from(pages).unwrap_or(0)) };
        let mut order = LARGE;
        while memory.len() < pages {
            let size = 1_u64 << order;
            let extents = ((pages - memory.len()) / size).min(BATCH);
            if extents == 0 {
                order = 0;
                continue;
            }
            let got = host.populate(domid, memory.len(), order, extents)?;
            for first in &got {
                memory.mfns.extend(*first..first.saturating_add(size));
            }
            progress(memory.len());
            // A piece this large is not to be had: small ones may be.
            if (got.len() as u64) < extents {
                if order == 0 {
                    return Err(memory.short(pages));
                }
                order = 0;
            }
        }
        Ok(memory)
    }

    fn short(&self, pages: u64) -> Error {
        Error::new(
            Kind::Resources,
            format!(
                "the domain needs {} MiB, and got {} MiB until memory was exhausted",
                pages / 256,
                self.len() / 256
            ),
        )
        .hint("`lith info --memory` shows where the memory is; `lith mem-set 0 SIZE` takes some from dom0")
    }

    /// How many frames there are.
    pub fn len(&self) -> u64 {
        self.mfns.len() as u64
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.mfns.is_empty()
    }

    /// The machine frame of a frame.
    pub fn mfn(&self, pfn: u64) -> Result<u64> {
        self.run(pfn, 1).map(|run| run[0])
    }

    /// The machine frames of consecutive frames, of which there is at least one.
    pub fn run(&self, pfn: u64, pages: u64) -> Result<&[u64]> {
        let range = usize::try_from(pfn).ok().zip(usize::try_from(pages).ok());
        let run = range.and_then(|(first, pages)| self.mfns.get(first..first.checked_add(pages)?));
        run.filter(|run| !run.is_empty())
            .ok_or_else(|| Error::new(Kind::Other, format!("frame {pfn:#x} is outside the domain's memory")))
    }

    /// All of them.
    pub fn mfns(&self) -> &[u64] {
        &self.mfns
    }
}

//! The machine frames behind a domain's frames.

use crate::error::{Error, Kind, Result};
use crate::host::Hypervisor;

/// Pages of the extents that are tried first: 2 MiB.
const LARGE: u32 = 9;
/// Extents asked for at once.
const BATCH: u64 = 256;

/// A domain's frames, in the pieces in which machine frames follow each other: a word for each frame would be 128 MiB of dom0's memory for a
/// guest of 64 GiB.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pieces: Vec<Piece>,
    len: u64,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    pfn: u64,
    mfn: u64,
    pages: u64,
}

impl Memory {
    /// Gives a domain `pages` frames, in pieces as large as there are; `progress` is told how many there are.
    pub fn populate(
        host: &(impl Hypervisor + ?Sized),
        domid: u32,
        pages: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Memory> {
        let mut memory = Memory::default();
        let mut order = LARGE;
        while memory.len < pages {
            let size = 1_u64 << order;
            let extents = ((pages - memory.len) / size).min(BATCH);
            if extents == 0 {
                order = 0;
                continue;
            }
            let got = host.populate(domid, memory.len, order, extents)?;
            got.iter().for_each(|first| memory.add(*first, size));
            progress(memory.len);
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
                self.len / 256
            ),
        )
        .hint("`lith info --memory` shows where the memory is; `lith mem-set 0 SIZE` takes some from dom0")
    }

    fn add(&mut self, mfn: u64, pages: u64) {
        let pfn = self.len;
        self.len += pages;
        match self.pieces.last_mut() {
            Some(last) if last.mfn.checked_add(last.pages) == Some(mfn) => last.pages += pages,
            _ => self.pieces.push(Piece { pfn, mfn, pages }),
        }
    }

    /// How many frames there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The machine frame of a frame.
    pub fn mfn(&self, pfn: u64) -> Result<u64> {
        self.from(pfn).next().ok_or_else(|| outside(pfn))
    }

    /// The machine frames of consecutive frames, of which there is at least one.
    pub fn run(&self, pfn: u64, pages: u64) -> Result<Vec<u64>> {
        let end = pfn.checked_add(pages).filter(|end| pages != 0 && *end <= self.len);
        let end = end.ok_or_else(|| outside(pfn))?;
        Ok(self.from(pfn).take((end - pfn) as usize).collect())
    }

    /// The machine frames from a frame on.
    fn from(&self, pfn: u64) -> impl Iterator<Item = u64> {
        let first = self.pieces.partition_point(|piece| piece.pfn + piece.pages <= pfn);
        self.pieces[first..].iter().flat_map(move |piece| {
            let skipped = pfn.saturating_sub(piece.pfn);
            piece.mfn + skipped..piece.mfn + piece.pages
        })
    }
}

fn outside(pfn: u64) -> Error {
    Error::new(Kind::Other, format!("frame {pfn:#x} is outside the domain's memory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_in_their_pieces() {
        let mut memory = Memory::default();
        assert!(memory.is_empty() && memory.mfn(0).is_err());
        // Two that follow each other, one alone, two that go down.
        for (mfn, pages) in [(512, 512), (1024, 512), (7, 1), (40, 1), (39, 1)] {
            memory.add(mfn, pages);
        }
        assert_eq!((memory.pieces.len(), memory.len()), (4, 1027));
        let all: Vec<u64> = (512..1536).chain([7, 40, 39]).collect();
        assert_eq!(memory.run(0, 1027).unwrap(), all);
        for (pfn, mfn) in (0..).zip(&all) {
            assert_eq!(memory.mfn(pfn).unwrap(), *mfn);
        }
        assert_eq!(memory.run(1023, 3).unwrap(), [1535, 7, 40]);
        for (pfn, pages) in [(0, 0), (0, 1028), (1027, 1), (u64::MAX, 2)] {
            assert!(memory.run(pfn, pages).is_err(), "{pfn} {pages}");
        }
    }
}

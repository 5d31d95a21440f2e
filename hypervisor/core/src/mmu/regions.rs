//! Where in the machine's memory a domain ever had frames: so that its end need not look at all of it.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};
use guest_abi::Errno;
use spin::Once;

use crate::fallible::boxed;

/// Regions that a machine is cut into at most.
const MOST: u64 = 4096;
/// log2 of the frames of the smallest region: 2 MiB.
const SMALLEST: u32 = 9;

#[derive(Debug)]
struct Map {
    shift: u32,
    bits: Box<[AtomicU64]>,
}

/// One bit a region. Without a map every region counts.
#[derive(Debug, Default)]
pub(super) struct Regions(Once<Map>);

impl Regions {
    pub const fn new() -> Self {
        Regions(Once::new())
    }

    /// Begins to note, on a machine of so many frames; before the domain's first.
    pub fn track(&self, frames: u64) -> Result<(), Errno> {
        let shift = SMALLEST.max(frames.div_ceil(MOST).next_power_of_two().ilog2());
        let count = (frames >> shift) + 1;
        let bits = boxed(count.div_ceil(64) as usize, |_| AtomicU64::new(0))?;
        self.0.call_once(|| Map { shift, bits });
        Ok(())
    }

    /// Frames `first..first + count` come to the domain.
    #[inline]
    pub fn note(&self, first: u64, count: u64) {
        let Some(map) = self.0.get() else { return };
        let last = first.saturating_add(count.saturating_sub(1));
        for region in first >> map.shift..=last >> map.shift {
            let bit = 1 << (region % 64);
            if let Some(word) = map.bits.get((region / 64) as usize)
                && word.load(Ordering::Relaxed) & bit == 0
            {
                word.fetch_or(bit, Ordering::AcqRel);
            }
        }
    }

    /// The first frame from `mfn` on that may have been the domain's.
    #[inline]
    pub fn next(&self, mfn: u64) -> u64 {
        let Some(map) = self.0.get() else { return mfn };
        let first = mfn >> map.shift;
        let end = map.bits.len() as u64 * 64;
        let is_noted = |region: &u64| {
            map.bits
                .get((region / 64) as usize)
                .is_none_or(|w| w.load(Ordering::Acquire) >> (region % 64) & 1 != 0)
        };
        match (first..end).find(is_noted) {
            Some(region) if region == first => mfn,
            Some(region) => region << map.shift,
            None => end << map.shift,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn without_a_map_every_frame_counts() {
        let regions = Regions::new();
        regions.note(5, 1);
        assert_eq!((regions.next(0), regions.next(12345)), (0, 12345));
    }

    proptest! {
        #[test]
        fn no_frame_is_passed_over(
            frames in 1u64..1 << 24,
            runs in prop::collection::vec((any::<u64>(), 1u64..2000), 0..8),
            from: u64,
        ) {
            let regions = Regions::new();
            regions.track(frames).unwrap();
            let runs: Vec<_> = runs.into_iter().map(|(first, n)| (first % frames, n)).collect();
            for (first, count) in &runs {
                regions.note(*first, *count);
            }
            let from = from % frames;
            let next = regions.next(from);
            prop_assert!(next >= from);
            for (first, count) in runs {
                let (first, end) = (first.max(from), (first + count).min(frames));
                prop_assert!(first >= end || next <= first, "{} {}", next, first);
            }
        }
    }
}

//! The flush clock, for machines that implement [`super::port::Tlb`].

use core::sync::atomic::{AtomicU32, Ordering};

/// Counts flushes.
#[derive(Debug, Default)]
pub struct FlushClock(AtomicU32);

/// Every so many ticks each CPU must flush once, so that comparisons stay right when the clock wraps.
const ROUND: u32 = 1 << 30;

impl FlushClock {
    /// A clock at zero.
    pub const fn new() -> Self {
        FlushClock(AtomicU32::new(0))
    }

    /// The time, for stamps.
    #[inline(always)]
    pub fn now(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// Advances the clock. The caller then flushes all and remembers the result as its last flush. True in the
    /// second place if every other CPU has to be made to flush as well, because a round ended.
    pub fn tick(&self) -> (u32, bool) {
        let now = self.0.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        (now, now.is_multiple_of(ROUND))
    }
}

/// True if time `a` of the clock, which wraps, is after `b`.
pub const fn is_later(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

/// True if a CPU whose last flush was at `flushed` may hold translations from before `stamp`.
pub const fn may_be_stale(flushed: u32, stamp: u32) -> bool {
    !is_later(flushed, stamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_after_the_stamp_is_clean_and_one_before_is_not() {
        let clock = FlushClock::new();
        let stamp = clock.now();
        assert!(may_be_stale(clock.now(), stamp));
        assert!(!may_be_stale(clock.tick().0, stamp));
        assert!(!may_be_stale(3, u32::MAX - 3), "the clock wrapped between stamp and flush");
        assert!(may_be_stale(u32::MAX - 3, 3), "the clock wrapped between flush and stamp");
    }
}

//! The flush clock, for machines that implement [`super::port::Tlb`].

use crate::sync::{AtomicU32, const_unless_explored};
use core::sync::atomic::Ordering;

/// Counts flushes.
#[derive(Debug, Default)]
pub struct FlushClock(AtomicU32);

/// Every so many ticks each CPU must flush once, so that comparisons stay right when the clock wraps.
const ROUND: u32 = 1 << 30;

impl FlushClock {
    const_unless_explored! {
        /// A clock at zero.
        pub fn new() -> Self {
            FlushClock(AtomicU32::new(0))
        }
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

/// What a CPU may remember, as the others see it.
///
/// A CPU that idles loads the hypervisor's own tables and says so ([`CpuFlushes::rests`]); whoever would make it flush leaves a note
/// instead, which it finds before it uses other tables again.
#[derive(Debug)]
pub struct CpuFlushes {
    own: AtomicU32,
    for_others: AtomicU32,
    tables: AtomicU32,
}

/// The CPU uses what it remembers.
const USED: u32 = 0;
/// It is on the hypervisor's own tables.
const RESTS: u32 = 1;
/// As [`RESTS`], and it must flush before it uses others.
const NOTED: u32 = 2;

impl CpuFlushes {
    const_unless_explored! {
        /// A CPU that has flushed at time 0.
        pub fn new() -> Self {
            CpuFlushes { own: AtomicU32::new(0), for_others: AtomicU32::new(0), tables: AtomicU32::new(USED) }
        }
    }

    /// This CPU has flushed all; `began`: what [`FlushClock::tick`] answered before.
    #[inline(always)]
    pub fn done(&self, began: u32) {
        self.own.store(began, Ordering::Release);
    }

    /// The same in the handler of another CPU's request, which may come between the other's tick and its word: neither loses
    /// the other's.
    #[inline(always)]
    pub fn done_for_others(&self, began: u32) {
        self.for_others.store(began, Ordering::Release);
    }

    /// True if this CPU may hold something from before `stamp`, as far as its own flushes tell.
    #[inline]
    pub fn is_stale_here(&self, stamp: u32) -> bool {
        may_be_stale(self.own.load(Ordering::Relaxed), stamp)
    }

    /// True if the CPU may hold something from before `stamp`.
    #[inline]
    pub fn is_stale(&self, stamp: u32) -> bool {
        let old = |clock: &AtomicU32| may_be_stale(clock.load(Ordering::Acquire), stamp);
        old(&self.own) && old(&self.for_others)
    }

    /// True if the CPU must be made to flush by whoever takes away what it may hold from before `stamp`, and has made that visible
    /// (a fence). False: it has flushed since, or it rests and has been left the note.
    #[inline]
    pub fn must_be_asked(&self, stamp: u32) -> bool {
        self.is_stale(stamp) && !self.leave_note()
    }

    /// From here on this CPU uses the hypervisor's own tables only.
    #[inline]
    pub fn rests(&self) {
        self.tables.store(RESTS, Ordering::SeqCst);
    }

    /// This CPU uses others' tables again. True: it must flush before that, because it was left a note.
    #[inline]
    #[must_use]
    pub fn resumes(&self) -> bool {
        self.tables.swap(USED, Ordering::SeqCst) == NOTED
    }

    /// Leaves a CPU that rests the note to flush. False: it does not rest, and must be made to flush.
    #[inline]
    pub fn leave_note(&self) -> bool {
        let seen = self.tables.compare_exchange(RESTS, NOTED, Ordering::SeqCst, Ordering::SeqCst);
        matches!(seen, Ok(_) | Err(NOTED))
    }
}

impl Default for CpuFlushes {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_rests_finds_the_note_when_it_goes_on() {
        let cpu = CpuFlushes::new();
        assert!(!cpu.leave_note());
        cpu.rests();
        assert!(!cpu.resumes());
        cpu.rests();
        assert!(cpu.leave_note() && cpu.leave_note());
        assert!(cpu.resumes() && !cpu.leave_note());
        assert!(cpu.is_stale(0) && cpu.is_stale_here(0));
        cpu.done_for_others(1);
        assert!(!cpu.is_stale(0) && cpu.is_stale_here(0));
        cpu.done(2);
        assert!(!cpu.is_stale(1) && !cpu.is_stale_here(1) && cpu.is_stale(2));
    }

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

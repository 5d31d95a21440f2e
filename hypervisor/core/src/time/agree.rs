//! Whether the time-stamp counters of two CPUs agree: both read theirs by turns, and none may be behind what the other
//! has just read.
//!
//! A difference shows if it is greater than the time from one reading to the next, which is about that of a cache line's way between
//! the two CPUs: one that is smaller cannot be seen by a program that compares times of two CPUs either.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Readings of both CPUs together.
pub const READINGS: u32 = 256;
/// Readings that will do where the two take so long: they do not run at the same time, and what differs by less than that cannot be
/// seen.
pub const ENOUGH: u32 = 32;
/// Nobody meets.
const CLOSED: u32 = u32::MAX;

/// Which of the two CPUs; the first one reads first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that has been there.
    First = 0,
    /// The one that comes.
    Second = 1,
}

/// What a meeting has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No reading was behind the one before it.
    Agree,
    /// One was, by so many ticks at most.
    Behind(u64),
    /// The other CPU did not come, or went away, and none was until then: too little is known.
    Unfinished,
}

/// How far a reading is behind the one before it, in ticks; 0: it is not.
pub const fn behind(before: u64, now: u64) -> u64 {
    before.saturating_sub(now)
}

/// Where two CPUs meet. One meeting at a time: whoever opens it sees to that.
pub struct Meeting {
    /// How many readings there are; [`CLOSED`]: no meeting.
    taken: AtomicU32,
    /// The last reading, and by how much one was behind at most: of the CPU whose turn it is.
    last: AtomicU64,
    worst: AtomicU64,
}

impl Meeting {
    /// Nobody has met yet.
    pub const fn new() -> Meeting {
        Meeting { taken: AtomicU32::new(CLOSED), last: AtomicU64::new(0), worst: AtomicU64::new(0) }
    }

    /// Opens the next meeting. The second CPU does, before it asks the first to come.
    pub fn open(&self) {
        self.last.store(0, Ordering::Relaxed);
        self.worst.store(0, Ordering::Relaxed);
        self.taken.store(0, Ordering::Release);
    }

    /// True while the first CPU is waited for.
    pub fn is_open(&self) -> bool {
        self.taken.load(Ordering::Relaxed) < READINGS
    }

    /// Reads by turns with the other CPU until all readings are taken. `read` answers this CPU's counter, in order with what it does
    /// before and after. `patience` is asked each time that it is the other's turn; once it is false, the meeting is over for both:
    /// with what it has shown, if there were [`ENOUGH`] readings, or one was behind.
    pub fn attend(
        &self,
        side: Side,
        mut read: impl FnMut() -> u64,
        mut patience: impl FnMut() -> bool,
    ) -> Verdict {
        loop {
            let taken = self.taken.load(Ordering::Acquire);
            if taken >= READINGS {
                return self.verdict(taken);
            }
            let mine = taken % 2 == side as u32;
            if mine {
                let now = read();
                self.worst.fetch_max(behind(self.last.load(Ordering::Relaxed), now), Ordering::Relaxed);
                self.last.store(now, Ordering::Relaxed);
            }
            let next = if mine {
                taken + 1
            } else if patience() {
                continue;
            } else if taken >= ENOUGH {
                READINGS
            } else {
                CLOSED
            };
            // If it fails, the other has closed it, or has read after all.
            let _ = self.taken.compare_exchange(taken, next, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    fn verdict(&self, taken: u32) -> Verdict {
        match self.worst.load(Ordering::Relaxed) {
            0 if taken == CLOSED => Verdict::Unfinished,
            0 => Verdict::Agree,
            ticks => Verdict::Behind(ticks),
        }
    }
}

impl Default for Meeting {
    fn default() -> Self {
        Meeting::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two threads meet with counters of their own; what the first one learns, and that the second one learns the same.
    fn meet_at(meeting: &Meeting, first: impl Fn() -> u64, second: impl Fn() -> u64 + Send) -> Verdict {
        meeting.open();
        let patience = || {
            std::thread::yield_now();
            true
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(move || meeting.attend(Side::Second, second, patience));
            let verdict = meeting.attend(Side::First, first, patience);
            assert_eq!(other.join().unwrap(), verdict);
            verdict
        })
    }

    /// Every reading moves the one counter on by a tick, and the second one's is off by so many.
    fn meet(off: i64) -> Verdict {
        let ticks = AtomicU64::new(1000);
        let read = |off: i64| ticks.fetch_add(1, Ordering::SeqCst).wrapping_add_signed(off);
        meet_at(&Meeting::new(), || read(0), || read(off))
    }

    #[test]
    fn a_reading_is_behind_only_an_earlier_one() {
        assert_eq!([behind(5, 5), behind(5, 6), behind(5, 2), behind(u64::MAX, 0)], [0, 0, 3, u64::MAX]);
    }

    #[test]
    fn counters_that_agree_are_found_to() {
        assert_eq!(meet(0), Verdict::Agree);
        // Less than the time from one reading to the next: no program can tell.
        assert_eq!([meet(1), meet(-1)], [Verdict::Agree; 2]);
    }

    #[test]
    fn a_counter_that_is_off_is_found_whichever_way() {
        // Behind by all but the tick that lies between two readings.
        assert_eq!([meet(-2), meet(2)], [Verdict::Behind(1); 2]);
        assert_eq!([meet(-500), meet(500)], [Verdict::Behind(499); 2]);
    }

    #[test]
    fn one_reading_of_all_that_is_behind_is_enough() {
        for odd in [1, 2, READINGS - 2, READINGS - 1].map(u64::from) {
            let ticks = AtomicU64::new(1000);
            let read = || match ticks.fetch_add(1, Ordering::SeqCst) {
                now if now == 1000 + odd => now - 5,
                now => now,
            };
            assert_eq!(meet_at(&Meeting::new(), read, read), Verdict::Behind(4), "{odd}");
        }
    }

    #[test]
    fn both_read_equally_often_and_the_first_reads_first() {
        let order = std::sync::Mutex::new(Vec::new());
        let read = |side: u64| {
            order.lock().unwrap().push(side);
            1
        };
        meet_at(&Meeting::new(), || read(0), || read(1));
        let expected: Vec<u64> = (0..u64::from(READINGS)).map(|n| n % 2).collect();
        assert_eq!(order.into_inner().unwrap(), expected);
    }

    #[test]
    fn who_waits_in_vain_gives_up_and_who_comes_too_late_does_not_wait() {
        let meeting = Meeting::new();
        assert!(!meeting.is_open());
        assert_eq!(meeting.attend(Side::First, || panic!("nobody meets"), || true), Verdict::Unfinished);
        meeting.open();
        assert!(meeting.is_open());
        let mut asked = 0;
        let patience = || {
            asked += 1;
            asked < 10
        };
        assert_eq!(meeting.attend(Side::Second, || panic!("not its turn"), patience), Verdict::Unfinished);
        assert_eq!(asked, 10);
        assert!(!meeting.is_open());
        assert_eq!(meeting.attend(Side::First, || panic!("it is over"), || true), Verdict::Unfinished);
    }

    #[test]
    fn who_loses_patience_is_content_with_enough_readings() {
        for (most, off, verdict) in [
            (ENOUGH, 0, Verdict::Agree),
            (ENOUGH, 9, Verdict::Behind(8)),
            (ENOUGH - 1, 0, Verdict::Unfinished),
            // One reading shows as much as all would.
            (2, 9, Verdict::Behind(8)),
        ] {
            let (meeting, ticks) = (Meeting::new(), AtomicU64::new(1000));
            let left = || meeting.taken.load(Ordering::SeqCst) < most;
            let read = |off: u64| {
                // The reading that would be one too many does not come before the other has given up.
                while !left() && meeting.is_open() {
                    std::thread::yield_now();
                }
                ticks.fetch_add(1, Ordering::SeqCst) - off
            };
            meeting.open();
            std::thread::scope(|scope| {
                let second = scope.spawn(|| meeting.attend(Side::Second, || read(off), left));
                let first = meeting.attend(Side::First, || read(0), left);
                assert_eq!([first, second.join().unwrap()], [verdict; 2], "{most} {off}");
            });
        }
    }

    #[test]
    fn a_meeting_that_has_ended_says_the_same_again_and_the_next_one_begins_anew() {
        let meeting = Meeting::new();
        let run = |off: u64| {
            let ticks = AtomicU64::new(1000);
            let read = || ticks.fetch_add(1, Ordering::SeqCst);
            meet_at(&meeting, read, || read() - off)
        };
        assert_eq!(run(7), Verdict::Behind(6));
        assert!(!meeting.is_open());
        assert_eq!(meeting.attend(Side::First, || panic!("it is over"), || true), Verdict::Behind(6));
        assert_eq!(run(0), Verdict::Agree);
    }
}

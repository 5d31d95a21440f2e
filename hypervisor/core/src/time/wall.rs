//! Wall-clock time: what it was when system time began.

use super::SECOND;

/// Wall-clock time when system time was 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// Nanoseconds since the Unix epoch.
    base: u64,
}

impl WallClock {
    /// From a reading of seconds and nanoseconds since the epoch at system time `now`
    /// (`XENPF_settime64`, or the battery-backed clock at start). A reading before the hypervisor started counts as
    /// the epoch; one beyond the year 2554 does not fit.
    pub fn new(seconds: u64, nanoseconds: u32, now: u64) -> Option<WallClock> {
        let reading = seconds.checked_mul(SECOND)?.checked_add(u64::from(nanoseconds))?;
        Some(WallClock { base: reading.saturating_sub(now) })
    }

    /// Seconds and nanoseconds for [`write_wall_clock`](super::write_wall_clock).
    pub fn parts(&self) -> (u64, u32) {
        (self.base / SECOND, (self.base % SECOND) as u32)
    }

    /// Seconds since the epoch at system time `now`.
    pub fn seconds_at(&self, now: u64) -> u64 {
        self.base.saturating_add(now) / SECOND
    }
}

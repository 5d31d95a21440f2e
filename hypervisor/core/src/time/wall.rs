//! Wall-clock time: the battery-backed clock, and what it was when system time began.

use super::SECOND;

/// A date and time of the battery-backed clock, in UTC, as binary numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtcTime {
    /// Year, with the century.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

impl RtcTime {
    /// Seconds since 1970-01-01 00:00:00 UTC; nothing if it is no date from then on.
    pub fn unix_seconds(&self) -> Option<u64> {
        let valid = self.year >= 1970
            && (1..=12).contains(&self.month)
            && (1..=31).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second < 60;
        if !valid {
            return None;
        }
        // Years that begin in March have their leap day at the end.
        let (year, month) = (u64::from(self.year), u64::from(self.month));
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let leap_days = year / 4 - year / 100 + year / 400;
        let day_of_year = (153 * month + 2) / 5 + u64::from(self.day) - 1;
        const EPOCH: u64 = 719_468;
        let days = year * 365 + leap_days + day_of_year - EPOCH;
        Some(((days * 24 + u64::from(self.hour)) * 60 + u64::from(self.minute)) * 60 + u64::from(self.second))
    }
}

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

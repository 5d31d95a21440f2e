//! Arithmetic of clocks: how fast a counter runs, nanoseconds from ticks, and dates.

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
/// Frequency of the ACPI power-management timer in Hz.
pub const PM_TIMER_HZ: u64 = 3_579_545;
/// Frequency of the 8254 in Hz.
pub const PIT_HZ: u64 = 1_193_182;

/// Turns ticks of a counter into nanoseconds as `time.tsc_to_system_mul` and `tsc_shift` say (`xen.h`):
/// `((ticks << shift) * multiplier) >> 32`, a negative shift going right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Factor in units of 2^-32.
    pub multiplier: u32,
    /// Shift before the multiplication.
    pub shift: i8,
}

impl Scale {
    /// The scale of a counter with so many ticks a second; `None` for 0.
    pub const fn from_hz(hz: u64) -> Option<Scale> {
        if hz == 0 {
            return None;
        }
        let mut shift = 0i8;
        let mut divisor = hz;
        // The divisor comes to lie in (2^29.9, 2^31], so that the quotient below has its top bit set or nearly so.
        while divisor > SECOND * 2 {
            divisor >>= 1;
            shift -= 1;
        }
        while divisor <= SECOND {
            divisor <<= 1;
            shift += 1;
        }
        Some(Scale { multiplier: ((SECOND << 32) / divisor) as u32, shift })
    }

    /// Nanoseconds that so many ticks take.
    #[inline]
    pub const fn nanoseconds(self, ticks: u64) -> u64 {
        let shifted = if self.shift < 0 { ticks >> -self.shift } else { ticks << self.shift };
        ((shifted as u128 * self.multiplier as u128) >> 32) as u64
    }
}

/// Ticks of a counter in nanoseconds: `(ticks * factor) >> 32`.
///
/// For the way back, from a deadline to what a timer is armed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate(
    /// Ticks a nanosecond in units of 2^-32.
    pub u64,
);

impl Rate {
    /// The rate of a counter with so many ticks a second.
    pub const fn from_hz(hz: u64) -> Rate {
        Rate((((hz as u128) << 32) / SECOND as u128) as u64)
    }

    /// Ticks in so many nanoseconds.
    #[inline]
    pub const fn ticks(self, nanoseconds: u64) -> u64 {
        ((nanoseconds as u128 * self.0 as u128) >> 32) as u64
    }
}

/// A counter's frequency in Hz, from its ticks while another counter of known frequency made `known` ticks.
pub const fn frequency(ticks: u64, known: u64, known_hz: u64) -> Option<u64> {
    if known == 0 {
        return None;
    }
    let hz = ticks as u128 * known_hz as u128 / known as u128;
    if hz == 0 || hz > u64::MAX as u128 { None } else { Some(hz as u64) }
}

/// What the CMOS clock shows, binary and 24-hour, with a full year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Year.
    pub year: u32,
    /// Month from 1.
    pub month: u8,
    /// Day from 1.
    pub day: u8,
    /// Hour.
    pub hour: u8,
    /// Minute.
    pub minute: u8,
    /// Second.
    pub second: u8,
}

/// Registers of the CMOS clock in its own format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cmos {
    /// Second, minute, hour, day, month, year within the century.
    pub fields: [u8; 6],
    /// The century's register, if the firmware names one.
    pub century: Option<u8>,
    /// Status register B: bit 1, 24 hours; bit 2, binary.
    pub status_b: u8,
}

impl Cmos {
    /// What the registers say; `None` if they do not show a date.
    pub fn date(self) -> Option<Date> {
        let binary = self.status_b & 4 != 0;
        let value = |raw: u8| if binary { raw } else { (raw >> 4) * 10 + (raw & 15) };
        let [second, minute, hour, day, month, year] = self.fields;
        let mut hour24 = value(hour & 0x7f);
        if self.status_b & 2 == 0 {
            hour24 = hour24 % 12 + if hour & 0x80 != 0 { 12 } else { 0 };
        } else {
            hour24 = value(hour);
        }
        let century = match self.century.map(value) {
            Some(century @ 19..=22) => u32::from(century) * 100,
            _ if value(year) < 70 => 2000,
            _ => 1900,
        };
        let date = Date {
            year: century + u32::from(value(year)),
            month: value(month),
            day: value(day),
            hour: hour24,
            minute: value(minute),
            second: value(second),
        };
        date.is_valid().then_some(date)
    }
}

impl Date {
    fn is_valid(self) -> bool {
        (1..=12).contains(&self.month)
            && (1..=31).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second < 61
            && self.year >= 1970
    }

    /// Seconds since 1970 in UTC; the clock is taken to show UTC.
    pub fn unix_seconds(self) -> u64 {
        // Days from the civil calendar, counted in years that begin in March.
        let (year, month) = (u64::from(self.year), u64::from(self.month));
        let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
        let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5;
        let days = days + u64::from(self.day) - 1 - 719_468;
        days * 86_400 + u64::from(self.hour) * 3600 + u64::from(self.minute) * 60 + u64::from(self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn common_frequencies_have_exact_seconds() {
        for hz in [PIT_HZ, PM_TIMER_HZ, 100_000_000, SECOND, 2_592_000_000, 4_000_000_001] {
            let scale = Scale::from_hz(hz).unwrap();
            let error = scale.nanoseconds(hz).abs_diff(SECOND);
            assert!(error <= 4, "{hz} Hz: {error} ns a second");
        }
        assert_eq!(Scale::from_hz(0), None);
        assert_eq!(Rate::from_hz(2_000_000_000).ticks(SECOND), 2_000_000_000);
    }

    proptest! {
        #[test]
        fn a_scale_is_right_to_a_part_in_a_hundred_million(hz in 1_000_000u64..8_000_000_000, s in 1u64..3600) {
            let ns = Scale::from_hz(hz).unwrap().nanoseconds(hz * s);
            prop_assert!(ns.abs_diff(s * SECOND) <= s * 10 + 2);
        }

        #[test]
        fn dates_follow_one_another(second in 0u64..4_000_000_000) {
            let (days, rest) = (second / 86_400, second % 86_400);
            // Walks the calendar from 1970 on, year by year and month by month.
            let (mut year, mut left) = (1970u32, days);
            let leap = |y: u32| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
            while left >= 365 + u64::from(leap(year)) {
                left -= 365 + u64::from(leap(year));
                year += 1;
            }
            let mut month = 1;
            for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
                if left < length { break }
                left -= length;
                month += 1;
            }
            let date = Date {
                year, month, day: left as u8 + 1,
                hour: (rest / 3600) as u8, minute: (rest / 60 % 60) as u8, second: (rest % 60) as u8,
            };
            prop_assert_eq!(date.unix_seconds(), second);
        }
    }

    #[test]
    fn the_clock_is_read_in_each_of_its_formats() {
        let bcd = Cmos { fields: [0x59, 0x30, 0x23, 0x31, 0x12, 0x26], century: Some(0x20), status_b: 2 };
        let date = Date { year: 2026, month: 12, day: 31, hour: 23, minute: 30, second: 59 };
        assert_eq!(bcd.date(), Some(date));
        let binary = Cmos { fields: [59, 30, 23, 31, 12, 26], century: None, status_b: 6 };
        assert_eq!(binary.date(), Some(date));
        let twelve = Cmos { fields: [0x59, 0x30, 0x91, 0x31, 0x12, 0x26], century: None, status_b: 0 };
        assert_eq!(twelve.date(), Some(date).map(|d| Date { hour: 23, ..d }));
        let midnight = Cmos { fields: [0, 0, 0x12, 1, 1, 0x99], century: None, status_b: 0 };
        assert_eq!(midnight.date().map(|d| (d.year, d.hour)), Some((1999, 0)));
        assert_eq!(Cmos::default().date(), None);
        assert_eq!(Cmos { fields: [0xff; 6], century: None, status_b: 0xff }.date(), None);
    }

    #[test]
    fn frequencies_from_a_window() {
        assert_eq!(frequency(20_000_000, 35_795, PM_TIMER_HZ), Some(2_000_025_143));
        assert_eq!(frequency(1, 0, 1), None);
        assert_eq!(frequency(0, 1, 1), None);
    }
}

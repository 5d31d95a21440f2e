//! Time: scaling the TSC, the paravirtual clock, the wall clock, and timers. Pure arithmetic and records; the
//! machine supplies TSC readings.
//!
//! System time is nanoseconds since the hypervisor started counting.

mod heap;
mod record;
mod timer;
mod wall;

pub use heap::{Heap, Slot};
pub use record::{TimeRecord, write_runstate, write_time, write_time_area, write_wall_clock};
pub use timer::{Fired, TimerCommand, TimerKind, TimerQueue, VcpuTimers, Watchdogs, timer_op};
pub use wall::{RtcTime, WallClock};

/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;
/// Nanoseconds of a millisecond.
pub const MILLISECOND: u64 = 1_000_000;

/// Multiplies by a ratio as guests do with `vcpu_time_info`: `((x << shift) * mul) >> 32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Numerator over 2^32; its top bit is set.
    pub mul: u32,
    /// Left shift before the multiplication; right if negative.
    pub shift: i8,
}

impl Scale {
    /// The ratio of two frequencies in Hz: turns ticks of `from` into ticks of `to`. Nothing if a frequency is zero
    /// or the ratio is beyond 2^±31.
    pub fn ratio(from: u64, to: u64) -> Option<Scale> {
        if from == 0 || to == 0 {
            return None;
        }
        // Bits of the quotient with 64 fractional bits say how far to shift it into the upper half of 32 bits.
        let quotient = (u128::from(to) << 64) / u128::from(from);
        let bits = 128 - quotient.leading_zeros() as i32;
        let shift = bits - 64;
        if !(-31..=31).contains(&shift) {
            return None;
        }
        let mul = if bits >= 32 { quotient >> (bits - 32) } else { quotient << (32 - bits) };
        Some(Scale { mul: mul as u32, shift: shift as i8 })
    }

    /// TSC ticks of `hz` to nanoseconds: what `tsc_to_system_mul` and `tsc_shift` say.
    pub fn tsc_to_ns(hz: u64) -> Option<Scale> {
        Scale::ratio(hz, SECOND)
    }

    /// Applies the ratio, with the bits that a guest keeps: 64.
    #[inline]
    pub const fn apply(self, value: u64) -> u64 {
        let shifted = if self.shift < 0 {
            value >> self.shift.unsigned_abs()
        } else {
            value << self.shift.unsigned_abs()
        };
        ((shifted as u128 * self.mul as u128) >> 32) as u64
    }
}

/// System time from a TSC: both of one CPU.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base_tsc: u64,
    base_ns: u64,
    to_ns: Scale,
    to_tsc: Scale,
}

impl Clock {
    /// A clock that reads `ns` when the TSC reads `tsc`, which ticks at `hz`. Nothing if no such clock can be told
    /// to guests.
    pub fn new(hz: u64, tsc: u64, ns: u64) -> Option<Clock> {
        Some(Clock {
            base_tsc: tsc,
            base_ns: ns,
            to_ns: Scale::tsc_to_ns(hz)?,
            to_tsc: Scale::ratio(SECOND, hz)?,
        })
    }

    /// System time at `tsc`. Readings before the base read as the base.
    #[inline]
    pub fn at(&self, tsc: u64) -> u64 {
        self.base_ns.wrapping_add(self.to_ns.apply(tsc.saturating_sub(self.base_tsc)))
    }

    /// The first TSC at which the clock reads `ns` or later, give or take the scale's rounding; for TSC deadlines.
    #[inline]
    pub fn tsc_at(&self, ns: u64) -> u64 {
        let delta = ns.saturating_sub(self.base_ns);
        self.base_tsc.saturating_add(self.to_tsc.apply(delta)).saturating_add(1)
    }

    /// What guests are told at `tsc`.
    #[inline]
    pub fn record(&self, tsc: u64, stable: bool) -> TimeRecord {
        TimeRecord { tsc, system_time: self.at(tsc), scale: self.to_ns, stable }
    }
}

#[cfg(test)]
mod tests;

//! Time: scaling the TSC, the paravirtual clock, the wall clock, and timers. Pure arithmetic and records; the
//! machine supplies TSC readings.
//!
//! System time is nanoseconds since the hypervisor started counting.

mod agree;
mod heap;
mod record;
mod timer;
mod wall;

pub use crate::platform::clock::{Rate, SECOND, Scale};
pub use agree::{Meeting, READINGS, Side, Verdict, behind};
pub use heap::{Heap, Slot};
pub use record::{TimeRecord, write_runstate, write_time, write_time_area, write_wall_clock};
pub use timer::{Fired, TimerCommand, TimerKind, TimerQueue, VcpuTimers, Watchdogs, timer_op};
pub use wall::WallClock;

/// Nanoseconds of a millisecond.
pub const MILLISECOND: u64 = 1_000_000;

/// System time from a TSC: both of one CPU.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base_tsc: u64,
    base_ns: u64,
    to_ns: Scale,
    to_tsc: Rate,
}

impl Clock {
    /// A clock that reads `ns` when the TSC reads `tsc`, which ticks at `hz`. Nothing if `hz` is
    /// zero.
    pub fn new(hz: u64, tsc: u64, ns: u64) -> Option<Clock> {
        Some(Clock { base_tsc: tsc, base_ns: ns, to_ns: Scale::from_hz(hz)?, to_tsc: Rate::from_hz(hz) })
    }

    /// System time at `tsc`. Readings before the base read as the base.
    #[inline]
    pub fn at(&self, tsc: u64) -> u64 {
        self.base_ns.wrapping_add(self.to_ns.nanoseconds(tsc.saturating_sub(self.base_tsc)))
    }

    /// The first TSC at which the clock reads `ns` or later, give or take the scale's rounding; for TSC deadlines.
    #[inline]
    pub fn tsc_at(&self, ns: u64) -> u64 {
        let delta = ns.saturating_sub(self.base_ns);
        self.base_tsc.saturating_add(self.to_tsc.ticks(delta)).saturating_add(1)
    }
}

#[cfg(test)]
mod tests;

//! How fast a domain is read.

use std::time::{Duration, Instant};

/// Bytes that may come at once.
pub const BURST: u32 = 512 * 1024;
/// Bytes a second that may come all the time.
pub const RATE: u32 = 128 * 1024;
/// What a notification costs, in bytes, so that notifications alone are no way around the limit.
pub const NOTIFICATION: u32 = 64;

/// A domain's share: it fills with time and is used up by bytes.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    left: u32,
    since: Instant,
}

impl Share {
    /// A full one.
    pub fn new(now: Instant) -> Share {
        Share { left: BURST, since: now }
    }

    /// Bytes that may be read now.
    pub fn left(&mut self, now: Instant) -> usize {
        let more = now.saturating_duration_since(self.since).as_micros() * u128::from(RATE) / 1_000_000;
        if more > 0 {
            self.left = u32::try_from(more).unwrap_or(BURST).saturating_add(self.left).min(BURST);
            self.since = now;
        }
        self.left as usize
    }

    /// Takes that away.
    pub fn take(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// How long until a piece worth reading may be read; `None` when it may be now.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        const PIECE: u64 = 2048;
        let missing = PIECE.saturating_sub(self.left(now) as u64);
        (missing > 0).then(|| Duration::from_micros(missing * 1_000_000 / u64::from(RATE) + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_used_up_and_fills_again() {
        let start = Instant::now();
        let mut share = Share::new(start);
        assert!(share.wait(start).is_none());
        share.take(BURST as usize);
        assert_eq!(share.left(start), 0);
        let wait = share.wait(start).unwrap();
        assert!(share.wait(start + wait).is_none());
        assert_eq!(share.left(start + Duration::from_secs(1000)), BURST as usize);
    }

    #[test]
    fn looking_often_loses_nothing() {
        let start = Instant::now();
        let mut share = Share::new(start);
        share.take(BURST as usize);
        for micros in 0..100_000 {
            share.left(start + Duration::from_micros(micros * 10));
        }
        let left = share.left(start + Duration::from_secs(1));
        assert!(left.abs_diff(RATE as usize) < RATE as usize / 3, "{left}");
    }
}

//! The last control operations that failed, and why: so that an administrator need not guess from an error number.

use guest_abi::Errno;
use guest_abi::control::{ANY_DOMID, Failure, REASON};
use hv_types::DomId;
use spin::Mutex;

/// Failures that are remembered.
pub const KEPT: usize = 64;

#[derive(Clone, Copy)]
struct Record {
    time: u64,
    op: u32,
    dom: Option<DomId>,
    errno: Errno,
    caller: DomId,
    why: &'static str,
}

struct Ring {
    records: [Option<Record>; KEPT],
    /// Failures so far: the number of the last one.
    count: u64,
}

/// A ring of failures. Its lock is a leaf.
pub struct Failures(Mutex<Ring>);

impl Default for Failures {
    fn default() -> Self {
        Self::new()
    }
}

impl Failures {
    /// None so far.
    pub const fn new() -> Self {
        Failures(Mutex::new(Ring { records: [None; KEPT], count: 0 }))
    }

    /// Remembers that `caller`'s operation `op` about `dom` failed.
    pub fn record(
        &self,
        time: u64,
        caller: DomId,
        op: u32,
        dom: Option<DomId>,
        errno: Errno,
        why: &'static str,
    ) {
        let mut ring = self.0.lock();
        let at = (ring.count % KEPT as u64) as usize;
        if let Some(slot) = ring.records.get_mut(at) {
            *slot = Some(Record { time, op, dom, errno, caller, why });
        }
        ring.count += 1;
    }

    /// The failure of that number, or the oldest after it that is still known.
    pub fn at_or_after(&self, sequence: u64) -> Option<Failure> {
        let ring = self.0.lock();
        let oldest = ring.count.saturating_sub(KEPT as u64) + 1;
        let sequence = sequence.max(oldest);
        if sequence > ring.count {
            return None;
        }
        let record = (*ring.records.get(((sequence - 1) % KEPT as u64) as usize)?)?;
        let mut reason = [0; REASON];
        // The last byte stays 0.
        reason.iter_mut().take(REASON - 1).zip(record.why.bytes()).for_each(|(to, from)| *to = from);
        Some(Failure {
            sequence,
            time: record.time,
            op: record.op,
            domid: record.dom.map_or(ANY_DOMID, |dom| dom.0.into()),
            errno: record.errno.0 as u32,
            caller: record.caller.0.into(),
            reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_and_counted_from_one() {
        let failures = Failures::new();
        assert_eq!(failures.at_or_after(0), None);
        for n in 1..=100 {
            failures.record(n, DomId(0), n as u32, Some(DomId(3)), Errno::EINVAL, "because");
        }
        let first = failures.at_or_after(0).unwrap();
        assert_eq!((first.sequence, first.op, first.time), (37, 37, 37));
        assert_eq!(failures.at_or_after(50).unwrap().sequence, 50);
        assert_eq!(failures.at_or_after(100).unwrap().op, 100);
        assert_eq!(failures.at_or_after(101), None);
        assert_eq!((first.domid, first.errno, first.caller), (3, 22, 0));
        assert_eq!(&first.reason[..8], b"because\0");
    }

    #[test]
    fn a_long_reason_is_cut_and_terminated() {
        let failures = Failures::new();
        const LONG: &str = "0123456789012345678901234567890123456789012345678901234567890123456789\
                            0123456789012345678901234567890123456789";
        failures.record(1, DomId(0), 1, None, Errno::EPERM, LONG);
        let failure = failures.at_or_after(1).unwrap();
        assert_eq!(failure.domid, ANY_DOMID);
        assert_eq!(&failure.reason[..REASON - 1], &LONG.as_bytes()[..REASON - 1]);
        assert_eq!(failure.reason[REASON - 1], 0);
    }
}

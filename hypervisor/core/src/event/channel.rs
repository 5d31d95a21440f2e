//! One event channel, packed into one atomic word, and the growing table of a domain's channels.
//!
//! Readers take no lock: a channel's state is one load. Writers hold the domain's event lock.

use crate::fallible::boxed;
use crate::sync::{AtomicU32, AtomicU64};
use alloc::boxed::Box;
use core::sync::atomic::Ordering;
use guest_abi::Errno;
use guest_abi::event_channel::{EVTCHN_FIFO_NR_CHANNELS, EVTCHN_FIFO_PRIORITY_DEFAULT};
use hv_types::{DomId, Pirq, Port, VcpuId};
use spin::Once;

/// What a port is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing; may be allocated.
    Free,
    /// Nothing, and never will be: port 0.
    Reserved,
    /// Waits for `remote` to connect.
    Unbound {
        /// Who may connect.
        remote: DomId,
    },
    /// Connected to a port of a domain (perhaps the same domain).
    Interdomain {
        /// The other domain.
        remote: DomId,
        /// Its port.
        port: Port,
    },
    /// A physical interrupt.
    Pirq(Pirq),
    /// A virtual interrupt (`VIRQ_*`).
    Virq(u32),
    /// Between vCPUs of the domain.
    Ipi,
}

/// A port's state with where its events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is connected to.
    pub state: State,
    /// The vCPU that is notified.
    pub vcpu: VcpuId,
    /// FIFO queue, 0 (most urgent) to 15.
    pub priority: u8,
}

// The word: kind 0..4, priority 4..8, vCPU 8..24, domain 24..40, port or interrupt 40..64.
const KIND_FREE: u64 = 0;
const KIND_RESERVED: u64 = 1;
const KIND_UNBOUND: u64 = 2;
const KIND_INTERDOMAIN: u64 = 3;
const KIND_PIRQ: u64 = 4;
const KIND_VIRQ: u64 = 5;
const KIND_IPI: u64 = 6;
const NUMBER_MASK: u32 = 0xff_ffff;

impl Entry {
    /// A free port: what a channel's word of all zeroes says.
    pub const FREE: Entry = Entry { state: State::Free, vcpu: VcpuId(0), priority: 0 };

    /// A newly bound port: default priority.
    pub const fn bound(state: State, vcpu: VcpuId) -> Entry {
        Entry { state, vcpu, priority: EVTCHN_FIFO_PRIORITY_DEFAULT as u8 }
    }

    #[inline]
    const fn pack(self) -> u64 {
        let (kind, dom, number) = match self.state {
            State::Free => (KIND_FREE, 0, 0),
            State::Reserved => (KIND_RESERVED, 0, 0),
            State::Unbound { remote } => (KIND_UNBOUND, remote.0, 0),
            State::Interdomain { remote, port } => (KIND_INTERDOMAIN, remote.0, port.0),
            State::Pirq(pirq) => (KIND_PIRQ, 0, pirq.0),
            State::Virq(virq) => (KIND_VIRQ, 0, virq),
            State::Ipi => (KIND_IPI, 0, 0),
        };
        kind | ((self.priority & 15) as u64) << 4
            | (self.vcpu.0 as u64) << 8
            | (dom as u64) << 24
            | ((number & NUMBER_MASK) as u64) << 40
    }

    #[inline]
    const fn unpack(word: u64) -> Entry {
        let dom = DomId((word >> 24) as u16);
        let number = (word >> 40) as u32;
        let state = match word & 15 {
            KIND_FREE => State::Free,
            KIND_UNBOUND => State::Unbound { remote: dom },
            KIND_INTERDOMAIN => State::Interdomain { remote: dom, port: Port(number) },
            KIND_PIRQ => State::Pirq(Pirq(number)),
            KIND_VIRQ => State::Virq(number),
            KIND_IPI => State::Ipi,
            _ => State::Reserved,
        };
        Entry { state, vcpu: VcpuId((word >> 8) as u16), priority: (word >> 4) as u8 & 15 }
    }
}

/// Which FIFO queue an event was last put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastQueue {
    pub vcpu: VcpuId,
    pub priority: u8,
}

/// `Channel::fifo`: the event arrived while the event array had no page for it.
const SAVED_PENDING: u32 = 1 << 31;
const LAST_QUEUE: u32 = 0xf_ffff;

/// One channel. 16 bytes.
#[derive(Default)]
pub(super) struct Channel {
    entry: AtomicU64,
    /// vCPU 0..16 and priority 16..20 of the last queue; [`SAVED_PENDING`].
    fifo: AtomicU32,
}

impl Channel {
    #[inline]
    pub fn entry(&self) -> Entry {
        Entry::unpack(self.entry.load(Ordering::Acquire))
    }

    /// The caller holds the domain's event lock.
    pub fn set(&self, entry: Entry) {
        self.entry.store(entry.pack(), Ordering::Release);
    }

    #[inline]
    pub fn last_queue(&self) -> LastQueue {
        let fifo = self.fifo.load(Ordering::Acquire);
        LastQueue { vcpu: VcpuId(fifo as u16), priority: (fifo >> 16) as u8 & 15 }
    }

    /// The caller holds the locks of the old and the new queue.
    pub fn set_last_queue(&self, queue: LastQueue) {
        let bits = u32::from(queue.vcpu.0) | u32::from(queue.priority) << 16;
        let old = self.fifo.load(Ordering::Relaxed);
        // Only SAVED_PENDING can change meanwhile; both steps leave it alone.
        self.fifo.fetch_xor((old ^ bits) & LAST_QUEUE, Ordering::AcqRel);
    }

    pub fn save_pending(&self) {
        self.fifo.fetch_or(SAVED_PENDING, Ordering::AcqRel);
    }

    /// Forgets a saved event; returns whether there was one.
    pub fn take_saved(&self) -> bool {
        self.fifo.fetch_and(!SAVED_PENDING, Ordering::AcqRel) & SAVED_PENDING != 0
    }
}

/// Ports that come to exist together. A port in a bucket that exists has a status; beyond, it is invalid.
pub(super) const BUCKET: u32 = 64;
const BUCKETS: usize = 64;
const GROUPS: usize = (EVTCHN_FIFO_NR_CHANNELS as usize) / (BUCKET as usize * BUCKETS);

type Bucket = Box<[Channel]>;
type Group = Box<[Once<Bucket>]>;

/// A domain's channels: buckets that come on demand and stay until the domain goes.
pub(super) struct Table {
    groups: [Once<Group>; GROUPS],
    valid: AtomicU32,
}

impl Table {
    pub fn new() -> Self {
        Table { groups: [const { Once::new() }; GROUPS], valid: AtomicU32::new(0) }
    }

    /// The channel of `port`, if its bucket exists.
    #[inline]
    pub fn get(&self, port: Port) -> Option<&Channel> {
        let index = port.0 as usize;
        let group = self.groups.get(index / (BUCKETS * BUCKET as usize))?.get()?;
        let bucket = group.get(index / BUCKET as usize % BUCKETS)?.get()?;
        bucket.get(index % BUCKET as usize)
    }

    /// Ports below this number have a channel.
    pub fn valid(&self) -> u32 {
        self.valid.load(Ordering::Acquire)
    }

    /// Adds one bucket; the caller holds the domain's event lock. `-ENOSPC` at the end, `-ENOMEM` without memory.
    pub fn grow(&self) -> Result<(), Errno> {
        let first = self.valid();
        let index = (first / BUCKET) as usize;
        let group = self.groups.get(index / BUCKETS).ok_or(Errno::ENOSPC)?;
        let group = group.try_call_once(|| boxed(BUCKETS, |_| Once::new()))?;
        let bucket = group.get(index % BUCKETS).ok_or(Errno::ENOSPC)?;
        bucket.try_call_once(|| boxed(BUCKET as usize, |_| Channel::default()))?;
        self.valid.store(first + BUCKET, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn states() -> impl Strategy<Value = State> {
        prop_oneof![
            Just(State::Free),
            Just(State::Reserved),
            Just(State::Ipi),
            any::<u16>().prop_map(|d| State::Unbound { remote: DomId(d) }),
            (any::<u16>(), 0u32..1 << 17)
                .prop_map(|(d, p)| State::Interdomain { remote: DomId(d), port: Port(p) }),
            (0u32..1 << 24).prop_map(|p| State::Pirq(Pirq(p))),
            (0u32..24).prop_map(State::Virq),
        ]
    }

    proptest! {
        #[test]
        fn an_entry_survives_packing(state in states(), vcpu: u16, priority in 0u8..16) {
            let entry = Entry { state, vcpu: VcpuId(vcpu), priority };
            prop_assert_eq!(Entry::unpack(entry.pack()), entry);
        }

        #[test]
        fn the_last_queue_and_the_saved_event_do_not_disturb_each_other(vcpu: u16, priority in 0u8..16) {
            let channel = Channel::default();
            channel.save_pending();
            let queue = LastQueue { vcpu: VcpuId(vcpu), priority };
            channel.set_last_queue(queue);
            prop_assert_eq!(channel.last_queue(), queue);
            prop_assert!(channel.take_saved());
            prop_assert!(!channel.take_saved());
            prop_assert_eq!(channel.last_queue(), queue);
        }
    }

    #[test]
    fn a_zeroed_channel_is_free() {
        assert_eq!(Channel::default().entry(), Entry::FREE);
    }

    #[test]
    fn the_table_ends_where_the_abi_ends() {
        let table = Table::new();
        assert!(table.get(Port(0)).is_none());
        for _ in 0..EVTCHN_FIFO_NR_CHANNELS / BUCKET {
            table.grow().unwrap();
        }
        assert_eq!(table.grow(), Err(Errno::ENOSPC));
        assert!(table.get(Port(EVTCHN_FIFO_NR_CHANNELS - 1)).is_some());
        assert!(table.get(Port(EVTCHN_FIFO_NR_CHANNELS)).is_none());
        assert!(table.get(Port(u32::MAX)).is_none());
    }
}

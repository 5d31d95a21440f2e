//! The buddy allocator over machine frames. Its lists live in the frame table: it needs no memory of its own.
//!
//! Blocks are sorted by zone (the bits of the frame number), so that memory below an address limit is not
//! used up by those who do not need it: the highest zone that serves is taken first, and blocks of different zones
//! never merge.
//!
//! A block comes out [`Fresh`]: other CPUs may still have translations of what the frames were, and they hold
//! what they held. [`Fresh::make_safe`] flushes and, for domains, scrubs; only a [`Block`] can be used (I-FR-7).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hv_types::{Mfn, PAGE_SHIFT};
use spin::Mutex;

use crate::frame::{Dead, FrameTable};
use crate::mmu::clock::is_later;
use crate::mmu::port::{CpuSet, Tlb};
use crate::port::Memory;

/// Largest order: 2^18 frames, 1 GiB.
pub const MAX_ORDER: u32 = 18;

const NONE: u32 = u32::MAX;
const ZONES: usize = 33;
const ORDERS: usize = MAX_ORDER as usize + 1;

#[derive(Debug)]
struct Lists {
    heads: [[u32; ORDERS]; ZONES],
    /// A bit for each order with a free block.
    orders: [u32; ZONES],
}

/// The machine's free memory.
#[derive(Debug)]
pub struct Heap {
    lists: Mutex<Lists>,
    free: AtomicU64,
    total: AtomicU64,
    /// Flush clock when a frame was last given back: translations older than this may name free frames.
    last_free: AtomicU32,
}

/// A free block, taken. Nobody else has it, but stale translations and old contents remain.
#[must_use = "a dropped block is lost memory"]
#[derive(Debug, PartialEq, Eq)]
pub struct Fresh {
    mfn: Mfn,
    order: u32,
    last_free: u32,
}

/// A block that can be used.
#[must_use = "a dropped block is lost memory"]
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    mfn: Mfn,
    order: u32,
}

impl Fresh {
    /// Flushes every CPU that may still translate to these frames, and zeroes them if they are for a domain.
    pub fn make_safe<P: Memory + Tlb>(self, port: &P, scrub: bool) -> Block {
        port.flush_stale(&CpuSet::ALL, self.last_free);
        if scrub {
            for mfn in (Block { mfn: self.mfn, order: self.order }).frames() {
                port.zero(mfn);
            }
        }
        Block { mfn: self.mfn, order: self.order }
    }
}

impl Block {
    /// First frame.
    pub const fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// log2 of the number of frames.
    pub const fn order(&self) -> u32 {
        self.order
    }

    /// All frames.
    pub fn frames(&self) -> impl Iterator<Item = Mfn> + use<> {
        let first = self.mfn.0;
        (first..first.saturating_add(1 << self.order)).map(Mfn)
    }
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

impl Heap {
    /// A heap without memory.
    pub const fn new() -> Self {
        Heap {
            lists: Mutex::new(Lists { heads: [[NONE; ORDERS]; ZONES], orders: [0; ZONES] }),
            free: AtomicU64::new(0),
            total: AtomicU64::new(0),
            last_free: AtomicU32::new(0),
        }
    }

    /// Free frames.
    pub fn free_frames(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Frames ever given to the heap.
    pub fn total_frames(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Gives the heap frames `start..end` of memory. Frames that the table says are used, free or I/O are left out.
    /// For boot; no translation of these frames may be in use.
    pub fn add(&self, frames: FrameTable<'_>, start: Mfn, end: Mfn) {
        let mut lists = self.lists.lock();
        let end = end.0.min(frames.len() as u64).min(u64::from(NONE));
        let mut next = start.0;
        while next < end {
            let first = next;
            while next < end && frames.peek(Mfn(next)).is_some_and(|w| w.is_reserved()) {
                frames.set_tail(next as u32);
                next += 1;
            }
            lists.give_run(frames, first as u32, next as u32);
            self.free.fetch_add(next - first, Ordering::Relaxed);
            self.total.fetch_add(next - first, Ordering::Relaxed);
            next += 1;
        }
    }

    /// Takes a block of `2^order` frames, all below the machine address `2^limit_bits` (64: anywhere).
    pub fn alloc(&self, frames: FrameTable<'_>, order: u32, limit_bits: u32) -> Option<Fresh> {
        if order > MAX_ORDER {
            return None;
        }
        let mfn = self.lists.lock().take(frames, order, limit_bits)?;
        self.free.fetch_sub(1 << order, Ordering::Relaxed);
        let last_free = self.last_free.load(Ordering::Acquire);
        Some(Fresh { mfn: Mfn(u64::from(mfn)), order, last_free })
    }

    /// Gives back a dead frame; `now` is the flush clock.
    pub fn free_dead(&self, frames: FrameTable<'_>, dead: Dead, now: u32) {
        self.free(frames, Block { mfn: dead.mfn(), order: 0 }, now);
    }

    /// Gives back a frame that its taker kept for the hypervisor's own use; `now` is the flush clock.
    pub fn free_own(&self, frames: FrameTable<'_>, mfn: Mfn, now: u32) {
        self.free(frames, Block { mfn, order: 0 }, now);
    }

    /// Gives back a block that was not published; `now` is the flush clock.
    pub fn free(&self, frames: FrameTable<'_>, block: Block, now: u32) {
        let Ok(index) = u32::try_from(block.mfn.0) else { return };
        let range = index..index.saturating_add(1 << block.order);
        let mut lists = self.lists.lock();
        // Never twice: what is not the hypervisor's own is left alone, and lost rather than given out twice.
        if !range.clone().all(|index| frames.peek(Mfn(u64::from(index))).is_some_and(|w| w.is_reserved())) {
            return;
        }
        range.for_each(|index| frames.set_tail(index));
        // Another CPU may have read the clock later and come first: what it gave back must not seem older.
        if is_later(now, self.last_free.load(Ordering::Relaxed)) {
            self.last_free.store(now, Ordering::Release);
        }
        lists.give(frames, index, block.order);
        self.free.fetch_add(1 << block.order, Ordering::Relaxed);
    }

    /// Gives back a block that nobody saw, as it came.
    pub fn free_fresh(&self, frames: FrameTable<'_>, fresh: Fresh) {
        let now = self.last_free.load(Ordering::Acquire);
        self.free(frames, Block { mfn: fresh.mfn, order: fresh.order }, now);
    }

    /// Cuts a block into single frames, for owners who give them back one by one.
    pub fn split(block: Block) -> impl Iterator<Item = Block> {
        block.frames().map(|mfn| Block { mfn, order: 0 })
    }
}

const fn zone_of(index: u32) -> usize {
    (u32::BITS - index.leading_zeros()) as usize
}

impl Lists {
    fn push(&mut self, frames: FrameTable<'_>, index: u32, order: u32) {
        let zone = zone_of(index);
        let head = &mut self.heads[zone][order as usize];
        frames.set_free(index, order, *head, NONE);
        if *head != NONE {
            frames.set_prev(*head, index);
        }
        *head = index;
        self.orders[zone] |= 1 << order;
    }

    fn remove(&mut self, frames: FrameTable<'_>, index: u32, order: u32) {
        let zone = zone_of(index);
        let (next, prev) = frames.links(index);
        if next != NONE {
            frames.set_prev(next, prev);
        }
        if prev != NONE {
            frames.set_next(prev, next);
        } else {
            self.heads[zone][order as usize] = next;
            if next == NONE {
                self.orders[zone] &= !(1 << order);
            }
        }
        frames.set_tail(index);
    }

    /// Gives frames `first..end` in blocks as large as alignment and zones allow.
    fn give_run(&mut self, frames: FrameTable<'_>, mut first: u32, end: u32) {
        while first < end {
            // Frame 0 is a zone of its own.
            let aligned = if first == 0 { 0 } else { first.trailing_zeros() };
            let order = aligned.min((end - first).ilog2()).min(MAX_ORDER);
            self.give(frames, first, order);
            first += 1 << order;
        }
    }

    /// Merges with free buddies as far as it goes.
    fn give(&mut self, frames: FrameTable<'_>, mut index: u32, mut order: u32) {
        while order < MAX_ORDER {
            let buddy = index ^ (1 << order);
            let free = frames.peek(Mfn(u64::from(buddy))).and_then(|w| w.free_order());
            if free != Some(order) || zone_of(buddy) != zone_of(index) {
                break;
            }
            self.remove(frames, buddy, order);
            index &= !(1 << order);
            order += 1;
        }
        self.push(frames, index, order);
    }

    fn take(&mut self, frames: FrameTable<'_>, order: u32, limit_bits: u32) -> Option<u32> {
        let highest = (limit_bits.saturating_sub(PAGE_SHIFT) as usize).min(ZONES - 1);
        let zone = (0..=highest).rev().find(|&zone| self.orders[zone] >> order != 0)?;
        let found = order + (self.orders[zone] >> order).trailing_zeros();
        let index = self.heads[zone][found as usize];
        self.remove(frames, index, found);
        for half in (order..found).rev() {
            self.push(frames, index + (1 << half), half);
        }
        (index..index + (1 << order)).for_each(|index| frames.set_reserved(index));
        Some(index)
    }
}

#[cfg(test)]
#[path = "heap_tests.rs"]
mod tests;

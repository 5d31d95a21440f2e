//! The buddy allocator over machine frames. Its lists live in the frame table: it needs no memory of its own.
//!
//! Blocks are sorted by zone (the bits of the frame number), so that memory below an address limit is not
//! used up by those who do not need it: the highest zone that serves is taken first, and blocks of different zones
//! never merge.
//!
//! Some of what is free may be promised ([`Claim`]): nobody but the claim's owner gets it, whichever frames it will be
//! (I-FR-10).
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
    /// Written under the lock, as is `claimed`.
    free: AtomicU64,
    /// Sum of what claims have outstanding.
    claimed: AtomicU64,
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
    /// Frames of it that a claim had promised.
    drawn: u32,
    last_free: u32,
}

/// A block that can be used.
#[must_use = "a dropped block is lost memory"]
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    mfn: Mfn,
    order: u32,
    drawn: u32,
}

/// Frames that are promised to one owner and not taken yet. Taking them uses the claim up.
#[derive(Debug, Default)]
pub struct Claim(AtomicU64);

impl Claim {
    /// No promise will be made any more.
    const CLOSED: u64 = u64::MAX;

    /// Nothing promised.
    pub const fn new() -> Self {
        Claim(AtomicU64::new(0))
    }

    /// Frames outstanding.
    pub fn outstanding(&self) -> u64 {
        self.open().unwrap_or(0)
    }

    fn open(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&frames| frames != Claim::CLOSED)
    }
}

impl Fresh {
    /// Flushes every CPU that may still translate to these frames, and zeroes them if they are for a domain.
    pub fn make_safe<P: Memory + Tlb>(self, port: &P, scrub: bool) -> Block {
        port.flush_stale(&CpuSet::ALL, self.last_free);
        if scrub {
            self.block().frames().for_each(|mfn| port.zero(mfn));
        }
        self.block()
    }

    const fn block(&self) -> Block {
        Block { mfn: self.mfn, order: self.order, drawn: self.drawn }
    }
}

impl Block {
    const fn single(mfn: Mfn) -> Self {
        Block { mfn, order: 0, drawn: 0 }
    }

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
            claimed: AtomicU64::new(0),
            total: AtomicU64::new(0),
            last_free: AtomicU32::new(0),
        }
    }

    /// Free frames, promised or not.
    pub fn free_frames(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Free frames that are not promised, and those that are.
    pub fn unclaimed_and_claimed(&self) -> (u64, u64) {
        let _lists = self.lists.lock();
        let claimed = self.claimed.load(Ordering::Relaxed);
        (self.free_frames().saturating_sub(claimed), claimed)
    }

    /// Promises `frames` in all to the claim's owner. False: they are not there, or the claim is closed; nothing changed.
    pub fn stake(&self, claim: &Claim, frames: u64) -> bool {
        let _lists = self.lists.lock();
        let Some(before) = claim.open() else { return false };
        let others = self.claimed.load(Ordering::Relaxed).saturating_sub(before);
        if frames > before && frames > self.free_frames().saturating_sub(others) {
            return false;
        }
        claim.0.store(frames, Ordering::Relaxed);
        self.claimed.store(others.saturating_add(frames), Ordering::Relaxed);
        true
    }

    /// Takes back what is promised, for ever: its owner is going.
    pub fn close(&self, claim: &Claim) {
        let _lists = self.lists.lock();
        self.claimed.fetch_sub(claim.outstanding(), Ordering::Relaxed);
        claim.0.store(Claim::CLOSED, Ordering::Relaxed);
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

    /// Takes a block of `2^order` frames, all below the machine address `2^limit_bits` (64: anywhere), of what nobody
    /// claims.
    pub fn alloc(&self, frames: FrameTable<'_>, order: u32, limit_bits: u32) -> Option<Fresh> {
        self.alloc_for(frames, order, limit_bits, &Claim::new())
    }

    /// As [`Heap::alloc`]; also of what `claim` promises, which is used up first.
    pub fn alloc_for(
        &self,
        frames: FrameTable<'_>,
        order: u32,
        limit_bits: u32,
        claim: &Claim,
    ) -> Option<Fresh> {
        if order > MAX_ORDER {
            return None;
        }
        let size = 1 << order;
        let mut lists = self.lists.lock();
        let (free, claimed) = (self.free_frames(), self.claimed.load(Ordering::Relaxed));
        let drawn = claim.outstanding().min(size);
        if free.saturating_sub(claimed - drawn) < size {
            return None;
        }
        let mfn = lists.take(frames, order, limit_bits)?;
        self.free.store(free - size, Ordering::Relaxed);
        if drawn != 0 {
            claim.0.fetch_sub(drawn, Ordering::Relaxed);
            self.claimed.store(claimed - drawn, Ordering::Relaxed);
        }
        let last_free = self.last_free.load(Ordering::Acquire);
        Some(Fresh { mfn: Mfn(u64::from(mfn)), order, drawn: drawn as u32, last_free })
    }

    /// Gives back a dead frame; `now` is the flush clock.
    pub fn free_dead(&self, frames: FrameTable<'_>, dead: Dead, now: u32) {
        self.free(frames, Block::single(dead.mfn()), now);
    }

    /// Gives back a frame that its taker kept for the hypervisor's own use; `now` is the flush clock.
    pub fn free_own(&self, frames: FrameTable<'_>, mfn: Mfn, now: u32) {
        self.free(frames, Block::single(mfn), now);
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

    /// Gives back a block of [`Heap::alloc_for`] that was not published; the claim has what it had.
    pub fn free_for(&self, frames: FrameTable<'_>, block: Block, claim: &Claim, now: u32) {
        // First the promise: in between, too, nobody else takes the frames.
        let lists = self.lists.lock();
        if claim.open().is_some() {
            claim.0.fetch_add(block.drawn.into(), Ordering::Relaxed);
            self.claimed.fetch_add(block.drawn.into(), Ordering::Relaxed);
        }
        drop(lists);
        self.free(frames, block, now);
    }

    /// Gives back a block that nobody saw, as it came.
    pub fn free_fresh(&self, frames: FrameTable<'_>, fresh: Fresh) {
        let now = self.last_free.load(Ordering::Acquire);
        self.free(frames, fresh.block(), now);
    }

    /// Cuts a block into single frames, for owners who give them back one by one.
    pub fn split(block: Block) -> impl Iterator<Item = Block> {
        block.frames().map(Block::single)
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

//! A heap of numbered slots: no allocation but when slots are added, any slot changed or taken out in O(log n).

use alloc::vec::Vec;
use guest_abi::Errno;

/// A slot of a [`Heap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(u32);

impl Slot {
    /// Its number: small, and used again once the slot is removed.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

const NOWHERE: u32 = u32::MAX;

struct Place<T> {
    /// Position in the heap, or [`NOWHERE`].
    position: u32,
    owner: Option<T>,
}

/// Slots with an owner each, some of which have a key; the smallest key comes first.
pub struct Heap<T> {
    heap: Vec<(u64, Slot)>,
    places: Vec<Place<T>>,
    free: Vec<Slot>,
}

impl<T> Default for Heap<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Heap<T> {
    /// A heap without slots.
    pub const fn new() -> Self {
        Heap { heap: Vec::new(), places: Vec::new(), free: Vec::new() }
    }
}

impl<T: Copy> Heap<T> {
    /// A new slot without a key; `-ENOMEM` if there is no room for one.
    pub fn add(&mut self, owner: T) -> Result<Slot, Errno> {
        let place = Place { position: NOWHERE, owner: Some(owner) };
        if let Some(slot) = self.free.pop()
            && let Some(old) = self.places.get_mut(slot.0 as usize)
        {
            *old = place;
            return Ok(slot);
        }
        let index = u32::try_from(self.places.len()).ok().filter(|n| *n < NOWHERE).ok_or(Errno::ENOMEM)?;
        self.places.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        // Room for every slot at once, so that nothing below allocates.
        let (queued, freed) = (self.heap.len(), self.free.len());
        let all = self.places.len() + 1;
        self.heap.try_reserve(all - queued).map_err(|_| Errno::ENOMEM)?;
        self.free.try_reserve(all - freed).map_err(|_| Errno::ENOMEM)?;
        self.places.push(place);
        Ok(Slot(index))
    }

    /// Takes a slot away; returns its key if it had one.
    pub fn remove(&mut self, slot: Slot) -> Option<u64> {
        let key = self.take(slot);
        if let Some(place) = self.places.get_mut(slot.0 as usize)
            && place.owner.take().is_some()
        {
            self.free.push(slot);
        }
        key
    }

    /// Whose slot it is.
    pub fn owner(&self, slot: Slot) -> Option<T> {
        self.places.get(slot.0 as usize)?.owner
    }

    /// The slot with this number, if somebody has it.
    pub fn slot(&self, index: u32) -> Option<Slot> {
        self.owner(Slot(index)).map(|_| Slot(index))
    }

    /// All slots with their owners, in the order of their numbers.
    pub fn owners(&self) -> impl Iterator<Item = (Slot, T)> {
        self.places.iter().enumerate().filter_map(|(index, place)| Some((Slot(index as u32), place.owner?)))
    }

    /// Gives a slot a key, or another one.
    pub fn set(&mut self, slot: Slot, key: u64) {
        let Some(place) = self.places.get_mut(slot.0 as usize) else { return };
        if place.owner.is_none() {
            return;
        }
        let position = if place.position == NOWHERE {
            place.position = self.heap.len() as u32;
            self.heap.push((key, slot));
            self.heap.len() - 1
        } else {
            let position = place.position as usize;
            if let Some(entry) = self.heap.get_mut(position) {
                entry.0 = key;
            }
            position
        };
        self.settle(position);
    }

    /// Takes a slot's key away; returns it if there was one.
    pub fn take(&mut self, slot: Slot) -> Option<u64> {
        let place = self.places.get_mut(slot.0 as usize)?;
        let position = core::mem::replace(&mut place.position, NOWHERE);
        if position == NOWHERE {
            return None;
        }
        let position = position as usize;
        let (key, _) = self.heap.swap_remove(position);
        if let Some((_, moved)) = self.heap.get(position).copied() {
            self.note(moved, position);
            self.settle(position);
        }
        Some(key)
    }

    /// The key of a slot.
    pub fn key(&self, slot: Slot) -> Option<u64> {
        let position = self.places.get(slot.0 as usize)?.position;
        self.heap.get(position as usize).map(|(key, _)| *key)
    }

    /// Smallest key and its slot.
    #[inline]
    pub fn first(&self) -> Option<(u64, Slot)> {
        self.heap.first().copied()
    }

    /// Up to `count` slots with a key, the smallest first, the others near the front in no order.
    pub fn front(&self, count: usize) -> impl Iterator<Item = Slot> {
        self.heap.iter().take(count).map(|(_, slot)| *slot)
    }

    /// Lowers every key by `by`, to zero at least.
    pub fn lower(&mut self, by: u64) {
        for (key, _) in &mut self.heap {
            *key = key.saturating_sub(by);
        }
    }

    /// How many slots there are, with a key or without.
    pub fn slots(&self) -> usize {
        self.places.len().saturating_sub(self.free.len())
    }

    /// How many slots have a key.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// True if no slot has a key.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    fn note(&mut self, slot: Slot, position: usize) {
        if let Some(place) = self.places.get_mut(slot.0 as usize) {
            place.position = position as u32;
        }
    }

    fn less(&self, a: usize, b: usize) -> bool {
        matches!((self.heap.get(a), self.heap.get(b)), (Some(a), Some(b)) if a.0 < b.0)
    }

    fn exchange(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        for position in [a, b] {
            if let Some((_, slot)) = self.heap.get(position).copied() {
                self.note(slot, position);
            }
        }
    }

    /// Moves the entry at `position` up or down to where it belongs.
    fn settle(&mut self, mut position: usize) {
        while position > 0 && self.less(position, (position - 1) / 2) {
            self.exchange(position, (position - 1) / 2);
            position = (position - 1) / 2;
        }
        loop {
            let (left, right) = (2 * position + 1, 2 * position + 2);
            let child = if self.less(right, left) { right } else { left };
            if !self.less(child, position) {
                return;
            }
            self.exchange(position, child);
            position = child;
        }
    }
}

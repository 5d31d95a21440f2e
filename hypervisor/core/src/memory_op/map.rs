//! Memory maps: the machine's, for dom0, and a domain's own, which its builder gave it.

use super::{Call, MemoryPorts};
use crate::port::GuestSpace;
use crate::wire;
use alloc::vec::Vec;
use guest_abi::Errno;
use guest_abi::memory::*;
use hv_types::{DomId, GuestVa, PAGE_SHIFT, PAGE_SIZE};
use spin::Mutex;

/// Entries that a domain's map may have (`E820MAX`).
const MAX_ENTRIES: u32 = 1024;
/// Frames that a physical address can reach: 52 bits.
const MAX_FRAME: u64 = 1 << (52 - PAGE_SHIFT);

/// A domain's pseudo-physical map; empty until its builder sets it.
#[derive(Debug, Default)]
pub struct MemoryMap(Mutex<Vec<E820Entry>>);

impl MemoryMap {
    /// No map.
    pub const fn new() -> Self {
        MemoryMap(Mutex::new(Vec::new()))
    }
}

impl<P: MemoryPorts, G: GuestSpace> Call<'_, '_, P, G> {
    /// The caller's own map. `-ENOSYS`: nobody set one.
    pub(super) fn memory_map(&self, mut op: XenMemoryMap, arg: GuestVa) -> Result<i64, Errno> {
        let map = self.mmu.port.memory_map(self.caller.domain.id).ok_or(Errno::ENOSYS)?.0.lock();
        if map.is_empty() {
            return Err(Errno::ENOSYS);
        }
        op.nr_entries = op.nr_entries.min(map.len() as u32);
        for (index, entry) in (0..u64::from(op.nr_entries)).zip(map.iter()) {
            wire::write_element(self.space, GuestVa(op.buffer), index, entry)?;
        }
        wire::write(self.space, arg, &op)?;
        Ok(0)
    }

    pub(super) fn set_memory_map(&self, op: XenForeignMemoryMap) -> Result<i64, Errno> {
        if op.map.nr_entries > MAX_ENTRIES {
            return Err(Errno::EINVAL);
        }
        let domain = self.domain(DomId(op.domid))?;
        let mut entries = Vec::new();
        entries.try_reserve_exact(op.map.nr_entries as usize).map_err(|_| Errno::ENOMEM)?;
        for index in 0..u64::from(op.map.nr_entries) {
            entries.push(wire::read_element(self.space, GuestVa(op.map.buffer), index)?);
        }
        *self.mmu.port.memory_map(domain.id).ok_or(Errno::ESRCH)?.0.lock() = entries;
        Ok(0)
    }

    /// The machine's map as a privileged caller may use it: between its entries, what the caller may not map as I/O
    /// memory is reserved. Without a buffer only the number of entries is told.
    pub(super) fn machine_memory_map(&self, mut op: XenMemoryMap, arg: GuestVa) -> Result<i64, Errno> {
        if !self.caller.domain.privileged {
            return Err(Errno::EPERM);
        }
        let map = || (0..).map_while(|index| self.mmu.port.machine_region(index));
        let room = if op.buffer == 0 { None } else { Some(u64::from(op.nr_entries)) };
        if room.is_some_and(|room| room <= map().count() as u64) {
            return Err(Errno::EINVAL);
        }
        let mut out = Output { space: self.space, buffer: GuestVa(op.buffer), room, count: 0, next: 0 };
        for entry in map() {
            let (addr, size) = (entry.addr, entry.size);
            self.fill_gap(&mut out, addr >> PAGE_SHIFT)?;
            out.put(&entry)?;
            out.next = addr.saturating_add(size).div_ceil(PAGE_SIZE);
        }
        if out.next != 0 {
            self.fill_gap(&mut out, u64::MAX)?;
        }
        op.nr_entries = out.count as u32;
        wire::write(self.space, arg, &op)?;
        Ok(0)
    }

    /// Adds the frames below `end` that the caller may not map.
    fn fill_gap(&self, out: &mut Output<'_, G>, end: u64) -> Result<(), Errno> {
        if end <= out.next {
            return Ok(());
        }
        self.caller.domain.each_io_range(|first, last| {
            if last < out.next || first >= end {
                return Ok(());
            }
            out.reserve_up_to(first.max(out.next))?;
            out.next = last.min(end - 1) + 1;
            Ok(())
        })?;
        out.reserve_up_to(end)
    }
}

/// Entries on their way to the guest.
struct Output<'a, G> {
    space: &'a G,
    buffer: GuestVa,
    /// Entries the guest has room for; nothing: it only counts.
    room: Option<u64>,
    count: u64,
    /// First frame that is not described yet.
    next: u64,
}

impl<G: GuestSpace> Output<'_, G> {
    fn put(&mut self, entry: &E820Entry) -> Result<(), Errno> {
        if let Some(room) = self.room {
            if self.count >= room {
                return Err(Errno::EINVAL);
            }
            wire::write_element(self.space, self.buffer, self.count, entry)?;
        }
        self.count += 1;
        Ok(())
    }

    fn reserve_up_to(&mut self, frame: u64) -> Result<(), Errno> {
        if frame <= self.next || frame >= MAX_FRAME {
            return Ok(());
        }
        let addr = self.next << PAGE_SHIFT;
        let entry = E820Entry { addr, size: (frame << PAGE_SHIFT) - addr, kind: E820_RESERVED };
        self.put(&entry)
    }
}

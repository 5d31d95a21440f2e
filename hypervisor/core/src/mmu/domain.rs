//! What a domain and a vCPU are, as far as their memory goes.

use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use arrayvec::ArrayVec;
use guest_abi::Errno;
use hv_types::{DomId, Mfn};
use spin::Mutex;

use super::port::SharedCpuSet;
use super::regions::Regions;
use crate::heap::Claim;

/// Ranges a [`RangeSet`] can hold.
const RANGES: usize = 64;

/// Ranges of frame numbers, sorted, without touching neighbours; bounds are inclusive.
#[derive(Debug, Default)]
pub struct RangeSet(ArrayVec<(u64, u64), RANGES>);

impl RangeSet {
    /// No frame.
    pub const fn new() -> Self {
        RangeSet(ArrayVec::new_const())
    }

    /// True if all of `first..=last` is in it.
    pub fn contains(&self, first: u64, last: u64) -> bool {
        let at = self.0.partition_point(|range| range.1 < first);
        self.0.get(at).is_some_and(|range| range.0 <= first && last <= range.1)
    }

    /// True if some of `first..=last` is in it.
    pub fn touches(&self, first: u64, last: u64) -> bool {
        let at = self.0.partition_point(|range| range.1 < first);
        self.0.get(at).is_some_and(|range| range.0 <= last)
    }

    /// True if nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds `first..=last`. `ENOMEM`: too many separate ranges; nothing changed.
    pub fn insert(&mut self, first: u64, last: u64) -> Result<(), Errno> {
        if first > last {
            return Err(Errno::EINVAL);
        }
        let start = self.0.partition_point(|range| range.1.saturating_add(1) < first);
        let end = self.0.partition_point(|range| range.0 <= last.saturating_add(1));
        if start == end {
            return self.0.try_insert(start, (first, last)).map_err(|_| Errno::ENOMEM);
        }
        let merged = (first.min(self.0[start].0), last.max(self.0[end - 1].1));
        self.0[start] = merged;
        self.0.drain(start + 1..end);
        Ok(())
    }

    /// Takes `first..=last` out. `ENOMEM`: it would make too many ranges; nothing changed.
    pub fn remove(&mut self, first: u64, last: u64) -> Result<(), Errno> {
        if first > last {
            return Err(Errno::EINVAL);
        }
        let start = self.0.partition_point(|range| range.1 < first);
        let end = self.0.partition_point(|range| range.0 <= last);
        if start == end {
            return Ok(());
        }
        let below = (self.0[start].0 < first).then(|| (self.0[start].0, first - 1));
        let above = (self.0[end - 1].1 > last).then(|| (last + 1, self.0[end - 1].1));
        let pieces = usize::from(below.is_some()) + usize::from(above.is_some());
        if self.0.len() - (end - start) + pieces > RANGES {
            return Err(Errno::ENOMEM);
        }
        self.0.drain(start..end);
        for piece in above.into_iter().chain(below) {
            self.0.insert(start, piece);
        }
        Ok(())
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }
}

/// The memory side of a domain.
#[derive(Debug)]
pub struct DomainMemory {
    /// Its number.
    pub id: DomId,
    /// It may name other domains' frames (a control domain).
    pub privileged: bool,
    /// It is being destroyed: it gets no more pins and no more pages.
    pub dying: AtomicBool,
    /// Pages it has; counted from [`super::Mmu::assign`] until the frame is free again.
    pages: AtomicU64,
    /// Pages it may have.
    pub max_pages: AtomicU64,
    /// Pages that are promised to it.
    pub claim: Claim,
    /// vCPUs it may have, for masks that guests give.
    pub max_vcpus: AtomicU32,
    /// I/O frames it may map.
    io: Mutex<RangeSet>,
    /// It has hardware, so it may set cache attributes and empty caches.
    cache_attributes: AtomicBool,
    /// CPUs that may hold its translations.
    pub dirty: SharedCpuSet,
    /// Where it ever had frames.
    pub(super) regions: Regions,
}

impl DomainMemory {
    /// A domain without memory.
    pub const fn new(id: DomId, privileged: bool) -> Self {
        DomainMemory {
            id,
            privileged,
            dying: AtomicBool::new(false),
            pages: AtomicU64::new(0),
            max_pages: AtomicU64::new(0),
            claim: Claim::new(),
            max_vcpus: AtomicU32::new(1),
            io: Mutex::new(RangeSet::new()),
            cache_attributes: AtomicBool::new(false),
            dirty: SharedCpuSet::new(),
            regions: Regions::new(),
        }
    }

    /// Notes from here on where on a machine of so many frames the domain has some, so that its end is quick. `-ENOMEM`: no
    /// room to note it.
    pub fn track(&self, frames: u64) -> Result<(), Errno> {
        self.regions.track(frames)
    }

    /// Pages it has.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// Counts `n` pages more, if it may have them.
    pub(super) fn charge(&self, n: u64) -> bool {
        let max = self.max_pages.load(Ordering::Relaxed);
        self.pages
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |now| {
                now.checked_add(n).filter(|&sum| sum <= max)
            })
            .is_ok()
    }

    pub(super) fn uncharge(&self, n: u64) {
        self.pages.fetch_sub(n, Ordering::AcqRel);
    }

    /// Lets it map I/O frames `first..=last`, with any cache attributes.
    pub fn permit_io(&self, first: Mfn, last: Mfn) -> Result<(), Errno> {
        self.io.lock().insert(first.0, last.0)?;
        self.cache_attributes.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes the permission back. Mappings that exist remain.
    pub fn deny_io(&self, first: Mfn, last: Mfn) -> Result<(), Errno> {
        self.io.lock().remove(first.0, last.0)
    }

    /// True if it may map all of the I/O frames `first..=last`.
    pub fn may_map_io(&self, first: Mfn, last: Mfn) -> bool {
        self.io.lock().contains(first.0, last.0)
    }

    /// Calls `each` with every range of I/O frames it may map, in order, until one answers an error.
    pub fn each_io_range<E>(&self, mut each: impl FnMut(u64, u64) -> Result<(), E>) -> Result<(), E> {
        let ranges = RangeSet(self.io.lock().0.clone());
        ranges.iter().try_for_each(|(first, last)| each(first, last))
    }

    /// It has I/O ports or devices: cache attributes are its own business from now on.
    pub fn permit_cache_attributes(&self) {
        self.cache_attributes.store(true, Ordering::Release);
    }

    /// True if it may set cache attributes of its mappings and empty caches.
    #[inline(always)]
    pub fn may_set_cache(&self) -> bool {
        self.cache_attributes.load(Ordering::Relaxed)
    }
}

/// Frames a guest's GDT can have (`FIRST_RESERVED_GDT_PAGE`).
pub const GDT_FRAMES: usize = 14;
/// Entries a guest's GDT can have (`FIRST_RESERVED_GDT_ENTRY`).
pub const GDT_ENTRIES: u32 = GDT_FRAMES as u32 * 512;
/// Frames a guest's LDT can have.
pub const LDT_FRAMES: usize = 16;

/// The memory side of a vCPU. Only the CPU that runs the vCPU changes it; a frame number 0 means none.
///
/// Each frame named here is held by a type reference that sleeps here.
#[derive(Debug, Default)]
pub struct VcpuMmu {
    pub(super) kernel_root: AtomicU64,
    pub(super) user_root: AtomicU64,
    pub(super) gdt: [AtomicU64; GDT_FRAMES],
    pub(super) gdt_entries: AtomicU32,
    pub(super) ldt: [AtomicU64; LDT_FRAMES],
    pub(super) ldt_base: AtomicU64,
    pub(super) ldt_entries: AtomicU32,
    /// A table whose release was interrupted: owner in the top 16 bits. All-zero is none.
    pub(super) unfinished: AtomicU64,
}

impl VcpuMmu {
    /// Where the kernel's root is, for the entry code: its frame number, or zero.
    pub const KERNEL_ROOT: usize = offset_of!(VcpuMmu, kernel_root);
    /// Where the user's root is, for the entry code: its frame number, or zero.
    pub const USER_ROOT: usize = offset_of!(VcpuMmu, user_root);

    /// A vCPU without tables.
    pub const fn new() -> Self {
        VcpuMmu {
            kernel_root: AtomicU64::new(0),
            user_root: AtomicU64::new(0),
            gdt: [const { AtomicU64::new(0) }; GDT_FRAMES],
            gdt_entries: AtomicU32::new(0),
            ldt: [const { AtomicU64::new(0) }; LDT_FRAMES],
            ldt_base: AtomicU64::new(0),
            ldt_entries: AtomicU32::new(0),
            unfinished: AtomicU64::new(0),
        }
    }

    /// Root of the guest kernel.
    #[inline(always)]
    pub fn kernel_root(&self) -> Option<Mfn> {
        some_frame(&self.kernel_root)
    }

    /// Root of the guest's user space.
    #[inline(always)]
    pub fn user_root(&self) -> Option<Mfn> {
        some_frame(&self.user_root)
    }

    /// Frame `index` of the guest's GDT.
    pub fn gdt(&self, index: usize) -> Option<Mfn> {
        some_frame(self.gdt.get(index)?)
    }

    /// Entries in the guest's GDT.
    pub fn gdt_entries(&self) -> u32 {
        self.gdt_entries.load(Ordering::Relaxed)
    }

    /// Frame `index` of the guest's LDT, if it was touched already.
    pub fn ldt(&self, index: usize) -> Option<Mfn> {
        some_frame(self.ldt.get(index)?)
    }

    /// Gives a vCPU that has never run its LDT, none of whose frames is held yet.
    pub fn set_first_ldt(&self, base: u64, entries: u32) {
        self.ldt_base.store(if entries == 0 { 0 } else { base }, Ordering::Relaxed);
        self.ldt_entries.store(entries, Ordering::Relaxed);
    }

    /// Guest address and number of entries of the LDT.
    pub fn ldt_range(&self) -> (u64, u32) {
        (self.ldt_base.load(Ordering::Relaxed), self.ldt_entries.load(Ordering::Relaxed))
    }
}

#[inline(always)]
fn some_frame(word: &AtomicU64) -> Option<Mfn> {
    match word.load(Ordering::Relaxed) {
        0 => None,
        mfn => Some(Mfn(mfn)),
    }
}

#[cfg(test)]
#[path = "domain_tests.rs"]
mod tests;

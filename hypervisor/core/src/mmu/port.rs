//! What the page-table code asks of the machine besides memory.

use core::sync::atomic::{AtomicU64, Ordering};

use hv_types::{DomId, GuestVa, Mfn};

use super::domain::DomainMemory;

/// CPUs the sets can hold.
pub const MAX_CPUS: usize = 256;

/// A set of physical CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuSet([u64; MAX_CPUS / 64]);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: CpuSet = CpuSet([0; MAX_CPUS / 64]);
    /// Every CPU, also those that are not there.
    pub const ALL: CpuSet = CpuSet([u64::MAX; MAX_CPUS / 64]);

    /// Adds a CPU; numbers from [`MAX_CPUS`] on are ignored.
    pub fn insert(&mut self, cpu: u32) {
        if let Some(word) = self.0.get_mut(cpu as usize / 64) {
            *word |= 1 << (cpu % 64);
        }
    }

    /// Takes a CPU out.
    pub fn remove(&mut self, cpu: u32) {
        if let Some(word) = self.0.get_mut(cpu as usize / 64) {
            *word &= !(1 << (cpu % 64));
        }
    }

    /// True if the CPU is in it.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.get(cpu as usize / 64).is_some_and(|word| word >> (cpu % 64) & 1 != 0)
    }

    /// True if none is in it.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; MAX_CPUS / 64]
    }

    /// CPUs in either.
    pub fn union(mut self, other: &CpuSet) -> CpuSet {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
        self
    }

    /// CPUs in both.
    pub fn intersection(mut self, other: &CpuSet) -> CpuSet {
        for (word, kept) in self.0.iter_mut().zip(other.0) {
            *word &= kept;
        }
        self
    }

    /// The CPUs of this set that are not in the other.
    pub fn without(mut self, other: &CpuSet) -> CpuSet {
        for (word, gone) in self.0.iter_mut().zip(other.0) {
            *word &= !gone;
        }
        self
    }

    /// The lowest CPU.
    pub fn first(&self) -> Option<u32> {
        self.iter().next()
    }

    /// The CPUs, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = u32> + use<> {
        (0..).zip(self.0).flat_map(|(n, word)| {
            let mut left = word;
            core::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                (bit < 64).then(|| n * 64 + bit)
            })
        })
    }

    /// The words, lowest CPUs first.
    pub const fn words(&self) -> &[u64; MAX_CPUS / 64] {
        &self.0
    }
}

/// A set of CPUs that several CPUs change, each change seen by all in one order.
#[derive(Debug, Default)]
pub struct SharedCpuSet([AtomicU64; MAX_CPUS / 64]);

impl SharedCpuSet {
    /// An empty set.
    pub const fn new() -> Self {
        SharedCpuSet([const { AtomicU64::new(0) }; MAX_CPUS / 64])
    }

    /// Adds a CPU.
    pub fn insert(&self, cpu: u32) {
        if let Some(word) = self.0.get(cpu as usize / 64) {
            word.fetch_or(1 << (cpu % 64), Ordering::SeqCst);
        }
    }

    /// Takes a CPU out.
    pub fn remove(&self, cpu: u32) {
        if let Some(word) = self.0.get(cpu as usize / 64) {
            word.fetch_and(!(1 << (cpu % 64)), Ordering::SeqCst);
        }
    }

    /// True if the CPU is in it.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.get(cpu as usize / 64).is_some_and(|word| word.load(Ordering::SeqCst) >> (cpu % 64) & 1 != 0)
    }

    /// The lowest CPU that is in both.
    pub fn first_of(&self, others: &CpuSet) -> Option<u32> {
        self.0.iter().zip(others.0).zip(0..).find_map(|((word, other), n)| {
            let both = word.load(Ordering::SeqCst) & other;
            (both != 0).then(|| n * 64 + both.trailing_zeros())
        })
    }

    /// The set at this moment.
    pub fn snapshot(&self) -> CpuSet {
        CpuSet(core::array::from_fn(|i| self.0[i].load(Ordering::SeqCst)))
    }
}

/// Translations that CPUs hold. Every flush includes global entries and paging-structure caches, and returns
/// when it is done.
///
/// The *flush clock* orders flushes and changes of frames: [`Tlb::clock`] reads it, and every CPU, when it flushes
/// all, first advances the clock and then flushes. A CPU whose last flush began later than stamp `s` was
/// taken holds nothing older than `s`. The clock wraps: the machine sees to it that every CPU flushes at
/// least once in 2^30 ticks. [`super::clock::FlushClock`] is an implementation.
pub trait Tlb {
    /// The flush clock.
    fn clock(&self) -> u32;
    /// Makes every CPU of the set that has not flushed all since `stamp` do so.
    fn flush_stale(&self, cpus: &CpuSet, stamp: u32);
    /// Flushes all on this CPU.
    fn flush_local(&self);
    /// Flushes one page of the guest's on this CPU.
    fn flush_page_local(&self, va: GuestVa);
    /// Flushes all on these CPUs.
    fn flush(&self, cpus: &CpuSet);
    /// Flushes one page on these CPUs.
    fn flush_page(&self, cpus: &CpuSet, va: GuestVa);
    /// Waits a moment for another CPU, serving its flush requests.
    fn relax(&self);
}

/// The calling vCPU as the CPU runs it.
pub trait Registers {
    /// Loads the root of the kernel of the calling vCPU, flushing all on this CPU. The old root may be freed
    /// as soon as this returns.
    fn load_root(&self, root: Mfn);
    /// The calling vCPU has another root for user mode: what this CPU found through the old one and remembers goes, but for global
    /// translations.
    fn forget_user_root(&self);
    /// The calling vCPU's LDT is now `entries` long, and none of its frames is mapped (each comes on demand by
    /// [`super::Mmu::take_ldt_frame`]).
    fn reload_ldt(&self, entries: u32);
    /// The calling vCPU's GDT frames changed; see [`super::domain::VcpuMmu::gdt`].
    fn reload_gdt(&self);
    /// Writes back and empties this CPU's caches, or every CPU's.
    fn write_back_caches(&self, every_cpu: bool);
    /// True if the current call ought to stop at the next good place.
    fn should_preempt(&self) -> bool;
}

/// Other domains, and what the machine puts into them.
pub trait Domains {
    /// The memory of a domain that exists. It goes on existing while the domain owns a frame (I-FR-8).
    fn domain(&self, id: DomId) -> Option<&DomainMemory>;
    /// The CPU whose TLB may hold translations of the vCPU, if any.
    fn dirty_cpu(&self, domain: DomId, vcpu: u32) -> Option<u32>;
    /// The entries 256..=271 of every root of the domain.
    fn hypervisor_slots(&self, domain: DomId) -> [u64; 16];
    /// A segment descriptor that the guest may have in a table, made harmless; `None` if it may not.
    fn check_descriptor(&self, descriptor: u64) -> Option<u64>;
}

/// All that [`super::Mmu`] needs.
pub trait Machine: crate::port::Memory + Tlb + Registers + Domains {}

impl<T: crate::port::Memory + Tlb + Registers + Domains> Machine for T {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_set_has_what_was_put_in() {
        let set = SharedCpuSet::new();
        [200, 70, 3, 256].into_iter().for_each(|cpu| set.insert(cpu));
        set.remove(3);
        assert_eq!([3, 70, 200, 256].map(|cpu| set.contains(cpu)), [false, true, true, false]);
        assert_eq!(set.first_of(&CpuSet::ALL), Some(70));
        let mut some = set.snapshot();
        some.remove(70);
        assert_eq!((set.first_of(&some), set.first_of(&CpuSet::EMPTY)), (Some(200), None));
    }

    #[test]
    fn a_set_names_its_cpus_in_order() {
        let mut set = CpuSet::EMPTY;
        let cpus = [0, 1, 63, 64, 130, 255];
        cpus.into_iter().for_each(|cpu| set.insert(cpu));
        assert!(set.iter().eq(cpus) && set.first() == Some(0));
        assert!(CpuSet::EMPTY.first().is_none() && CpuSet::ALL.iter().eq(0..256));
        let mut some = CpuSet::EMPTY;
        [0, 64, 65].into_iter().for_each(|cpu| some.insert(cpu));
        assert!(set.without(&some).iter().eq([1, 63, 130, 255]));
    }
}

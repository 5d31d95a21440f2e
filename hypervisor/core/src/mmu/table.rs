//! Promotion of frames to page tables and back, entry by entry, interruptible above level 1.
//!
//! A walk that stops half-way leaves the frame *partial*: entries below its cursor hold references. Going on and
//! going back are the same from there, so whoever comes next may do either. The entry at the cursor may name a
//! table that is itself partial; the way back finishes that one first. A way back that nobody is going to ask for
//! again is remembered in the vCPU ([`super::VcpuMmu`]) and finished before its next call.

use core::sync::atomic::Ordering::Relaxed;

use guest_abi::Errno;
use hv_types::{DomId, Mfn, WORDS_PER_PAGE};

use super::port::Machine;
use super::{Caller, Class, DomainMemory, Mmu, PageOwner, Pte, VcpuMmu};
use crate::call::CallError;
use crate::frame::{Claimed, GeneralRef, Kind, PutType, TakeType, TypeRef};

/// First and last slot of a root that are the hypervisor's.
pub(super) const HYPERVISOR_SLOTS: core::ops::RangeInclusive<usize> = 256..=271;
/// The one of them that shows the machine-to-physical table to the guest (`MACH2PHYS_VIRT_START`).
const M2P_SLOT: usize = 256;

/// Entries looked at together.
const RUN: usize = 8;

/// The walk stopped to let others run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preempted;

/// Why a promotion did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It will go on from where it stopped.
    Preempted,
    /// The frame cannot be such a table.
    Errno(Errno),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Stop::Errno(errno)
    }
}

impl<P: Machine> Mmu<'_, P> {
    /// A type reference on a frame of `domain` as a table of `level`, validating it if need be.
    ///
    /// `EINVAL`: not its frame, or of another type; others as the entries have it.
    pub(super) fn get_table(
        &self,
        vcpu: &VcpuMmu,
        domain: &DomainMemory,
        mfn: Mfn,
        level: u32,
    ) -> Result<TypeRef, Stop> {
        let mut general = self.frames.get_general(mfn, domain.id).map_err(|_| Errno::EINVAL)?;
        let kind = Kind::table(level);
        loop {
            match self.frames.take_type(general, kind) {
                TakeType::Have(reference) => return Ok(reference),
                TakeType::Claimed(claim) => {
                    self.flush_for_new_type(&claim, kind);
                    return self.promote(vcpu, domain, claim, level);
                }
                TakeType::Resumed(claim, spare) => {
                    self.drop_general(spare);
                    return self.promote(vcpu, domain, claim, level);
                }
                TakeType::Busy(back) => {
                    self.port.relax();
                    general = back;
                }
                TakeType::Refused(back) => {
                    self.drop_general(back);
                    return Err(Stop::Errno(Errno::EINVAL));
                }
            }
        }
    }

    fn promote(
        &self,
        vcpu: &VcpuMmu,
        domain: &DomainMemory,
        claim: Claimed,
        level: u32,
    ) -> Result<TypeRef, Stop> {
        let mut cursor = claim.cursor();
        let result = match level {
            1 => self.fill_leaves(domain, claim.mfn(), &mut cursor),
            _ => self.fill_tables(vcpu, domain, claim.mfn(), level, &mut cursor),
        };
        match result {
            Ok(()) => {
                if level == 4 {
                    self.fill_hypervisor_slots(domain.id, claim.mfn());
                }
                Ok(self.frames.validated(claim))
            }
            Err(Stop::Preempted) => {
                self.frames.rest(claim, cursor);
                Err(Stop::Preempted)
            }
            Err(Stop::Errno(errno)) => {
                self.demote_or_remember(vcpu, claim, level, cursor);
                Err(Stop::Errno(errno))
            }
        }
    }

    /// The first present entry from `index` on. Most tables are mostly empty: eight entries are looked at at once.
    #[inline(always)]
    fn next_present(&self, table: Mfn, mut index: usize) -> Option<(usize, Pte)> {
        while index < WORDS_PER_PAGE {
            if index.is_multiple_of(8) && self.no_present(table, index) {
                index += 8;
                continue;
            }
            let entry = Pte(self.port.load64(table, index));
            if entry.is_present() {
                return Some((index, entry));
            }
            index += 1;
        }
        None
    }

    /// The last present entry below `end`.
    #[inline(always)]
    fn last_present(&self, table: Mfn, mut end: usize) -> Option<(usize, Pte)> {
        while end > 0 {
            if end.is_multiple_of(8) && self.no_present(table, end - 8) {
                end -= 8;
                continue;
            }
            end -= 1;
            let entry = Pte(self.port.load64(table, end));
            if entry.is_present() {
                return Some((end, entry));
            }
        }
        None
    }

    /// True if none of the eight entries from `first` on is present.
    #[inline(always)]
    fn no_present(&self, table: Mfn, first: usize) -> bool {
        let any = (0..8).fold(0, |any, offset| any | self.port.load64(table, first + offset));
        !Pte(any).is_present()
    }

    fn fill_leaves(&self, domain: &DomainMemory, table: Mfn, cursor: &mut usize) -> Result<(), Stop> {
        let forbidden = Pte::forbidden(1, domain.may_set_cache());
        let owner = PageOwner::own(domain);
        let mut index = self.skip_absent(table, *cursor);
        while index < WORDS_PER_PAGE {
            let entry = Pte(self.port.load64(table, index));
            if entry.is_present() {
                *cursor = index;
                if entry.0 & forbidden != 0 {
                    return Err(Stop::Errno(Errno::EINVAL));
                }
                let stored = self.take_leaf(entry.adjust(1), domain, &owner)?;
                if stored != entry {
                    self.port.store64(table, index, stored.0);
                }
            }
            index = self.skip_absent(table, index + 1);
        }
        *cursor = WORDS_PER_PAGE;
        Ok(())
    }

    /// `index`, or the next place worth a look: tables are mostly empty, and a run of entries is passed over at once.
    /// Nobody else writes a claimed table.
    #[inline(always)]
    fn skip_absent(&self, table: Mfn, mut index: usize) -> usize {
        while index.is_multiple_of(RUN) && index < WORDS_PER_PAGE && !self.any_present(table, index) {
            index += RUN;
        }
        index
    }

    /// True if one of the [`RUN`] entries from `first` on, a multiple of it, is present.
    #[inline(always)]
    fn any_present(&self, table: Mfn, first: usize) -> bool {
        let first = first & (WORDS_PER_PAGE - RUN);
        let all = (0..RUN).fold(0, |all, n| all | self.port.load64(table, first | n));
        Pte(all).is_present()
    }

    fn fill_tables(
        &self,
        vcpu: &VcpuMmu,
        domain: &DomainMemory,
        table: Mfn,
        level: u32,
        cursor: &mut usize,
    ) -> Result<(), Stop> {
        let mut next = *cursor;
        while let Some((index, entry)) = self.next_present(table, next) {
            next = index + 1;
            if level == 4 && HYPERVISOR_SLOTS.contains(&index) {
                continue;
            }
            *cursor = index;
            let stored = self.take_entry(vcpu, domain, entry, level)?;
            if stored != entry {
                self.port.store64(table, index, stored.0);
            }
            *cursor = index + 1;
            if *cursor < WORDS_PER_PAGE && self.port.should_preempt() {
                return Err(Stop::Preempted);
            }
        }
        *cursor = WORDS_PER_PAGE;
        Ok(())
    }

    /// Takes what a present entry above level 1 refers to, and gives the entry to store.
    pub(super) fn take_entry(
        &self,
        vcpu: &VcpuMmu,
        domain: &DomainMemory,
        entry: Pte,
        level: u32,
    ) -> Result<Pte, Stop> {
        match entry.classify(level, false) {
            Class::Table(mfn) => {
                self.get_table(vcpu, domain, mfn, level - 1)?.sleep();
                Ok(entry.adjust(level))
            }
            Class::Absent | Class::Leaf(_) | Class::Forbidden(_) => Err(Stop::Errno(Errno::EINVAL)),
        }
    }

    fn fill_hypervisor_slots(&self, domain: DomId, root: Mfn) {
        let words = self.port.hypervisor_slots(domain);
        for (slot, word) in HYPERVISOR_SLOTS.zip(words) {
            self.port.store64(root, slot, if slot == M2P_SLOT { 0 } else { word });
        }
    }

    /// Lets the guest read the machine-to-physical table through a root that its kernel is about to use. A root that only
    /// user mode uses does not show it.
    #[inline(always)]
    pub(super) fn show_m2p(&self, domain: DomId, root: Mfn) {
        if self.port.load64(root, M2P_SLOT) == 0 {
            self.port.store64(root, M2P_SLOT, self.port.hypervisor_slots(domain)[0]);
        }
    }

    /// Drops the references of entries below `cursor`, from the top down, and then the claim.
    fn demote(&self, claim: Claimed, level: u32, mut cursor: usize) -> Result<(), (Claimed, usize)> {
        if level == 1 {
            let mut next = 0;
            while let Some((index, entry)) = self.next_present(claim.mfn(), next)
                && index < cursor
            {
                next = index + 1;
                self.drop_leaf(entry);
            }
        } else {
            if self.finish_child(&claim, level, cursor).is_err() {
                return Err((claim, cursor));
            }
            while let Some((index, entry)) = self.last_present(claim.mfn(), cursor) {
                cursor = index;
                if level == 4 && HYPERVISOR_SLOTS.contains(&cursor) {
                    continue;
                }
                let dropped = self.drop_table(TypeRef::wake(entry.mfn()));
                if dropped.is_err() || (cursor > 0 && self.port.should_preempt()) {
                    return Err((claim, cursor));
                }
            }
        }
        if let Some(dead) = self.frames.emptied(claim, self.port.clock()) {
            self.bury(dead);
        }
        Ok(())
    }

    /// The table that the entry at `cursor` names, if it was left partial by the walk of this one.
    fn finish_child(&self, claim: &Claimed, level: u32, cursor: usize) -> Result<(), Preempted> {
        if cursor >= WORDS_PER_PAGE || (level == 4 && HYPERVISOR_SLOTS.contains(&cursor)) {
            return Ok(());
        }
        let entry = Pte(self.port.load64(claim.mfn(), cursor));
        if !entry.is_present() {
            return Ok(());
        }
        self.finish_partial(entry.mfn(), self.frames.owner(claim.mfn()), level)
    }

    /// Takes a partial table of the domain all the way back.
    pub(super) fn finish_partial_of(&self, domain: &DomainMemory, mfn: Mfn) -> Result<(), Preempted> {
        self.finish_partial(mfn, domain.id, u32::MAX)
    }

    /// Takes a partial frame of `owner`, if it is a table below level `below`, all the way back.
    fn finish_partial(&self, mfn: Mfn, owner: DomId, below: u32) -> Result<(), Preempted> {
        let Some(claim) = self.frames.claim_partial(mfn, owner) else { return Ok(()) };
        let (level, cursor) = (claim.was().level(), claim.cursor());
        if level >= below {
            self.frames.rest(claim, cursor);
            return Ok(());
        }
        self.demote_or_rest(claim, level, cursor)
    }

    fn demote_or_rest(&self, claim: Claimed, level: u32, cursor: usize) -> Result<(), Preempted> {
        self.demote(claim, level, cursor).map_err(|(claim, cursor)| {
            self.frames.rest(claim, cursor);
            Preempted
        })
    }

    fn demote_or_remember(&self, vcpu: &VcpuMmu, claim: Claimed, level: u32, cursor: usize) {
        let mfn = claim.mfn();
        if self.demote_or_rest(claim, level, cursor).is_err() {
            self.remember(vcpu, mfn);
        }
    }

    fn remember(&self, vcpu: &VcpuMmu, mfn: Mfn) {
        let owner = self.frames.owner(mfn);
        vcpu.unfinished.store(mfn.0 | u64::from(owner.0) << 48, Relaxed);
    }

    /// Drops a type reference on a page table; the last one undoes it.
    pub(super) fn drop_table(&self, reference: TypeRef) -> Result<(), Preempted> {
        match self.frames.put_type(reference, || self.port.clock()) {
            PutType::Done => Ok(()),
            PutType::Dead(dead) => {
                self.bury(dead);
                Ok(())
            }
            PutType::Claimed(claim) => {
                let (level, cursor) = (claim.was().level(), claim.cursor());
                self.demote_or_rest(claim, level, cursor)
            }
        }
    }

    /// Drops a type reference on a page table now, or begins to and leaves the rest to the vCPU's next call.
    #[inline]
    pub(super) fn drop_table_later(&self, vcpu: &VcpuMmu, reference: TypeRef) {
        let mfn = reference.mfn();
        if self.drop_table(reference).is_err() {
            self.remember(vcpu, mfn);
        }
    }

    /// True if an earlier call of the vCPU left something to finish.
    #[inline(always)]
    pub(super) fn is_unfinished(&self, vcpu: &VcpuMmu) -> bool {
        vcpu.unfinished.load(Relaxed) != 0
    }

    /// Finishes what earlier calls of the vCPU left. Every call that may leave something begins with this.
    #[inline(always)]
    pub fn finish(&self, vcpu: &VcpuMmu) -> Result<(), Preempted> {
        if self.is_unfinished(vcpu) { self.finish_slow(vcpu) } else { Ok(()) }
    }

    #[cold]
    fn finish_slow(&self, vcpu: &VcpuMmu) -> Result<(), Preempted> {
        let packed = vcpu.unfinished.load(Relaxed);
        let (mfn, owner) = (Mfn(packed & ((1 << 48) - 1)), DomId((packed >> 48) as u16));
        self.finish_partial(mfn, owner, u32::MAX)?;
        vcpu.unfinished.store(0, Relaxed);
        Ok(())
    }

    /// Pins a frame of `domain` as a table of `level` (1..=4). [`CallError::Retry`] carries no arguments of
    /// use: call again. `EINVAL`: it cannot be one, or is pinned already.
    pub fn pin(
        &self,
        caller: &Caller<'_>,
        domain: &DomainMemory,
        mfn: Mfn,
        level: u32,
    ) -> Result<(), CallError> {
        self.pin_table(caller.vcpu, domain, mfn, level).map_err(|stop| match stop {
            Stop::Preempted => CallError::Retry(crate::call::Continuation { args: [0; 4] }),
            Stop::Errno(errno) => CallError::Errno(errno),
        })
    }

    pub(super) fn pin_table(
        &self,
        vcpu: &VcpuMmu,
        domain: &DomainMemory,
        mfn: Mfn,
        level: u32,
    ) -> Result<(), Stop> {
        let table = self.get_table(vcpu, domain, mfn, level)?;
        let held = GeneralRef::wake(table.mfn());
        let pinned = self.frames.set_pinned(&held, true);
        // The general reference is the one inside `table`.
        held.sleep();
        if !pinned {
            self.drop_table_later(vcpu, table);
            return Err(Stop::Errno(Errno::EINVAL));
        }
        if domain.dying.load(core::sync::atomic::Ordering::Acquire) && self.take_pin(mfn) {
            self.drop_table_later(vcpu, table);
            return Ok(());
        }
        table.sleep();
        Ok(())
    }

    /// Takes the pin off; its type reference is the caller's then.
    pub(super) fn take_pin(&self, mfn: Mfn) -> bool {
        let held = GeneralRef::wake(mfn);
        let changed = self.frames.set_pinned(&held, false);
        held.sleep();
        changed
    }

    pub(super) fn unpin_table(&self, vcpu: &VcpuMmu, owner: &PageOwner<'_>, mfn: Mfn) -> Result<(), Errno> {
        let held = self.frames.get_general(mfn, owner.id).map_err(|_| Errno::EINVAL)?;
        let result = if self.take_pin(mfn) {
            self.drop_table_later(vcpu, TypeRef::wake(mfn));
            Ok(())
        } else {
            Err(Errno::EINVAL)
        };
        self.drop_general(held);
        result
    }
}

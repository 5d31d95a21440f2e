//! Frames come to a domain and leave it.

use core::sync::atomic::Ordering;

use guest_abi::Errno;
use hv_types::{Gfn, Mfn};

use super::domain::{GDT_FRAMES, LDT_FRAMES};
use super::port::Machine;
use super::{Caller, DomainMemory, Mmu, Preempted};
use crate::frame::{GeneralRef, TypeRef};
use crate::heap::{Block, Heap};

/// Frames looked at between two questions whether to stop.
const STRIDE: u64 = 256;

impl<P: Machine> Mmu<'_, P> {
    /// Gives all frames of a safe, zeroed block to a domain. `gfn` tells the guest frame number of the n-th frame
    /// for the machine-to-physical table (`None`: none).
    ///
    /// `ENOMEM`: more pages than it may have, `EINVAL`: it is being destroyed; the block is free again then.
    pub fn assign(
        &self,
        domain: &DomainMemory,
        block: Block,
        gfn: impl Fn(u64) -> Option<Gfn>,
    ) -> Result<Mfn, Errno> {
        let count = 1 << block.order();
        let refused = if domain.dying.load(Ordering::Acquire) {
            Some(Errno::EINVAL)
        } else if !domain.charge(count) {
            Some(Errno::ENOMEM)
        } else {
            None
        };
        if let Some(errno) = refused {
            self.heap.free_for(self.frames, block, &domain.claim, self.port.clock());
            return Err(errno);
        }
        let first = block.mfn();
        domain.regions.note(first.0, count);
        for (n, single) in (0..count).zip(Heap::split(block)) {
            self.set_gfn(single.mfn(), gfn(n).unwrap_or(Gfn::INVALID));
            if !self.frames.publish(single.mfn(), domain.id) {
                // The table knows better than the allocator: the frame stays whose it is.
                domain.uncharge(1);
            }
        }
        Ok(first)
    }

    /// Promises a domain that it can have `total` pages, those that it has included; 0 takes the promise back.
    ///
    /// `EINVAL`: it has so many, may not have so many, or has a promise already. `ENOMEM`: there are not so many.
    pub fn claim(&self, domain: &DomainMemory, total: u64) -> Result<(), Errno> {
        let has = domain.pages();
        if total != 0 {
            let sensible =
                (has.saturating_add(1)..=domain.max_pages.load(Ordering::Relaxed)).contains(&total);
            if !sensible || domain.claim.outstanding() != 0 {
                return Err(Errno::EINVAL);
            }
        }
        let done = self.heap.stake(&domain.claim, total.saturating_sub(has));
        // Of one that dies nothing is left to take back.
        if done || total == 0 { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Gives `pages` frames from `first` on to a domain with what is in them: RAM that was never in the heap, such as
    /// the loader's modules. `gfn` as for [`Mmu::assign`].
    ///
    /// `ENOMEM`: more pages than it may have; `EBUSY`: a frame is somebody's, and those before it are the domain's
    /// now.
    pub fn adopt(
        &self,
        domain: &DomainMemory,
        first: Mfn,
        pages: u64,
        gfn: impl Fn(u64) -> Option<Gfn>,
    ) -> Result<(), Errno> {
        if !domain.charge(pages) {
            return Err(Errno::ENOMEM);
        }
        domain.regions.note(first.0, pages);
        for n in 0..pages {
            let mfn = Mfn(first.0.saturating_add(n));
            if !self.frames.publish(mfn, domain.id) {
                domain.uncharge(pages.saturating_sub(n));
                return Err(Errno::EBUSY);
            }
            self.set_gfn(mfn, gfn(n).unwrap_or(Gfn::INVALID));
        }
        Ok(())
    }

    /// The domain gives up a frame. Its last mapping frees it. `EINVAL`: not its frame, or given up already.
    pub fn release(&self, domain: &DomainMemory, mfn: Mfn) -> Result<(), Errno> {
        let held = self.frames.get_general(mfn, domain.id).map_err(|_| Errno::EINVAL)?;
        let own = self.frames.take_allocated(&held);
        let result = own.map(|own| self.drop_general(own)).ok_or(Errno::EINVAL);
        self.drop_general(held);
        result
    }

    /// Ends the loan of a hypervisor frame. It is freed when the domain's last mapping goes.
    pub fn unshare(&self, mfn: Mfn) {
        if let Some(dead) = self.frames.unshare(mfn) {
            self.bury(dead);
        }
    }

    /// Lets go of a vCPU's roots and descriptor tables, for its end. The machine runs on another root already.
    /// Call again until it is done.
    pub fn release_vcpu(&self, caller: &Caller<'_>) -> Result<(), Preempted> {
        let vcpu = caller.vcpu;
        self.finish(vcpu)?;
        let tables = vcpu.gdt.iter().take(GDT_FRAMES).chain(vcpu.ldt.iter().take(LDT_FRAMES));
        for place in tables.chain([&vcpu.kernel_root, &vcpu.user_root]) {
            let mfn = place.swap(0, Ordering::Relaxed);
            if mfn != 0 {
                self.drop_table_later(vcpu, TypeRef::wake(Mfn(mfn)));
                self.finish(vcpu)?;
            }
        }
        Ok(())
    }

    /// Takes all frames of a dying domain away, from frame `*cursor` on; its vCPUs were released. `Ok` at the end
    /// of the machine's memory; if the domain still has pages then, other domains map them, and are to be
    /// asked again later from frame 0.
    pub fn relinquish(&self, caller: &Caller<'_>, cursor: &mut u64) -> Result<(), Preempted> {
        loop {
            self.finish(caller.vcpu)?;
            *cursor = caller.domain.regions.next(*cursor);
            if *cursor as usize >= self.frames.len() {
                return Ok(());
            }
            let mfn = Mfn(*cursor);
            let looks_like = self.frames.peek(mfn).is_some_and(|w| w.general() != 0);
            if looks_like && let Ok(held) = self.frames.get_general(mfn, caller.domain.id) {
                self.relinquish_frame(caller, held)?;
            } else if let Some(dead) = self.frames.take_orphan(mfn, caller.domain.id) {
                self.bury(dead);
            }
            *cursor += 1;
            if cursor.is_multiple_of(STRIDE) && self.port.should_preempt() {
                return Err(Preempted);
            }
        }
    }

    fn relinquish_frame(&self, caller: &Caller<'_>, held: GeneralRef) -> Result<(), Preempted> {
        let mfn = held.mfn();
        if self.take_pin(mfn) {
            self.drop_table_later(caller.vcpu, TypeRef::wake(mfn));
        }
        let partial = self.finish_partial_of(caller.domain, mfn);
        if let Some(own) = self.frames.take_allocated(&held) {
            self.drop_general(own);
        }
        self.drop_general(held);
        partial
    }
}

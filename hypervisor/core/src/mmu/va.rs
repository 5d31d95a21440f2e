//! `update_va_mapping`: one entry named by the address that it maps.

use guest_abi::Errno;
use guest_abi::xen::{UVMF_ALL, UVMF_FLUSHTYPE_MASK, UVMF_INVLPG, UVMF_LOCAL, UVMF_NONE, UVMF_TLB_FLUSH};
use hv_types::{DomId, GuestVa, Mfn};

use super::entry::How;
use super::port::Machine;
use super::{Caller, CpuSet, Mmu, PageOwner, Pte};
use crate::call::{CallError, Continuation};
use crate::port::GuestSpace;

impl<P: Machine> Mmu<'_, P> {
    /// `update_va_mapping` (`xen.h`). Value 0. `EINVAL`: nothing is mapped there by level-1 tables of the
    /// caller's; `EFAULT`: the vCPU mask cannot be read; others as for `mmu_update`. The flush is done only if the
    /// entry was written.
    pub fn do_update_va_mapping<S: GuestSpace>(
        &self,
        caller: &Caller<'_>,
        space: &S,
        va: GuestVa,
        value: u64,
        flags: u64,
    ) -> Result<u64, CallError> {
        if self.finish(caller.vcpu).is_err() {
            return Err(CallError::Retry(Continuation { args: [va.0, value, flags, 0] }));
        }
        let told = self.cpus_told(caller, space, flags)?;
        self.update_va(caller, &PageOwner::own(caller.domain), va, value)?;
        self.flush_as_told(caller, told, va, flags);
        Ok(0)
    }

    /// `update_va_mapping_otherdomain` (`xen.h`): the frame is `domain`'s.
    pub fn do_update_va_mapping_otherdomain<S: GuestSpace>(
        &self,
        caller: &Caller<'_>,
        space: &S,
        va: GuestVa,
        value: u64,
        flags: u64,
        domain: u16,
    ) -> Result<u64, CallError> {
        if self.finish(caller.vcpu).is_err() {
            return Err(CallError::Retry(Continuation { args: [va.0, value, flags, u64::from(domain)] }));
        }
        let owner = self.page_owner(caller, DomId(domain))?;
        if owner.memory.is_none() && !caller.domain.privileged {
            return Err(Errno::EPERM.into());
        }
        let told = self.cpus_told(caller, space, flags)?;
        self.update_va(caller, &owner, va, value)?;
        self.flush_as_told(caller, told, va, flags);
        Ok(0)
    }

    #[inline(always)]
    fn update_va(
        &self,
        caller: &Caller<'_>,
        owner: &PageOwner<'_>,
        va: GuestVa,
        value: u64,
    ) -> Result<(), Errno> {
        let (table, index) = self.walk(caller, va).ok_or(Errno::EINVAL)?;
        let (reference, level) = self.frames.get_table(table, caller.domain.id).map_err(|_| Errno::EINVAL)?;
        let result = if level == 1 {
            self.replace_leaf(table, index, value, How::Set, caller.domain, owner)
        } else {
            Err(Errno::EINVAL)
        };
        self.drop_table_later(caller.vcpu, reference);
        result.map(drop)
    }

    /// The level-1 table, and the index in it, that the guest kernel's root has for an address. Other CPUs may be
    /// changing the tables: the result is a claim that [`crate::frame::FrameTable::get_table`] has to check.
    #[inline(always)]
    pub(super) fn walk(&self, caller: &Caller<'_>, va: GuestVa) -> Option<(Mfn, usize)> {
        // The hypervisor's own slots fail in the loop: what they name is no table of a guest's.
        if !va.is_canonical() {
            return None;
        }
        let mut table = caller.vcpu.kernel_root()?;
        for level in [4, 3, 2] {
            let entry = Pte(self.port.load64(table, va.index(level)));
            if !entry.is_present() || !self.frames.is_table(entry.mfn(), level - 1) {
                return None;
            }
            table = entry.mfn();
        }
        Some((table, va.index(1)))
    }

    /// The entry that maps an address in the guest kernel's tables, and where it is; for page faults.
    pub fn leaf_of(&self, caller: &Caller<'_>, va: GuestVa) -> Option<(Mfn, usize, Pte)> {
        let (table, index) = self.walk(caller, va)?;
        Some((table, index, Pte(self.port.load64(table, index))))
    }

    /// The CPUs of a guest's mask, if the flags have one. It is read first, so that an error changes nothing.
    #[inline(always)]
    fn cpus_told<S: GuestSpace>(
        &self,
        caller: &Caller<'_>,
        space: &S,
        flags: u64,
    ) -> Result<Option<CpuSet>, Errno> {
        let mask = flags & !UVMF_FLUSHTYPE_MASK;
        if mask & !UVMF_ALL == 0 || flags & UVMF_FLUSHTYPE_MASK == UVMF_NONE {
            return Ok(None);
        }
        self.vcpu_mask(caller, space, GuestVa(mask)).map(Some).map_err(|_| Errno::EFAULT)
    }

    #[inline(always)]
    fn flush_as_told(&self, caller: &Caller<'_>, told: Option<CpuSet>, va: GuestVa, flags: u64) {
        let every = || told.unwrap_or_else(|| caller.domain.dirty.snapshot());
        match (flags & UVMF_FLUSHTYPE_MASK, flags & !UVMF_FLUSHTYPE_MASK) {
            (UVMF_INVLPG, UVMF_LOCAL) => self.port.flush_page_local(va),
            (UVMF_TLB_FLUSH, UVMF_LOCAL) => self.port.flush_local(),
            (UVMF_INVLPG, _) => self.port.flush_page(&every(), va),
            (UVMF_TLB_FLUSH, _) => self.port.flush(&every()),
            _ => (),
        }
    }
}

//! `mmu_update`: a batch of page-table entries and machine-to-physical entries.

use guest_abi::Errno;
use guest_abi::xen::{
    MMU_MACHPHYS_UPDATE, MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_NO_TRANSLATE, MMU_PT_UPDATE_PRESERVE_AD,
};
use hv_types::{DomId, Gfn, GuestVa, Mfn};

use super::entry::How;
use super::port::Machine;
use super::table::Stop;
use super::{Caller, DomainMemory, Mmu, PREEMPTED, PageOwner, again, done_before, report_done};
use crate::call::CallError;
use crate::frame::TypeRef;
use crate::port::GuestSpace;

/// Leaves that are updated between two looks at the clock.
const PACE: u32 = 16;

/// Whose tables and whose frames a batch is about.
struct Scope<'c> {
    tables: &'c DomainMemory,
    pages: PageOwner<'c>,
}

/// The table that the last entry was in. Runs of entries in one table take its reference once.
struct Held(Option<(TypeRef, u32)>);

impl<'a, P: Machine> Mmu<'a, P> {
    /// `mmu_update` (`xen.h`). Value 0.
    ///
    /// `foreign`: low half the owner of the frames that entries map, high half one more than the owner of the
    /// tables, or 0 for the caller. The count of requests done is added up at `done` (0: nowhere), whatever the
    /// result. `EFAULT`: the list cannot be read; `ESRCH`, `EPERM`: the domains; `ENOSYS`: unknown command;
    /// others by request. Requests before the one that failed remain done.
    pub fn do_mmu_update<S: GuestSpace>(
        &self,
        caller: &Caller<'_>,
        space: &S,
        list: GuestVa,
        mut count: u32,
        done: GuestVa,
        foreign: u32,
    ) -> Result<u64, CallError> {
        if self.finish(caller.vcpu).is_err() {
            return Err(CallError::Retry(crate::call::Continuation {
                args: [list.0, u64::from(count), done.0, u64::from(foreign)],
            }));
        }
        if count == PREEMPTED && list.0 == 0 {
            return finished_result(foreign);
        }
        let before = done_before(space, &mut count, done);
        if !list.is_guest_range(u64::from(count) * 16) {
            return Err(Errno::EFAULT.into());
        }
        let scope = self.scope(caller, foreign)?;
        let mut held = Held(None);
        let (completed, result) = self.updates(caller, space, &scope, list, count, &mut held);
        if let Some((table, _)) = held.0.take() {
            self.drop_table_later(caller.vcpu, table);
        }
        report_done(space, done, before.wrapping_add(completed));
        let rest = GuestVa(list.0 + u64::from(completed) * 16);
        self.batch_result(caller, result, rest, count - completed, done, foreign)
    }

    /// The `mmu_update` that is asked for most often: one entry of one of the caller's level-1 tables, for its own
    /// frames. False if it is not that, or may not or cannot be done so simply; then nothing has happened, and
    /// [`Mmu::do_mmu_update`] says what is the matter.
    #[inline(always)]
    pub fn one_leaf_update(&self, caller: &Caller<'_>, pointer: u64, value: u64) -> bool {
        let how = match pointer & 7 {
            MMU_NORMAL_PT_UPDATE => How::Set,
            MMU_PT_UPDATE_PRESERVE_AD => How::KeepAd,
            _ => return false,
        };
        if self.is_unfinished(caller.vcpu) {
            return false;
        }
        let (domain, mfn, index) = (caller.domain, Mfn::containing(pointer), (pointer as usize & 0xfff) >> 3);
        let Ok(table) = self.frames.get_leaf_table(mfn, domain.id) else { return false };
        let done = self.replace_leaf(mfn, index, value, how, domain, &PageOwner::own(domain)).is_ok();
        if let Err(last) = self.frames.put_shared(table) {
            self.drop_table_later(caller.vcpu, last);
        }
        done
    }

    /// How a batch ends: interrupted, or with a result that may have to wait for unfinished work.
    pub(super) fn batch_result(
        &self,
        caller: &Caller<'_>,
        result: Result<(), Stop>,
        rest: GuestVa,
        remaining: u32,
        done: GuestVa,
        foreign: u32,
    ) -> Result<u64, CallError> {
        match result {
            Err(Stop::Preempted) => Err(again(rest, remaining, done, foreign)),
            // The continuation has nothing left but to finish, and carries the result in place of the domain.
            result if self.is_unfinished(caller.vcpu) => {
                let code = match result {
                    Err(Stop::Errno(errno)) => errno.0.wrapping_neg() as u32,
                    _ => 0,
                };
                Err(again(GuestVa(0), 0, GuestVa(0), code))
            }
            Err(Stop::Errno(errno)) => Err(errno.into()),
            Ok(()) => Ok(0),
        }
    }

    fn scope<'c>(&self, caller: &Caller<'c>, foreign: u32) -> Result<Scope<'c>, Errno>
    where
        'a: 'c,
    {
        let pages = self.page_owner(caller, DomId(foreign as u16))?;
        let tables = match (foreign >> 16) as u16 {
            0 => caller.domain,
            named => self.table_owner(caller, DomId(named - 1))?,
        };
        Ok(Scope { tables, pages })
    }

    #[cold]
    fn table_owner<'c>(&self, caller: &Caller<'c>, id: DomId) -> Result<&'c DomainMemory, Errno>
    where
        'a: 'c,
    {
        if id == caller.domain.id {
            return Ok(caller.domain);
        }
        let port: &'a P = self.port;
        let domain = port.domain(id).ok_or(Errno::ESRCH)?;
        if caller.domain.privileged { Ok(domain) } else { Err(Errno::EPERM) }
    }

    fn updates<S: GuestSpace>(
        &self,
        caller: &Caller<'_>,
        space: &S,
        scope: &Scope<'_>,
        list: GuestVa,
        count: u32,
        held: &mut Held,
    ) -> (u32, Result<(), Stop>) {
        let mut at = list.0;
        for index in 0..count {
            // A leaf is quick; any other entry may have been the promotion of many tables.
            let ask = index.is_multiple_of(PACE) || !matches!(held.0, Some((_, 1)));
            if index != 0 && (self.is_unfinished(caller.vcpu) || ask && self.port.should_preempt()) {
                return (index, Err(Stop::Preempted));
            }
            let mut request = [0; 16];
            if space.read(GuestVa(at), &mut request).is_err() {
                return (index, Err(Stop::Errno(Errno::EFAULT)));
            }
            let (pointer, value) = halves(&request);
            if let Err(stop) = self.update(caller, scope, held, pointer, value) {
                return (index, Err(stop));
            }
            at = at.wrapping_add(16);
        }
        (count, Ok(()))
    }

    #[inline(always)]
    fn update(
        &self,
        caller: &Caller<'_>,
        scope: &Scope<'_>,
        held: &mut Held,
        pointer: u64,
        value: u64,
    ) -> Result<(), Stop> {
        let how = match pointer & 7 {
            MMU_NORMAL_PT_UPDATE | MMU_PT_UPDATE_NO_TRANSLATE => How::Set,
            MMU_PT_UPDATE_PRESERVE_AD => How::KeepAd,
            MMU_MACHPHYS_UPDATE => {
                return Ok(self.update_m2p(caller, scope, Mfn::containing(pointer), value)?);
            }
            _ => return Err(Stop::Errno(Errno::ENOSYS)),
        };
        let (mfn, index) = (Mfn::containing(pointer), (pointer as usize & 0xfff) >> 3);
        let level = match &held.0 {
            Some((table, level)) if table.mfn() == mfn => *level,
            _ => match self.hold(caller, scope, held, mfn) {
                Some(level) => level,
                None => return self.update_other(scope, mfn, index, value),
            },
        };
        if level == 1 {
            self.replace_leaf(mfn, index, value, how, scope.tables, &scope.pages)?;
            return Ok(());
        }
        if scope.pages.id != scope.tables.id {
            return Err(Stop::Errno(Errno::EINVAL));
        }
        self.replace_table(caller, (mfn, level), index, value, how, scope.tables)
    }

    /// Exchanges the held table for `mfn`; its level, if it is one.
    #[inline(always)]
    fn hold(&self, caller: &Caller<'_>, scope: &Scope<'_>, held: &mut Held, mfn: Mfn) -> Option<u32> {
        if let Some((table, _)) = held.0.take() {
            self.drop_table_later(caller.vcpu, table);
        }
        let (table, level) = self.frames.get_table(mfn, scope.tables.id).ok()?;
        held.0 = Some((table, level));
        Some(level)
    }

    /// A request for a frame that is no page table: a plain write to ordinary memory.
    #[cold]
    fn update_other(&self, scope: &Scope<'_>, mfn: Mfn, index: usize, value: u64) -> Result<(), Stop> {
        let general = self.frames.get_general(mfn, scope.tables.id).map_err(|_| Errno::EINVAL)?;
        let writable = self.make_writable(general).map_err(|_| Errno::EINVAL)?;
        self.port.store64(mfn, index, value);
        self.drop_writable(writable);
        Ok(())
    }

    #[cold]
    fn update_m2p(&self, caller: &Caller<'_>, scope: &Scope<'_>, mfn: Mfn, value: u64) -> Result<(), Errno> {
        if scope.tables.id != caller.domain.id {
            return Err(Errno::EPERM);
        }
        let held = self.frames.get_general(mfn, scope.pages.id).map_err(|_| Errno::EINVAL)?;
        self.set_gfn(mfn, Gfn(value));
        self.drop_general(held);
        Ok(())
    }
}

/// What an interrupted call hands itself in place of the domain.
pub(super) fn finished_result(code: u32) -> Result<u64, CallError> {
    match code as i32 {
        0 => Ok(0),
        code @ -4095..=-1 => Err(Errno(-code).into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

#[inline(always)]
pub(super) fn halves(request: &[u8; 16]) -> (u64, u64) {
    let both = u128::from_le_bytes(*request);
    (both as u64, (both >> 64) as u64)
}

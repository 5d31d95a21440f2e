//! `mmuext_op`: pins, roots, flushes, and whole-frame operations.

use core::sync::atomic::Ordering::Relaxed;

use guest_abi::Errno;
use guest_abi::xen::*;
use hv_types::{DomId, GuestVa, Mfn, PAGE_SIZE};

use super::port::Machine;
use super::table::Stop;
use super::update::{finished_result, halves};
use super::{Caller, CpuSet, Mmu, PREEMPTED, PageOwner, done_before, report_done};
use crate::call::{CallError, Continuation};
use crate::frame::TypeRef;
use crate::port::{Fault, GuestSpace};

/// Bytes of `struct mmuext_op`.
const OP_SIZE: u64 = 24;

/// Flushes of all that a batch asked for: done once, at its end.
struct Deferred {
    local: bool,
    others: Option<CpuSet>,
}

impl<P: Machine> Mmu<'_, P> {
    /// `mmuext_op` (`xen.h`). Value 0.
    ///
    /// `foreign` is the owner of the frames that operations name. The count of operations done is added up at
    /// `done` (0: nowhere). `EFAULT`: the list cannot be read; `ESRCH`, `EPERM`: the domain; `ENOSYS`: unknown
    /// command; `EOPNOTSUPP`: super pages; others by operation. Operations before the one that failed remain done.
    pub fn do_mmuext_op<S: GuestSpace>(
        &self,
        caller: &Caller<'_>,
        space: &S,
        list: GuestVa,
        mut count: u32,
        done: GuestVa,
        foreign: u32,
    ) -> Result<u64, CallError> {
        if self.finish(caller.vcpu).is_err() {
            return Err(CallError::Retry(Continuation {
                args: [list.0, u64::from(count), done.0, u64::from(foreign)],
            }));
        }
        if count == PREEMPTED && list.0 == 0 {
            return finished_result(foreign);
        }
        let before = done_before(space, &mut count, done);
        if !list.is_guest_range(u64::from(count) * OP_SIZE) {
            return Err(Errno::EFAULT.into());
        }
        let owner = self.page_owner(caller, DomId(foreign as u16))?;
        if owner.memory.is_none() {
            return Err(Errno::EINVAL.into());
        }
        let mut deferred = Deferred { local: false, others: None };
        let (completed, result) = self.operations(caller, space, &owner, list, count, &mut deferred);
        self.flush_deferred(deferred);
        report_done(space, done, before.wrapping_add(completed));
        let rest = GuestVa(list.0 + u64::from(completed) * OP_SIZE);
        self.batch_result(caller, result, rest, count - completed, done, foreign)
    }

    fn operations<S: GuestSpace>(
        &self,
        caller: &Caller<'_>,
        space: &S,
        owner: &PageOwner<'_>,
        list: GuestVa,
        count: u32,
        deferred: &mut Deferred,
    ) -> (u32, Result<(), Stop>) {
        let mut at = list.0;
        for index in 0..count {
            if self.is_unfinished(caller.vcpu) || (index != 0 && self.port.should_preempt()) {
                return (index, Err(Stop::Preempted));
            }
            let Ok(op) = read_operation(space, at) else {
                return (index, Err(Stop::Errno(Errno::EFAULT)));
            };
            if let Err(stop) = self.operation(caller, space, owner, &op, deferred) {
                return (index, Err(stop));
            }
            at = at.wrapping_add(OP_SIZE);
        }
        (count, Ok(()))
    }

    fn operation<S: GuestSpace>(
        &self,
        caller: &Caller<'_>,
        space: &S,
        owner: &PageOwner<'_>,
        op: &MmuextOp,
        deferred: &mut Deferred,
    ) -> Result<(), Stop> {
        match op.cmd {
            MMUEXT_PIN_L1_TABLE..=MMUEXT_PIN_L4_TABLE => {
                let domain = owner.memory.ok_or(Errno::EINVAL)?;
                self.pin_table(caller.vcpu, domain, Mfn(op.arg1), op.cmd - MMUEXT_PIN_L1_TABLE + 1)
            }
            MMUEXT_UNPIN_TABLE => Ok(self.unpin_table(caller.vcpu, owner, Mfn(op.arg1))?),
            MMUEXT_CLEAR_PAGE => Ok(self.clear_page(owner, Mfn(op.arg1))?),
            MMUEXT_COPY_PAGE => Ok(self.copy_page(owner, Mfn(op.arg1), Mfn(op.arg2))?),
            MMUEXT_MARK_SUPER | MMUEXT_UNMARK_SUPER => Err(Stop::Errno(Errno::EOPNOTSUPP)),
            MMUEXT_NEW_BASEPTR..=MMUEXT_NEW_USER_BASEPTR | MMUEXT_FLUSH_CACHE_GLOBAL
                if owner.id != caller.domain.id && op.cmd != 14 =>
            {
                Err(Stop::Errno(Errno::EPERM))
            }
            MMUEXT_NEW_BASEPTR => self.new_kernel_root(caller, Mfn(op.arg1), deferred),
            MMUEXT_NEW_USER_BASEPTR => self.new_user_root(caller, Mfn(op.arg1)),
            _ => Ok(self.flush_operation(caller, space, op, deferred)?),
        }
    }

    fn flush_operation<S: GuestSpace>(
        &self,
        caller: &Caller<'_>,
        space: &S,
        op: &MmuextOp,
        deferred: &mut Deferred,
    ) -> Result<(), Errno> {
        let va = GuestVa(op.arg1);
        let is_guest = va.is_canonical() && !va.is_hypervisor();
        match op.cmd {
            MMUEXT_TLB_FLUSH_LOCAL => deferred.local = true,
            MMUEXT_INVLPG_LOCAL if va.is_canonical() => self.port.flush_page_local(va),
            MMUEXT_TLB_FLUSH_MULTI => deferred.add(self.vcpu_mask(caller, space, GuestVa(op.arg2))?),
            MMUEXT_TLB_FLUSH_ALL => deferred.add(caller.domain.dirty.snapshot()),
            MMUEXT_INVLPG_MULTI => {
                let cpus = self.vcpu_mask(caller, space, GuestVa(op.arg2))?;
                if is_guest {
                    self.port.flush_page(&cpus, va);
                }
            }
            MMUEXT_INVLPG_ALL if is_guest => self.port.flush_page(&caller.domain.dirty.snapshot(), va),
            MMUEXT_INVLPG_LOCAL | MMUEXT_INVLPG_ALL => (),
            MMUEXT_FLUSH_CACHE if caller.domain.may_set_cache() => self.port.write_back_caches(false),
            MMUEXT_FLUSH_CACHE => return Err(Errno::EACCES),
            MMUEXT_FLUSH_CACHE_GLOBAL if caller.domain.may_set_cache() => self.port.write_back_caches(true),
            MMUEXT_FLUSH_CACHE_GLOBAL => return Err(Errno::EINVAL),
            MMUEXT_SET_LDT => return self.set_ldt(caller, va, op.arg2 as u32),
            _ => return Err(Errno::ENOSYS),
        }
        Ok(())
    }

    fn flush_deferred(&self, deferred: Deferred) {
        match deferred.others {
            Some(cpus) => {
                self.port.flush(&cpus);
                if deferred.local {
                    self.port.flush_local();
                }
            }
            None if deferred.local => self.port.flush_local(),
            None => (),
        }
    }

    fn new_kernel_root(&self, caller: &Caller<'_>, root: Mfn, deferred: &mut Deferred) -> Result<(), Stop> {
        let vcpu = caller.vcpu;
        let old = vcpu.kernel_root();
        if old == Some(root) {
            deferred.local = true;
            return Ok(());
        }
        self.get_table(vcpu, caller.domain, root, 4)?.sleep();
        self.show_m2p(caller.domain.id, root);
        self.drop_ldt(caller);
        vcpu.kernel_root.store(root.0, Relaxed);
        self.port.load_root(root);
        deferred.local = false;
        if let Some(old) = old {
            self.drop_table_later(vcpu, TypeRef::wake(old));
        }
        Ok(())
    }

    fn new_user_root(&self, caller: &Caller<'_>, root: Mfn) -> Result<(), Stop> {
        let vcpu = caller.vcpu;
        let old = vcpu.user_root();
        if vcpu.user_root.load(Relaxed) == root.0 {
            return Ok(());
        }
        if root.0 != 0 {
            self.get_table(vcpu, caller.domain, root, 4)?.sleep();
        }
        vcpu.user_root.store(root.0, Relaxed);
        self.port.forget_user_root();
        if let Some(old) = old {
            self.drop_table_later(vcpu, TypeRef::wake(old));
        }
        Ok(())
    }

    fn clear_page(&self, owner: &PageOwner<'_>, mfn: Mfn) -> Result<(), Errno> {
        let writable = self.borrow_writable(owner, mfn)?;
        self.port.zero(mfn);
        self.drop_writable(writable);
        Ok(())
    }

    fn copy_page(&self, owner: &PageOwner<'_>, to: Mfn, from: Mfn) -> Result<(), Errno> {
        let source = self.frames.get_general(from, owner.id).map_err(|_| Errno::EINVAL)?;
        let result = self.borrow_writable(owner, to).map(|writable| {
            self.port.copy((to, 0), (from, 0), PAGE_SIZE as usize);
            self.drop_writable(writable);
        });
        self.drop_general(source);
        result
    }

    /// A writable reference for the length of an operation. `EINVAL`: not the owner's, or not writable.
    fn borrow_writable(&self, owner: &PageOwner<'_>, mfn: Mfn) -> Result<TypeRef, Errno> {
        let general = self.frames.get_general(mfn, owner.id).map_err(|_| Errno::EINVAL)?;
        self.make_writable(general).map_err(|_| Errno::EINVAL)
    }

    /// Gives a vCPU that does not run its first roots (the builder's, or `VCPUOP_initialise`'s). The user root is
    /// optional. [`CallError::Retry`]: call again. `EINVAL`: not roots of the domain.
    pub fn set_roots(&self, caller: &Caller<'_>, kernel: Mfn, user: Option<Mfn>) -> Result<(), CallError> {
        let roots = [(Some(kernel), true, &caller.vcpu.kernel_root), (user, false, &caller.vcpu.user_root)];
        for (root, is_kernel, place) in roots {
            let Some(root) = root else { continue };
            if place.load(Relaxed) == root.0 {
                continue;
            }
            match self.get_table(caller.vcpu, caller.domain, root, 4) {
                Ok(table) => {
                    if is_kernel {
                        self.show_m2p(caller.domain.id, root);
                    }
                    let old = place.swap(table.sleep().0, Relaxed);
                    if old != 0 {
                        self.drop_table_later(caller.vcpu, TypeRef::wake(Mfn(old)));
                    }
                }
                Err(Stop::Preempted) => return Err(CallError::Retry(Continuation { args: [0; 4] })),
                Err(Stop::Errno(errno)) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// One operation, read once, in the sizes that machines copy fastest.
#[inline(always)]
fn read_operation<S: GuestSpace>(space: &S, at: u64) -> Result<MmuextOp, Fault> {
    let (mut command, mut args) = ([0; 8], [0; 16]);
    space.read(GuestVa(at), &mut command)?;
    space.read(GuestVa(at.wrapping_add(8)), &mut args)?;
    let (arg1, arg2) = halves(&args);
    Ok(MmuextOp { cmd: u64::from_le_bytes(command) as u32, _pad: 0, arg1, arg2 })
}

impl Deferred {
    fn add(&mut self, cpus: CpuSet) {
        self.others = Some(match &self.others {
            Some(others) => cpus.union(others),
            None => cpus,
        });
    }
}

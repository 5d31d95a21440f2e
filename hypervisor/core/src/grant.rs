//! Grant tables, version 1: a domain lets others map and copy its frames (`grant_table.h`).
//!
//! The entries are the guest's to write, in frames that the hypervisor lends it. Who uses a grant goes by what the
//! hypervisor noted when the use began ([`active`]), never by the entry again: the guest may rewrite it at any time.
//! A mapping is a handle in the table of the domain that maps; it holds the frame itself, besides the page-table
//! entry that may be there. So whatever the mapping domain does to its entries, the frame stays with its owner's
//! rules until the handle is given back, and it is given back only after the TLBs were flushed.
//!
//! Not implemented, and answered with `-ENOSYS`: version 2, transfer, unmap-and-replace, cache flush.

mod active;
mod copy;
mod end;
mod map;

use crate::call::{CallError, Continuation};
use crate::frame::Share;
use crate::mmu::{Caller, Machine, Mmu};
use crate::port::GuestSpace;
use crate::wire;
use alloc::vec::Vec;
use core::mem::offset_of;
use guest_abi::Errno;
use guest_abi::grant_table::*;
use hv_types::{DomId, GuestVa, Mfn};
use map::Handles;
use spin::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Frames of a table unless its builder says otherwise (`gnttab_max_frames`).
pub const DEFAULT_MAX_FRAMES: u32 = 64;
/// The only version that a table can have.
const VERSION: u32 = 1;
/// Bits of the command that name the operation; above lies what interrupted calls remember.
const COMMAND_BITS: u32 = 12;

/// A domain's grant table: what it grants, and what others' grants it maps. No two of these locks are held
/// together; the heap's comes after them.
pub struct GrantTable {
    granted: Mutex<Granted>,
    handles: Mutex<Handles>,
}

/// What a domain grants.
struct Granted {
    frames: Vec<Mfn>,
    /// Frames that there may be; there is room for so many.
    max: u32,
    /// Its domain goes: there will be none any more.
    closed: bool,
    /// Uses of the entries of each frame; none before the first.
    active: Vec<active::Uses>,
}

/// Finds grant tables.
pub trait GrantPorts: Machine {
    /// The table of a domain that exists.
    fn grants(&self, dom: DomId) -> Option<&GrantTable>;
}

impl GrantTable {
    /// A table without frames that may have `max`; `-ENOMEM`: no room to remember so many.
    pub fn new(max: u32) -> Result<Self, Errno> {
        let (mut frames, mut active) = (Vec::new(), Vec::new());
        frames.try_reserve_exact(max as usize).map_err(|_| Errno::ENOMEM)?;
        active.try_reserve_exact(max as usize).map_err(|_| Errno::ENOMEM)?;
        let granted = Mutex::new(Granted { frames, max, closed: false, active });
        Ok(GrantTable { granted, handles: Mutex::new(Handles::new()) })
    }

    /// Sees to it that the table of `dom` has `count` frames, zeroed and lent to the domain, or as it was.
    /// `-EINVAL`: more than it may have, or its domain goes; `-ENOMEM`. A builder calls this with 1.
    pub fn grow<P: Machine>(&self, mmu: &Mmu<'_, P>, dom: DomId, count: u32) -> Result<(), Errno> {
        if count > self.max_frames() {
            return Err(Errno::EINVAL);
        }
        // New memory may have to wait for other CPUs: not under the lock.
        let missing = count.saturating_sub(self.len()) as usize;
        let mut fresh: Vec<Mfn> = Vec::new();
        fresh.try_reserve_exact(missing).map_err(|_| Errno::ENOMEM)?;
        for _ in 0..missing {
            match lend_frame(mmu, dom) {
                Ok(mfn) => fresh.push(mfn),
                Err(errno) => {
                    fresh.into_iter().for_each(|mfn| mmu.unshare(mfn));
                    return Err(errno);
                }
            }
        }
        let mut granted = self.granted.lock();
        let closed = granted.closed;
        let needed = if closed { 0 } else { count.min(granted.max) as usize };
        let needed = needed.saturating_sub(granted.frames.len());
        granted.frames.extend(fresh.drain(..needed.min(fresh.len())));
        let frames = granted.frames.len();
        granted.active.resize_with(frames, active::Uses::default);
        drop(granted);
        // Another vCPU was quicker.
        fresh.into_iter().for_each(|mfn| mmu.unshare(mfn));
        if closed { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Gives the table's frames back for ever: the domain goes. Each is free when its last mapping goes. Frames that
    /// others still map by its grants stay held by their handles.
    pub fn release<P: Machine>(&self, mmu: &Mmu<'_, P>) {
        let mut granted = self.granted.lock();
        granted.closed = true;
        granted.frames.drain(..).for_each(|mfn| mmu.unshare(mfn));
    }

    /// Frames it has.
    pub fn len(&self) -> u32 {
        self.granted.lock().frames.len() as u32
    }

    /// True if it has no frame.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its `index`-th frame.
    pub fn frame(&self, index: u32) -> Option<Mfn> {
        self.granted.lock().frames.get(index as usize).copied()
    }
}

/// A zeroed frame of the hypervisor's that `dom` may map writable.
fn lend_frame<P: Machine>(mmu: &Mmu<'_, P>, dom: DomId) -> Result<Mfn, Errno> {
    let fresh = mmu.heap.alloc(mmu.frames, 0, 64).ok_or(Errno::ENOMEM)?;
    let block = fresh.make_safe(mmu.port, true);
    if !mmu.frames.share(block.mfn(), dom, Share::Writable) {
        // The table knows better than the allocator: the frame stays whose it is.
        return Err(Errno::ENOMEM);
    }
    Ok(block.mfn())
}

/// A decoded call.
enum Request {
    SetupTable(GnttabSetupTable),
    QuerySize(GnttabQuerySize),
    SetVersion(GnttabSetVersion),
    GetStatusFrames(GnttabGetStatusFrames),
    GetVersion(GnttabGetVersion),
    Map,
    Unmap,
    Copy,
    Swap,
}

fn decode<G: GuestSpace>(space: &G, cmd: u32, arg: GuestVa, count: u32) -> Result<Request, Errno> {
    if count >> 31 != 0 || cmd >> COMMAND_BITS != 0 {
        return Err(Errno::EINVAL);
    }
    let one = if count == 1 { Ok(()) } else { Err(Errno::EINVAL) };
    Ok(match cmd {
        GNTTABOP_SETUP_TABLE => one.and_then(|()| Ok(Request::SetupTable(wire::read(space, arg)?)))?,
        GNTTABOP_QUERY_SIZE => one.and_then(|()| Ok(Request::QuerySize(wire::read(space, arg)?)))?,
        GNTTABOP_GET_STATUS_FRAMES => {
            one.and_then(|()| Ok(Request::GetStatusFrames(wire::read(space, arg)?)))?
        }
        GNTTABOP_SET_VERSION => Request::SetVersion(wire::read(space, arg)?),
        GNTTABOP_GET_VERSION => Request::GetVersion(wire::read(space, arg)?),
        GNTTABOP_MAP_GRANT_REF => list::<GnttabMapGrantRef>(arg, count).map(|()| Request::Map)?,
        GNTTABOP_UNMAP_GRANT_REF => list::<GnttabUnmapGrantRef>(arg, count).map(|()| Request::Unmap)?,
        GNTTABOP_COPY => list::<GnttabCopy>(arg, count).map(|()| Request::Copy)?,
        GNTTABOP_SWAP_GRANT_REF => list::<GnttabSwapGrantRef>(arg, count).map(|()| Request::Swap)?,
        _ => return Err(Errno::ENOSYS),
    })
}

/// A list of operations must lie in the guest's range.
fn list<T>(arg: GuestVa, count: u32) -> Result<(), Errno> {
    if arg.is_guest_range(u64::from(count) * size_of::<T>() as u64) { Ok(()) } else { Err(Errno::EFAULT) }
}

/// True of an empty list of grants to unmap, with which Linux's block backend ends a request whose grants stay mapped.
#[inline(always)]
pub fn is_nothing(cmd: u32, uop: GuestVa, count: u32) -> bool {
    count == 0 && cmd == GNTTABOP_UNMAP_GRANT_REF && list::<GnttabUnmapGrantRef>(uop, count).is_ok()
}

/// `HYPERVISOR_grant_table_op(cmd, uop, count)`.
pub fn grant_table_op<P: GrantPorts, G: GuestSpace>(
    mmu: &Mmu<'_, P>,
    space: &G,
    caller: &Caller<'_>,
    cmd: u32,
    uop: GuestVa,
    count: u32,
) -> Result<i64, CallError> {
    let call = Call { mmu, space, caller, uop };
    let request = decode(space, cmd, uop, count)?;
    match request {
        Request::SetupTable(op) => call.setup_table(op)?,
        Request::QuerySize(op) => call.query_size(op)?,
        Request::SetVersion(op) => call.set_version(op)?,
        Request::GetStatusFrames(op) => call.get_status_frames(op)?,
        Request::GetVersion(op) => call.get_version(op)?,
        Request::Map => call.each(cmd, count, |at, op| wire::write(space, at, &call.map(op)))?,
        Request::Unmap => call.unmap_list(count)?,
        Request::Copy => {
            let place = offset_of!(GnttabCopy, status);
            call.each(cmd, count, |at, op| call.answer_at(at, place, call.copy(&op)))?;
        }
        Request::Swap => {
            let place = offset_of!(GnttabSwapGrantRef, status);
            call.each(cmd, count, |at, op| call.answer_at(at, place, call.swap(&op)))?;
        }
    }
    Ok(0)
}

struct Call<'a, 'c, P, G> {
    mmu: &'a Mmu<'c, P>,
    space: &'a G,
    caller: &'a Caller<'a>,
    uop: GuestVa,
}

impl<'a, P: GrantPorts, G: GuestSpace> Call<'a, '_, P, G> {
    /// The table of a domain that the caller may name.
    fn table(&self, dom: u16) -> Result<(DomId, &'a GrantTable), i16> {
        let own = self.caller.domain.id;
        let dom = if DomId(dom) == DomId::SELF { own } else { DomId(dom) };
        let table = self.mmu.port.grants(dom).ok_or(GNTST_BAD_DOMAIN)?;
        if dom != own && !self.caller.domain.privileged {
            return Err(GNTST_PERMISSION_DENIED);
        }
        Ok((dom, table))
    }

    /// Does each operation of a list; `perform` is told where it lies, to write its answer there. Between two it may stop and be
    /// continued with the rest.
    fn each<T: FromBytes + IntoBytes>(
        &self,
        cmd: u32,
        count: u32,
        mut perform: impl FnMut(GuestVa, T) -> Result<(), Errno>,
    ) -> Result<(), CallError> {
        for index in 0..count {
            if index != 0 && self.mmu.port.should_preempt() {
                return Err(self.again::<T>(cmd, index, count));
            }
            if self.mmu.finish(self.caller.vcpu).is_err() {
                return Err(self.again::<T>(cmd, index, count));
            }
            let at = wire::element::<T>(self.uop, index.into())?;
            perform(at, wire::read(self.space, at)?)?;
        }
        Ok(())
    }

    /// The call again with the list from `index` on.
    fn again<T>(&self, cmd: u32, index: u32, count: u32) -> CallError {
        let rest = self.uop.0.wrapping_add(u64::from(index) * size_of::<T>() as u64);
        CallError::Retry(Continuation { args: [cmd.into(), rest, u64::from(count - index), 0] })
    }

    /// Writes one field of the guest's structure.
    fn answer<T: IntoBytes + Immutable>(&self, offset: usize, value: T) -> Result<(), Errno> {
        self.answer_at(self.uop, offset, value)
    }

    /// Writes one field of a guest's structure at `at`.
    fn answer_at<T: IntoBytes + Immutable>(&self, at: GuestVa, offset: usize, value: T) -> Result<(), Errno> {
        wire::write(self.space, GuestVa(at.0.wrapping_add(offset as u64)), &value)
    }

    fn list_in_range(list: u64, count: u32) -> Result<(), Errno> {
        if GuestVa(list).is_guest_range(u64::from(count) * 8) { Ok(()) } else { Err(Errno::EFAULT) }
    }

    fn setup_table(&self, op: GnttabSetupTable) -> Result<(), Errno> {
        Self::list_in_range(op.frame_list, op.nr_frames)?;
        let status = self.try_setup(&op).err().unwrap_or(GNTST_OKAY);
        self.answer(offset_of!(GnttabSetupTable, status), status)
    }

    fn try_setup(&self, op: &GnttabSetupTable) -> Result<(), i16> {
        let (dom, table) = self.table(op.dom)?;
        table.grow(self.mmu, dom, op.nr_frames).map_err(|_| GNTST_GENERAL_ERROR)?;
        for index in 0..op.nr_frames {
            let mfn = table.frame(index).ok_or(GNTST_GENERAL_ERROR)?;
            wire::write_element(self.space, GuestVa(op.frame_list), index.into(), &mfn.0)
                .map_err(|_| GNTST_BAD_VIRT_ADDR)?;
        }
        Ok(())
    }

    fn query_size(&self, mut op: GnttabQuerySize) -> Result<(), Errno> {
        op.status = match self.table(op.dom) {
            Ok((_, table)) => {
                (op.nr_frames, op.max_nr_frames) = (table.len(), table.max_frames());
                GNTST_OKAY
            }
            Err(status) => status,
        };
        wire::write(self.space, self.uop, &op)
    }

    /// Version 2 is refused as by a hypervisor that was told `gnttab=max-ver:1`.
    fn set_version(&self, op: GnttabSetVersion) -> Result<(), Errno> {
        wire::write(self.space, self.uop, &GnttabSetVersion { version: VERSION })?;
        match op.version {
            VERSION => Ok(()),
            2 => Err(Errno::ENOSYS),
            _ => Err(Errno::EINVAL),
        }
    }

    /// There are no status frames: asking for none of them succeeds.
    fn get_status_frames(&self, op: GnttabGetStatusFrames) -> Result<(), Errno> {
        Self::list_in_range(op.frame_list, op.nr_frames)?;
        let status = match self.table(op.dom) {
            Ok(_) if op.nr_frames == 0 => GNTST_OKAY,
            Ok(_) => GNTST_GENERAL_ERROR,
            Err(status) => status,
        };
        self.answer(offset_of!(GnttabGetStatusFrames, status), status)
    }

    fn get_version(&self, op: GnttabGetVersion) -> Result<(), Errno> {
        self.table(op.dom).map_err(|status| match status {
            GNTST_PERMISSION_DENIED => Errno::EPERM,
            _ => Errno::ESRCH,
        })?;
        self.answer(offset_of!(GnttabGetVersion, version), VERSION)
    }
}

#[cfg(test)]
mod tests;

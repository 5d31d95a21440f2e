//! `XENMEM_acquire_resource`: frames of another domain's resources, for those who map them. There is one kind, the pages of
//! grant tables.

use super::{Call, MAX_EXTENTS, MemoryPorts, again};
use crate::call::CallError;
use crate::grant::GrantTable;
use crate::port::GuestSpace;
use crate::wire;
use core::mem::offset_of;
use guest_abi::Errno;
use guest_abi::memory::*;
use hv_types::{DomId, GuestVa};

impl<'a, P: MemoryPorts, G: GuestSpace> Call<'a, '_, P, G> {
    /// Writes the list of frames, from its element `start` on; without a list, how many there can be.
    ///
    /// `-ESRCH`: no such domain; `-EPERM`: it is the caller's own, or the caller may not; `-EINVAL`: no such resource, or not so
    /// large.
    pub(super) fn acquire(
        &self,
        op: XenMemAcquireResource,
        start: u64,
        at: GuestVa,
    ) -> Result<i64, CallError> {
        let end = op.frame.checked_add(op.nr_frames.into()).and_then(|end| u32::try_from(end).ok());
        let end = end.filter(|_| op.pad == 0).ok_or(Errno::EINVAL)?;
        let (dom, table) = self.resource(&op)?;
        let count = u64::from(op.nr_frames);
        if op.frame_list == 0 {
            if count != 0 || start != 0 {
                return Err(Errno::EINVAL.into());
            }
            let place = offset_of!(XenMemAcquireResource, nr_frames) as u64;
            wire::write(self.space, GuestVa(at.0.wrapping_add(place)), &table.max_frames())?;
            return Ok(0);
        }
        if start >= count || count > MAX_EXTENTS {
            return Err(Errno::EINVAL.into());
        }
        table.grow(self.mmu, dom, end)?;
        for index in start..count {
            if index != start && self.mmu.port.should_preempt() {
                return Err(again(XENMEM_ACQUIRE_RESOURCE.into(), index, at));
            }
            // Its domain may have come to its end meanwhile.
            let mfn = table.frame((op.frame + index) as u32).ok_or(Errno::EINVAL)?;
            wire::write_element(self.space, GuestVa(op.frame_list), index, &mfn.0)?;
        }
        Ok(0)
    }

    fn resource(&self, op: &XenMemAcquireResource) -> Result<(DomId, &'a GrantTable), Errno> {
        let dom = DomId(op.domid);
        let table = self.mmu.port.grants(dom).ok_or(Errno::ESRCH)?;
        if dom == self.caller.domain.id || !self.caller.domain.privileged {
            return Err(Errno::EPERM);
        }
        let known = (op.kind, op.id) == (XENMEM_RESOURCE_GRANT_TABLE, XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED);
        if known { Ok((dom, table)) } else { Err(Errno::EINVAL) }
    }
}

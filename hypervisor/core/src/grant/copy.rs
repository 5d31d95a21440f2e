//! Copying between frames that are granted or the caller's own, and exchanging entries.

use super::active::Access;
use super::{Call, GrantPorts, GrantTable};
use crate::mmu::DomainMemory;
use crate::port::GuestSpace;
use guest_abi::grant_table::*;
use hv_types::{DomId, Mfn, PAGE_SIZE};

/// A side of a copy for as long as it lasts.
struct Side<'a> {
    mfn: Mfn,
    /// The grant that was used, and of which table; nothing: the caller's own frame.
    grant: Option<(u32, &'a GrantTable)>,
    access: Access,
}

impl<'a, P: GrantPorts, G: GuestSpace> Call<'a, '_, P, G> {
    /// `GNTTABOP_copy`, one of a list; its status.
    pub(super) fn copy(&self, op: &GnttabCopy) -> i16 {
        self.try_copy(op).err().unwrap_or(GNTST_OKAY)
    }

    fn try_copy(&self, op: &GnttabCopy) -> Result<(), i16> {
        let ends = [op.source.offset, op.dest.offset].map(|offset| u64::from(offset) + u64::from(op.len));
        let source_granted = op.flags & GNTCOPY_SOURCE_GREF != 0;
        let dest_granted = op.flags & GNTCOPY_DEST_GREF != 0;
        // Frames that nobody granted are the caller's own business only.
        let foreign = |granted: bool, domid: u16| !granted && DomId(domid) != DomId::SELF;
        if foreign(source_granted, op.source.domid) || foreign(dest_granted, op.dest.domid) {
            return Err(GNTST_PERMISSION_DENIED);
        }
        if ends.iter().any(|end| *end > PAGE_SIZE) {
            return Err(GNTST_BAD_COPY_ARG);
        }
        let source = self.begin_side(&op.source, source_granted, Access::Read)?;
        let dest = match self.begin_side(&op.dest, dest_granted, Access::Write) {
            Ok(dest) => dest,
            Err(status) => {
                self.end_side(source);
                return Err(status);
            }
        };
        let place = |side: &Side, offset: u16| (side.mfn, usize::from(offset));
        let (to, from) = (place(&dest, op.dest.offset), place(&source, op.source.offset));
        self.mmu.port.copy(to, from, usize::from(op.len));
        self.end_side(dest);
        self.end_side(source);
        Ok(())
    }

    fn begin_side(&self, side: &GnttabCopyPtr, granted: bool, access: Access) -> Result<Side<'a>, i16> {
        let own = self.caller.domain;
        if !granted {
            let mfn = Mfn(side.u);
            let held = match access {
                Access::Read => self.mmu.hold_frame(own, mfn),
                Access::Write => self.mmu.pin_writable(own, mfn),
            };
            return held.map(|mfn| Side { mfn, grant: None, access }).map_err(|_| GNTST_BAD_PAGE);
        }
        let owner = self.any_domain(side.domid)?;
        let table = self.mmu.port.grants(owner.id).ok_or(GNTST_BAD_DOMAIN)?;
        let grant = side.u as u32;
        let mfn = table.begin_use(self.mmu, owner, grant, own.id, access)?;
        Ok(Side { mfn, grant: Some((grant, table)), access })
    }

    fn end_side(&self, side: Side) {
        match side.grant {
            Some((grant, table)) => table.end_use(self.mmu, grant, side.access),
            None => super::active::unhold(self.mmu, side.mfn, side.access),
        }
    }

    fn any_domain(&self, dom: u16) -> Result<&DomainMemory, i16> {
        if DomId(dom) == DomId::SELF {
            return Ok(self.caller.domain);
        }
        self.mmu.port.domain(DomId(dom)).ok_or(GNTST_BAD_DOMAIN)
    }

    /// `GNTTABOP_swap_grant_ref`, one of a list; its status.
    pub(super) fn swap(&self, op: &GnttabSwapGrantRef) -> i16 {
        let swapped = self.own_table().and_then(|table| table.swap_entries(self.mmu, op.ref_a, op.ref_b));
        swapped.err().unwrap_or(GNTST_OKAY)
    }
}

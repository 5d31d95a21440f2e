//! Other domains' memory: `memory_op`, `mmuext_op` and `mmu_update` on their behalf.

use crate::privcmd::{Arg, Resource};
use crate::{Error, Privcmd, Result};
use guest_abi::memory::*;
use guest_abi::xen::{
    DOMID_SELF, MMU_MACHPHYS_UPDATE, MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE,
    MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE, MmuUpdate, MmuextOp,
};
use guest_abi::{Errno, Hypercall};

/// Extents handed over in one hypercall: enough that the call's price does not count.
const CHUNK: usize = 32 * 1024;

/// Extents of a domain's memory to take, give or fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extents {
    /// Whose.
    pub domid: u16,
    /// log2 of the pages of each.
    pub order: u32,
    /// `XENMEMF_*`.
    pub flags: u32,
}

impl Extents {
    /// Single pages of a domain.
    pub const fn pages(domid: u16) -> Extents {
        Extents { domid, order: 0, flags: 0 }
    }

    /// Extents of 2 MiB of a domain.
    pub const fn superpages(domid: u16) -> Extents {
        Extents { domid, order: 9, flags: 0 }
    }
}

impl Privcmd {
    /// Gives a domain memory at the guest frame numbers in `frames`, and puts the machine frame numbers there.
    /// Returns how many extents it got: fewer when memory or the domain's allowance ran out.
    ///
    /// # Errors
    /// When the domain or the flags are not accepted.
    pub fn populate_physmap(&self, extents: Extents, frames: &mut [u64]) -> Result<usize> {
        let mut done = 0;
        for chunk in frames.chunks_mut(CHUNK) {
            let part =
                self.reservation(XENMEM_POPULATE_PHYSMAP, "memory_op populate_physmap", extents, chunk)?;
            done += part;
            if part < chunk.len() {
                break;
            }
        }
        Ok(done)
    }

    /// Takes frames away from a domain: guest frame numbers. Returns how many extents went.
    ///
    /// # Errors
    /// When the domain is not accepted.
    pub fn decrease_reservation(&self, extents: Extents, frames: &[u64]) -> Result<usize> {
        if extents.domid == DOMID_SELF {
            return Err(Error::Argument("this domain's own frames are its kernel's to give back"));
        }
        let mut done = 0;
        for chunk in frames.chunks(CHUNK) {
            let mut copy = chunk.to_vec();
            let part = self.reservation(
                XENMEM_DECREASE_RESERVATION,
                "memory_op decrease_reservation",
                extents,
                &mut copy,
            )?;
            done += part;
            if part < chunk.len() {
                break;
            }
        }
        Ok(done)
    }

    fn reservation(
        &self,
        op: u32,
        name: &'static str,
        extents: Extents,
        frames: &mut [u64],
    ) -> Result<usize> {
        let head = size_of::<XenMemoryReservation>();
        let buffer = self.buffer(head + size_of_val(frames))?;
        buffer.put(head, frames);
        buffer.put(
            0,
            &XenMemoryReservation {
                extent_start: buffer.address() + head as u64,
                nr_extents: frames.len() as u64,
                extent_order: extents.order,
                mem_flags: extents.flags,
                domid: extents.domid,
                _pad: [0; 3],
            },
        );
        let done =
            self.call(Hypercall::MemoryOp, name, [Arg::Value(u64::from(op)), Arg::Pointer(&buffer)])?;
        buffer.get_into(head, frames);
        Ok(frames.len().min(done as usize))
    }

    /// Pages that a domain has.
    ///
    /// # Errors
    /// When there is no such domain.
    pub fn current_reservation(&self, domid: u16) -> Result<u64> {
        self.about(domid, "memory_op current_reservation", XENMEM_CURRENT_RESERVATION)
    }

    /// Pages that a domain may have.
    ///
    /// # Errors
    /// When there is no such domain.
    pub fn maximum_reservation(&self, domid: u16) -> Result<u64> {
        self.about(domid, "memory_op maximum_reservation", XENMEM_MAXIMUM_RESERVATION)
    }

    /// The highest guest frame number of a domain.
    ///
    /// # Errors
    /// When there is no such domain.
    pub fn maximum_gpfn(&self, domid: u16) -> Result<u64> {
        self.about(domid, "memory_op maximum_gpfn", XENMEM_MAXIMUM_GPFN)
    }

    fn about(&self, domid: u16, name: &'static str, op: u32) -> Result<u64> {
        // The header's argument is the bare number; the 2 bytes are all that is read.
        self.command(Hypercall::MemoryOp, name, op, &mut XenMemoryDomain { domid })
    }

    /// One more than the highest machine frame of memory.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn maximum_ram_page(&self) -> Result<u64> {
        self.call(
            Hypercall::MemoryOp,
            "memory_op maximum_ram_page",
            [Arg::Value(u64::from(XENMEM_MAXIMUM_RAM_PAGE)), Arg::Value(0)],
        )
    }

    /// Tells a domain-to-be what its memory looks like.
    ///
    /// # Errors
    /// `EINVAL` for more entries than the hypervisor keeps.
    pub fn set_memory_map(&self, domid: u16, map: &[E820Entry]) -> Result<()> {
        let head = size_of::<XenForeignMemoryMap>();
        let buffer = self.buffer(head + size_of_val(map))?;
        buffer.put(head, map);
        let nr_entries =
            u32::try_from(map.len()).map_err(|_| Error::Argument("too many entries of a memory map"))?;
        let map = XenMemoryMap { nr_entries, _pad: 0, buffer: buffer.address() + head as u64 };
        buffer.put(0, &XenForeignMemoryMap { domid, _pad: [0; 3], map });
        self.call(
            Hypercall::MemoryOp,
            "memory_op set_memory_map",
            [Arg::Value(u64::from(XENMEM_SET_MEMORY_MAP)), Arg::Pointer(&buffer)],
        )
        .map(drop)
    }

    /// Pins `mfn`, a frame of `domid`, as a page table of level 1 to 4.
    ///
    /// # Errors
    /// `EINVAL` when the table is not one that a guest may have.
    pub fn pin_table(&self, domid: u16, level: u8, mfn: u64) -> Result<()> {
        let cmd = match level {
            1 => MMUEXT_PIN_L1_TABLE,
            2 => MMUEXT_PIN_L2_TABLE,
            3 => MMUEXT_PIN_L3_TABLE,
            4 => MMUEXT_PIN_L4_TABLE,
            _ => return Err(Error::Argument("page tables have levels 1 to 4")),
        };
        self.mmuext(domid, "mmuext_op pin_table", MmuextOp { cmd, arg1: mfn, ..Default::default() })
    }

    /// Unpins a page table of `domid`.
    ///
    /// # Errors
    /// `EINVAL` when it is not pinned.
    pub fn unpin_table(&self, domid: u16, mfn: u64) -> Result<()> {
        let op = MmuextOp { cmd: MMUEXT_UNPIN_TABLE, arg1: mfn, ..Default::default() };
        self.mmuext(domid, "mmuext_op unpin_table", op)
    }

    fn mmuext(&self, domid: u16, name: &'static str, op: MmuextOp) -> Result<()> {
        if domid == DOMID_SELF {
            return Err(Error::Argument("this domain's own page tables are its kernel's"));
        }
        let buffer = self.buffer(size_of::<MmuextOp>())?;
        buffer.put(0, &op);
        let args = [Arg::Pointer(&buffer), Arg::Value(1), Arg::Value(0), Arg::Value(u64::from(domid))];
        self.call(Hypercall::MmuextOp, name, args).map(drop)
    }

    /// Says which guest frame number each machine frame of `domid` has: pairs of machine and guest frame.
    ///
    /// # Errors
    /// `EINVAL` when a frame is not the domain's.
    pub fn set_machphys(&self, domid: u16, pairs: &[(u64, u64)]) -> Result<()> {
        if domid == DOMID_SELF {
            return Err(Error::Argument("this domain's own frames are its kernel's"));
        }
        for chunk in pairs.chunks(CHUNK) {
            let updates: Vec<_> = chunk
                .iter()
                .map(|(mfn, gfn)| MmuUpdate { ptr: mfn << 12 | MMU_MACHPHYS_UPDATE, val: *gfn })
                .collect();
            let buffer = self.buffer(size_of_val(&updates[..]))?;
            buffer.put(0, &updates[..]);
            let args = [
                Arg::Pointer(&buffer),
                Arg::Value(updates.len() as u64),
                Arg::Value(0),
                Arg::Value(u64::from(domid)),
            ];
            self.call(Hypercall::MmuUpdate, "mmu_update machphys", args)?;
        }
        Ok(())
    }

    /// Grants frames of a domain that is being built to others: reference, grantee, machine frame each, as entries
    /// of its table's first page.
    ///
    /// # Errors
    /// When there is no such domain; `EINVAL` for a reference beyond the first page or a frame that does not fit an entry.
    pub fn seed_grants(&self, domid: u16, grants: &[(u32, u16, u64)]) -> Result<()> {
        use guest_abi::grant_table::{GTF_PERMIT_ACCESS, GrantEntryV1};
        let (kind, id) = (XENMEM_RESOURCE_GRANT_TABLE, XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED);
        let page = self.map_resource(Resource { domid, kind, id, first: 0, frames: 1 }, true)?;
        for (reference, grantee, frame) in grants {
            let offset = *reference as usize * size_of::<GrantEntryV1>();
            let frame = u32::try_from(*frame).ok().filter(|_| offset < page.len());
            let Some(frame) = frame else {
                return Err(Error::Hypercall { call: "seeding a grant", errno: Errno::EINVAL });
            };
            page.put(offset, &GrantEntryV1 { flags: GTF_PERMIT_ACCESS, domid: *grantee, frame });
        }
        Ok(())
    }
}

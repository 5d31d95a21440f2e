//! Who uses whose grants, and the end of a domain's.

use super::{GrantPorts, GrantTable};
use crate::mmu::{Mmu, Preempted};
use guest_abi::Errno;
use guest_abi::grant_table::{GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP};
use hv_types::{DomId, Mfn};

/// Mappings taken back between two questions whether to stop.
const STRIDE: u32 = 16;

impl GrantTable {
    /// Changes how many frames the table may have and how many grants of others the domain may have mapped. `-EBUSY`:
    /// it has more; `-ENOMEM`: no room to remember so many. Nothing changed then.
    pub fn set_limits(&self, frames: Option<u32>, mappings: Option<u32>) -> Result<(), Errno> {
        if mappings.is_some_and(|max| max < self.mapped()) {
            return Err(Errno::EBUSY);
        }
        let mut granted = self.granted.lock();
        if frames.is_some_and(|max| (max as usize) < granted.frames.len()) {
            return Err(Errno::EBUSY);
        }
        if let Some(max) = frames {
            let more = (max as usize).saturating_sub(granted.frames.len());
            granted.frames.try_reserve_exact(more).map_err(|_| Errno::ENOMEM)?;
            granted.active.try_reserve_exact(more).map_err(|_| Errno::ENOMEM)?;
            granted.max = max;
        }
        drop(granted);
        if let Some(max) = mappings {
            self.handles.lock().max = max as usize;
        }
        Ok(())
    }

    /// Frames that the table may have.
    pub fn max_frames(&self) -> u32 {
        self.granted.lock().max
    }

    /// Grants of others that the domain has mapped.
    pub fn mapped(&self) -> u32 {
        self.handles.lock().used()
    }

    /// Grants of others that the domain may have mapped.
    pub fn max_mapped(&self) -> u32 {
        self.handles.lock().max as u32
    }

    /// Tells each grant that is in use: by whom, which frame.
    pub fn each_use(&self, mut tell: impl FnMut(DomId, Mfn)) {
        let granted = self.granted.lock();
        granted.active.iter().for_each(|uses| uses.each(&mut tell));
    }

    /// True if some domain uses a grant of this table.
    pub fn is_used(&self) -> bool {
        let mut used = false;
        self.each_use(|_, _| used = true);
        used
    }

    /// A dying domain, whose vCPUs run no longer and whose translations no CPU uses, gives back every grant of others that
    /// it had mapped. Call again until it is done.
    pub fn unmap_all<P: GrantPorts>(&self, mmu: &Mmu<'_, P>) -> Result<(), Preempted> {
        for count in 1u32.. {
            let Some(mapping) = self.handles.lock().take_last() else { break };
            if let Some(table) = mmu.port.grants(mapping.dom) {
                let kinds = mapping.flags & (GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP);
                for _ in 0..kinds.count_ones() {
                    table.end_use(mmu, mapping.grant, mapping.access());
                }
            }
            if count.is_multiple_of(STRIDE) && mmu.port.should_preempt() {
                return Err(Preempted);
            }
        }
        Ok(())
    }
}

//! Frames that a guest names and the hypervisor writes for a long time: event words, control blocks, `vcpu_info`.

use guest_abi::Errno;
use hv_types::Mfn;

use super::port::Machine;
use super::{DomainMemory, Mmu};
use crate::frame::TypeRef;

impl<P: Machine> Mmu<'_, P> {
    /// Takes a general and a writable-type reference on a frame of the domain, to be given back by
    /// [`Mmu::unpin_writable`]. `EINVAL`: not the domain's memory, or it has another type.
    pub fn pin_writable(&self, domain: &DomainMemory, mfn: Mfn) -> Result<Mfn, Errno> {
        let general = self.frames.get_general(mfn, domain.id).map_err(|_| Errno::EINVAL)?;
        let held = self.make_writable(general).map_err(|_| Errno::EINVAL)?;
        Ok(held.sleep())
    }

    /// Gives back what one [`Mmu::pin_writable`] took on this frame.
    pub fn unpin_writable(&self, mfn: Mfn) {
        self.drop_writable(TypeRef::wake(mfn));
    }
}

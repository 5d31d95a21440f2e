//! Descriptor tables in guest memory: every descriptor in a frame of that type has been checked.

use core::sync::atomic::Ordering::Relaxed;

use guest_abi::Errno;
use hv_types::{GuestVa, Mfn, PAGE_MASK, PAGE_SIZE, WORDS_PER_PAGE};

use super::domain::{GDT_ENTRIES, GDT_FRAMES, LDT_FRAMES};
use super::port::Machine;
use super::{Caller, DomainMemory, Mmu, Pte};
use crate::call::CallError;
use crate::frame::{Kind, TakeType, TypeRef};
use crate::port::GuestSpace;

/// Entries an LDT can have.
const LDT_ENTRIES: u32 = 8192;
/// Descriptors in a frame.
const PER_FRAME: u32 = 512;

impl<P: Machine> Mmu<'_, P> {
    /// `set_gdt` (`xen.h`): `entries` descriptors in the frames listed at `list`. Value 0.
    /// `EINVAL`: too many, or frames that are not the caller's or hold what no guest may have; `EFAULT`: the list.
    pub fn do_set_gdt<S: GuestSpace>(
        &self,
        caller: &Caller<'_>,
        space: &S,
        list: GuestVa,
        entries: u32,
    ) -> Result<u64, CallError> {
        if entries > GDT_ENTRIES {
            return Err(Errno::EINVAL.into());
        }
        let mut frames = [0; GDT_FRAMES];
        let count = entries.div_ceil(PER_FRAME) as usize;
        for (index, frame) in frames[..count].iter_mut().enumerate() {
            let mut bytes = [0; 8];
            let at = list.0.checked_add(index as u64 * 8).ok_or(Errno::EFAULT)?;
            space.read(GuestVa(at), &mut bytes)?;
            *frame = u64::from_le_bytes(bytes);
        }
        self.set_gdt(caller, &frames[..count], entries)?;
        Ok(0)
    }

    /// Sets a vCPU's GDT, taking a reference on each frame, and drops those of the old one. The machine is told by
    /// [`super::port::Registers::reload_gdt`]. `EINVAL` as above; then nothing changed.
    pub fn set_gdt(&self, caller: &Caller<'_>, frames: &[u64], entries: u32) -> Result<(), Errno> {
        if entries > GDT_ENTRIES || frames.len() != entries.div_ceil(PER_FRAME) as usize {
            return Err(Errno::EINVAL);
        }
        for (taken, &mfn) in frames.iter().enumerate() {
            match self.get_descriptors(caller.domain, Mfn(mfn)) {
                Ok(reference) => _ = reference.sleep(),
                Err(errno) => {
                    for &mfn in &frames[..taken] {
                        self.drop_table_later(caller.vcpu, TypeRef::wake(Mfn(mfn)));
                    }
                    return Err(errno);
                }
            }
        }
        let mut old = [0; GDT_FRAMES];
        for (index, place) in caller.vcpu.gdt.iter().enumerate() {
            old[index] = place.swap(frames.get(index).copied().unwrap_or(0), Relaxed);
        }
        caller.vcpu.gdt_entries.store(entries, Relaxed);
        self.port.reload_gdt();
        for mfn in old.into_iter().filter(|&mfn| mfn != 0) {
            self.drop_table_later(caller.vcpu, TypeRef::wake(Mfn(mfn)));
        }
        Ok(())
    }

    /// A type reference on a frame of `domain` as a descriptor table, checking all its descriptors if need be.
    fn get_descriptors(&self, domain: &DomainMemory, mfn: Mfn) -> Result<TypeRef, Errno> {
        let mut general = self.frames.get_general(mfn, domain.id).map_err(|_| Errno::EINVAL)?;
        loop {
            match self.frames.take_type(general, Kind::SegDesc) {
                TakeType::Have(reference) => return Ok(reference),
                TakeType::Claimed(claim) => {
                    self.flush_for_new_type(&claim, Kind::SegDesc);
                    if self.check_descriptors(mfn) {
                        return Ok(self.frames.validated(claim));
                    }
                    if let Some(dead) = self.frames.emptied(claim, self.port.clock()) {
                        self.bury(dead);
                    }
                    return Err(Errno::EINVAL);
                }
                TakeType::Busy(back) => {
                    self.port.relax();
                    general = back;
                }
                // Descriptor tables are never partial.
                TakeType::Resumed(claim, back) => {
                    self.frames.rest(claim, 0);
                    self.drop_general(back);
                    return Err(Errno::EINVAL);
                }
                TakeType::Refused(back) => {
                    self.drop_general(back);
                    return Err(Errno::EINVAL);
                }
            }
        }
    }

    fn check_descriptors(&self, mfn: Mfn) -> bool {
        for index in 0..WORDS_PER_PAGE {
            let descriptor = self.port.load64(mfn, index);
            if descriptor == 0 {
                continue;
            }
            match self.port.check_descriptor(descriptor) {
                Some(checked) if checked != descriptor => self.port.store64(mfn, index, checked),
                Some(_) => (),
                None => return false,
            }
        }
        true
    }

    /// `update_descriptor` (`xen.h`): writes one descriptor at machine address `address`. Value 0.
    /// `EINVAL`: a descriptor that no guest may have, or not memory of the caller's that can be written.
    pub fn do_update_descriptor(
        &self,
        caller: &Caller<'_>,
        address: u64,
        descriptor: u64,
    ) -> Result<u64, CallError> {
        let checked = self.port.check_descriptor(descriptor).ok_or(Errno::EINVAL)?;
        if address & 7 != 0 {
            return Err(Errno::EINVAL.into());
        }
        let (mfn, index) = (Mfn::containing(address), (address & PAGE_MASK) as usize / 8);
        let general = self.frames.get_general(mfn, caller.domain.id).map_err(|_| Errno::EINVAL)?;
        let reference = match self.frames.take_type(general, Kind::SegDesc) {
            TakeType::Have(reference) => reference,
            TakeType::Claimed(claim) => {
                // Not a descriptor table: as it was, and then as ordinary memory.
                if let Some(dead) = self.frames.abandon(claim) {
                    self.bury(dead);
                }
                let general = self.frames.get_general(mfn, caller.domain.id).map_err(|_| Errno::EINVAL)?;
                self.make_writable(general).map_err(|_| Errno::EINVAL)?
            }
            TakeType::Refused(general) => self.make_writable(general).map_err(|_| Errno::EINVAL)?,
            TakeType::Busy(general) => {
                self.drop_general(general);
                return Err(Errno::EINVAL.into());
            }
            TakeType::Resumed(claim, general) => {
                self.frames.rest(claim, 0);
                self.drop_general(general);
                return Err(Errno::EINVAL.into());
            }
        };
        self.port.store64(mfn, index, checked);
        self.drop_table_later(caller.vcpu, reference);
        Ok(0)
    }

    /// `MMUEXT_SET_LDT`: only remembered; its frames come on demand. `EINVAL`: no such range.
    pub(super) fn set_ldt(&self, caller: &Caller<'_>, base: GuestVa, entries: u32) -> Result<(), Errno> {
        let base = if entries == 0 { GuestVa(0) } else { base };
        let bad = base.0 & PAGE_MASK != 0 || !base.is_canonical() || base.is_hypervisor();
        if entries > LDT_ENTRIES || bad {
            return Err(Errno::EINVAL);
        }
        let vcpu = caller.vcpu;
        if vcpu.ldt_range() != (base.0, entries) {
            vcpu.ldt_base.store(base.0, Relaxed);
            vcpu.ldt_entries.store(entries, Relaxed);
            self.drop_ldt_frames(caller, true);
        }
        Ok(())
    }

    /// Forgets the LDT's frames, because what its address means changed.
    pub(super) fn drop_ldt(&self, caller: &Caller<'_>) {
        self.drop_ldt_frames(caller, false);
    }

    fn drop_ldt_frames(&self, caller: &Caller<'_>, reload: bool) {
        let vcpu = caller.vcpu;
        let entries = vcpu.ldt_entries.load(Relaxed);
        let held = entries != 0 || reload;
        if !held {
            return;
        }
        let mut old = [0; LDT_FRAMES];
        for (out, place) in old.iter_mut().zip(&vcpu.ldt) {
            *out = place.swap(0, Relaxed);
        }
        // The machine lets go of its mappings before the references go.
        if reload || old != [0; LDT_FRAMES] {
            self.port.reload_ldt(entries);
        }
        for mfn in old.into_iter().filter(|&mfn| mfn != 0) {
            self.drop_table_later(vcpu, TypeRef::wake(Mfn(mfn)));
        }
    }

    /// A fault in the vCPU's LDT at byte `offset`: finds and checks the guest's frame. The machine maps the frame
    /// that comes back at page `offset / 4096` of the LDT, read-only for the guest. `None`: the fault is the guest's.
    pub fn take_ldt_frame(&self, caller: &Caller<'_>, offset: u64) -> Option<Mfn> {
        let (base, entries) = caller.vcpu.ldt_range();
        let page = (offset / PAGE_SIZE) as usize;
        let place = caller.vcpu.ldt.get(page)?;
        if offset >= u64::from(entries) * 8 {
            return None;
        }
        let va = GuestVa(base.checked_add(offset & !PAGE_MASK)?);
        let (_, _, entry): (_, _, Pte) = self.leaf_of(caller, va)?;
        if !entry.is_present() {
            return None;
        }
        let reference = self.get_descriptors(caller.domain, entry.mfn()).ok()?;
        let mfn = reference.sleep();
        let old = place.swap(mfn.0, Relaxed);
        if old != 0 {
            self.drop_table_later(caller.vcpu, TypeRef::wake(Mfn(old)));
        }
        Some(mfn)
    }
}

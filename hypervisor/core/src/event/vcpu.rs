//! A vCPU's events: where its `vcpu_info` is, its VIRQs, what it polls, its FIFO queues.

use super::fifo::Queues;
use super::{DomainEvents, FramePin, VIRQS, Wake};
use crate::port::Memory;
use crate::sync::{AtomicU32, AtomicU64, Mutex};
use core::sync::atomic::Ordering;
use guest_abi::Errno;
use guest_abi::xen::{VcpuInfo, XEN_LEGACY_MAX_VCPUS, shared_offset, vcpu_offset};
use hv_types::{DomId, Gfn, Mfn, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, VcpuId};

/// A vCPU's part of a domain's events.
pub struct VcpuEvents {
    /// Machine address of `vcpu_info`, or [`NOWHERE`].
    info: AtomicU64,
    /// The guest has moved `vcpu_info` to a frame of its own, which is pinned.
    moved: Mutex<bool>,
    pub(super) virqs: [AtomicU32; VIRQS],
    /// 0: not polling; [`POLL_ANY`]; or the one port polled.
    pub(super) poll: AtomicU32,
    pub(super) queues: Mutex<Queues>,
}

/// vCPUs from 32 on have no `vcpu_info` before they register one.
const NOWHERE: u64 = u64::MAX;
const INFO_LEN: u32 = size_of::<VcpuInfo>() as u32;

impl VcpuEvents {
    pub(super) fn new(shared: Mfn, id: usize) -> Self {
        let info = match shared.address() {
            Some(base) if id < XEN_LEGACY_MAX_VCPUS as usize => base + shared_offset::vcpu_info(id) as u64,
            _ => NOWHERE,
        };
        VcpuEvents {
            info: AtomicU64::new(info),
            moved: Mutex::new(false),
            virqs: core::array::from_fn(|_| AtomicU32::new(0)),
            poll: AtomicU32::new(0),
            queues: Mutex::new(Queues::new()),
        }
    }

    /// Where the vCPU's `vcpu_info` is: frame and byte offset (a multiple of 8). Changes once at most.
    #[inline]
    pub fn info(&self) -> Option<(Mfn, usize)> {
        let address = self.info.load(Ordering::Acquire);
        if address == NOWHERE {
            return None;
        }
        Some((Mfn(address >> PAGE_SHIFT), (address & PAGE_MASK) as usize))
    }

    /// Sets `evtchn_upcall_pending`; true if it was clear.
    #[inline]
    pub(super) fn mark<M: Memory>(&self, mem: &M) -> bool {
        match self.info() {
            Some((mfn, offset)) => mem.swap8(mfn, offset + vcpu_offset::UPCALL_PENDING, 1) == 0,
            None => false,
        }
    }

    /// True if an upcall is due: pending and not masked.
    #[inline]
    pub fn upcall_due<M: Memory>(&self, mem: &M) -> bool {
        match self.info() {
            Some((mfn, offset)) => {
                mem.load8(mfn, offset + vcpu_offset::UPCALL_PENDING) != 0
                    && mem.load8(mfn, offset + vcpu_offset::UPCALL_MASK) == 0
            }
            None => false,
        }
    }

    /// Writes `evtchn_upcall_mask`; returns what it was. Entering an upcall or an exception handler masks,
    /// `iret` restores, `SCHEDOP_block` unmasks.
    #[inline]
    pub fn set_upcall_mask<M: Memory>(&self, mem: &M, masked: bool) -> bool {
        match self.info() {
            Some((mfn, offset)) => mem.swap8(mfn, offset + vcpu_offset::UPCALL_MASK, u8::from(masked)) != 0,
            None => false,
        }
    }

    /// Reads `evtchn_upcall_mask`.
    #[inline]
    pub fn upcall_mask<M: Memory>(&self, mem: &M) -> bool {
        self.info().is_some_and(|(mfn, offset)| mem.load8(mfn, offset + vcpu_offset::UPCALL_MASK) != 0)
    }
}

impl DomainEvents {
    /// `VCPUOP_register_vcpu_info`: moves a vCPU's `vcpu_info` to the guest's own frame and makes everything
    /// pending there, so that no event is lost. The caller has checked that the vCPU is the caller or is down.
    ///
    /// `-ENXIO`: the place crosses a page or is not aligned; `-EINVAL`: moved before, or the frame will not do.
    pub fn register_vcpu_info<P: Memory + Wake + FramePin>(
        &self,
        ports: &P,
        vcpu: VcpuId,
        gfn: Gfn,
        offset: u32,
    ) -> Result<(), Errno> {
        if offset > PAGE_SIZE as u32 - INFO_LEN || !offset.is_multiple_of(8) {
            return Err(Errno::ENXIO);
        }
        let v = self.vcpu(vcpu).ok_or(Errno::ENOENT)?;
        if *v.moved.lock() {
            return Err(Errno::EINVAL);
        }
        // Pinning may wait for other CPUs: not under the lock.
        let mfn = ports.pin(self.dom, gfn)?;
        let mut moved = v.moved.lock();
        let (false, Some(base)) = (*moved, mfn.address()) else {
            drop(moved);
            ports.unpin(self.dom, mfn);
            return Err(Errno::EINVAL);
        };
        copy_info(ports, v.info(), mfn, offset as usize);
        v.info.store(base + u64::from(offset), Ordering::SeqCst);
        *moved = true;
        drop(moved);
        ports.store64(mfn, (offset as usize + vcpu_offset::PENDING_SEL) / 8, u64::MAX);
        self.mark(ports, vcpu);
        Ok(())
    }

    /// Gives back the frames that vCPUs' `vcpu_info` moved to. The domain's vCPUs never run again.
    pub(super) fn release_vcpu_infos<P: FramePin>(&self, ports: &P) {
        for v in &self.vcpus {
            let mut moved = v.moved.lock();
            if core::mem::take(&mut *moved) {
                unpin(ports, self.dom, v.info.swap(NOWHERE, Ordering::SeqCst));
            }
        }
    }
}

fn unpin<P: FramePin>(ports: &P, dom: DomId, address: u64) {
    ports.unpin(dom, Mfn(address >> PAGE_SHIFT));
}

/// Fills the new `vcpu_info` from the old one; a vCPU that had none begins with events masked.
fn copy_info<M: Memory>(mem: &M, old: Option<(Mfn, usize)>, new: Mfn, offset: usize) {
    for word in 0..INFO_LEN as usize / 8 {
        let value = old.map_or(0, |(mfn, from)| mem.load64(mfn, from / 8 + word));
        mem.store64(new, offset / 8 + word, value);
    }
    if old.is_none() {
        mem.store8(new, offset + vcpu_offset::UPCALL_MASK, 1);
    }
}

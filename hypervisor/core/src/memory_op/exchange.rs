//! `XENMEM_exchange`: frames for other frames, a chunk at a time.
//!
//! A chunk is as many input extents as make one output extent, or the reverse. Everything that can fail comes
//! first: the new memory is allocated and the old frames are taken, all or none. Then the old ones are freed and
//! the new ones assigned.

use super::reservation::{MAX_EXTENT_ORDER, Wish, node_will_do};
use super::{Call, MemoryPorts};
use crate::call::{CallError, Continuation};
use crate::frame::GeneralRef;
use crate::heap::{Block, Claim};
use crate::mmu::DomainMemory;
use crate::port::GuestSpace;
use crate::wire;
use alloc::vec::Vec;
use core::mem::offset_of;
use guest_abi::Errno;
use guest_abi::memory::{XENMEM_EXCHANGE, XenMemoryExchange};
use hv_types::{DomId, Gfn, GuestVa, Mfn, PAGE_SHIFT};

/// How the lists divide into chunks.
struct Chunks {
    inputs: u64,
    outputs: u64,
    total: u64,
}

impl Chunks {
    fn of(op: &XenMemoryExchange) -> Chunks {
        let (input, output) = (op.input.extent_order, op.output.extent_order);
        let inputs = 1 << output.saturating_sub(input);
        let outputs = 1 << input.saturating_sub(output);
        Chunks { inputs, outputs, total: op.input.nr_extents / inputs }
    }
}

/// Refuses what does not fit together.
fn check(op: &XenMemoryExchange, privileged: bool) -> Result<(), Errno> {
    let (input, output) = (&op.input, &op.output);
    if input.extent_order.max(output.extent_order) > MAX_EXTENT_ORDER {
        return Err(Errno::EPERM);
    }
    let frames = |extents: u64, order: u32| {
        if u64::MAX >> order < extents { None } else { Some(extents << order) }
    };
    let in_frames = frames(input.nr_extents, input.extent_order);
    let balanced = in_frames.is_some() && in_frames == frames(output.nr_extents, output.extent_order);
    if op.nr_exchanged > input.nr_extents || input.domid != output.domid || !balanced {
        return Err(Errno::EINVAL);
    }
    if op.nr_exchanged == input.nr_extents {
        return Ok(());
    }
    for list in [input, output] {
        let len = list.nr_extents.checked_mul(8).ok_or(Errno::EFAULT)?;
        if !GuestVa(list.extent_start).is_guest_range(len) {
            return Err(Errno::EFAULT);
        }
    }
    if node_will_do(output.mem_flags, privileged) { Ok(()) } else { Err(Errno::EINVAL) }
}

impl<P: MemoryPorts, G: GuestSpace> Call<'_, '_, P, G> {
    pub(super) fn exchange(&self, op: XenMemoryExchange, arg: GuestVa) -> Result<i64, CallError> {
        let start = op.nr_exchanged;
        let checked = check(&op, self.caller.domain.privileged);
        if checked == Ok(()) && start == op.input.nr_extents {
            return Ok(0);
        }
        let (done, result) = match checked.and_then(|()| self.domain(DomId(op.input.domid))) {
            Ok(domain) => self.exchange_chunks(&op, domain),
            Err(errno) => (start, Err(errno.into())),
        };
        let place = GuestVa(arg.0.wrapping_add(offset_of!(XenMemoryExchange, nr_exchanged) as u64));
        wire::write(self.space, place, &done)?;
        match result {
            Err(CallError::Retry(_)) => {
                let args = [u64::from(XENMEM_EXCHANGE), arg.0, 0, 0];
                Err(CallError::Retry(Continuation { args }))
            }
            other => other.map(|()| 0),
        }
    }

    /// Exchanges from where the list stands; how many input extents are done, and what stopped it.
    fn exchange_chunks(&self, op: &XenMemoryExchange, domain: &DomainMemory) -> (u64, Result<(), CallError>) {
        let chunks = Chunks::of(op);
        let first = op.nr_exchanged / chunks.inputs;
        for chunk in first..chunks.total {
            let done = chunk * chunks.inputs;
            if chunk != first && self.mmu.port.should_preempt() {
                return (done, Err(CallError::Retry(Continuation { args: [0; 4] })));
            }
            if let Err(errno) = self.exchange_chunk(op, domain, &chunks, chunk) {
                return (done, Err(errno.into()));
            }
        }
        (op.input.nr_extents, Ok(()))
    }

    fn exchange_chunk(
        &self,
        op: &XenMemoryExchange,
        domain: &DomainMemory,
        chunks: &Chunks,
        chunk: u64,
    ) -> Result<(), Errno> {
        let bits = op.output.mem_flags & 0xff;
        if bits != 0 && bits <= PAGE_SHIFT {
            return Err(Errno::ENOMEM);
        }
        let wish = Wish { order: op.output.extent_order, bits: if bits == 0 { 64 } else { bits } };
        let blocks = self.allocate_all(wish, chunks.outputs)?;
        let stolen = match self.steal_all(op, domain, chunks, chunk) {
            Ok(stolen) => stolen,
            Err(errno) => {
                self.free_all(blocks);
                return Err(errno);
            }
        };
        stolen.into_iter().for_each(|frame| self.mmu.drop_general(frame));
        let list = GuestVa(op.output.extent_start);
        let mut result = Ok(());
        for (index, block) in (chunk * chunks.outputs..).zip(blocks) {
            result = result.and(self.hand_out(domain, block, list, index));
        }
        result
    }

    fn allocate_all(&self, wish: Wish, count: u64) -> Result<Vec<Block>, Errno> {
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(count as usize).map_err(|_| Errno::ENOMEM)?;
        for _ in 0..count {
            // As many come back: what is promised stays so.
            match self.allocate(wish, &Claim::new()) {
                Ok(block) => blocks.push(block),
                Err(errno) => {
                    self.free_all(blocks);
                    return Err(errno);
                }
            }
        }
        Ok(blocks)
    }

    fn free_all(&self, blocks: Vec<Block>) {
        for block in blocks {
            self.mmu.heap.free(self.mmu.frames, block, self.mmu.port.clock());
        }
    }

    /// Takes every frame of the chunk's input extents, or none.
    fn steal_all(
        &self,
        op: &XenMemoryExchange,
        domain: &DomainMemory,
        chunks: &Chunks,
        chunk: u64,
    ) -> Result<Vec<GeneralRef>, Errno> {
        let frames = 1u64 << op.input.extent_order;
        let mut stolen = Vec::new();
        stolen.try_reserve_exact((frames * chunks.inputs) as usize).map_err(|_| Errno::ENOMEM)?;
        let mut take_all = || {
            for extent in chunk * chunks.inputs..(chunk + 1) * chunks.inputs {
                let mfn: u64 = wire::read_element(self.space, GuestVa(op.input.extent_start), extent)?;
                for n in 0..frames {
                    stolen.push(self.steal(domain, mfn.checked_add(n).ok_or(Errno::EINVAL)?)?);
                }
            }
            Ok(())
        };
        if let Err(errno) = take_all() {
            stolen.into_iter().for_each(|frame| self.mmu.frames.restore(frame));
            return Err(errno);
        }
        Ok(stolen)
    }

    /// Takes a frame that only its owner refers to.
    fn steal(&self, domain: &DomainMemory, mfn: u64) -> Result<GeneralRef, Errno> {
        let held = self.mmu.frames.get_general(Mfn(mfn), domain.id).map_err(|_| Errno::EINVAL)?;
        self.mmu.frames.steal(held).map_err(|held| {
            self.mmu.drop_general(held);
            Errno::EINVAL
        })
    }

    /// Assigns one new extent to the guest frame number that the list has for it.
    fn hand_out(&self, domain: &DomainMemory, block: Block, list: GuestVa, index: u64) -> Result<(), Errno> {
        let gfn = wire::read_element::<u64>(self.space, list, index);
        let mfn = self.mmu.assign(domain, block, |n| gfn.ok().and_then(|gfn| gfn.checked_add(n)).map(Gfn))?;
        gfn?;
        wire::write_element(self.space, list, index, &mfn.0)
    }
}

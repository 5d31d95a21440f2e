//! Two-level events: a pending and a mask bit a port in the shared page, a selector a vCPU.

use super::{DomainEvents, Wake};
use crate::port::Memory;
use guest_abi::event_channel::EVTCHN_2L_NR_CHANNELS;
use guest_abi::xen::{shared_offset, vcpu_offset};
use hv_types::{Port, VcpuId};

const PENDING: usize = shared_offset::EVTCHN_PENDING / 8;
const MASK: usize = shared_offset::EVTCHN_MASK / 8;

/// Word and bit of a port, in the pending bits and in the mask.
#[inline]
const fn place(port: Port) -> (usize, u64) {
    let port = port.0 & (EVTCHN_2L_NR_CHANNELS - 1);
    ((port / 64) as usize, 1 << (port % 64))
}

impl DomainEvents {
    /// Pending first, then mask, then selector, then upcall: the order that guests rely on.
    #[inline]
    pub(super) fn raise_two_level<P: Memory + Wake>(&self, ports: &P, port: Port, vcpu: VcpuId) {
        let (word, bit) = place(port);
        if ports.fetch_or64(self.shared, PENDING + word, bit) & bit != 0 {
            return;
        }
        if ports.load64(self.shared, MASK + word) & bit == 0 {
            self.select(ports, word, vcpu);
        }
        self.wake_pollers(ports, port);
    }

    /// Sets a word's bit in the vCPU's selector; the first one asks for an upcall.
    #[inline]
    fn select<P: Memory + Wake>(&self, ports: &P, word: usize, vcpu: VcpuId) {
        let Some((mfn, offset)) = self.vcpu(vcpu).and_then(|v| v.info()) else { return };
        let bit = 1 << word;
        if ports.fetch_or64(mfn, (offset + vcpu_offset::PENDING_SEL) / 8, bit) & bit == 0 {
            self.mark(ports, vcpu);
        }
    }

    /// Unmasks; an event that waited is delivered.
    pub(super) fn unmask_two_level<P: Memory + Wake>(&self, ports: &P, port: Port, vcpu: VcpuId) {
        let (word, bit) = place(port);
        let was_masked = ports.fetch_and64(self.shared, MASK + word, !bit) & bit != 0;
        if was_masked && ports.load64(self.shared, PENDING + word) & bit != 0 {
            self.select(ports, word, vcpu);
        }
    }

    pub(super) fn clear_two_level<M: Memory>(&self, mem: &M, port: Port) {
        let (word, bit) = place(port);
        mem.fetch_and64(self.shared, PENDING + word, !bit);
    }

    pub(super) fn two_level_pending<M: Memory>(&self, mem: &M, port: Port) -> bool {
        let (word, bit) = place(port);
        mem.load64(self.shared, PENDING + word) & bit != 0
    }

    pub(super) fn two_level_masked<M: Memory>(&self, mem: &M, port: Port) -> bool {
        let (word, bit) = place(port);
        mem.load64(self.shared, MASK + word) & bit != 0
    }
}

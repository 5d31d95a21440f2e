//! `SCHEDOP_poll`: a vCPU that waits for ports without taking upcalls.

use super::{DomainEvents, Wake};
use crate::port::{GuestSpace, Memory};
use crate::wire;
use core::sync::atomic::Ordering;
use guest_abi::Errno;
use hv_types::{GuestVa, Port, VcpuId};

/// `VcpuEvents::poll`: several ports, or none, are polled.
const POLL_ANY: u32 = u32::MAX;
/// Ports that one call may poll.
pub const MAX_POLL_PORTS: u32 = 128;

impl DomainEvents {
    /// Starts to poll the ports of the list at `list`. True: none is pending, the vCPU shall block until
    /// [`Wake::unblock`], [`Wake::notify`] or its timeout, and then [`DomainEvents::stop_poll`]. The caller has
    /// already made the vCPU's blocking visible, so that a wake between here and there is not lost.
    ///
    /// `-EINVAL`: too many ports, or one does not exist; `-EFAULT`: the list cannot be read.
    pub fn poll<M: Memory, G: GuestSpace>(
        &self,
        mem: &M,
        space: &G,
        vcpu: VcpuId,
        list: GuestVa,
        count: u32,
    ) -> Result<bool, Errno> {
        if count > MAX_POLL_PORTS {
            return Err(Errno::EINVAL);
        }
        self.start_poll(vcpu);
        let wait = self.poll_ports(mem, space, vcpu, list, count);
        if wait != Ok(true) {
            self.stop_poll(vcpu);
        }
        wait
    }

    fn start_poll(&self, vcpu: VcpuId) {
        if let (Some(v), Some(word)) = (self.vcpu(vcpu), self.pollers.get(usize::from(vcpu.0 / 64))) {
            v.poll.store(POLL_ANY, Ordering::Release);
            word.fetch_or(1 << (vcpu.0 % 64), Ordering::SeqCst);
        }
    }

    fn poll_ports<M: Memory, G: GuestSpace>(
        &self,
        mem: &M,
        space: &G,
        vcpu: VcpuId,
        list: GuestVa,
        count: u32,
    ) -> Result<bool, Errno> {
        let v = self.vcpu(vcpu).ok_or(Errno::ENOENT)?;
        if v.upcall_due(mem) {
            return Ok(false);
        }
        let mut last = 0;
        for index in 0..count {
            let port = Port(wire::read_element(space, list, u64::from(index))?);
            self.entry(port).ok_or(Errno::EINVAL)?;
            if self.is_pending(mem, port) {
                return Ok(false);
            }
            last = port.0;
        }
        if count == 1 && last != 0 {
            v.poll.store(last, Ordering::Release);
        }
        Ok(true)
    }

    /// The vCPU polls no longer. Harmless if it did not.
    pub fn stop_poll(&self, vcpu: VcpuId) {
        if let (Some(v), Some(word)) = (self.vcpu(vcpu), self.pollers.get(usize::from(vcpu.0 / 64))) {
            word.fetch_and(!(1 << (vcpu.0 % 64)), Ordering::SeqCst);
            v.poll.store(0, Ordering::Release);
        }
    }

    /// Wakes the vCPUs that poll `port`, which has just become pending.
    #[inline]
    pub(super) fn wake_pollers<P: Wake>(&self, ports: &P, port: Port) {
        for (index, word) in self.pollers.iter().enumerate() {
            let bits = word.load(Ordering::SeqCst);
            if bits != 0 {
                self.wake_some(ports, port, index, bits);
            }
        }
    }

    #[cold]
    fn wake_some<P: Wake>(&self, ports: &P, port: Port, index: usize, mut bits: u64) {
        while bits != 0 {
            let bit = bits.trailing_zeros();
            bits &= bits - 1;
            let vcpu = VcpuId(index as u16 * 64 + bit as u16);
            let Some(v) = self.vcpu(vcpu) else { continue };
            let polled = v.poll.load(Ordering::Acquire);
            if polled != POLL_ANY && polled != port.0 {
                continue;
            }
            let was = self.pollers.get(index).map_or(0, |w| w.fetch_and(!(1 << bit), Ordering::SeqCst));
            if was >> bit & 1 != 0 {
                v.poll.store(0, Ordering::Release);
                ports.unblock(self.dom, vcpu);
            }
        }
    }
}

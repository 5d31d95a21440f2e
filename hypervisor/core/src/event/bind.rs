//! Binding ports, closing them, and what may be asked about them.

use super::channel::Channel;
use super::virq_is_global;
use super::{Control, DomainEvents, Domains, Entry, FramePin, Pirqs, Preempt, State, Wake, lock_pair};
use crate::port::Memory;
use core::sync::atomic::Ordering;
use guest_abi::Errno;
use guest_abi::event_channel::{EVTCHN_2L_NR_CHANNELS, EVTCHN_FIFO_NR_CHANNELS, EVTCHN_FIFO_PRIORITY_MIN};
use guest_abi::xen::NR_VIRQS;
use hv_types::{DomId, Pirq, Port, VcpuId};

/// How often a port's other end may change while a close looks for it.
const CLOSE_TRIES: u32 = 8;
/// Ports closed between two looks at the clock.
const CLOSE_STEP: u32 = 64;

impl DomainEvents {
    /// The lowest free port that is not still on a FIFO queue. Changes nothing but the hint and the table's size.
    fn find_free<M: Memory>(&self, control: &mut Control, mem: &M) -> Result<Port, Errno> {
        if control.dying {
            return Err(Errno::EINVAL);
        }
        let abi = if self.fifo.is_on() { EVTCHN_FIFO_NR_CHANNELS } else { EVTCHN_2L_NR_CHANNELS };
        let mut lowest = None;
        for port in (control.hint..abi.min(self.max_port.saturating_add(1))).map(Port) {
            let channel = match self.table.get(port) {
                Some(channel) => channel,
                None => {
                    self.table.grow()?;
                    self.table.get(port).ok_or(Errno::ENOSPC)?
                }
            };
            if channel.entry().state != State::Free {
                continue;
            }
            control.hint = *lowest.get_or_insert(port.0);
            if !self.fifo_busy(mem, port) {
                return Ok(port);
            }
        }
        Err(Errno::ENOSPC)
    }

    /// Gives a port that [`DomainEvents::find_free`] found its state.
    fn take(&self, control: &mut Control, port: Port, state: State, vcpu: VcpuId) {
        if let Some(channel) = self.table.get(port) {
            channel.set(Entry::bound(state, vcpu));
            control.active += 1;
        }
    }

    /// Frees a port: nothing pending, notifies vCPU 0 when it is used again.
    fn release<M: Memory>(&self, control: &mut Control, mem: &M, port: Port, channel: &Channel) {
        if self.fifo.is_on() {
            self.clear_fifo(mem, port);
        } else {
            self.clear_two_level(mem, port);
        }
        channel.take_saved();
        channel.set(Entry::FREE);
        control.active -= 1;
        control.hint = control.hint.min(port.0);
    }

    /// `EVTCHNOP_alloc_unbound` in this domain, for `remote` (not `DOMID_SELF`) to connect to.
    pub fn alloc_unbound<M: Memory>(&self, mem: &M, remote: DomId) -> Result<Port, Errno> {
        let mut control = self.control.lock();
        let port = self.find_free(&mut control, mem)?;
        self.take(&mut control, port, State::Unbound { remote }, VcpuId(0));
        Ok(port)
    }

    /// `EVTCHNOP_bind_interdomain`: connects to a port of `remote` that waits for this domain, and makes the new
    /// port pending, because the other end may have sent before.
    ///
    /// `-ESRCH`: no such domain; `-EINVAL`: that port does not wait for this domain; `-ENOSPC`, `-ENOMEM`.
    pub fn bind_interdomain<P: Memory + Wake + Domains>(
        &self,
        ports: &P,
        remote: DomId,
        peer: Port,
    ) -> Result<Port, Errno> {
        let handle = if remote == self.dom { None } else { Some(ports.events(remote).ok_or(Errno::ESRCH)?) };
        let other = handle.as_deref();
        let mut pair = lock_pair(self, other);
        let port = self.find_free(&mut pair.own, ports)?;
        let far = other.unwrap_or(self).table.get(peer).ok_or(Errno::EINVAL)?;
        let waiting = far.entry();
        if waiting.state != (State::Unbound { remote: self.dom }) {
            return Err(Errno::EINVAL);
        }
        far.set(Entry { state: State::Interdomain { remote: self.dom, port }, ..waiting });
        self.take(&mut pair.own, port, State::Interdomain { remote, port: peer }, VcpuId(0));
        if let Some(channel) = self.table.get(port) {
            self.raise(ports, port, channel, channel.entry());
        }
        Ok(port)
    }

    /// `EVTCHNOP_bind_virq`. `-EINVAL`: no such VIRQ, or a global one on another vCPU than 0; `-ENOENT`: no such
    /// vCPU; `-EEXIST`: bound already; `-ENOSPC`, `-ENOMEM`.
    pub fn bind_virq<M: Memory>(&self, mem: &M, virq: u32, vcpu: u32) -> Result<Port, Errno> {
        if virq >= NR_VIRQS || (virq_is_global(virq) && vcpu != 0) {
            return Err(Errno::EINVAL);
        }
        let vcpu = self.vcpu_id(vcpu)?;
        let slot = self.vcpu(vcpu).and_then(|v| v.virqs.get(virq as usize)).ok_or(Errno::ENOENT)?;
        let mut control = self.control.lock();
        if slot.load(Ordering::Acquire) != 0 {
            return Err(Errno::EEXIST);
        }
        let port = self.find_free(&mut control, mem)?;
        self.take(&mut control, port, State::Virq(virq), vcpu);
        slot.store(port.0, Ordering::Release);
        Ok(port)
    }

    /// `EVTCHNOP_bind_ipi`. `-ENOENT`: no such vCPU; `-ENOSPC`, `-ENOMEM`.
    pub fn bind_ipi<M: Memory>(&self, mem: &M, vcpu: u32) -> Result<Port, Errno> {
        let vcpu = self.vcpu_id(vcpu)?;
        let mut control = self.control.lock();
        let port = self.find_free(&mut control, mem)?;
        self.take(&mut control, port, State::Ipi, vcpu);
        Ok(port)
    }

    /// `EVTCHNOP_bind_pirq`. `-EINVAL`: beyond the domain's interrupts; `-EPERM`: not permitted; `-EEXIST`: bound
    /// already; `-ENOSPC`, `-ENOMEM`, and what the machine answers.
    pub fn bind_pirq<P: Memory + Pirqs>(
        &self,
        ports: &P,
        pirq: Pirq,
        will_share: bool,
    ) -> Result<Port, Errno> {
        let slot = self.pirqs.get(pirq.0 as usize).ok_or(Errno::EINVAL)?;
        if !ports.permitted(self.dom, pirq) {
            return Err(Errno::EPERM);
        }
        let mut control = self.control.lock();
        if slot.load(Ordering::Acquire) != 0 {
            return Err(Errno::EEXIST);
        }
        let port = self.find_free(&mut control, ports)?;
        self.take(&mut control, port, State::Pirq(pirq), VcpuId(0));
        slot.store(port.0, Ordering::Release);
        if let Err(error) = ports.bind(self.dom, pirq, will_share) {
            slot.store(0, Ordering::Release);
            if let Some(channel) = self.table.get(port) {
                self.release(&mut control, ports, port, channel);
            }
            return Err(error);
        }
        Ok(port)
    }

    /// `EVTCHNOP_close`. The other end of a connection waits for this domain again. `-EINVAL`: nothing to close;
    /// `-EAGAIN`: other domains kept changing the connection.
    pub fn close<P: Memory + Pirqs + Domains>(&self, ports: &P, port: Port) -> Result<(), Errno> {
        let channel = self.table.get(port).ok_or(Errno::EINVAL)?;
        for _ in 0..CLOSE_TRIES {
            let seen = channel.entry().state;
            let handle = match seen {
                State::Interdomain { remote, .. } if remote != self.dom => ports.events(remote),
                _ => None,
            };
            let mut pair = lock_pair(self, handle.as_deref());
            let entry = channel.entry();
            if entry.state != seen {
                continue;
            }
            match entry.state {
                State::Free | State::Reserved => return Err(Errno::EINVAL),
                State::Unbound { .. } | State::Ipi => {}
                State::Interdomain { port: peer, .. } => {
                    self.disconnect(handle.as_deref().unwrap_or(self), peer, port);
                }
                State::Pirq(pirq) => self.drop_pirq(ports, pirq),
                State::Virq(virq) => self.drop_virq(virq, entry.vcpu),
            }
            self.release(&mut pair.own, ports, port, channel);
            return Ok(());
        }
        Err(Errno::EAGAIN)
    }

    /// The other end of a connection that closes waits again. Both domains are locked.
    fn disconnect(&self, other: &DomainEvents, peer: Port, port: Port) {
        let Some(far) = other.table.get(peer) else { return };
        let entry = far.entry();
        if entry.state == (State::Interdomain { remote: self.dom, port }) {
            far.set(Entry { state: State::Unbound { remote: self.dom }, ..entry });
        }
    }

    fn drop_pirq<P: Pirqs>(&self, ports: &P, pirq: Pirq) {
        ports.unbind(self.dom, pirq);
        if let Some(slot) = self.pirqs.get(pirq.0 as usize) {
            slot.store(0, Ordering::Release);
        }
    }

    fn drop_virq(&self, virq: u32, vcpu: VcpuId) {
        let vcpu = if virq_is_global(virq) { VcpuId(0) } else { vcpu };
        if let Some(slot) = self.vcpu(vcpu).and_then(|v| v.virqs.get(virq as usize)) {
            slot.store(0, Ordering::Release);
        }
    }

    /// `EVTCHNOP_bind_vcpu`. `-ENOENT`: no such vCPU; `-EINVAL`: not a port whose vCPU may change.
    pub fn bind_vcpu<P: Pirqs>(&self, ports: &P, port: Port, vcpu: u32) -> Result<(), Errno> {
        let vcpu = self.vcpu_id(vcpu)?;
        let channel = self.table.get(port).ok_or(Errno::EINVAL)?;
        let _control = self.control.lock();
        let entry = channel.entry();
        match entry.state {
            State::Virq(virq) if virq_is_global(virq) => {}
            State::Unbound { .. } | State::Interdomain { .. } => {}
            State::Pirq(pirq) if entry.vcpu != vcpu => ports.set_affinity(self.dom, pirq, vcpu),
            State::Pirq(_) => {}
            State::Free | State::Reserved | State::Virq(_) | State::Ipi => return Err(Errno::EINVAL),
        }
        channel.set(Entry { vcpu, ..entry });
        Ok(())
    }

    /// `EVTCHNOP_unmask`: unmasks and delivers what waited. `-EINVAL`: no such port.
    #[inline]
    pub fn unmask<P: Memory + Wake>(&self, ports: &P, port: Port) -> Result<(), Errno> {
        let channel = self.table.get(port).ok_or(Errno::EINVAL)?;
        let entry = channel.entry();
        if self.fifo.is_on() {
            self.unmask_fifo(ports, port, channel, entry);
        } else {
            self.unmask_two_level(ports, port, entry.vcpu);
        }
        Ok(())
    }

    /// `EVTCHNOP_set_priority`: the queue of the next event. `-EINVAL`: no such port or queue; `-ENOSYS`: not
    /// FIFO.
    pub fn set_priority(&self, port: Port, priority: u32) -> Result<(), Errno> {
        let channel = self.table.get(port).ok_or(Errno::EINVAL)?;
        let _control = self.control.lock();
        if !self.fifo.is_on() {
            return Err(Errno::ENOSYS);
        }
        if priority > EVTCHN_FIFO_PRIORITY_MIN {
            return Err(Errno::EINVAL);
        }
        let entry = channel.entry();
        if entry.state != State::Free {
            channel.set(Entry { priority: priority as u8, ..entry });
        }
        Ok(())
    }

    /// `EVTCHNOP_reset`: closes every port and goes back to two-level events. False: it stopped half-way because
    /// `ports` wanted the CPU; the same call goes on. `-EAGAIN`: a port would not close.
    pub fn reset<P>(&self, ports: &P) -> Result<bool, Errno>
    where
        P: Memory + Pirqs + Domains + FramePin + Preempt,
    {
        if !self.close_all(ports) {
            return Ok(false);
        }
        let control = self.control.lock();
        if control.active != 0 {
            return Err(Errno::EAGAIN);
        }
        self.leave_fifo(ports);
        Ok(true)
    }

    /// Ends the domain's events: no new ports, all closed, all frames given back. False: call again. The
    /// domain's vCPUs run no longer.
    pub fn destroy<P>(&self, ports: &P) -> bool
    where
        P: Memory + Pirqs + Domains + FramePin + Preempt,
    {
        self.control.lock().dying = true;
        if !self.close_all(ports) || self.control.lock().active != 0 {
            return false;
        }
        let _control = self.control.lock();
        self.leave_fifo(ports);
        self.release_vcpu_infos(ports);
        true
    }

    /// Closes all ports from where the last call stopped; true if it reached the end.
    fn close_all<P: Memory + Pirqs + Domains + Preempt>(&self, ports: &P) -> bool {
        let first = self.control.lock().next_close.max(1);
        for port in first..self.table.valid() {
            if self.table.get(Port(port)).is_some_and(|channel| channel.entry().state != State::Free) {
                // A port that another domain closes meanwhile is closed all the same.
                let _ = self.close(ports, Port(port));
            }
            if port % CLOSE_STEP == 0 && ports.wanted() {
                self.control.lock().next_close = port + 1;
                return false;
            }
        }
        self.control.lock().next_close = 0;
        true
    }

    /// A guest's vCPU number; `-ENOENT` if the domain may not have it.
    fn vcpu_id(&self, vcpu: u32) -> Result<VcpuId, Errno> {
        let id = u16::try_from(vcpu).map_err(|_| Errno::ENOENT)?;
        self.vcpu(VcpuId(id)).map(|_| VcpuId(id)).ok_or(Errno::ENOENT)
    }
}

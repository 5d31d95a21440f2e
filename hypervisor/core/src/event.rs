//! Event channels: two-level and FIFO (`event_channel.h`).
//!
//! [`DomainEvents`] is a domain's whole state; the machine embeds one in each domain and calls
//! [`DomainEvents::send_virq`], [`DomainEvents::send_pirq`] and [`event_channel_op`].
//!
//! # Locks
//! Interrupts are off while the hypervisor runs. The order, first to last:
//! 1. the domain's event lock (`control`): changes of channels. Of two domains, the one with the lower number first;
//! 2. the queue locks of vCPUs: FIFO queues and words. Of two vCPUs, the one with the lower number first.
//!
//! Sending takes no lock with two-level events and only queue locks with FIFO ones. A sender that loses a race
//! against close and re-bind may set a port pending that is somebody else's by now: a spurious event, which every
//! guest must bear. Frames are different: whoever writes an event word or a control block holds a queue lock and
//! has seen under it that FIFO is on, so that switching FIFO off, taking each queue lock once and only then
//! giving the frames back leaves nobody writing to them.
//!
//! What a guest can reach is bounded by its own ports: one allocation looks at each port once at most, and closing
//! all is cut into steps.

mod bind;
mod channel;
mod fifo;
mod op;
mod poll;
pub mod port;
mod two_level;
mod vcpu;

pub use channel::{Entry, State};
pub use op::{Caller, EventPorts, event_channel_op};
pub use port::{Domains, FramePin, Pirqs, Preempt, Wake};
pub use vcpu::VcpuEvents;

use crate::fallible::boxed;
use crate::port::Memory;
use crate::sync::{AtomicU32, AtomicU64, Mutex, MutexGuard};
use alloc::boxed::Box;
use channel::{Channel, Table};
use core::sync::atomic::Ordering;
use fifo::Fifo;
use guest_abi::Errno;
use guest_abi::xen::{NR_VIRQS, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU};
use hv_types::{DomId, Mfn, Pirq, Port, VcpuId};

/// What a domain is created with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// vCPUs the domain may ever have.
    pub vcpus: u16,
    /// Highest port number it may use (`max_evtchn_port`); the ABI in use limits it further.
    pub max_port: u32,
    /// Physical interrupts it may name: 0 up to this number.
    pub pirqs: u32,
}

/// Highest [`Limits::pirqs`]: an interrupt's number has 24 bits in a channel.
pub const MAX_PIRQS: u32 = 1 << 24;

/// A domain's event channels.
pub struct DomainEvents {
    dom: DomId,
    shared: Mfn,
    max_port: u32,
    table: Table,
    fifo: Fifo,
    vcpus: Box<[VcpuEvents]>,
    /// One bit a vCPU that polls.
    pollers: Box<[AtomicU64]>,
    /// Port of each physical interrupt; 0: none.
    pirqs: Box<[AtomicU32]>,
    control: Mutex<Control>,
}

/// What the event lock protects besides the channels.
struct Control {
    /// Ports that are neither free nor reserved.
    active: u32,
    /// No port below this one is free.
    hint: u32,
    /// Where closing all ports goes on; 0: no such operation.
    next_close: u32,
    /// The domain is being destroyed: no new ports.
    dying: bool,
}

/// True if a VIRQ exists once a domain rather than once a vCPU (`xen.h`).
pub const fn virq_is_global(virq: u32) -> bool {
    !matches!(virq, VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENOPROF | VIRQ_XENPMU)
}

impl DomainEvents {
    /// The events of a new domain whose shared page is `shared`. The caller keeps that frame for the domain's life.
    pub fn new(dom: DomId, shared: Mfn, limits: Limits) -> Result<Self, Errno> {
        if limits.pirqs > MAX_PIRQS || limits.vcpus == 0 {
            return Err(Errno::EINVAL);
        }
        let vcpus = usize::from(limits.vcpus);
        let events = DomainEvents {
            dom,
            shared,
            max_port: limits.max_port,
            table: Table::new(),
            fifo: Fifo::new(),
            vcpus: boxed(vcpus, |id| VcpuEvents::new(shared, id))?,
            pollers: boxed(vcpus.div_ceil(64), |_| AtomicU64::new(0))?,
            pirqs: boxed(limits.pirqs as usize, |_| AtomicU32::new(0))?,
            control: Mutex::new(Control { active: 0, hint: 1, next_close: 0, dying: false }),
        };
        events.table.grow()?;
        if let Some(channel) = events.table.get(Port(0)) {
            channel.set(Entry { state: State::Reserved, ..Entry::FREE });
        }
        Ok(events)
    }

    /// Whose events these are.
    #[inline]
    pub fn dom(&self) -> DomId {
        self.dom
    }

    /// The domain's shared page.
    #[inline]
    pub fn shared_info(&self) -> Mfn {
        self.shared
    }

    /// The events of a vCPU, if the domain may have it.
    #[inline]
    pub fn vcpu(&self, vcpu: VcpuId) -> Option<&VcpuEvents> {
        self.vcpus.get(usize::from(vcpu.0))
    }

    /// How many vCPUs the domain may have.
    pub fn max_vcpus(&self) -> u16 {
        self.vcpus.len() as u16
    }

    /// How many ports it may have, by its limit and the ABI's.
    pub fn max_ports(&self) -> u32 {
        self.max_port.min(guest_abi::event_channel::EVTCHN_FIFO_NR_CHANNELS - 1)
    }

    /// Ports in use.
    pub fn active(&self) -> u32 {
        self.control.lock().active
    }

    /// True if the domain uses FIFO event channels.
    pub fn is_fifo(&self) -> bool {
        self.fifo.is_on()
    }

    /// State of a port; nothing if it is beyond those that exist.
    pub fn entry(&self, port: Port) -> Option<Entry> {
        self.table.get(port).map(Channel::entry)
    }

    /// `EVTCHNOP_send`: notifies the other end. `-EINVAL` if the port has no other end that a guest may notify;
    /// an unbound port swallows the event.
    #[inline]
    pub fn send<P: Memory + Wake + Domains>(&self, ports: &P, port: Port) -> Result<(), Errno> {
        let channel = self.table.get(port).ok_or(Errno::EINVAL)?;
        let entry = channel.entry();
        match entry.state {
            State::Interdomain { remote, port: peer } if remote == self.dom => {
                self.receive(ports, peer, self.dom, port);
            }
            State::Interdomain { remote, port: peer } => {
                if let Some(other) = ports.events(remote) {
                    other.receive(ports, peer, self.dom, port);
                }
            }
            State::Ipi => self.raise(ports, port, channel, entry),
            State::Unbound { .. } => {}
            State::Free | State::Reserved | State::Pirq(_) | State::Virq(_) => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// An event from the other end of `port`, which was `from`'s port `sender` when the sender looked.
    #[inline]
    fn receive<P: Memory + Wake>(&self, ports: &P, port: Port, from: DomId, sender: Port) {
        let Some(channel) = self.table.get(port) else { return };
        let entry = channel.entry();
        if entry.state == (State::Interdomain { remote: from, port: sender }) {
            self.raise(ports, port, channel, entry);
        }
    }

    /// Raises a per-vCPU VIRQ; nothing happens if the guest has not bound it.
    #[inline]
    pub fn send_virq<P: Memory + Wake>(&self, ports: &P, vcpu: VcpuId, virq: u32) {
        let Some(port) = self.virq_port(vcpu, virq) else { return };
        let Some(channel) = self.table.get(port) else { return };
        let entry = channel.entry();
        if entry.state == State::Virq(virq) {
            self.raise(ports, port, channel, entry);
        }
    }

    /// Raises a global VIRQ on whichever vCPU the guest chose for it.
    pub fn send_global_virq<P: Memory + Wake>(&self, ports: &P, virq: u32) {
        self.send_virq(ports, VcpuId(0), virq);
    }

    /// Raises the event of a physical interrupt. True if the guest has bound it.
    #[inline]
    pub fn send_pirq<P: Memory + Wake>(&self, ports: &P, pirq: Pirq) -> bool {
        let Some(slot) = self.pirqs.get(pirq.0 as usize) else { return false };
        let port = Port(slot.load(Ordering::Acquire));
        let Some(channel) = self.table.get(port) else { return false };
        let entry = channel.entry();
        if entry.state != State::Pirq(pirq) {
            return false;
        }
        self.raise(ports, port, channel, entry);
        true
    }

    /// The port of a VIRQ (a global one: on vCPU 0), if it is bound.
    #[inline]
    pub fn virq_port(&self, vcpu: VcpuId, virq: u32) -> Option<Port> {
        let slot = self.vcpu(vcpu)?.virqs.get(virq as usize)?;
        let port = slot.load(Ordering::Acquire);
        if port == 0 { None } else { Some(Port(port)) }
    }

    /// The port of a physical interrupt, if it is bound.
    pub fn pirq_port(&self, pirq: Pirq) -> Option<Port> {
        let port = self.pirqs.get(pirq.0 as usize)?.load(Ordering::Acquire);
        if port == 0 { None } else { Some(Port(port)) }
    }

    /// True if the port's event is masked by the guest, or the port has no place for a mask yet.
    pub fn is_masked<M: Memory>(&self, mem: &M, port: Port) -> bool {
        if self.fifo.is_on() { self.fifo_masked(mem, port) } else { self.two_level_masked(mem, port) }
    }

    /// True if the port's event is pending.
    pub fn is_pending<M: Memory>(&self, mem: &M, port: Port) -> bool {
        if self.fifo.is_on() { self.fifo_pending(mem, port) } else { self.two_level_pending(mem, port) }
    }

    /// Makes a port pending and tells its vCPU, by the ABI in use.
    #[inline]
    fn raise<P: Memory + Wake>(&self, ports: &P, port: Port, channel: &Channel, entry: Entry) {
        if self.fifo.is_on() {
            self.raise_fifo(ports, port, channel, entry);
        } else {
            self.raise_two_level(ports, port, entry.vcpu);
        }
    }

    /// Sets a vCPU's `evtchn_upcall_pending` and wakes it if that is news.
    #[inline]
    fn mark<P: Memory + Wake>(&self, ports: &P, vcpu: VcpuId) {
        if self.vcpu(vcpu).is_some_and(|v| v.mark(ports)) {
            ports.notify(self.dom, vcpu);
        }
    }
}

/// The locks of two domains, or of one if they are the same.
struct Pair<'a> {
    own: MutexGuard<'a, Control>,
    /// Held, never looked into: the other end's channels change under it.
    _other: Option<MutexGuard<'a, Control>>,
}

fn lock_pair<'a>(own: &'a DomainEvents, other: Option<&'a DomainEvents>) -> Pair<'a> {
    match other {
        Some(other) if other.dom < own.dom => {
            let guard = other.control.lock();
            Pair { own: own.control.lock(), _other: Some(guard) }
        }
        Some(other) => {
            let own = own.control.lock();
            Pair { own, _other: Some(other.control.lock()) }
        }
        None => Pair { own: own.control.lock(), _other: None },
    }
}

const VIRQS: usize = NR_VIRQS as usize;

#[cfg(test)]
mod tests;

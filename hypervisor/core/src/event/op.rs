//! The hypercall: decoded completely, then performed.

use super::{DomainEvents, Domains, FramePin, Pirqs, Preempt, State, Wake};
use crate::call::{CallError, Continuation};
use crate::port::{GuestSpace, Memory};
use crate::wire;
use guest_abi::Errno;
use guest_abi::event_channel::*;
use hv_types::{DomId, Gfn, GuestVa, Pirq, Port, VcpuId};

/// Everything that event channels need of the machine.
pub trait EventPorts: Memory + Wake + Pirqs + FramePin + Domains + Preempt {}
impl<T: Memory + Wake + Pirqs + FramePin + Domains + Preempt> EventPorts for T {}

/// Who makes a call.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// The events of the calling domain.
    pub events: &'a DomainEvents,
    /// True if the domain may act on others.
    pub privileged: bool,
}

/// A decoded call.
enum Request {
    AllocUnbound(EvtchnAllocUnbound),
    BindInterdomain(EvtchnBindInterdomain),
    BindVirq(EvtchnBindVirq),
    BindPirq(EvtchnBindPirq),
    BindIpi(EvtchnBindIpi),
    Close(Port),
    Status(EvtchnStatus),
    BindVcpu(EvtchnBindVcpu),
    Unmask(Port),
    Reset(DomId),
    InitControl(EvtchnInitControl),
    ExpandArray(Gfn),
    SetPriority(EvtchnSetPriority),
}

fn decode<G: GuestSpace>(space: &G, cmd: u32, arg: GuestVa) -> Result<Request, Errno> {
    Ok(match cmd {
        EVTCHNOP_ALLOC_UNBOUND => Request::AllocUnbound(wire::read(space, arg)?),
        EVTCHNOP_BIND_INTERDOMAIN => Request::BindInterdomain(wire::read(space, arg)?),
        EVTCHNOP_BIND_VIRQ => Request::BindVirq(wire::read(space, arg)?),
        EVTCHNOP_BIND_PIRQ => Request::BindPirq(wire::read(space, arg)?),
        EVTCHNOP_BIND_IPI => Request::BindIpi(wire::read(space, arg)?),
        EVTCHNOP_CLOSE => Request::Close(Port(wire::read(space, arg)?)),
        EVTCHNOP_STATUS => Request::Status(wire::read(space, arg)?),
        EVTCHNOP_BIND_VCPU => Request::BindVcpu(wire::read(space, arg)?),
        EVTCHNOP_UNMASK => Request::Unmask(Port(wire::read(space, arg)?)),
        EVTCHNOP_RESET => Request::Reset(DomId(wire::read(space, arg)?)),
        EVTCHNOP_INIT_CONTROL => Request::InitControl(wire::read(space, arg)?),
        EVTCHNOP_EXPAND_ARRAY => Request::ExpandArray(Gfn(wire::read(space, arg)?)),
        EVTCHNOP_SET_PRIORITY => Request::SetPriority(wire::read(space, arg)?),
        _ => return Err(Errno::ENOSYS),
    })
}

/// `HYPERVISOR_event_channel_op(cmd, arg)`. The answer of every success is 0.
#[inline]
pub fn event_channel_op<P: EventPorts, G: GuestSpace>(
    ports: &P,
    space: &G,
    caller: Caller<'_>,
    cmd: u32,
    arg: GuestVa,
) -> Result<i64, CallError> {
    if cmd == EVTCHNOP_SEND {
        let port: u32 = wire::read(space, arg)?;
        caller.events.send(ports, Port(port))?;
        return Ok(0);
    }
    other_op(ports, space, caller, cmd, arg)
}

fn other_op<P: EventPorts, G: GuestSpace>(
    ports: &P,
    space: &G,
    caller: Caller<'_>,
    cmd: u32,
    arg: GuestVa,
) -> Result<i64, CallError> {
    let own = caller.events;
    match decode(space, cmd, arg)? {
        Request::AllocUnbound(mut op) => {
            op.port = alloc_unbound(ports, caller, op)?.0;
            wire::write(space, arg, &op)?;
        }
        Request::BindInterdomain(mut op) => {
            let remote = caller.resolve(DomId(op.remote_dom));
            op.local_port = own.bind_interdomain(ports, remote, Port(op.remote_port))?.0;
            wire::write(space, arg, &op)?;
        }
        Request::BindVirq(mut op) => {
            op.port = own.bind_virq(ports, op.virq, op.vcpu)?.0;
            wire::write(space, arg, &op)?;
        }
        Request::BindPirq(mut op) => {
            let will_share = op.flags & BIND_PIRQ__WILL_SHARE != 0;
            op.port = own.bind_pirq(ports, Pirq(op.pirq), will_share)?.0;
            wire::write(space, arg, &op)?;
        }
        Request::BindIpi(mut op) => {
            op.port = own.bind_ipi(ports, op.vcpu)?.0;
            wire::write(space, arg, &op)?;
        }
        Request::Close(port) => own.close(ports, port)?,
        Request::Status(op) => wire::write(space, arg, &status(ports, caller, op)?)?,
        Request::BindVcpu(op) => own.bind_vcpu(ports, Port(op.port), op.vcpu)?,
        Request::Unmask(port) => own.unmask(ports, port)?,
        Request::Reset(dom) => reset(ports, caller, dom, arg)?,
        Request::InitControl(mut op) => {
            let vcpu = VcpuId(u16::try_from(op.vcpu).map_err(|_| Errno::ENOENT)?);
            own.init_control(ports, vcpu, Gfn(op.control_gfn), op.offset)?;
            op.link_bits = EVTCHN_FIFO_LINK_BITS as u8;
            wire::write(space, arg, &op)?;
        }
        Request::ExpandArray(gfn) => own.expand_array(ports, gfn)?,
        Request::SetPriority(op) => own.set_priority(Port(op.port), op.priority)?,
    }
    Ok(0)
}

impl Caller<'_> {
    /// `DOMID_SELF` is the caller.
    fn resolve(&self, dom: DomId) -> DomId {
        if dom == DomId::SELF { self.events.dom() } else { dom }
    }

    /// Does something with the events of `dom`, which only a privileged caller may name if it is another's.
    fn on<P: Domains, T>(
        &self,
        ports: &P,
        dom: DomId,
        then: impl FnOnce(&DomainEvents) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let dom = self.resolve(dom);
        if dom == self.events.dom() {
            return then(self.events);
        }
        let other = ports.events(dom).ok_or(Errno::ESRCH)?;
        if !self.privileged {
            return Err(Errno::EPERM.into());
        }
        then(&other)
    }
}

fn alloc_unbound<P: EventPorts>(
    ports: &P,
    caller: Caller<'_>,
    op: EvtchnAllocUnbound,
) -> Result<Port, CallError> {
    let remote = caller.resolve(DomId(op.remote_dom));
    caller.on(ports, DomId(op.dom), |events| Ok(events.alloc_unbound(ports, remote)?))
}

fn status<P: EventPorts>(
    ports: &P,
    caller: Caller<'_>,
    mut op: EvtchnStatus,
) -> Result<EvtchnStatus, CallError> {
    let entry = caller.on(ports, DomId(op.dom), |events| {
        events.entry(Port(op.port)).ok_or(CallError::Errno(Errno::EINVAL))
    })?;
    op.status = match entry.state {
        State::Free | State::Reserved => EVTCHNSTAT_CLOSED,
        State::Unbound { remote } => {
            op.detail = op.detail & !0xffff | u32::from(remote.0);
            EVTCHNSTAT_UNBOUND
        }
        State::Interdomain { remote, port } => {
            op.detail = op.detail & !0xffff | u32::from(remote.0);
            op.remote_port = port.0;
            EVTCHNSTAT_INTERDOMAIN
        }
        State::Pirq(pirq) => {
            op.detail = pirq.0;
            EVTCHNSTAT_PIRQ
        }
        State::Virq(virq) => {
            op.detail = virq;
            EVTCHNSTAT_VIRQ
        }
        State::Ipi => EVTCHNSTAT_IPI,
    };
    op.vcpu = u32::from(entry.vcpu.0);
    Ok(op)
}

/// Another domain's events may only be reset while that domain is paused.
fn reset<P: EventPorts>(ports: &P, caller: Caller<'_>, dom: DomId, arg: GuestVa) -> Result<(), CallError> {
    caller.on(ports, dom, |events| {
        if events.dom() != caller.events.dom() && !ports.is_paused(events.dom()) {
            return Err(Errno::EINVAL.into());
        }
        if events.reset(ports)? {
            return Ok(());
        }
        Err(CallError::Retry(Continuation { args: [u64::from(EVTCHNOP_RESET), arg.0, 0, 0] }))
    })
}

//! `HYPERVISOR_sched_op`.

use super::{Reasons, Shutdown, VcpuSched};
use crate::call::CallError;
use crate::event::{DomainEvents, Domains};
use crate::port::{GuestSpace, Memory};
use crate::wire;
use guest_abi::Errno;
use guest_abi::sched::*;
use hv_types::{DomId, GuestVa, VcpuId};

/// What the call asks of the machine, for the calling vCPU unless a domain is named.
pub trait SchedPorts: Memory + Domains {
    /// This CPU chooses again before it returns to a guest.
    fn reschedule(&self);
    /// [`CpuQueue::give_way`](super::CpuQueue::give_way) on this CPU's queue.
    fn give_way(&self);
    /// Starts the caller's poll timer.
    fn start_poll_timer(&self, deadline: u64);
    /// Stops the vCPUs of a domain for good and tells whoever cares, by [`Shutdown`]'s rules; of the hardware domain: the
    /// machine itself stops or restarts.
    fn shut_down(&self, dom: DomId, code: u8) -> Result<(), Errno>;
    /// [`Watchdogs::set`](crate::time::Watchdogs::set) of the caller's domain.
    fn set_watchdog(&self, id: u32, timeout: u32) -> Result<i64, Errno>;
}

/// Who makes the call.
#[derive(Clone, Copy)]
pub struct SchedCaller<'a> {
    /// The calling domain's events.
    pub events: &'a DomainEvents,
    /// The calling vCPU's number.
    pub vcpu: VcpuId,
    /// The calling vCPU.
    pub sched: &'a VcpuSched,
    /// The calling domain's end.
    pub shutdown: &'a Shutdown,
    /// True if the domain may act on others.
    pub privileged: bool,
}

/// A decoded call.
enum Request {
    Yield,
    Block,
    Shutdown(u8),
    Poll(SchedPoll),
    RemoteShutdown(SchedRemoteShutdown),
    ShutdownCode(u8),
    Watchdog(SchedWatchdog),
}

fn decode<G: GuestSpace>(space: &G, cmd: u32, arg: GuestVa) -> Result<Request, Errno> {
    // A code is kept in a byte; what lies above it was never looked at.
    let code = || wire::read::<SchedShutdown>(space, arg).map(|shutdown| shutdown.reason as u8);
    Ok(match cmd {
        SCHEDOP_YIELD => Request::Yield,
        SCHEDOP_BLOCK => Request::Block,
        SCHEDOP_SHUTDOWN => Request::Shutdown(code()?),
        SCHEDOP_POLL => Request::Poll(wire::read(space, arg)?),
        SCHEDOP_REMOTE_SHUTDOWN => Request::RemoteShutdown(wire::read(space, arg)?),
        SCHEDOP_SHUTDOWN_CODE => Request::ShutdownCode(code()?),
        SCHEDOP_WATCHDOG => Request::Watchdog(wire::read(space, arg)?),
        _ => return Err(Errno::ENOSYS),
    })
}

/// `HYPERVISOR_sched_op(cmd, arg)`. After a success the caller may not be allowed to run: the machine was told to
/// choose again.
#[inline]
pub fn sched_op<P: SchedPorts, G: GuestSpace>(
    ports: &P,
    space: &G,
    caller: SchedCaller<'_>,
    cmd: u32,
    arg: GuestVa,
) -> Result<i64, CallError> {
    match decode(space, cmd, arg)? {
        Request::Yield => ports.give_way(),
        Request::Block => block(ports, caller),
        Request::Poll(op) => poll(ports, space, caller, op)?,
        Request::Shutdown(code) => ports.shut_down(caller.events.dom(), code)?,
        Request::ShutdownCode(code) => caller.shutdown.latch(code),
        Request::RemoteShutdown(op) => remote_shutdown(ports, caller, op)?,
        Request::Watchdog(op) => return Ok(ports.set_watchdog(op.id, op.timeout)?),
    }
    Ok(0)
}

/// Unmasks events and waits for one.
#[inline]
fn block<P: SchedPorts>(ports: &P, caller: SchedCaller<'_>) {
    let Some(events) = caller.events.vcpu(caller.vcpu) else { return };
    events.set_upcall_mask(ports, false);
    caller.sched.hold(Reasons::BLOCKED);
    if events.upcall_due(ports) {
        caller.sched.release(Reasons::BLOCKED);
    } else {
        ports.reschedule();
    }
}

fn poll<P: SchedPorts, G: GuestSpace>(
    ports: &P,
    space: &G,
    caller: SchedCaller<'_>,
    op: SchedPoll,
) -> Result<(), Errno> {
    caller.sched.hold(Reasons::BLOCKED);
    let wait = caller.events.poll(ports, space, caller.vcpu, GuestVa(op.ports), op.nr_ports);
    if wait != Ok(true) {
        caller.sched.release(Reasons::BLOCKED);
        return wait.map(|_| ());
    }
    if op.timeout != 0 {
        ports.start_poll_timer(op.timeout);
    }
    ports.reschedule();
    Ok(())
}

/// Only a privileged domain stops another one, and nobody stops itself by this call.
fn remote_shutdown<P: SchedPorts>(
    ports: &P,
    caller: SchedCaller<'_>,
    op: SchedRemoteShutdown,
) -> Result<(), Errno> {
    let dom = DomId(op.domain_id);
    ports.events(dom).ok_or(Errno::ESRCH)?;
    if !caller.privileged || dom == caller.events.dom() {
        return Err(Errno::EPERM);
    }
    ports.shut_down(dom, op.reason as u8)
}

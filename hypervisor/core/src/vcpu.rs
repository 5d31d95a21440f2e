//! `HYPERVISOR_vcpu_op`: a domain's own vCPUs.

use crate::call::CallError;
use crate::event::{DomainEvents, FramePin, Wake};
use crate::port::{GuestSpace, Memory};
use crate::sched::{Reasons, VcpuSched};
use crate::time::write_runstate;
use crate::wire;
use guest_abi::Errno;
use guest_abi::sched::SHUTDOWN_POWEROFF;
use guest_abi::vcpu::*;
use guest_abi::xen::VcpuTimeInfo;
use hv_types::{Gfn, GuestVa, VcpuId};

/// What the call asks of the machine about vCPUs of the calling domain. Every `vcpu` is one the domain may have.
pub trait VcpuPorts: Memory + Wake + FramePin {
    /// System time.
    fn now(&self) -> u64;
    /// The vCPU's scheduling state; nothing if the machine made no such vCPU.
    fn sched(&self, vcpu: VcpuId) -> Option<&VcpuSched>;
    /// `VCPUOP_initialise`: takes the `vcpu_guest_context` at `context`. `-EEXIST`: it has one.
    fn initialise(&self, vcpu: VcpuId, context: GuestVa) -> Result<(), CallError>;
    /// True if the vCPU has a context.
    fn is_initialised(&self, vcpu: VcpuId) -> bool;
    /// The vCPU's last reason not to run is gone: queue it ([`CpuQueue::wake`](crate::sched::CpuQueue::wake)).
    fn wake(&self, vcpu: VcpuId);
    /// The vCPU may not run any more: take it off its CPU ([`CpuQueue::sleep`](crate::sched::CpuQueue::sleep)).
    fn sleep(&self, vcpu: VcpuId);
    /// The calling domain shuts down.
    fn shut_down(&self, code: u8) -> Result<(), Errno>;
    /// Starts or stops (nothing) the caller's one-shot timer.
    fn set_singleshot(&self, deadline: Option<u64>);
    /// Raises the caller's `VIRQ_TIMER` now.
    fn send_timer(&self);
    /// Starts or stops (nothing) a vCPU's periodic timer; `-EINVAL` as
    /// [`VcpuTimers::set_periodic`](crate::time::VcpuTimers::set_periodic).
    fn set_periodic(&self, vcpu: VcpuId, period: Option<u64>) -> Result<(), Errno>;
    /// Keeps a vCPU's runstate at an address of the guest's from now on, whenever it is switched to.
    fn set_runstate_area(&self, vcpu: VcpuId, at: GuestVa);
    /// Keeps a copy of a vCPU's clock at an address of the guest's from now on.
    fn set_time_area(&self, vcpu: VcpuId, at: GuestVa);
    /// `vcpu_info` moved: the vCPU's clock must be written there before its guest next looks.
    fn info_moved(&self, vcpu: VcpuId);
    /// Makes an NMI pending, once.
    fn send_nmi(&self, vcpu: VcpuId);
    /// APIC id (low half) and ACPI id (high half) of the CPU to which the vCPU is pinned for good.
    fn physical_id(&self, vcpu: VcpuId) -> Option<u64>;
    /// True if the domain asked for [`XEN_RUNSTATE_UPDATE`] (`VMASST_TYPE_runstate_update_flag`).
    fn marks_runstate(&self) -> bool;
}

/// Who makes the call.
#[derive(Clone, Copy)]
pub struct VcpuCaller<'a> {
    /// The calling domain's events.
    pub events: &'a DomainEvents,
    /// The calling vCPU.
    pub vcpu: VcpuId,
}

/// A decoded call.
enum Request {
    Initialise(GuestVa),
    Up,
    Down,
    IsUp,
    GetRunstate(GuestVa),
    RegisterRunstate(GuestVa),
    SetPeriodic(u64),
    StopPeriodic,
    SetSingleshot(u64),
    StopSingleshot,
    RegisterInfo(VcpuRegisterVcpuInfo),
    SendNmi,
    PhysicalId(GuestVa),
    RegisterTime(GuestVa),
}

/// Reads where an area of type `T` shall be kept: a place in the guest's own range.
fn area<T, G: GuestSpace>(space: &G, arg: GuestVa) -> Result<GuestVa, Errno> {
    let at = GuestVa(wire::read(space, arg)?);
    if at.is_guest_range(size_of::<T>() as u64) { Ok(at) } else { Err(Errno::EFAULT) }
}

fn decode<G: GuestSpace>(space: &G, cmd: u32, own: bool, arg: GuestVa) -> Result<Request, Errno> {
    let only_own = if own { Ok(()) } else { Err(Errno::EINVAL) };
    Ok(match cmd {
        VCPUOP_INITIALISE => Request::Initialise(arg),
        VCPUOP_UP => Request::Up,
        VCPUOP_DOWN => Request::Down,
        VCPUOP_IS_UP => Request::IsUp,
        VCPUOP_GET_RUNSTATE_INFO => Request::GetRunstate(arg),
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA => {
            Request::RegisterRunstate(area::<VcpuRunstateInfo, G>(space, arg)?)
        }
        VCPUOP_SET_PERIODIC_TIMER => {
            Request::SetPeriodic(wire::read::<VcpuSetPeriodicTimer>(space, arg)?.period_ns)
        }
        VCPUOP_STOP_PERIODIC_TIMER => Request::StopPeriodic,
        VCPUOP_SET_SINGLESHOT_TIMER => {
            only_own?;
            Request::SetSingleshot(wire::read::<VcpuSetSingleshotTimer>(space, arg)?.timeout_abs_ns)
        }
        VCPUOP_STOP_SINGLESHOT_TIMER => {
            only_own?;
            Request::StopSingleshot
        }
        VCPUOP_REGISTER_VCPU_INFO => Request::RegisterInfo(wire::read(space, arg)?),
        VCPUOP_SEND_NMI if arg.0 != 0 => return Err(Errno::EINVAL),
        VCPUOP_SEND_NMI => Request::SendNmi,
        VCPUOP_GET_PHYSID => Request::PhysicalId(arg),
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA => Request::RegisterTime(area::<VcpuTimeInfo, G>(space, arg)?),
        _ => return Err(Errno::ENOSYS),
    })
}

/// `HYPERVISOR_vcpu_op(cmd, vcpuid, arg)`. `-ENOENT`: no such vCPU.
pub fn vcpu_op<P: VcpuPorts, G: GuestSpace>(
    ports: &P,
    space: &G,
    caller: VcpuCaller<'_>,
    cmd: u32,
    vcpu: u32,
    arg: GuestVa,
) -> Result<i64, CallError> {
    let vcpu = VcpuId(u16::try_from(vcpu).map_err(|_| Errno::ENOENT)?);
    let events = caller.events.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    let sched = ports.sched(vcpu).ok_or(Errno::ENOENT)?;
    let own = vcpu == caller.vcpu;
    match decode(space, cmd, own, arg)? {
        // The context may hold events masked: there must be a place for the mask.
        Request::Initialise(_) if events.info().is_none() => return Err(Errno::EINVAL.into()),
        Request::Initialise(context) => ports.initialise(vcpu, context)?,
        Request::Up => up(ports, vcpu, sched)?,
        Request::Down => down(ports, caller, vcpu, sched)?,
        Request::IsUp => return Ok(i64::from(!sched.reasons().contains(Reasons::DOWN))),
        Request::GetRunstate(to) => wire::write(space, to, &sched.runstate(ports.now()))?,
        Request::RegisterRunstate(at) => {
            ports.set_runstate_area(vcpu, at);
            // An area that cannot be written now is written when the vCPU is next switched to.
            let _ = write_runstate(space, at, &sched.runstate(ports.now()), ports.marks_runstate());
        }
        Request::SetPeriodic(period) => ports.set_periodic(vcpu, Some(period))?,
        Request::StopPeriodic => ports.set_periodic(vcpu, None)?,
        Request::SetSingleshot(deadline) => set_singleshot(ports, deadline),
        Request::StopSingleshot => ports.set_singleshot(None),
        Request::RegisterInfo(info) => {
            if !own && !sched.reasons().contains(Reasons::DOWN) {
                return Err(Errno::EINVAL.into());
            }
            caller.events.register_vcpu_info(ports, vcpu, Gfn(info.mfn), info.offset)?;
            ports.info_moved(vcpu);
        }
        Request::SendNmi => ports.send_nmi(vcpu),
        Request::PhysicalId(to) => {
            let phys_id = ports.physical_id(vcpu).ok_or(Errno::EINVAL)?;
            wire::write(space, to, &VcpuGetPhysid { phys_id })?;
        }
        Request::RegisterTime(at) => ports.set_time_area(vcpu, at),
    }
    Ok(0)
}

fn up<P: VcpuPorts>(ports: &P, vcpu: VcpuId, sched: &VcpuSched) -> Result<(), Errno> {
    if !ports.is_initialised(vcpu) {
        return Err(Errno::EINVAL);
    }
    if sched.release(Reasons::DOWN) {
        ports.wake(vcpu);
    }
    Ok(())
}

/// The last vCPU to go down takes the domain with it.
fn down<P: VcpuPorts>(
    ports: &P,
    caller: VcpuCaller<'_>,
    vcpu: VcpuId,
    sched: &VcpuSched,
) -> Result<(), Errno> {
    let is_up = |id| ports.sched(id).is_some_and(|other| !other.reasons().contains(Reasons::DOWN));
    let others = (0..caller.events.max_vcpus()).map(VcpuId).filter(|id| *id != vcpu);
    if !others.into_iter().any(is_up) {
        return ports.shut_down(SHUTDOWN_POWEROFF as u8);
    }
    if sched.hold(Reasons::DOWN) {
        ports.sleep(vcpu);
    }
    Ok(())
}

/// A time that is past fires at once, whatever `VCPU_SSHOTTMR_FUTURE` says: the flag may be ignored.
fn set_singleshot<P: VcpuPorts>(ports: &P, deadline: u64) {
    if deadline < ports.now() {
        ports.set_singleshot(None);
        ports.send_timer();
    } else {
        ports.set_singleshot(Some(deadline));
    }
}

#[cfg(test)]
mod tests;

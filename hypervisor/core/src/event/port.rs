//! What event channels ask of the machine.

use super::DomainEvents;
use core::ops::Deref;
use guest_abi::Errno;
use hv_types::{DomId, Gfn, Mfn, Pirq, VcpuId};

/// Wakes vCPUs. Both may be called with any lock of this module held, from any CPU, and must not call back.
pub trait Wake {
    /// The vCPU's `evtchn_upcall_pending` went from clear to set: it must stop blocking or polling, and if it runs
    /// on another CPU it must soon pass through the hypervisor, to take the upcall.
    fn notify(&self, dom: DomId, vcpu: VcpuId);
    /// A port the vCPU polls (`SCHEDOP_poll`) is pending: it must stop polling. No upcall is implied.
    fn unblock(&self, dom: DomId, vcpu: VcpuId);
}

/// Pins frames that a guest named and that the hypervisor writes for as long as it likes.
pub trait FramePin {
    /// Takes a general and a writable-type reference on a frame of `dom`; `-EINVAL` if it is not the domain's RAM
    /// or has another type.
    fn pin(&self, dom: DomId, gfn: Gfn) -> Result<Mfn, Errno>;
    /// Gives back what [`FramePin::pin`] took.
    fn unpin(&self, dom: DomId, mfn: Mfn);
}

/// Physical interrupts as event channels. Called with the domain's event lock held; must not call back.
pub trait Pirqs {
    /// True if `dom` may bind `pirq`.
    fn permitted(&self, dom: DomId, pirq: Pirq) -> bool;
    /// Starts delivery of `pirq` to `dom`; from here on the machine calls [`DomainEvents::send_pirq`].
    fn bind(&self, dom: DomId, pirq: Pirq, will_share: bool) -> Result<(), Errno>;
    /// Ends delivery; an interrupt that is being delivered may still arrive once.
    fn unbind(&self, dom: DomId, pirq: Pirq);
    /// The port's vCPU changed: the interrupt had better arrive where that vCPU runs.
    fn set_affinity(&self, dom: DomId, pirq: Pirq, vcpu: VcpuId);
}

/// Finds the events of other domains.
pub trait Domains {
    /// Keeps the domain's record alive while it exists.
    type Handle<'a>: Deref<Target = DomainEvents>
    where
        Self: 'a;
    /// The events of `dom`, or nothing if no such domain exists. `dom` is never `DOMID_SELF`.
    fn events(&self, dom: DomId) -> Option<Self::Handle<'_>>;
    /// True if a control domain holds `dom` paused.
    fn is_paused(&self, dom: DomId) -> bool;
}

/// Tells long operations when to stop.
pub trait Preempt {
    /// True if the operation should save its place and come back later.
    fn wanted(&self) -> bool;
}

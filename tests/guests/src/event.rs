//! Two-level event channels, by hand.

use crate::hypercall::command;
use crate::mm;
use core::sync::atomic::{AtomicU64, Ordering};
use guest_abi::Hypercall;
use guest_abi::event_channel::*;
use guest_abi::xen::{DOMID_SELF, shared_offset, vcpu_offset};

static SHARED: AtomicU64 = AtomicU64::new(0);

/// Address of the shared page; maps it the first time.
pub fn shared() -> u64 {
    let at = SHARED.load(Ordering::SeqCst);
    if at != 0 {
        return at;
    }
    let at = mm::map_shared_info() as u64;
    SHARED.store(at, Ordering::SeqCst);
    at
}

/// An atomic view of a word of the shared page.
fn word(offset: usize) -> &'static AtomicU64 {
    // SAFETY: the page stays mapped; the hypervisor changes it only atomically.
    unsafe { AtomicU64::from_ptr((shared() + offset as u64) as *mut u64) }
}

fn byte(offset: usize) -> &'static core::sync::atomic::AtomicU8 {
    // SAFETY: as above.
    unsafe { core::sync::atomic::AtomicU8::from_ptr((shared() + offset as u64) as *mut u8) }
}

/// The first vCPU's upcall mask.
pub fn upcall_mask() -> u8 {
    byte(vcpu_offset::UPCALL_MASK).load(Ordering::SeqCst)
}

/// Sets the first vCPU's upcall mask.
pub fn set_upcall_mask(value: u8) {
    byte(vcpu_offset::UPCALL_MASK).store(value, Ordering::SeqCst);
}

/// The first vCPU's upcall-pending byte.
pub fn upcall_pending() -> u8 {
    byte(vcpu_offset::UPCALL_PENDING).load(Ordering::SeqCst)
}

/// Clears the first vCPU's upcall-pending byte.
pub fn clear_upcall_pending() {
    byte(vcpu_offset::UPCALL_PENDING).store(0, Ordering::SeqCst);
}

/// The first vCPU's selector of pending words.
pub fn selector() -> u64 {
    word(vcpu_offset::PENDING_SEL).load(Ordering::SeqCst)
}

/// Clears the selector.
pub fn clear_selector() {
    word(vcpu_offset::PENDING_SEL).store(0, Ordering::SeqCst);
}

/// Whether a port's pending bit is set.
pub fn pending(port: u32) -> bool {
    bit(shared_offset::EVTCHN_PENDING, port).load(Ordering::SeqCst) & mask_of(port) != 0
}

/// Clears a port's pending bit.
pub fn clear(port: u32) {
    bit(shared_offset::EVTCHN_PENDING, port).fetch_and(!mask_of(port), Ordering::SeqCst);
}

/// Whether a port is masked.
pub fn masked(port: u32) -> bool {
    bit(shared_offset::EVTCHN_MASK, port).load(Ordering::SeqCst) & mask_of(port) != 0
}

/// Sets or clears a port's mask bit without telling the hypervisor.
pub fn set_masked(port: u32, masked: bool) {
    let word = bit(shared_offset::EVTCHN_MASK, port);
    if masked {
        word.fetch_or(mask_of(port), Ordering::SeqCst);
    } else {
        word.fetch_and(!mask_of(port), Ordering::SeqCst);
    }
}

fn bit(table: usize, port: u32) -> &'static AtomicU64 {
    word(table + 8 * (port as usize / 64))
}

fn mask_of(port: u32) -> u64 {
    1 << (port % 64)
}

/// What the upcall does: acknowledges, so that it is not entered again.
pub(crate) fn upcall() {
    if SHARED.load(Ordering::SeqCst) != 0 {
        clear_upcall_pending();
        clear_selector();
    }
}

/// `EVTCHNOP_alloc_unbound` in this domain; the port or the error.
pub fn alloc_unbound(remote_dom: u16) -> Result<u32, i64> {
    let mut op = EvtchnAllocUnbound { dom: DOMID_SELF, remote_dom, ..Default::default() };
    answer(command(Hypercall::EventChannelOp, EVTCHNOP_ALLOC_UNBOUND, &mut op), op.port)
}

/// `EVTCHNOP_bind_interdomain`; the local port or the error.
pub fn bind_interdomain(remote_dom: u16, remote_port: u32) -> Result<u32, i64> {
    let mut op = EvtchnBindInterdomain { remote_dom, remote_port, ..Default::default() };
    answer(command(Hypercall::EventChannelOp, EVTCHNOP_BIND_INTERDOMAIN, &mut op), op.local_port)
}

/// `EVTCHNOP_bind_virq`; the port or the error.
pub fn bind_virq(virq: u32, vcpu: u32) -> Result<u32, i64> {
    let mut op = EvtchnBindVirq { virq, vcpu, ..Default::default() };
    answer(command(Hypercall::EventChannelOp, EVTCHNOP_BIND_VIRQ, &mut op), op.port)
}

/// `EVTCHNOP_bind_ipi`; the port or the error.
pub fn bind_ipi(vcpu: u32) -> Result<u32, i64> {
    let mut op = EvtchnBindIpi { vcpu, ..Default::default() };
    answer(command(Hypercall::EventChannelOp, EVTCHNOP_BIND_IPI, &mut op), op.port)
}

/// `EVTCHNOP_send`.
pub fn send(port: u32) -> i64 {
    command(Hypercall::EventChannelOp, EVTCHNOP_SEND, &mut EvtchnSend { port })
}

/// `EVTCHNOP_close`.
pub fn close(port: u32) -> i64 {
    command(Hypercall::EventChannelOp, EVTCHNOP_CLOSE, &mut EvtchnClose { port })
}

/// `EVTCHNOP_unmask`.
pub fn unmask(port: u32) -> i64 {
    command(Hypercall::EventChannelOp, EVTCHNOP_UNMASK, &mut EvtchnUnmask { port })
}

/// `EVTCHNOP_status` of a port of this domain.
pub fn status(port: u32) -> Result<EvtchnStatus, i64> {
    let mut op = EvtchnStatus { dom: DOMID_SELF, port, ..Default::default() };
    match command(Hypercall::EventChannelOp, EVTCHNOP_STATUS, &mut op) {
        0 => Ok(op),
        error => Err(error),
    }
}

fn answer(result: i64, port: u32) -> Result<u32, i64> {
    if result == 0 { Ok(port) } else { Err(result) }
}

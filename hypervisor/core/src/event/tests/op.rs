//! The hypercall: wire structures in, wire structures out, and who may name whom.

use crate::call::{CallError, Continuation};
use crate::event::{Caller, event_channel_op};
use crate::testing::{Guest, World};
use crate::wire;
use guest_abi::Errno;
use guest_abi::event_channel::*;
use hv_types::{DomId, GuestVa, Port, VcpuId};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const ARG: GuestVa = GuestVa(Guest::BASE);

fn call<T: IntoBytes + Immutable + FromBytes>(
    world: &World,
    dom: usize,
    cmd: u32,
    arg: T,
) -> Result<T, CallError> {
    let guest = Guest::new(64);
    wire::write(&guest, ARG, &arg).unwrap();
    let caller = Caller { events: &world.doms[dom], privileged: dom == 0 };
    let answer = event_channel_op(world, &guest, caller, cmd, ARG)?;
    assert_eq!(answer, 0);
    Ok(wire::read(&guest, ARG).unwrap())
}

fn refused(errno: Errno) -> CallError {
    CallError::Errno(errno)
}

#[test]
fn only_a_privileged_caller_names_another_domain() {
    let world = World::new(2, 1);
    let for_1 = EvtchnAllocUnbound { dom: 1, remote_dom: DomId::SELF.0, port: 0 };
    let made = call(&world, 0, EVTCHNOP_ALLOC_UNBOUND, for_1).unwrap();
    assert_eq!(made.port, 1);
    let query = EvtchnStatus { dom: 1, port: made.port, ..Default::default() };
    let status = call(&world, 0, EVTCHNOP_STATUS, query).unwrap();
    assert_eq!((status.status, status.detail & 0xffff), (EVTCHNSTAT_UNBOUND, 0), "SELF is the caller");
    let for_0 = EvtchnAllocUnbound { dom: 0, remote_dom: 1, port: 0 };
    assert_eq!(call(&world, 1, EVTCHNOP_ALLOC_UNBOUND, for_0), Err(refused(Errno::EPERM)));
    let nobody = EvtchnAllocUnbound { dom: 5, ..for_0 };
    assert_eq!(call(&world, 1, EVTCHNOP_ALLOC_UNBOUND, nobody), Err(refused(Errno::ESRCH)));
    assert_eq!(
        call(&world, 0, EVTCHNOP_RESET, EvtchnReset { dom: 1 }),
        Err(refused(Errno::EINVAL)),
        "not paused"
    );
}

#[test]
fn status_tells_each_kind() {
    let world = World::new(2, 2);
    let own = |port| EvtchnStatus { dom: DomId::SELF.0, port, ..Default::default() };
    let ipi = call(&world, 0, EVTCHNOP_BIND_IPI, EvtchnBindIpi { vcpu: 1, port: 0 }).unwrap().port;
    let status = call(&world, 0, EVTCHNOP_STATUS, own(ipi)).unwrap();
    assert_eq!((status.status, status.vcpu), (EVTCHNSTAT_IPI, 1));
    let virq = EvtchnBindVirq { virq: 2, vcpu: 0, port: 0 };
    let virq = call(&world, 0, EVTCHNOP_BIND_VIRQ, virq).unwrap().port;
    let status = call(&world, 0, EVTCHNOP_STATUS, own(virq)).unwrap();
    assert_eq!((status.status, status.detail), (EVTCHNSTAT_VIRQ, 2));
    let pirq = EvtchnBindPirq { pirq: 5, flags: 0, port: 0 };
    let pirq = call(&world, 0, EVTCHNOP_BIND_PIRQ, pirq).unwrap().port;
    let status = call(&world, 0, EVTCHNOP_STATUS, own(pirq)).unwrap();
    assert_eq!((status.status, status.detail), (EVTCHNSTAT_PIRQ, 5));
    let listener = world.doms[1].alloc_unbound(&world, DomId(0)).unwrap();
    let bind = EvtchnBindInterdomain { remote_dom: 1, remote_port: listener.0, ..Default::default() };
    let local = call(&world, 0, EVTCHNOP_BIND_INTERDOMAIN, bind).unwrap().local_port;
    let status = call(&world, 0, EVTCHNOP_STATUS, own(local)).unwrap();
    assert_eq!((status.status, status.detail, status.remote_port), (EVTCHNSTAT_INTERDOMAIN, 1, listener.0));
    assert_eq!(call(&world, 0, EVTCHNOP_STATUS, own(0)).unwrap().status, EVTCHNSTAT_CLOSED);
    assert_eq!(call(&world, 0, EVTCHNOP_STATUS, own(64)), Err(refused(Errno::EINVAL)));
}

#[test]
fn a_bad_pointer_faults_before_anything_happens() {
    let world = World::new(1, 1);
    let caller = Caller { events: &world.doms[0], privileged: true };
    let guest = Guest::new(0);
    for cmd in 0..14 {
        let answer = event_channel_op(&world, &guest, caller, cmd, ARG);
        assert_eq!(answer, Err(refused(Errno::EFAULT)), "command {cmd}");
    }
    assert_eq!(event_channel_op(&world, &guest, caller, 14, ARG), Err(refused(Errno::ENOSYS)));
    assert_eq!(world.doms[0].active(), 0);
}

#[test]
fn reset_is_cut_and_goes_on() {
    let world = World::new(1, 1);
    for _ in 0..150 {
        world.doms[0].bind_ipi(&world, 0).unwrap();
    }
    world.hurry.store(true, std::sync::atomic::Ordering::SeqCst);
    let again = CallError::Retry(Continuation { args: [u64::from(EVTCHNOP_RESET), ARG.0, 0, 0] });
    let reset = EvtchnReset { dom: DomId::SELF.0 };
    let steps = (0..10).take_while(|_| call(&world, 0, EVTCHNOP_RESET, reset) == Err(again)).count();
    assert_eq!((steps, world.doms[0].active()), (2, 0));
    assert_eq!(world.doms[0].bind_ipi(&world, 0), Ok(Port(1)));
}

#[test]
fn a_poll_waits_only_if_nothing_is_pending_and_wakes_for_its_port() {
    let world = World::new(1, 2);
    let a = &world.doms[0];
    let [x, y] = [0, 0].map(|vcpu| a.bind_ipi(&world, vcpu).unwrap());
    let guest = Guest::new(1024);
    let list = |ports: &[Port]| {
        ports.iter().enumerate().for_each(|(i, p)| wire::write_element(&guest, ARG, i as u64, &p.0).unwrap());
        ports.len() as u32
    };
    let woken = || core::mem::take(&mut *world.unblocked.lock().unwrap());
    assert_eq!(a.poll(&world, &guest, VcpuId(1), ARG, 129), Err(Errno::EINVAL));
    assert_eq!(a.poll(&world, &guest, VcpuId(1), GuestVa(0), 1), Err(Errno::EFAULT));
    assert_eq!(a.poll(&world, &guest, VcpuId(1), ARG, list(&[Port(64)])), Err(Errno::EINVAL));
    assert_eq!(a.poll(&world, &guest, VcpuId(1), ARG, list(&[x])), Ok(true));
    a.send(&world, y).unwrap();
    assert!(woken().is_empty(), "another port");
    a.send(&world, x).unwrap();
    assert_eq!(woken(), [(DomId(0), VcpuId(1))]);
    a.send(&world, x).unwrap();
    assert!(woken().is_empty(), "woken once");
    assert_eq!(a.poll(&world, &guest, VcpuId(1), ARG, list(&[y, x])), Ok(false), "pending already");
    a.close(&world, x).unwrap();
    let x = a.bind_ipi(&world, 0).unwrap();
    a.close(&world, y).unwrap();
    let y = a.bind_ipi(&world, 0).unwrap();
    assert_eq!(a.poll(&world, &guest, VcpuId(1), ARG, list(&[y, x])), Ok(true));
    a.send(&world, y).unwrap();
    assert_eq!(woken(), [(DomId(0), VcpuId(1))]);
    a.vcpu(VcpuId(0)).unwrap().set_upcall_mask(&world, false);
    assert_eq!(a.poll(&world, &guest, VcpuId(0), ARG, 0), Ok(false), "an upcall is due");
}

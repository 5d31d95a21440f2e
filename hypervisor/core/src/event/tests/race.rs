//! Several CPUs at once: what holds whatever the order.

use crate::event::State;
use crate::port::Memory;
use crate::testing::World;
use hv_types::{DomId, Gfn, Mfn, Port, VcpuId};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Sends on low ports until told to stop, whatever the answers.
fn send_until(world: &World, dom: usize, done: &AtomicBool) {
    while !done.load(SeqCst) {
        for port in 1..20 {
            let _ = world.doms[dom].send(world, Port(port));
            let _ = world.doms[dom].unmask(world, Port(port));
        }
    }
}

/// Tells the others to stop even if the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn no_sender_writes_a_frame_that_reset_gave_back() {
    let world = World::new(2, 2);
    world.zero_when_unpinned.store(true, SeqCst);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| send_until(&world, 0, &done));
        scope.spawn(|| send_until(&world, 1, &done));
        let _stop = Done(&done);
        let a = &world.doms[0];
        for round in 0..150 {
            a.init_control(&world, VcpuId(0), Gfn(32), 64).unwrap();
            a.init_control(&world, VcpuId(1), Gfn(33), 64).unwrap();
            for n in 0..10 {
                let listener = a.alloc_unbound(&world, DomId(1)).unwrap();
                world.doms[1].bind_interdomain(&world, DomId(0), listener).unwrap();
                let ipi = a.bind_ipi(&world, n % 2).unwrap();
                a.bind_vcpu(&world, listener, (n + round) % 2).unwrap();
                a.set_priority(ipi, n).unwrap();
                if n == 3 {
                    a.expand_array(&world, Gfn(70)).unwrap();
                }
            }
            assert_eq!(a.reset(&world), Ok(true));
            world.doms[1].reset(&world).unwrap();
            world.notified.lock().unwrap().clear();
        }
    });
    assert_eq!((world.pinned(), world.doms[0].active()), (0, 0));
}

#[test]
fn reset_waits_for_a_sender_that_is_in_the_middle() {
    let world = World::new(1, 2);
    let a = &world.doms[0];
    a.init_control(&world, VcpuId(0), Gfn(32), 64).unwrap();
    a.init_control(&world, VcpuId(1), Gfn(33), 64).unwrap();
    a.expand_array(&world, Gfn(70)).unwrap();
    let port = a.bind_ipi(&world, 1).unwrap();
    // Once, so that the next time only vCPU 1's queue is locked; then the guest takes it.
    a.send(&world, port).unwrap();
    world.frames.zero(Mfn(70));
    world.zero_when_unpinned.store(true, SeqCst);
    world.frames.slow.store(70, SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(|| a.send(&world, port).unwrap());
        while !world.frames.waiting.load(SeqCst) {
            std::thread::yield_now();
        }
        assert_eq!(a.reset(&world), Ok(true));
    });
    assert!(
        (0..512).all(|index| world.frames.load64(Mfn(70), index) == 0),
        "written after it was given back"
    );
}

#[test]
fn both_ends_of_a_connection_agree_after_any_race() {
    let world = World::new(2, 1);
    let churn = |own: usize, other: usize| {
        for round in 0..400u32 {
            let events = &world.doms[own];
            let _ = events.alloc_unbound(&world, DomId(other as u16));
            let _ = events.bind_interdomain(&world, DomId(other as u16), Port(1 + round % 40));
            let _ = events.close(&world, Port(1 + round * 7 % 40));
            world.notified.lock().unwrap().clear();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| churn(0, 1));
        scope.spawn(|| churn(1, 0));
    });
    for own in 0..2u16 {
        let events = &world.doms[usize::from(own)];
        let states = (1..4096).filter_map(|port| Some((port, events.entry(Port(port))?.state)));
        let mut used = 0;
        for (port, state) in states.filter(|(_, state)| *state != State::Free) {
            used += 1;
            if let State::Interdomain { remote, port: peer } = state {
                let far = world.doms[usize::from(remote.0)].entry(peer).unwrap().state;
                assert_eq!(far, State::Interdomain { remote: DomId(own), port: Port(port) });
            }
        }
        assert_eq!(used, events.active());
    }
}

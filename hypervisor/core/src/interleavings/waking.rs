//! Waking against blocking.

use super::machine::{Bytes, SHARED, World};
use super::{explore, explore_with};
use crate::port::Memory;
use crate::sched::{Reasons, sched_op};
use guest_abi::sched::{SCHEDOP_BLOCK, SCHEDOP_POLL, SchedPoll};
use guest_abi::xen::shared_offset;
use hv_types::GuestVa;
use loom::thread;
use zerocopy::IntoBytes;

/// However an event meets a block: the vCPU runs on.
fn block_against_a_send(world: fn() -> super::machine::Shared) {
    explore(move || {
        let world = world();
        let port = world.events.bind_ipi(&*world, 0).unwrap();
        let sender = world.clone();
        let sender = thread::spawn(move || sender.events.send(&*sender, port).unwrap());
        sched_op(&*world, &Bytes(Vec::new()), world.caller(), SCHEDOP_BLOCK, GuestVa(0)).unwrap();
        sender.join().unwrap();
        assert!(world.events.is_pending(&*world, port));
        assert!(world.sched.may_run() && world.goes_on());
    });
}

#[test]
fn an_event_ends_a_block() {
    block_against_a_send(World::new);
}

#[test]
fn an_event_ends_a_block_with_fifo() {
    block_against_a_send(World::with_array);
}

#[test]
fn two_events_end_a_block() {
    explore(|| {
        let world = World::new();
        let senders = [0, 0].map(|vcpu| {
            let port = world.events.bind_ipi(&*world, vcpu).unwrap();
            let world = world.clone();
            thread::spawn(move || world.events.send(&*world, port).unwrap())
        });
        sched_op(&*world, &Bytes(Vec::new()), world.caller(), SCHEDOP_BLOCK, GuestVa(0)).unwrap();
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert!(world.sched.may_run() && world.goes_on());
    });
}

/// The port is masked, so that no upcall wakes the vCPU: the poll alone does.
#[test]
fn an_event_ends_a_poll() {
    explore(|| {
        let world = World::new();
        let port = world.events.bind_ipi(&*world, 0).unwrap();
        world.fetch_or64(SHARED, shared_offset::EVTCHN_MASK / 8, 1 << port.0);
        let list = size_of::<SchedPoll>() as u64;
        let call = SchedPoll { ports: list, nr_ports: 1, ..Default::default() };
        let bytes = Bytes([call.as_bytes(), port.0.as_bytes()].concat());
        let sender = world.clone();
        let sender = thread::spawn(move || sender.events.send(&*sender, port).unwrap());
        sched_op(&*world, &bytes, world.caller(), SCHEDOP_POLL, GuestVa(0)).unwrap();
        sender.join().unwrap();
        assert!(world.sched.may_run() && world.goes_on());
    });
}

/// A vCPU that is paused and unpaused while an event comes, and blocks: it runs on.
#[test]
fn a_pause_loses_no_event() {
    explore_with(Some(3), || {
        let world = World::new();
        let port = world.events.bind_ipi(&*world, 0).unwrap();
        let (sender, pauser) = (world.clone(), world.clone());
        let sender = thread::spawn(move || sender.events.send(&*sender, port).unwrap());
        let pauser = thread::spawn(move || {
            if pauser.sched.hold(Reasons::PAUSED) {
                pauser.stop();
            }
            if pauser.sched.release(Reasons::PAUSED) {
                pauser.wake();
            }
        });
        sched_op(&*world, &Bytes(Vec::new()), world.caller(), SCHEDOP_BLOCK, GuestVa(0)).unwrap();
        sender.join().unwrap();
        pauser.join().unwrap();
        assert!(world.sched.may_run() && world.goes_on());
    });
}

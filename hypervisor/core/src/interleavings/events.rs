//! Delivery of events against everything that changes a port.

use super::explore;
use super::machine::{ARRAY, CONTROL, SHARED, Shared, World};
use crate::event::State;
use crate::port::Memory;
use guest_abi::event_channel::{
    EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED, EVTCHN_FIFO_PENDING,
};
use guest_abi::xen::shared_offset;
use hv_types::{Gfn, Mfn, Port, VcpuId};
use loom::thread;

/// A thread that sends.
fn sender(world: &Shared, port: Port) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || {
        let _ = world.events.send(&*world, port);
    })
}

/// What the guest finds on a vCPU's queues, in the order of linking; the control block's heads follow its ready word.
fn queued(world: &World, vcpu: u64) -> Vec<Port> {
    let control = Mfn(CONTROL + vcpu);
    let ready = world.load32(control, 0);
    let mut found = Vec::new();
    for queue in (0..16).filter(|queue| ready >> queue & 1 != 0) {
        let mut port = world.load32(control, 2 + queue);
        while port != 0 {
            found.push(Port(port));
            assert!(found.len() < 10, "a loop in queue {queue}");
            port = world.load32(Mfn(ARRAY), port as usize) & EVTCHN_FIFO_LINK_MASK;
        }
    }
    found
}

fn is_due(world: &World, vcpu: u16) -> bool {
    world.events.vcpu(VcpuId(vcpu)).unwrap().upcall_due(world)
}

#[test]
fn an_event_that_meets_its_unmasking_is_delivered() {
    explore(|| {
        let world = World::new();
        let port = world.events.bind_ipi(&*world, 0).unwrap();
        world.fetch_or64(SHARED, shared_offset::EVTCHN_MASK / 8, 1 << port.0);
        let sender = sender(&world, port);
        world.events.unmask(&*world, port).unwrap();
        sender.join().unwrap();
        assert!(world.events.is_pending(&*world, port) && is_due(&world, 0));
    });
}

#[test]
fn an_event_that_meets_its_unmasking_is_delivered_with_fifo() {
    explore(|| {
        let world = World::with_array();
        let port = world.events.bind_ipi(&*world, 0).unwrap();
        let bit = 1 << EVTCHN_FIFO_MASKED;
        world.fetch_or64(Mfn(ARRAY), port.0 as usize / 2, bit << (port.0 % 2 * 32));
        let sender = sender(&world, port);
        world.events.unmask(&*world, port).unwrap();
        sender.join().unwrap();
        assert!(is_due(&world, 0));
        assert_eq!(queued(&world, 0), [port]);
    });
}

#[test]
fn two_events_of_a_queue_are_both_found() {
    explore(|| {
        let world = World::with_array();
        let [one, other] = [0, 0].map(|vcpu| world.events.bind_ipi(&*world, vcpu).unwrap());
        let sender = sender(&world, one);
        world.events.send(&*world, other).unwrap();
        sender.join().unwrap();
        let mut found = queued(&world, 0);
        found.sort();
        assert_eq!(found, [one, other]);
        assert!(is_due(&world, 0));
    });
}

/// The guest takes the queue's only event while another one is linked behind it: the second is not lost.
#[test]
fn an_event_that_meets_the_guest_at_the_tail_is_found() {
    explore(|| {
        let world = World::with_array();
        let [one, other] = [0, 0].map(|vcpu| world.events.bind_ipi(&*world, vcpu).unwrap());
        world.events.send(&*world, one).unwrap();
        let sender = sender(&world, other);
        // As Linux does: the ready bits, then the head, whose link is taken as the word is unlinked.
        let mut found = Vec::new();
        let mut taken = |world: &World| {
            let ready = world.fetch_and64(Mfn(CONTROL), 0, 0) as u32;
            for queue in (0..16).filter(|queue| ready >> queue & 1 != 0) {
                let mut port = world.load32(Mfn(CONTROL), 2 + queue);
                while port != 0 {
                    found.push(Port(port));
                    port = unlink(world, port);
                }
            }
        };
        taken(&world);
        sender.join().unwrap();
        taken(&world);
        assert_eq!(found, [one, other]);
    });
}

/// Clears `LINKED`, the link, and `PENDING`; answers the link.
fn unlink(world: &World, port: u32) -> u32 {
    let gone = 1 << EVTCHN_FIFO_LINKED | 1 << EVTCHN_FIFO_PENDING | EVTCHN_FIFO_LINK_MASK;
    loop {
        let word = world.load32(Mfn(ARRAY), port as usize);
        if world.compare_exchange32(Mfn(ARRAY), port as usize, word, word & !gone).is_ok() {
            return word & EVTCHN_FIFO_LINK_MASK;
        }
    }
}

/// Until the event array has a port's word its event is kept.
#[test]
fn an_event_that_meets_the_arrays_growth_is_delivered() {
    explore(|| {
        let world = World::with_fifo();
        let port = world.events.bind_ipi(&*world, 0).unwrap();
        let sender = sender(&world, port);
        world.events.expand_array(&*world, Gfn(ARRAY)).unwrap();
        sender.join().unwrap();
        assert_eq!(queued(&world, 0), [port]);
        assert!(is_due(&world, 0));
    });
}

/// A port whose vCPU changes is on one queue, whoever sends.
#[test]
fn an_event_that_meets_a_change_of_its_vcpu_is_on_one_queue() {
    explore(|| {
        let world = World::with_array();
        let (here, there) = world.loop_back();
        let senders = [there, there].map(|port| sender(&world, port));
        world.events.bind_vcpu(&*world, here, 1).unwrap();
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        // The new end of a connection is pending from the start.
        let found = [0, 1]
            .map(|vcpu| queued(&world, vcpu).into_iter().filter(|port| *port != there).collect::<Vec<_>>());
        assert_eq!(found.concat(), [here]);
        let vcpu = u16::from(found[0].is_empty());
        assert!(is_due(&world, vcpu));
    });
}

/// Whoever sends to a domain that goes back to two-level events: nobody writes to a frame that was given back (the machine looks).
#[test]
fn no_sender_meets_a_frame_that_was_given_back() {
    explore(|| {
        let world = World::with_array();
        let port = world.events.bind_ipi(&*world, 0).unwrap();
        let sender = sender(&world, port);
        assert_eq!(world.events.reset(&*world), Ok(true));
        sender.join().unwrap();
        assert_eq!(world.events.active(), 0);
    });
}

/// A port that closes while somebody sends: it is free, and what it becomes next has its own state.
#[test]
fn a_port_that_closes_under_a_sender_is_free() {
    explore(|| {
        let world = World::new();
        let (here, there) = world.loop_back();
        let sender = sender(&world, there);
        world.events.close(&*world, here).unwrap();
        let next = world.events.bind_virq(&*world, 1, 0).unwrap();
        sender.join().unwrap();
        assert_eq!(next, here);
        assert_eq!(world.events.entry(next).unwrap().state, State::Virq(1));
        assert!(matches!(world.events.entry(there).unwrap().state, State::Unbound { .. }));
        assert_eq!(world.events.active(), 2);
    });
}

/// Both ends close at once: both are free, once.
#[test]
fn both_ends_of_a_connection_close() {
    explore(|| {
        let world = World::new();
        let (here, there) = world.loop_back();
        let other = world.clone();
        let other = thread::spawn(move || other.events.close(&*other, there));
        assert_eq!(world.events.close(&*world, here), Ok(()));
        assert_eq!(other.join().unwrap(), Ok(()));
        assert_eq!(world.events.active(), 0);
        assert!([here, there].iter().all(|port| world.events.entry(*port).unwrap().state == State::Free));
    });
}

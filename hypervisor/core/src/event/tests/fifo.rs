//! FIFO delivery against a simulated guest that follows the protocol, and against one that does not.

use crate::event::DomainEvents;
use crate::port::Memory;
use crate::testing::World;
use guest_abi::Errno;
use guest_abi::event_channel::*;
use hv_types::{DomId, Gfn, Mfn, Port, VcpuId};
use proptest::prelude::*;
use std::collections::BTreeSet;

const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
/// First frame of the event array; control blocks are in frames 32 and 33.
const ARRAY: u64 = 70;

/// A domain with FIFO on, two vCPUs and one array frame.
fn world() -> World {
    let world = World::new(2, 2);
    for vcpu in 0..2 {
        world.doms[0].init_control(&world, VcpuId(vcpu), Gfn(32 + u64::from(vcpu)), 64).unwrap();
    }
    world.doms[0].expand_array(&world, Gfn(ARRAY)).unwrap();
    world
}

fn word(world: &World, port: Port) -> u32 {
    world.load32(Mfn(ARRAY + u64::from(port.0 / 1024)), port.0 as usize % 1024)
}

fn set_word(world: &World, port: Port, value: u32) {
    world.store32(Mfn(ARRAY + u64::from(port.0 / 1024)), port.0 as usize % 1024, value);
}

/// The guest's upcall handler for one vCPU: the local heads live as long as the guest.
#[derive(Default)]
struct Consumer {
    heads: [u32; 16],
}

impl Consumer {
    /// Takes all that is ready, most urgent queue first; the ports it handled, with their queues.
    fn run(&mut self, world: &World, vcpu: u16) -> Vec<(u32, usize)> {
        let control = Mfn(32 + u64::from(vcpu));
        let mut handled = Vec::new();
        let mut ready = world.load32(control, 16);
        world.store32(control, 16, 0);
        while ready != 0 {
            let queue = ready.trailing_zeros() as usize;
            if self.heads[queue] == 0 {
                self.heads[queue] = world.load32(control, 16 + 2 + queue);
            }
            let port = Port(self.heads[queue]);
            let old = word(world, port);
            set_word(world, port, old & !(LINKED | EVTCHN_FIFO_LINK_MASK));
            self.heads[queue] = old & EVTCHN_FIFO_LINK_MASK;
            if self.heads[queue] == 0 {
                ready &= !(1 << queue);
            }
            if old & PENDING != 0 && old & MASKED == 0 {
                set_word(world, port, word(world, port) & !PENDING);
                handled.push((port.0, queue));
            }
            ready |= world.load32(control, 16);
            world.store32(control, 16, 0);
        }
        handled
    }
}

fn ports(events: &DomainEvents, world: &World, count: usize) -> Vec<Port> {
    (0..count).map(|_| events.bind_ipi(world, 0).unwrap()).collect()
}

#[test]
fn events_come_in_order_within_a_queue_and_urgent_queues_first() {
    let world = world();
    let a = &world.doms[0];
    let p = ports(a, &world, 4);
    a.set_priority(p[3], 0).unwrap();
    for port in [p[2], p[0], p[1], p[3], p[0]] {
        a.send(&world, port).unwrap();
    }
    assert_eq!(world.take_notified(), [(0, 0)]);
    let handled = Consumer::default().run(&world, 0);
    assert_eq!(handled, [(p[3].0, 0), (p[2].0, 7), (p[0].0, 7), (p[1].0, 7)]);
}

#[test]
fn refusals() {
    let world = World::new(1, 2);
    let a = &world.doms[0];
    assert_eq!(a.init_control(&world, VcpuId(2), Gfn(32), 0), Err(Errno::ENOENT));
    assert_eq!(a.init_control(&world, VcpuId(0), Gfn(32), 4096 - 64), Err(Errno::EINVAL));
    assert_eq!(a.init_control(&world, VcpuId(0), Gfn(32), 4), Err(Errno::EINVAL));
    assert_eq!(a.init_control(&world, VcpuId(0), Gfn(66), 0), Err(Errno::EINVAL));
    assert!(!a.is_fifo(), "a refused switch does not switch");
    a.init_control(&world, VcpuId(0), Gfn(32), 4096 - 72).unwrap();
    assert_eq!(a.init_control(&world, VcpuId(0), Gfn(32), 0), Err(Errno::EINVAL), "one block a vCPU");
    assert_eq!(a.expand_array(&world, Gfn(66)), Err(Errno::EINVAL));
    assert_eq!(a.set_priority(Port(1), 16), Err(Errno::EINVAL));
    assert_eq!(a.set_priority(Port(64), 1), Err(Errno::EINVAL));
    for _ in 0..128 {
        a.expand_array(&world, Gfn(70)).unwrap();
    }
    assert_eq!(a.expand_array(&world, Gfn(70)), Err(Errno::ENOSPC));
    assert_eq!(world.pinned(), 129);
    assert_eq!(a.reset(&world), Ok(true));
    assert_eq!((world.pinned(), a.is_fifo()), (0, false));
}

#[test]
fn events_before_the_array_are_raised_when_it_comes() {
    let world = World::new(1, 1);
    let a = &world.doms[0];
    let p = ports(a, &world, 3);
    a.send(&world, p[0]).unwrap();
    world.take_notified();
    a.init_control(&world, VcpuId(0), Gfn(32), 64).unwrap();
    a.send(&world, p[1]).unwrap();
    a.expand_array(&world, Gfn(ARRAY)).unwrap();
    let handled: Vec<_> = Consumer::default().run(&world, 0).iter().map(|(port, _)| *port).collect();
    assert_eq!(handled, [p[0].0, p[1].0], "one from two-level days, one from before the array");
}

#[test]
fn a_masked_event_is_queued_by_unmask() {
    let world = world();
    let a = &world.doms[0];
    let p = ports(a, &world, 1)[0];
    set_word(&world, p, MASKED);
    a.send(&world, p).unwrap();
    assert_eq!((word(&world, p), world.take_notified()), (MASKED | PENDING, vec![]));
    a.unmask(&world, p).unwrap();
    assert_eq!(word(&world, p), PENDING | LINKED);
    assert_eq!(Consumer::default().run(&world, 0), [(p.0, 7)]);
}

#[test]
fn a_port_that_moves_takes_its_tail_along() {
    let world = world();
    let a = &world.doms[0];
    let far = world.doms[1].alloc_unbound(&world, DomId(0)).unwrap();
    let p = a.bind_interdomain(&world, DomId(1), far).unwrap();
    let q = ports(a, &world, 1)[0];
    let (mut zero, mut one) = (Consumer::default(), Consumer::default());
    assert_eq!(zero.run(&world, 0), [(p.0, 7)], "bound: pending");
    a.bind_vcpu(&world, p, 1).unwrap();
    world.doms[1].send(&world, far).unwrap();
    // `p` was the tail of vCPU 0's queue; were it still, `q` would be linked behind it on vCPU 1.
    a.send(&world, q).unwrap();
    assert_eq!(zero.run(&world, 0), [(q.0, 7)]);
    assert_eq!(one.run(&world, 1), [(p.0, 7)]);
}

#[test]
fn a_closed_port_that_is_still_queued_is_not_allocated() {
    let world = world();
    let a = &world.doms[0];
    let p = ports(a, &world, 2);
    a.send(&world, p[0]).unwrap();
    a.close(&world, p[0]).unwrap();
    assert_eq!(word(&world, p[0]) & PENDING, 0);
    assert_eq!(a.bind_ipi(&world, 0), Ok(Port(3)), "port 1 is on a queue");
    assert_eq!(Consumer::default().run(&world, 0), []);
    assert_eq!(a.bind_ipi(&world, 0), Ok(Port(1)));
}

proptest! {
    /// Whatever is sent, masked, moved and reprioritised: a guest that follows the protocol handles each event
    /// that it did not mask, and nothing else.
    #[test]
    fn no_event_is_lost_and_none_invented(ops in prop::collection::vec((0u8..7, 1u32..12, 0u32..16), 1..300)) {
        let world = world();
        let a = &world.doms[0];
        let own: Vec<_> = (0..12).map(|_| {
            let far = world.doms[1].alloc_unbound(&world, DomId(0)).unwrap();
            (a.bind_interdomain(&world, DomId(1), far).unwrap(), far)
        }).collect();
        let mut consumers = [Consumer::default(), Consumer::default()];
        let mut expected: BTreeSet<u32> = own.iter().map(|(p, _)| p.0).collect();
        let mut masked = BTreeSet::new();
        for (op, which, arg) in ops {
            let (port, far) = own[which as usize];
            match op {
                0..3 => {
                    world.doms[1].send(&world, far).unwrap();
                    expected.insert(port.0);
                }
                3 => {
                    set_word(&world, port, word(&world, port) | MASKED);
                    masked.insert(port.0);
                }
                4 => {
                    a.unmask(&world, port).unwrap();
                    masked.remove(&port.0);
                }
                5 => {
                    a.set_priority(port, arg).unwrap();
                    a.bind_vcpu(&world, port, arg % 2).unwrap();
                }
                _ => {
                    for (vcpu, consumer) in consumers.iter_mut().enumerate() {
                        for (port, _) in consumer.run(&world, vcpu as u16) {
                            prop_assert!(expected.remove(&port) && !masked.contains(&port), "invented {}", port);
                        }
                    }
                    prop_assert!(expected.is_subset(&masked), "lost {:?}, masked {:?}", expected, masked);
                }
            }
        }
        for port in masked.clone() {
            a.unmask(&world, Port(port)).unwrap();
        }
        for (vcpu, consumer) in consumers.iter_mut().enumerate() {
            for (port, _) in consumer.run(&world, vcpu as u16) {
                prop_assert!(expected.remove(&port), "invented {}", port);
            }
        }
        prop_assert!(expected.is_empty(), "lost {:?}", expected);
    }

    /// A guest that scribbles on its words and control blocks harms only frames it gave, and everything can still
    /// be closed.
    #[test]
    fn hostile_words_stay_in_their_frames(
        ops in prop::collection::vec((0u8..4, 1u32..12, any::<u32>()), 1..200),
    ) {
        let world = world();
        let a = &world.doms[0];
        let p = ports(a, &world, 12);
        for (op, which, value) in ops {
            let port = p[which as usize];
            match op {
                0 => a.send(&world, port).unwrap(),
                1 => set_word(&world, port, value),
                2 => world.store32(Mfn(32), value as usize % 1024, value),
                _ => a.unmask(&world, port).unwrap(),
            }
        }
        let touched = [32, 33, ARRAY, 0, 1];
        for frame in (0..128).filter(|frame| !touched.contains(frame)) {
            prop_assert!((0..512).all(|index| world.load64(Mfn(frame), index) == 0), "frame {}", frame);
        }
        prop_assert_eq!(a.reset(&world), Ok(true));
        prop_assert_eq!((a.active(), world.pinned()), (0, 0));
    }
}

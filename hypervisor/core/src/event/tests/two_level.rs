//! Channels and two-level delivery, from several domains, against an oracle.

use crate::event::{Entry, State};
use crate::port::Memory;
use crate::testing::World;
use guest_abi::Errno;
use guest_abi::xen::{VIRQ_CONSOLE, VIRQ_DEBUG, VIRQ_TIMER, shared_offset, vcpu_offset};
use hv_types::{DomId, Gfn, Mfn, Pirq, Port, VcpuId};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn pending(world: &World, dom: u16, port: Port) -> bool {
    let word = world.load64(Mfn(dom.into()), shared_offset::EVTCHN_PENDING / 8 + port.0 as usize / 64);
    word >> (port.0 % 64) & 1 != 0
}

fn set_mask(world: &World, dom: u16, port: Port, masked: bool) {
    let (frame, word, bit) =
        (Mfn(dom.into()), shared_offset::EVTCHN_MASK / 8 + port.0 as usize / 64, 1 << (port.0 % 64));
    if masked {
        world.fetch_or64(frame, word, bit);
    } else {
        world.fetch_and64(frame, word, !bit);
    }
}

fn selector(world: &World, dom: u16, vcpu: usize) -> u64 {
    world.load64(Mfn(dom.into()), (shared_offset::vcpu_info(vcpu) + vcpu_offset::PENDING_SEL) / 8)
}

fn upcall(world: &World, dom: u16, vcpu: usize) -> bool {
    world.load8(Mfn(dom.into()), shared_offset::vcpu_info(vcpu) + vcpu_offset::UPCALL_PENDING) != 0
}

/// Takes the vCPU's upcall as a guest does.
fn consume(world: &World, dom: u16, vcpu: usize) {
    let frame = Mfn(dom.into());
    world.store8(frame, shared_offset::vcpu_info(vcpu) + vcpu_offset::UPCALL_PENDING, 0);
    let sel = world.swap64(frame, (shared_offset::vcpu_info(vcpu) + vcpu_offset::PENDING_SEL) / 8, 0);
    for word in (0..64).filter(|word| sel >> word & 1 != 0) {
        let unmasked = !world.load64(frame, shared_offset::EVTCHN_MASK / 8 + word);
        world.fetch_and64(frame, shared_offset::EVTCHN_PENDING / 8 + word, !unmasked);
    }
}

#[test]
fn an_event_sets_pending_selector_and_upcall_once() {
    let world = World::new(2, 2);
    let (a, b) = (&world.doms[0], &world.doms[1]);
    let listener = b.alloc_unbound(&world, DomId(0)).unwrap();
    let port = a.bind_interdomain(&world, DomId(1), listener).unwrap();
    assert!(pending(&world, 0, port), "binding makes the new port pending");
    world.take_notified();
    b.bind_vcpu(&world, listener, 1).unwrap();
    for _ in 0..2 {
        a.send(&world, port).unwrap();
    }
    assert!(pending(&world, 1, listener));
    assert_eq!((selector(&world, 1, 0), selector(&world, 1, 1)), (0, 1));
    assert!(upcall(&world, 1, 1) && !upcall(&world, 1, 0));
    assert_eq!(world.take_notified(), [(1, 1)]);
    assert_eq!(b.send(&world, listener), Ok(()));
}

#[test]
fn a_masked_event_waits_for_unmask() {
    let world = World::new(1, 1);
    let a = &world.doms[0];
    let port = a.bind_ipi(&world, 0).unwrap();
    set_mask(&world, 0, port, true);
    a.send(&world, port).unwrap();
    assert!(pending(&world, 0, port) && !upcall(&world, 0, 0) && selector(&world, 0, 0) == 0);
    a.unmask(&world, port).unwrap();
    assert!(upcall(&world, 0, 0) && selector(&world, 0, 0) == 1);
    assert_eq!(world.take_notified(), [(0, 0)]);
    consume(&world, 0, 0);
    a.unmask(&world, port).unwrap();
    assert!(!upcall(&world, 0, 0), "nothing waited");
}

#[test]
fn each_refusal_has_its_error_and_changes_nothing() {
    let world = World::new(3, 2);
    let a = &world.doms[0];
    let waits_for_2 = world.doms[1].alloc_unbound(&world, DomId(2)).unwrap();
    assert_eq!(a.bind_interdomain(&world, DomId(1), waits_for_2), Err(Errno::EINVAL));
    assert_eq!(a.bind_interdomain(&world, DomId(1), Port(9999)), Err(Errno::EINVAL));
    assert_eq!(a.bind_interdomain(&world, DomId(9), Port(1)), Err(Errno::ESRCH));
    assert_eq!(a.bind_virq(&world, 24, 0), Err(Errno::EINVAL));
    assert_eq!(a.bind_virq(&world, VIRQ_CONSOLE, 1), Err(Errno::EINVAL));
    assert_eq!(a.bind_virq(&world, VIRQ_TIMER, 2), Err(Errno::ENOENT));
    assert_eq!(a.bind_virq(&world, VIRQ_TIMER, 0x1_0000), Err(Errno::ENOENT));
    assert_eq!(a.bind_ipi(&world, 2), Err(Errno::ENOENT));
    assert_eq!(a.bind_pirq(&world, Pirq(64), false), Err(Errno::EINVAL));
    assert_eq!(a.bind_pirq(&world, Pirq(13), false), Err(Errno::EPERM));
    assert_eq!(a.bind_pirq(&world, Pirq(14), false), Err(Errno::EBUSY));
    assert_eq!(a.send(&world, Port(0)), Err(Errno::EINVAL));
    assert_eq!(a.send(&world, Port(1)), Err(Errno::EINVAL));
    assert_eq!(a.send(&world, Port(u32::MAX)), Err(Errno::EINVAL));
    assert_eq!(a.close(&world, Port(0)), Err(Errno::EINVAL));
    assert_eq!(a.unmask(&world, Port(64)), Err(Errno::EINVAL));
    assert_eq!(a.bind_vcpu(&world, Port(1), 0), Err(Errno::EINVAL));
    assert_eq!(a.set_priority(Port(1), 3), Err(Errno::ENOSYS));
    assert_eq!(a.expand_array(&world, Gfn(40)), Err(Errno::EOPNOTSUPP));
    assert_eq!((a.active(), world.pinned()), (0, 0));
    assert!((1..64).all(|p| a.entry(Port(p)) == Some(Entry::FREE)));
    assert_eq!(world.doms[1].entry(waits_for_2).unwrap().state, State::Unbound { remote: DomId(2) });
}

#[test]
fn virqs_bind_once_a_vcpu_or_once_a_domain() {
    let world = World::new(1, 2);
    let a = &world.doms[0];
    let timers = [0, 1].map(|vcpu| a.bind_virq(&world, VIRQ_TIMER, vcpu).unwrap());
    assert_eq!(a.bind_virq(&world, VIRQ_TIMER, 1), Err(Errno::EEXIST));
    assert_eq!(a.bind_vcpu(&world, timers[1], 0), Err(Errno::EINVAL));
    let console = a.bind_virq(&world, VIRQ_CONSOLE, 0).unwrap();
    a.bind_vcpu(&world, console, 1).unwrap();
    a.send_virq(&world, VcpuId(1), VIRQ_TIMER);
    a.send_virq(&world, VcpuId(1), VIRQ_DEBUG);
    assert!(pending(&world, 0, timers[1]) && !pending(&world, 0, timers[0]));
    assert_eq!(world.take_notified(), [(0, 1)]);
    consume(&world, 0, 1);
    a.send_global_virq(&world, VIRQ_CONSOLE);
    assert!(pending(&world, 0, console));
    assert_eq!(world.take_notified(), [(0, 1)]);
    a.close(&world, console).unwrap();
    assert!(!pending(&world, 0, console), "a closed port is not pending");
    a.send_global_virq(&world, VIRQ_CONSOLE);
    assert!(!pending(&world, 0, console));
    assert_eq!(a.bind_virq(&world, VIRQ_CONSOLE, 0), Ok(console));
    assert_eq!(a.entry(console).unwrap().vcpu, VcpuId(0));
}

#[test]
fn a_pirq_arrives_until_it_is_closed() {
    let world = World::new(1, 1);
    let a = &world.doms[0];
    let port = a.bind_pirq(&world, Pirq(9), true).unwrap();
    assert_eq!(a.bind_pirq(&world, Pirq(9), true), Err(Errno::EEXIST));
    assert!(a.send_pirq(&world, Pirq(9)) && pending(&world, 0, port));
    assert!(!a.send_pirq(&world, Pirq(8)) && !a.send_pirq(&world, Pirq(1000)));
    a.close(&world, port).unwrap();
    assert!(!a.send_pirq(&world, Pirq(9)) && world.bound_pirqs.lock().unwrap().is_empty());
}

#[test]
fn the_port_limit_of_the_abi_holds_and_the_lowest_port_comes_first() {
    let world = World::new(1, 1);
    let a = &world.doms[0];
    for port in 1..4096 {
        assert_eq!(a.alloc_unbound(&world, DomId(0)), Ok(Port(port)));
    }
    assert_eq!(a.alloc_unbound(&world, DomId(0)), Err(Errno::ENOSPC));
    for port in [4000, 7] {
        a.close(&world, Port(port)).unwrap();
    }
    assert_eq!(a.alloc_unbound(&world, DomId(0)), Ok(Port(7)));
    assert_eq!(a.alloc_unbound(&world, DomId(0)), Ok(Port(4000)));
}

#[test]
fn moving_vcpu_info_loses_no_event() {
    let world = World::new(1, 34);
    let a = &world.doms[0];
    let port = a.bind_ipi(&world, 0).unwrap();
    assert_eq!(a.register_vcpu_info(&world, VcpuId(0), Gfn(40), 4032 + 8), Err(Errno::ENXIO));
    assert_eq!(a.register_vcpu_info(&world, VcpuId(0), Gfn(40), 4), Err(Errno::ENXIO));
    assert_eq!(a.register_vcpu_info(&world, VcpuId(0), Gfn(66), 64), Err(Errno::EINVAL));
    assert_eq!(a.register_vcpu_info(&world, VcpuId(34), Gfn(40), 64), Err(Errno::ENOENT));
    assert_eq!(a.vcpu(VcpuId(0)).unwrap().info(), Some((Mfn(0), 0)));
    a.vcpu(VcpuId(0)).unwrap().set_upcall_mask(&world, true);
    a.register_vcpu_info(&world, VcpuId(0), Gfn(40), 4032).unwrap();
    assert_eq!(a.register_vcpu_info(&world, VcpuId(0), Gfn(41), 0), Err(Errno::EINVAL));
    assert_eq!((world.load64(Mfn(40), 505), world.load8(Mfn(40), 4032)), (u64::MAX, 1));
    assert!(a.vcpu(VcpuId(0)).unwrap().upcall_mask(&world), "the mask moved along");
    assert_eq!(world.take_notified(), [(0, 0)]);
    world.store64(Mfn(40), 505, 0);
    a.send(&world, port).unwrap();
    assert_eq!(world.load64(Mfn(40), 505), 1);
    // vCPU 33 has none before, and begins masked.
    let far = a.bind_ipi(&world, 33).unwrap();
    a.send(&world, far).unwrap();
    a.register_vcpu_info(&world, VcpuId(33), Gfn(41), 0).unwrap();
    assert_eq!((world.load8(Mfn(41), 0), world.load8(Mfn(41), 1)), (1, 1));
    assert!(a.destroy(&world));
    assert_eq!(world.pinned(), 0);
}

#[test]
fn a_domain_that_dies_leaves_its_peers_waiting() {
    let world = World::new(2, 1);
    let (a, b) = (&world.doms[0], &world.doms[1]);
    let listeners: Vec<_> = (0..200).map(|_| a.alloc_unbound(&world, DomId(1)).unwrap()).collect();
    for port in &listeners {
        b.bind_interdomain(&world, DomId(0), *port).unwrap();
    }
    world.hurry.store(true, std::sync::atomic::Ordering::SeqCst);
    let steps = 1 + (0..100).take_while(|_| !b.destroy(&world)).count();
    assert!((2..6).contains(&steps), "cut into steps: {steps}");
    assert_eq!(b.active(), 0);
    assert!(listeners.iter().all(|p| a.entry(*p).unwrap().state == State::Unbound { remote: DomId(1) }));
    assert_eq!(b.alloc_unbound(&world, DomId(0)), Err(Errno::EINVAL), "dying");
    assert_eq!(a.send(&world, listeners[0]), Ok(()), "swallowed");
}

/// What the oracle knows of a port.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Waits(u16),
    Linked(u16, u32),
    Ipi,
}

proptest! {
    /// Random operations of three domains: states, delivery and active counts follow the oracle, errors change
    /// nothing.
    #[test]
    fn channels_follow_the_oracle(ops in prop::collection::vec((0u16..3, 0u16..3, 0u32..12, 0u8..6), 1..200)) {
        let world = World::new(3, 1);
        let mut oracle: [BTreeMap<u32, End>; 3] = Default::default();
        let free = |map: &BTreeMap<u32, End>| (1..).find(|p| !map.contains_key(p)).unwrap();
        for (dom, other, port, op) in ops {
            let (d, o) = (usize::from(dom), usize::from(other));
            let events = &world.doms[d];
            match op {
                0 => {
                    let new = free(&oracle[d]);
                    prop_assert_eq!(events.alloc_unbound(&world, DomId(other)), Ok(Port(new)));
                    oracle[d].insert(new, End::Waits(other));
                }
                1 => {
                    let new = free(&oracle[d]);
                    let bound = events.bind_interdomain(&world, DomId(other), Port(port));
                    if oracle[o].get(&port) == Some(&End::Waits(dom)) {
                        prop_assert_eq!(bound, Ok(Port(new)));
                        oracle[o].insert(port, End::Linked(dom, new));
                        oracle[d].insert(new, End::Linked(other, port));
                        prop_assert!(pending(&world, dom, Port(new)));
                    } else {
                        prop_assert_eq!(bound, Err(Errno::EINVAL));
                    }
                }
                2 => {
                    let new = free(&oracle[d]);
                    prop_assert_eq!(events.bind_ipi(&world, 0), Ok(Port(new)));
                    oracle[d].insert(new, End::Ipi);
                }
                3 => {
                    let expected = match oracle[d].remove(&port) {
                        None => Err(Errno::EINVAL),
                        Some(End::Linked(far, peer)) => {
                            oracle[usize::from(far)].insert(peer, End::Waits(dom));
                            // A port connected to itself does not exist: both ends differ.
                            Ok(())
                        }
                        Some(_) => Ok(()),
                    };
                    prop_assert_eq!(events.close(&world, Port(port)), expected);
                    if expected.is_ok() {
                        prop_assert!(!pending(&world, dom, Port(port)));
                    }
                }
                _ => {
                    let before: Vec<u64> = (0..3).map(|n| world.load64(Mfn(n), shared_offset::EVTCHN_PENDING / 8)).collect();
                    let (target, result) = match oracle[d].get(&port) {
                        None => (None, Err(Errno::EINVAL)),
                        Some(End::Waits(_)) => (None, Ok(())),
                        Some(End::Linked(far, peer)) => (Some((*far, *peer)), Ok(())),
                        Some(End::Ipi) => (Some((dom, port)), Ok(())),
                    };
                    prop_assert_eq!(events.send(&world, Port(port)), result);
                    for n in 0..3u16 {
                        let gained = target.filter(|(far, _)| *far == n).map_or(0, |(_, peer)| 1u64 << peer);
                        let now = world.load64(Mfn(n.into()), shared_offset::EVTCHN_PENDING / 8);
                        prop_assert_eq!(now, before[usize::from(n)] | gained);
                    }
                    if let Some((far, _)) = target {
                        prop_assert!(selector(&world, far, 0) & 1 != 0 && upcall(&world, far, 0));
                    }
                }
            }
        }
        for (d, map) in oracle.iter().enumerate() {
            prop_assert_eq!(world.doms[d].active() as usize, map.len());
            for port in 1..64 {
                let state = match map.get(&port) {
                    None => State::Free,
                    Some(End::Waits(remote)) => State::Unbound { remote: DomId(*remote) },
                    Some(End::Linked(remote, peer)) => State::Interdomain { remote: DomId(*remote), port: Port(*peer) },
                    Some(End::Ipi) => State::Ipi,
                };
                prop_assert_eq!(world.doms[d].entry(Port(port)).unwrap().state, state);
            }
        }
    }
}

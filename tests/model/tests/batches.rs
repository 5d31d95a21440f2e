//! Batches: what is done when one request fails or the call is interrupted, and how the caller learns of it.

use std::sync::atomic::Ordering::SeqCst;

use guest_abi::Errno;
use guest_abi::xen::*;
use hv_core::call::{CallError, Continuation};
use hv_core::port::{GuestSpace, Memory};
use hv_types::{DomId, GuestVa, Mfn};
use tests_model::{Buffer, World};

const GUEST: usize = 2;
const SELF: u32 = DomId::SELF.0 as u32;

/// The list, with the count of requests done behind it.
struct Batch {
    space: Buffer,
    done: GuestVa,
}

impl Batch {
    fn new(words: &[u64]) -> Self {
        let done = GuestVa(Buffer::BASE.0 + words.len() as u64 * 8);
        Batch { space: Buffer::of(&[words, &[0x7777]].concat()), done }
    }

    fn done(&self) -> u32 {
        let mut bytes = [0; 4];
        self.space.read(self.done, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }
}

fn frames(world: &World) -> Vec<u64> {
    world.sim.be(GUEST);
    world.frames_of(DomId(1)).iter().map(|mfn| mfn.0).collect()
}

fn entry(own: &[u64], index: u64, value: u64) -> [u64; 2] {
    [(own[3] << 12) | (index * 8), value]
}

#[test]
fn requests_before_the_failed_one_are_done_and_those_after_it_are_not() {
    let world = World::new();
    let own = frames(&world);
    let list = [
        entry(&own, 30, own[15] << 12 | 3),
        entry(&own, 31, own[3] << 12 | 3),
        entry(&own, 32, own[15] << 12 | 3),
    ];
    let batch = Batch::new(&list.concat());
    let answer =
        world.mmu().do_mmu_update(&world.caller(GUEST), &batch.space, Buffer::BASE, 3, batch.done, SELF);
    assert_eq!(answer, Err(CallError::Errno(Errno::EBUSY)));
    assert_eq!(batch.done(), 1);
    let present = |index| world.sim.load64(Mfn(own[3]), index) & 1;
    assert_eq!((present(30), present(31), present(32)), (1, 0, 0));
    world.check().unwrap();
}

#[test]
fn an_interrupted_batch_goes_on_where_it_stopped_and_adds_up() {
    let world = World::new();
    let own = frames(&world);
    let list: Vec<u64> = (30..130).flat_map(|index| entry(&own, index, own[15] << 12 | 3)).collect();
    let batch = Batch::new(&list);
    // Every second question is answered with yes; one is asked after sixteen leaves.
    world.sim.hurry.store(0xaaaa_aaaa_aaaa_aaaa, SeqCst);
    let mut args = [Buffer::BASE.0, 100, batch.done.0, u64::from(SELF)];
    let mut calls = 1;
    loop {
        let (count, domain) = (args[1] as u32, args[3] as u32);
        let caller = world.caller(GUEST);
        match world.mmu().do_mmu_update(
            &caller,
            &batch.space,
            GuestVa(args[0]),
            count,
            GuestVa(args[2]),
            domain,
        ) {
            Err(CallError::Retry(next)) => args = next.args,
            answer => {
                assert_eq!(answer, Ok(0));
                break;
            }
        }
        let done = u64::from(batch.done());
        assert_eq!(args[0], Buffer::BASE.0 + done * 16);
        assert_eq!(args[1], (100 - done) | 0x8000_0000);
        calls += 1;
        world.check().unwrap();
    }
    assert!(calls > 2, "{calls}");
    assert_eq!(batch.done(), 100);
    assert!((30..130).all(|index| world.sim.load64(Mfn(own[3]), index) & 1 == 1));
}

#[test]
fn the_list_must_be_the_guests_to_name() {
    let world = World::new();
    let own = frames(&world);
    let batch = Batch::new(&entry(&own, 30, own[15] << 12 | 3));
    let call = |list: u64, count| {
        world.mmu().do_mmu_update(&world.caller(GUEST), &batch.space, GuestVa(list), count, GuestVa(0), SELF)
    };
    assert_eq!(call(Buffer::BASE.0, 1), Ok(0));
    assert_eq!(call(Buffer::BASE.0, 0), Ok(0));
    for (list, count) in [(0xffff_8300_0000_0000, 1), (u64::MAX - 8, 1), (0x7fff_ffff_fff8, 1), (0x5000, 1)] {
        assert_eq!(call(list, count), Err(CallError::Errno(Errno::EFAULT)), "{list:#x}");
    }
    assert_eq!(batch.done(), 0x7777, "nobody asked for it");
}

#[test]
fn unfinished_work_delays_the_answer_and_does_not_change_it() {
    let world = World::new();
    let own = frames(&world);
    // A table of level 2 with three tables below it, pinned; then unpinned under a clock that always runs out.
    let clear: Vec<u64> = (5..9).flat_map(|index| entry(&own, index, 0)).collect();
    let batch = Batch::new(&clear);
    let caller = world.caller(GUEST);
    world.mmu().do_mmu_update(&caller, &batch.space, Buffer::BASE, 4, GuestVa(0), SELF).unwrap();
    for (index, table) in [(0, 5), (1, 6), (2, 7)] {
        world.sim.store64(Mfn(own[8]), index, own[table] << 12 | 7);
    }
    let pin = Batch::new(&[u64::from(MMUEXT_PIN_L2_TABLE), own[8], 0]);
    assert_eq!(world.mmu().do_mmuext_op(&caller, &pin.space, Buffer::BASE, 1, pin.done, SELF), Ok(0));
    world.sim.hurry.store(u64::MAX, SeqCst);
    let list = [u64::from(MMUEXT_UNPIN_TABLE), own[8], 0];
    let unpin = Batch::new(&list);
    let answer = world.mmu().do_mmuext_op(&caller, &unpin.space, Buffer::BASE, 1, unpin.done, SELF);
    let mut next = match answer {
        Err(CallError::Retry(Continuation { args })) => args,
        other => panic!("{other:?}"),
    };
    assert_eq!(next, [0, 0x8000_0000, 0, 0], "nothing is left but to finish, with result 0");
    assert_eq!(unpin.done(), 1);
    // The same with an error in place of the domain: the answer is that error, once the work is done.
    next[3] = u64::from(-(Errno::EBUSY.0) as u32);
    let mut calls = 0;
    let answer = loop {
        calls += 1;
        match world.mmu().do_mmuext_op(
            &caller,
            &unpin.space,
            GuestVa(next[0]),
            next[1] as u32,
            GuestVa(0),
            next[3] as u32,
        ) {
            Err(CallError::Retry(again)) => assert_eq!(again.args, next),
            answer => break answer,
        }
        world.check().unwrap();
    };
    assert_eq!(answer, Err(CallError::Errno(Errno::EBUSY)));
    assert!(calls > 1, "the clock ran out at least once");
    assert!((5..9).all(|n| world.frames().peek(Mfn(own[n])).unwrap().types() == 0));
    world.check().unwrap();
}

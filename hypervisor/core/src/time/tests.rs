//! Time against exact arithmetic, and the heap against a sorted list.

use super::*;
use crate::port::Memory;
use crate::testing::{Frames, Guest};
use crate::wire;
use guest_abi::Errno;
use guest_abi::vcpu::{VcpuRunstateInfo, XEN_RUNSTATE_UPDATE};
use guest_abi::xen::VcpuTimeInfo;
use hv_types::{DomId, GuestVa, Mfn, VcpuId};
use proptest::prelude::*;
use std::collections::BTreeMap;

proptest! {
    #[test]
    fn a_deadline_is_not_early_by_more_than_rounding(hz in 100_000_000u64..5_000_000_000, ns in 0u64..1 << 42) {
        let clock = Clock::new(hz, 12345, 1000).unwrap();
        let at = clock.at(clock.tsc_at(ns.max(1000)));
        prop_assert!(at + 4 + (ns >> 28) >= ns, "{} {}", at, ns);
        prop_assert!(at <= ns.max(1000) + 40 + (ns >> 28), "{} {}", at, ns);
    }

    #[test]
    fn the_heap_keeps_order_under_any_changes(ops in prop::collection::vec((0u8..5, 0usize..8, 0u64..50), 0..200)) {
        let mut heap = Heap::new();
        let mut slots: Vec<Option<Slot>> = vec![None; 8];
        let mut model: BTreeMap<usize, u64> = BTreeMap::new();
        for (op, which, key) in ops {
            match (op, slots[which]) {
                (0, None) => slots[which] = Some(heap.add(which).unwrap()),
                (1, Some(slot)) => {
                    prop_assert_eq!(heap.remove(slot), model.remove(&which));
                    slots[which] = None;
                }
                (2, Some(slot)) => {
                    heap.set(slot, key);
                    model.insert(which, key);
                }
                (3, Some(slot)) => prop_assert_eq!(heap.take(slot), model.remove(&which)),
                _ => {}
            }
            prop_assert_eq!(heap.len(), model.len());
            prop_assert_eq!(heap.first().map(|(key, _)| key), model.values().min().copied());
            if let Some((key, slot)) = heap.first() {
                prop_assert_eq!(model.get(&heap.owner(slot).unwrap()), Some(&key));
            }
            for (which, slot) in slots.iter().enumerate() {
                if let Some(slot) = slot {
                    prop_assert_eq!((heap.key(*slot), heap.owner(*slot)), (model.get(&which).copied(), Some(which)));
                }
            }
        }
    }
}

fn record_of(hz: u64) -> TimeRecord {
    TimeRecord::of(0, Scale::from_hz(hz).unwrap(), 0, false)
}

/// What a guest reads when the TSC shows `tsc` (`xen.h`, `vcpu_time_info`).
fn read_by_guest(record: &TimeRecord, tsc: u64) -> u64 {
    let ticks = tsc.wrapping_sub(record.tsc);
    let shift = i32::from(record.scale.shift);
    let ticks = if shift < 0 { ticks >> -shift } else { ticks << shift };
    record.system_time + ((u128::from(ticks) * u128::from(record.scale.multiplier)) >> 32) as u64
}

proptest! {
    /// A guest that goes from one vCPU to another, whose records were written at any two moments, sees the same time to the
    /// nanosecond if it is told that TSCs agree, and does not see it go back.
    #[test]
    fn while_tscs_agree_all_records_say_the_same(
        hz in 400_000_000u64..6_000_000_000,
        start in 0u64..1 << 50,
        (one, other, later) in (0u64..1 << 45, 0u64..1 << 45, 0u64..1 << 20),
    ) {
        let scale = Scale::from_hz(hz).unwrap();
        let record = |ticks, stable| TimeRecord::of(start, scale, start + ticks, stable);
        let now = start + one.max(other) + later;
        let exact = scale.nanoseconds(now - start);
        for ticks in [one, other] {
            prop_assert_eq!(read_by_guest(&record(ticks, true), now), exact);
            let from_there = read_by_guest(&record(ticks, false), now);
            prop_assert!(exact.abs_diff(from_there) <= 8, "{} {}", exact, from_there);
            prop_assert_eq!(record(ticks, false).system_time, scale.nanoseconds(ticks));
            prop_assert_eq!(record(ticks, false).tsc, start + ticks);
        }
        prop_assert!(record(one, true).stable && !record(one, false).stable);
    }
}

#[test]
fn the_clock_record_is_even_when_done_and_leaves_the_neighbours_alone() {
    let frames = Frames::new(1);
    let record =
        TimeRecord { tsc: 2_500_000_100, system_time: SECOND + 7, stable: true, ..record_of(2_500_000_000) };
    write_time(&frames, (Mfn(0), 64), &record);
    write_time(&frames, (Mfn(0), 64), &record);
    assert_eq!(frames.load32(Mfn(0), (64 + 32) / 4), 4);
    assert_eq!(frames.load64(Mfn(0), (64 + 40) / 8), record.tsc);
    assert_eq!(frames.load64(Mfn(0), (64 + 48) / 8), record.system_time);
    assert_eq!(frames.load32(Mfn(0), (64 + 56) / 4), record.scale.multiplier);
    assert_eq!(frames.load8(Mfn(0), 64 + 60) as i8, record.scale.shift);
    assert_eq!(frames.load8(Mfn(0), 64 + 61), 1);
    assert_eq!((frames.load64(Mfn(0), 11), frames.load64(Mfn(0), 16)), (0, 0));
    write_wall_clock(&frames, Mfn(0), 0x1_2345_6789, 5);
    let wall = 32 * 64 + 2 * 512;
    let words = [0, 1, 2, 3].map(|n| frames.load32(Mfn(0), wall / 4 + n));
    assert_eq!(words, [2, 0x2345_6789, 5, 1]);
}

#[test]
fn areas_in_guest_memory_are_written_whole_or_fault() {
    let guest = Guest::new(48);
    let base = GuestVa(Guest::BASE);
    let record = TimeRecord { tsc: 55, system_time: 55, ..record_of(SECOND) };
    let mut version = 6;
    write_time_area(&guest, base, &mut version, &record).unwrap();
    let info: VcpuTimeInfo = wire::read(&guest, base).unwrap();
    assert_eq!((info.version, info.system_time, info.flags, version), (8, 55, 0, 8));
    assert!(write_time_area(&guest, GuestVa(base.0 + 20), &mut version, &record).is_err());
    let info = VcpuRunstateInfo { state: 1, state_entry_time: 9, time: [1, 2, 3, 4], ..Default::default() };
    for marked in [false, true] {
        write_runstate(&guest, base, &info, marked).unwrap();
        let read: VcpuRunstateInfo = wire::read(&guest, base).unwrap();
        assert_eq!((read, read.state_entry_time & XEN_RUNSTATE_UPDATE), (info, 0));
    }
}

#[test]
fn timers_fire_once_in_order_and_move_between_cpus() {
    let (mut here, mut there) = (TimerQueue::new(), TimerQueue::new());
    let mut timers = [0, 1].map(|v| VcpuTimers::add(&mut here, DomId(3), VcpuId(v)).unwrap());
    here.start(timers[0].singleshot, 300);
    here.start(timers[1].poll, 100);
    here.start(timers[1].poll, 200);
    assert_eq!((here.deadline(), here.expire(199)), (Some(200), None));
    timers[0].migrate(&mut here, &mut there).unwrap();
    let (_, due, fired) = here.expire(1000).unwrap();
    assert_eq!((due, fired.vcpu, fired.kind), (200, VcpuId(1), TimerKind::Poll));
    assert_eq!((here.expire(1000), here.deadline()), (None, None));
    assert_eq!(there.expire(300).map(|(_, _, fired)| fired.kind), Some(TimerKind::Singleshot));
    timers[0].remove(&mut there);
    assert_eq!(there.deadline(), None);
}

#[test]
fn all_timers_of_a_cpu_move() {
    let (mut here, mut there) = (TimerQueue::new(), TimerQueue::new());
    let mut timers = VcpuTimers::add(&mut here, DomId(4), VcpuId(1)).unwrap();
    let mut dogs = Watchdogs::add(&mut here, DomId(5)).unwrap();
    assert_eq!(dogs.set(&mut here, 0, 0, 3), Ok(1));
    assert_eq!(here.anybody().map(|owner| (owner.dom, owner.vcpu)), Some((DomId(4), VcpuId(1))));
    timers.migrate(&mut here, &mut there).unwrap();
    assert_eq!(here.anybody().map(|owner| (owner.dom, owner.kind)), Some((DomId(5), TimerKind::Watchdog)));
    dogs.migrate(&mut here, &mut there).unwrap();
    assert_eq!((here.anybody(), here.deadline(), there.deadline()), (None, None, Some(3000 * MILLISECOND)));
    assert_eq!(dogs.set(&mut there, 0, 1, 9), Ok(0), "the one that was in use still is");
    assert_eq!(dogs.set(&mut there, 0, 2, 9), Err(Errno::EINVAL), "and the other is not");
    assert_eq!(there.deadline(), Some(9000 * MILLISECOND));
    dogs.remove(&mut there);
    timers.remove(&mut there);
    assert_eq!(there.anybody(), None);
}

#[test]
fn a_periodic_timer_skips_what_it_missed() {
    let mut queue = TimerQueue::new();
    let mut timers = VcpuTimers::add(&mut queue, DomId(0), VcpuId(0)).unwrap();
    assert_eq!(timers.set_periodic(&mut queue, 0, MILLISECOND - 1), Err(Errno::EINVAL));
    assert_eq!(timers.set_periodic(&mut queue, 0, u64::MAX), Err(Errno::EINVAL));
    timers.set_periodic(&mut queue, 5, 10 * MILLISECOND).unwrap();
    let (_, due, _) = queue.expire(35 * MILLISECOND).unwrap();
    timers.renew_periodic(&mut queue, due, 35 * MILLISECOND);
    assert_eq!(queue.deadline(), Some(40 * MILLISECOND + 5));
    timers.stop_periodic(&mut queue);
    timers.renew_periodic(&mut queue, due, 35 * MILLISECOND);
    assert_eq!(queue.deadline(), None);
}

#[test]
fn a_vcpu_comes_up_with_a_periodic_timer_unless_it_was_stopped() {
    let mut queue = TimerQueue::new();
    let mut timers = VcpuTimers::add(&mut queue, DomId(0), VcpuId(0)).unwrap();
    assert_eq!(queue.deadline(), None);
    timers.come_up(&mut queue, 5);
    assert_eq!(queue.deadline(), Some(10 * MILLISECOND + 5));
    timers.come_up(&mut queue, 7);
    assert_eq!(queue.deadline(), Some(10 * MILLISECOND + 5), "it runs already");
    timers.stop_periodic(&mut queue);
    timers.come_up(&mut queue, 9);
    assert_eq!(queue.deadline(), None);
}

#[test]
fn set_timer_op_understands_wrapped_timeouts() {
    let now = 1 << 40;
    assert_eq!(timer_op(0, now), TimerCommand::Stop);
    assert_eq!(timer_op(5, now), TimerCommand::Start(5));
    assert_eq!(timer_op(now + FAR_LIMIT - 1, now), TimerCommand::Start(now + FAR_LIMIT - 1));
    for far in [now + FAR_LIMIT, 1 << 63, u64::MAX] {
        assert_eq!(timer_op(far, now), TimerCommand::Start(now + 100 * MILLISECOND));
    }
}
const FAR_LIMIT: u64 = 1 << 50;

#[test]
fn watchdogs_are_two() {
    let mut queue = TimerQueue::new();
    let mut dogs = Watchdogs::add(&mut queue, DomId(1)).unwrap();
    assert_eq!(dogs.set(&mut queue, 0, 1, 5), Err(Errno::EINVAL));
    assert_eq!(dogs.set(&mut queue, 0, 0, 10), Ok(1));
    assert_eq!(dogs.set(&mut queue, 0, 0, 20), Ok(2));
    assert_eq!(dogs.set(&mut queue, 0, 0, 30), Err(Errno::ENOSPC));
    assert_eq!(dogs.set(&mut queue, 0, 3, 30), Err(Errno::EINVAL));
    assert_eq!(dogs.set(&mut queue, 5 * SECOND, 1, 30), Ok(0));
    assert_eq!(queue.deadline(), Some(20 * SECOND));
    assert_eq!(dogs.set(&mut queue, 0, 2, 0), Ok(0));
    assert_eq!(queue.deadline(), Some(35 * SECOND));
    assert_eq!(queue.expire(35 * SECOND).map(|(_, _, fired)| fired.kind), Some(TimerKind::Watchdog));
}

//! The scheduler's promises: exact accounting, shares by weight, no starvation, no lost wake.

use super::queue::LEAST_TURN;
use super::*;
use crate::testing::{Guest, World};
use crate::time::{MILLISECOND, Slot};
use crate::{call::CallError, wire};
use guest_abi::Errno;
use guest_abi::sched::*;
use hv_types::{DomId, GuestVa, Port, VcpuId};
use proptest::prelude::*;

#[derive(Clone, Copy)]
struct Name<'a>(usize, &'a VcpuSched);

impl Unit for Name<'_> {
    fn sched(&self) -> &VcpuSched {
        self.1
    }

    fn may_go_to(&self, cpu: u32) -> bool {
        // The tests' first vCPU stays where it is.
        self.0 != 0 || Some(cpu) == self.1.cpu()
    }

    fn prefers(&self, _: u32) -> bool {
        true
    }
}

fn vcpus(count: usize) -> Vec<VcpuSched> {
    (0..count).map(|_| VcpuSched::new(Reasons::empty(), 0)).collect()
}

/// Runs the queue for `total` ns, choosing when it says or after a millisecond; ns that each vCPU ran.
fn simulate(queue: &mut CpuQueue<Name<'_>>, total: u64, count: usize) -> Vec<u64> {
    let (mut now, mut ran) = (0, vec![0; count]);
    while now < total {
        let pick = queue.pick(now);
        let until = pick.until.unwrap_or(now + MILLISECOND);
        assert!(until > now);
        if let Some(Name(who, _)) = pick.run {
            ran[who] += until - now;
        }
        now = until;
    }
    ran
}

proptest! {
    #[test]
    fn shares_follow_weights(weights in prop::collection::vec(1u16..2000, 2..6)) {
        let scheds = vcpus(weights.len());
        let mut queue = CpuQueue::new(0);
        for (who, weight) in weights.iter().enumerate() {
            queue.add(Name(who, &scheds[who]), *weight, 0).unwrap();
        }
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let total = 200 * 10 * MILLISECOND * sum / u64::from(*weights.iter().min().unwrap());
        let ran = simulate(&mut queue, total, weights.len());
        for (who, weight) in weights.iter().enumerate() {
            let due = total * u64::from(*weight) / sum;
            let slack = due / 20 + 20 * MILLISECOND;
            prop_assert!(ran[who].abs_diff(due) <= slack, "{}: ran {} of {}", who, ran[who], due);
        }
    }

    /// vCPUs that CPUs take from each other are neither lost nor doubled, and the one that may not move does not.
    #[test]
    fn stealing_loses_nobody(ops in prop::collection::vec((0usize..3, 0usize..3, 1u64..20 * MILLISECOND), 1..200)) {
        let scheds = vcpus(6);
        let mut queues = [CpuQueue::new(0), CpuQueue::new(1), CpuQueue::new(2)];
        for (who, sched) in scheds.iter().enumerate() {
            queues[who % 3].add(Name(who, sched), 256, 0).unwrap();
        }
        let mut now = 0;
        for (from, to, step) in ops {
            now += step;
            if from == to {
                queues[from].pick(now);
                continue;
            }
            let mut thief = std::mem::replace(&mut queues[to], CpuQueue::new(99));
            if let Some(Name(who, sched)) = queues[from].give_one(&mut thief, now) {
                prop_assert_ne!(who, 0);
                prop_assert_eq!(sched.cpu(), Some(to as u32));
                prop_assert!(thief.slot_of(&Name(who, sched)).is_some());
                prop_assert!(queues[from].slot_of(&Name(who, sched)).is_none());
            }
            queues[to] = thief;
            prop_assert_eq!(queues.iter().map(CpuQueue::load).sum::<usize>(), 6);
        }
        prop_assert_eq!(scheds[0].cpu(), Some(0));
    }

    /// Whatever happens, the times add up to the time that passed, only one vCPU runs, and a vCPU that may run and
    /// is not queued is the running one.
    #[test]
    fn accounts_are_exact(ops in prop::collection::vec((0u8..6, 0usize..4, 1u64..50 * MILLISECOND), 1..200)) {
        let scheds = vcpus(4);
        let mut queue = CpuQueue::new(3);
        let slots: Vec<Slot> =
            (0..4).map(|who| queue.add(Name(who, &scheds[who]), 256, 0).unwrap()).collect();
        let mut now = 0;
        for (op, who, step) in ops {
            now += step;
            let sched = &scheds[who];
            match op {
                0 | 1 => {
                    let reason = if op == 0 { Reasons::BLOCKED } else { Reasons::PAUSED };
                    if sched.hold(reason) && queue.sleep(slots[who], now) {
                        queue.pick(now);
                    }
                }
                2 | 3 => {
                    let reason = if op == 2 { Reasons::BLOCKED } else { Reasons::PAUSED };
                    if sched.release(reason) && queue.wake(slots[who], now) {
                        queue.pick(now);
                    }
                }
                4 => queue.give_way(now),
                _ => {
                    let pick = queue.pick(now);
                    let wanted = scheds.iter().any(VcpuSched::may_run);
                    prop_assert_eq!(pick.run.is_some(), wanted);
                    prop_assert!(pick.run.is_none_or(|name| name.1.may_run()));
                }
            }
            for sched in &scheds {
                let info = sched.runstate(now);
                prop_assert_eq!(info.time.iter().sum::<u64>(), now);
            }
            let running = scheds.iter().filter(|s| s.state() == Runstate::Running).count();
            prop_assert!(running <= 1);
            prop_assert_eq!(running == 1, queue.running().is_some());
        }
    }
}

#[test]
fn who_has_just_begun_goes_on_for_a_moment() {
    let scheds = vcpus(2);
    let mut queue = CpuQueue::new(0);
    queue.add(Name(0, &scheds[0]), 256, 0).unwrap();
    let sleeper = queue.add(Name(1, &scheds[1]), 256, 0).unwrap();
    scheds[1].hold(Reasons::BLOCKED);
    queue.sleep(sleeper, 0);
    queue.pick(0);
    let begun = 1000 * MILLISECOND;
    queue.pick(begun);
    assert!(scheds[1].release(Reasons::BLOCKED));
    let now = begun + LEAST_TURN - 1;
    assert!(!queue.wake(sleeper, now), "the running one has only begun");
    assert_eq!(queue.soon(sleeper, now), Some(begun + LEAST_TURN), "but not for longer");
    assert_eq!(queue.pick(begun + LEAST_TURN).run.map(|n| n.0), Some(1));
}

#[test]
fn a_sleeper_runs_soon_but_has_not_saved_up_the_past() {
    let scheds = vcpus(2);
    let mut queue = CpuQueue::new(0);
    let busy = queue.add(Name(0, &scheds[0]), 256, 0).unwrap();
    let sleeper = queue.add(Name(1, &scheds[1]), 256, 0).unwrap();
    scheds[1].hold(Reasons::BLOCKED);
    queue.sleep(sleeper, 0);
    assert_eq!(queue.pick(0).run.map(|n| n.0), Some(0));
    let begun = 1000 * MILLISECOND;
    queue.pick(begun);
    let now = begun + LEAST_TURN;
    assert!(scheds[1].release(Reasons::BLOCKED));
    assert!(queue.wake(sleeper, now), "the sleeper comes first");
    assert!(!queue.wake(sleeper, now), "once");
    assert_eq!(queue.pick(now).run.map(|n| n.0), Some(1));
    let pick = queue.pick(now + 10 * MILLISECOND);
    assert_eq!(pick.run.map(|n| n.0), Some(0), "a second of sleep buys no second of running");
    assert_eq!(scheds[1].cpu(), Some(0));
    assert!(!queue.remove(busy) && queue.remove(sleeper));
    // Its slot may be another's from now on.
    assert!(scheds[1].cpu().is_none() && queue.slot_of(&Name(1, &scheds[1])).is_none());
    assert_eq!(
        queue.pick(now + 11 * MILLISECOND),
        Pick { run: queue.pick(now + 11 * MILLISECOND).run, until: None }
    );
}

impl PartialEq for Name<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl std::fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "v{}", self.0)
    }
}

#[test]
fn a_yield_lets_the_next_one_run() {
    let scheds = vcpus(2);
    let mut queue = CpuQueue::new(0);
    for (who, sched) in scheds.iter().enumerate() {
        queue.add(Name(who, sched), 256, 0).unwrap();
    }
    let first = queue.pick(0).run.unwrap().0;
    queue.give_way(10);
    assert_eq!(queue.pick(10).run.unwrap().0, 1 - first);
    queue.give_way(20);
    assert_eq!(queue.pick(20).run.unwrap().0, first);
}

#[test]
fn a_wake_between_blocking_and_choosing_is_not_lost() {
    let scheds = vcpus(1);
    let mut queue = CpuQueue::new(0);
    let slot = queue.add(Name(0, &scheds[0]), 256, 0).unwrap();
    queue.pick(0);
    assert!(scheds[0].hold(Reasons::BLOCKED));
    assert!(scheds[0].release(Reasons::BLOCKED));
    assert!(!queue.wake(slot, 5), "still on its CPU");
    assert_eq!(queue.pick(6).run.map(|n| n.0), Some(0));
    assert_eq!(scheds[0].runstate(10).time, [10, 0, 0, 0], "it never stopped running");
}

#[test]
fn reasons_are_independent_and_blocked_dominates() {
    let sched = VcpuSched::new(Reasons::DOWN, 5);
    assert_eq!(sched.state(), Runstate::Offline);
    assert!(!sched.hold(Reasons::BLOCKED));
    assert!(!sched.release(Reasons::DOWN));
    sched.rest(7);
    assert_eq!((sched.state(), sched.runstate(9).time), (Runstate::Blocked, [0, 0, 2, 2]));
    assert!(sched.release(Reasons::BLOCKED));
    assert!(!sched.release(Reasons::BLOCKED), "only the last one counts, once");
}

const ARG: GuestVa = GuestVa(Guest::BASE);

fn call(
    world: &World,
    sched: &VcpuSched,
    shutdown: &Shutdown,
    guest: &Guest,
    cmd: u32,
) -> Result<i64, CallError> {
    let caller = SchedCaller { events: &world.doms[0], vcpu: VcpuId(0), sched, shutdown, privileged: true };
    sched_op(world, guest, caller, cmd, ARG)
}

#[test]
fn block_unmasks_and_waits_unless_an_event_is_due() {
    let world = World::new(1, 1);
    let (sched, shutdown, guest) = (&vcpus(1)[0], Shutdown::new(), Guest::new(64));
    let v = world.doms[0].vcpu(VcpuId(0)).unwrap();
    v.set_upcall_mask(&world, true);
    assert_eq!(call(&world, sched, &shutdown, &guest, SCHEDOP_BLOCK), Ok(0));
    assert!(!v.upcall_mask(&world) && sched.reasons() == Reasons::BLOCKED);
    assert_eq!(world.take_log(), ["reschedule"]);
    sched.release(Reasons::BLOCKED);
    let port = world.doms[0].bind_ipi(&world, 0).unwrap();
    world.doms[0].send(&world, port).unwrap();
    v.set_upcall_mask(&world, true);
    assert_eq!(call(&world, sched, &shutdown, &guest, SCHEDOP_BLOCK), Ok(0));
    assert!(!v.upcall_mask(&world) && sched.may_run());
    assert!(world.take_log().is_empty());
}

#[test]
fn poll_blocks_with_its_timeout_or_answers_at_once() {
    let world = World::new(1, 1);
    let (sched, shutdown, guest) = (&vcpus(1)[0], Shutdown::new(), Guest::new(64));
    let port = world.doms[0].bind_ipi(&world, 0).unwrap();
    let poll = SchedPoll { ports: ARG.0 + 32, nr_ports: 1, timeout: 77, ..Default::default() };
    wire::write(&guest, ARG, &poll).unwrap();
    wire::write(&guest, GuestVa(ARG.0 + 32), &port.0).unwrap();
    world.doms[0].vcpu(VcpuId(0)).unwrap().set_upcall_mask(&world, true);
    assert_eq!(call(&world, sched, &shutdown, &guest, SCHEDOP_POLL), Ok(0));
    assert_eq!(
        (sched.reasons(), world.take_log()),
        (Reasons::BLOCKED, vec!["poll until 77".into(), "reschedule".into()])
    );
    world.doms[0].send(&world, port).unwrap();
    assert_eq!(*world.unblocked.lock().unwrap(), [(DomId(0), VcpuId(0))]);
    sched.release(Reasons::BLOCKED);
    assert_eq!(call(&world, sched, &shutdown, &guest, SCHEDOP_POLL), Ok(0));
    assert!(sched.may_run() && world.take_log().is_empty());
    wire::write(&guest, ARG, &SchedPoll { nr_ports: 129, ..poll }).unwrap();
    assert_eq!(call(&world, sched, &shutdown, &guest, SCHEDOP_POLL), Err(Errno::EINVAL.into()));
    assert!(sched.may_run());
    wire::write(&guest, GuestVa(ARG.0 + 32), &Port(9999).0).unwrap();
    wire::write(&guest, ARG, &poll).unwrap();
    assert_eq!(call(&world, sched, &shutdown, &guest, SCHEDOP_POLL), Err(Errno::EINVAL.into()));
    assert!(sched.may_run());
}

#[test]
fn the_first_shutdown_code_stays() {
    let world = World::new(2, 1);
    let (sched, shutdown, guest) = (&vcpus(1)[0], Shutdown::new(), Guest::new(64));
    wire::write(&guest, ARG, &SchedShutdown { reason: SHUTDOWN_CRASH }).unwrap();
    assert_eq!(call(&world, sched, &shutdown, &guest, SCHEDOP_SHUTDOWN_CODE), Ok(0));
    assert_eq!(shutdown.code(), None);
    assert_eq!(shutdown.begin(SHUTDOWN_POWEROFF as u8), (SHUTDOWN_CRASH as u8, true));
    assert_eq!(shutdown.begin(SHUTDOWN_REBOOT as u8), (SHUTDOWN_CRASH as u8, false));
    assert_eq!(shutdown.code(), Some(SHUTDOWN_CRASH as u8));
    assert_eq!(call(&world, sched, &shutdown, &guest, SCHEDOP_SHUTDOWN), Ok(0));
    assert_eq!(world.take_log(), ["shut down 0: 3"]);
}

#[test]
fn other_calls_and_their_refusals() {
    let world = World::new(2, 1);
    let (sched, shutdown, guest) = (&vcpus(1)[0], Shutdown::new(), Guest::new(64));
    let remote = |domain_id| {
        wire::write(&guest, ARG, &SchedRemoteShutdown { domain_id, _pad: 0, reason: 1 }).unwrap();
        call(&world, sched, &shutdown, &guest, SCHEDOP_REMOTE_SHUTDOWN)
    };
    assert_eq!(remote(9), Err(Errno::ESRCH.into()));
    assert_eq!(remote(0), Err(Errno::EPERM.into()));
    assert_eq!(remote(1), Ok(0));
    let caller = SchedCaller {
        events: &world.doms[1],
        vcpu: VcpuId(0),
        sched,
        shutdown: &shutdown,
        privileged: false,
    };
    wire::write(&guest, ARG, &SchedRemoteShutdown { domain_id: 0, _pad: 0, reason: 1 }).unwrap();
    let refused = sched_op(&world, &guest, caller, SCHEDOP_REMOTE_SHUTDOWN, ARG);
    assert_eq!(refused, Err(Errno::EPERM.into()));
    assert_eq!(call(&world, sched, &shutdown, &guest, SCHEDOP_YIELD), Ok(0));
    assert_eq!(world.take_log(), ["shut down 1: 1", "give way"]);
    let nothing = Guest::new(0);
    for cmd in SCHEDOP_SHUTDOWN..=SCHEDOP_WATCHDOG {
        assert_eq!(call(&world, sched, &shutdown, &nothing, cmd), Err(Errno::EFAULT.into()), "{cmd}");
    }
    assert_eq!(call(&world, sched, &shutdown, &guest, SCHEDOP_PIN_OVERRIDE), Err(Errno::ENOSYS.into()));
    assert!(sched.may_run() && world.take_log().is_empty());
}

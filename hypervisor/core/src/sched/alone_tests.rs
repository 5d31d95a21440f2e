//! `sched=null`: nobody shares a CPU, nobody waits while one is free, and who has a CPU keeps it.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Copy)]
struct Name<'a> {
    who: usize,
    sched: &'a VcpuSched,
    affinity: u8,
}

impl Unit for Name<'_> {
    fn sched(&self) -> &VcpuSched {
        self.sched
    }

    fn may_go_to(&self, cpu: u32) -> bool {
        self.affinity >> cpu & 1 != 0
    }

    fn prefers(&self, _: u32) -> bool {
        false
    }
}

const CPUS: usize = 4;
const VCPUS: usize = 6;

/// CPUs as the machine uses them: a free one looks for somebody who waits, at once.
struct Cpus<'a> {
    queues: Vec<CpuQueue<Name<'a>>>,
    runs: [Option<usize>; CPUS],
    now: u64,
}

impl<'a> Cpus<'a> {
    fn new(names: &[Name<'a>]) -> Self {
        let mut queues: Vec<_> = (0..CPUS as u32).map(CpuQueue::new).collect();
        queues.iter_mut().for_each(CpuQueue::set_alone);
        for name in names {
            let home = name.affinity.trailing_zeros() as usize;
            queues[home].add(*name, 256, 0).unwrap();
        }
        let mut cpus = Cpus { queues, runs: [None; CPUS], now: 0 };
        cpus.look();
        cpus
    }

    /// All CPUs choose; those with room take somebody in.
    fn look(&mut self) {
        for cpu in 0..CPUS {
            for other in 0..CPUS {
                if self.queues[cpu].pick(self.now).run.is_none()
                    && self.queues[cpu].has_room()
                    && other != cpu
                    && self.queues[other].has_spare()
                {
                    let mut mine = std::mem::replace(&mut self.queues[cpu], CpuQueue::new(99));
                    self.queues[other].give_one(&mut mine, self.now);
                    self.queues[cpu] = mine;
                }
            }
            let pick = self.queues[cpu].pick(self.now);
            assert_eq!(pick.until, None, "no slice");
            self.runs[cpu] = pick.run.map(|name| name.who);
        }
    }

    fn at_home<R>(
        &mut self,
        name: &Name<'a>,
        f: impl FnOnce(&mut CpuQueue<Name<'a>>, crate::time::Slot, u64) -> R,
    ) -> R {
        let queue = &mut self.queues[name.sched.cpu().unwrap() as usize];
        let slot = queue.slot_of(name).unwrap();
        f(queue, slot, self.now)
    }

    fn hold(&mut self, name: &Name<'a>, reason: Reasons) {
        if name.sched.hold(reason) {
            self.at_home(name, |queue, slot, now| queue.sleep(slot, now));
        }
        self.look();
    }

    fn release(&mut self, name: &Name<'a>, reason: Reasons) {
        if name.sched.release(reason) {
            self.at_home(name, |queue, slot, now| queue.wake(slot, now));
        }
        self.look();
    }

    fn cpu_of(&self, who: usize) -> Option<usize> {
        self.runs.iter().position(|runs| *runs == Some(who))
    }
}

fn scheds() -> Vec<VcpuSched> {
    (0..VCPUS).map(|_| VcpuSched::new(Reasons::empty(), 0)).collect()
}

fn names<'a>(scheds: &'a [VcpuSched], affinities: &[u8]) -> Vec<Name<'a>> {
    let both = scheds.iter().zip(affinities).enumerate();
    both.map(|(who, (sched, affinity))| Name { who, sched, affinity: *affinity }).collect()
}

proptest! {
    /// Whatever sleeps, wakes, goes down and comes up: who may run and may be on a CPU that nobody has does run, and a vCPU that runs
    /// is where it was as long as it has not been down.
    #[test]
    fn nobody_waits_while_a_cpu_is_free(
        affinities in prop::collection::vec(1u8..16, VCPUS),
        ops in prop::collection::vec((0u8..6, 0..VCPUS), 1..100),
    ) {
        let scheds = scheds();
        let names = names(&scheds, &affinities);
        let mut cpus = Cpus::new(&names);
        // The CPU that each has.
        let mut has: [_; VCPUS] = std::array::from_fn(|who| cpus.cpu_of(who));
        for (op, who) in ops {
            cpus.now += 1000;
            let reason = [Reasons::BLOCKED, Reasons::DOWN, Reasons::PAUSED][usize::from(op) / 2];
            if op % 2 == 0 { cpus.hold(&names[who], reason) } else { cpus.release(&names[who], reason) };
            for name in &names {
                let down = name.sched.reasons().contains(Reasons::DOWN);
                let runs = cpus.cpu_of(name.who);
                if let (Some(before), Some(now)) = (has[name.who], runs) {
                    prop_assert_eq!(before, now, "v{} moved", name.who);
                }
                has[name.who] = if down { None } else { runs.or(has[name.who]) };
            }
            for cpu in 0..CPUS {
                let owners: Vec<_> = (0..VCPUS).filter(|who| has[*who] == Some(cpu)).collect();
                prop_assert!(owners.len() <= 1, "CPU {} is {:?}'s", cpu, owners);
                prop_assert_eq!(cpus.queues[cpu].has_room(), owners.is_empty());
                let wants = |name: &&Name| {
                    name.sched.may_run() && has[name.who].is_none() && name.affinity >> cpu & 1 != 0
                };
                let waits = names.iter().find(wants).map(|name| name.who);
                prop_assert!(!owners.is_empty() || waits.is_none(), "v{:?} waits, CPU {} is free", waits, cpu);
            }
            for name in &names {
                prop_assert_eq!(cpus.cpu_of(name.who).is_some(), has[name.who].is_some() && name.sched.may_run());
                let info = name.sched.runstate(cpus.now);
                prop_assert_eq!(info.time.iter().sum::<u64>(), cpus.now);
            }
        }
    }
}

#[test]
fn a_sleeper_keeps_its_cpu_and_one_that_goes_down_does_not() {
    let scheds = scheds();
    let names = names(&scheds, &[1, 1, 1]);
    let mut cpus = Cpus::new(&names);
    assert_eq!(cpus.runs[0], Some(0));
    cpus.now = 10;
    cpus.hold(&names[0], Reasons::BLOCKED);
    assert_eq!(cpus.runs[0], None, "others wait, and the CPU is not theirs");
    assert!(cpus.queues[0].has_spare() && !cpus.queues[0].has_room());
    assert_eq!(scheds[1].runstate(20).time, [0, 20, 0, 0]);
    cpus.release(&names[0], Reasons::BLOCKED);
    assert_eq!(cpus.runs[0], Some(0));
    cpus.hold(&names[0], Reasons::DOWN);
    assert_eq!(cpus.runs[0], Some(1), "who has waited longest comes next");
    cpus.release(&names[0], Reasons::DOWN);
    cpus.hold(&names[1], Reasons::SHUTDOWN);
    assert_eq!(cpus.runs[0], Some(2), "who comes back waits behind the others");
    let slot = cpus.queues[0].slot_of(&names[2]).unwrap();
    assert!(!cpus.queues[0].remove(slot), "it runs");
    scheds[2].hold(Reasons::PAUSED);
    cpus.look();
    assert!(cpus.queues[0].remove(slot));
    cpus.look();
    assert_eq!(cpus.runs[0], Some(0));
}

#[test]
fn weights_caps_and_yields_mean_nothing() {
    let scheds = scheds();
    let names = names(&scheds, &[1, 1]);
    let mut cpus = Cpus::new(&names);
    let slot = cpus.queues[0].slot_of(&names[0]).unwrap();
    cpus.queues[0].set_cap(slot, 1, 0);
    for _ in 0..100 {
        cpus.now += crate::time::MILLISECOND;
        cpus.queues[0].give_way(cpus.now);
        cpus.look();
        assert_eq!(cpus.runs[0], Some(0));
    }
}

#[test]
fn a_cpu_that_is_closed_has_no_room_and_its_vcpu_takes_another_free_one() {
    let scheds = scheds();
    let names = names(&scheds, &[3]);
    let mut cpus = Cpus::new(&names);
    scheds[0].hold(Reasons::MOVING);
    cpus.look();
    cpus.queues[0].set_open(false);
    let slot = cpus.queues[0].slot_of(&names[0]).unwrap();
    let mut there = std::mem::replace(&mut cpus.queues[1], CpuQueue::new(99));
    assert!(cpus.queues[0].give(slot, &mut there, 0).is_some());
    cpus.queues[1] = there;
    assert!(!cpus.queues[0].has_room() && cpus.queues[1].has_room());
    cpus.release(&names[0], Reasons::MOVING);
    assert_eq!(cpus.runs, [None, Some(0), None, None]);
}

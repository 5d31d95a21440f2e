//! CPUs that go offline and come back under the scheduler: no vCPU stays at one that is gone, none is lost, none starves.

use super::*;
use crate::time::MILLISECOND;
use proptest::prelude::*;
use std::cell::Cell;

#[derive(Clone, Copy)]
struct Name<'a> {
    who: usize,
    sched: &'a VcpuSched,
    affinity: CpuSet,
    open: &'a Cell<CpuSet>,
}

impl Unit for Name<'_> {
    fn sched(&self) -> &VcpuSched {
        self.sched
    }

    fn may_go_to(&self, cpu: u32) -> bool {
        allowed(&self.affinity, &self.open.get()).contains(cpu)
    }

    fn prefers(&self, _: u32) -> bool {
        false
    }
}

const CPUS: usize = 4;
const VCPUS: usize = 9;

fn set(bits: u8) -> CpuSet {
    let mut set = CpuSet::EMPTY;
    (0..CPUS as u32).filter(|cpu| bits >> cpu & 1 != 0).for_each(|cpu| set.insert(cpu));
    set
}

struct Cpus<'a> {
    queues: Vec<CpuQueue<Name<'a>>>,
    open: &'a Cell<CpuSet>,
    names: Vec<Name<'a>>,
    ran: [u64; VCPUS],
    now: u64,
}

impl<'a> Cpus<'a> {
    fn home(&self, who: usize) -> usize {
        self.names[who].sched.cpu().unwrap() as usize
    }

    /// Two queues, as if both were locked.
    fn with_both<R>(
        &mut self,
        from: usize,
        to: usize,
        f: impl FnOnce(&mut CpuQueue<Name<'a>>, &mut CpuQueue<Name<'a>>) -> R,
    ) -> R {
        let mut other = std::mem::replace(&mut self.queues[to], CpuQueue::new(99));
        let result = f(&mut self.queues[from], &mut other);
        self.queues[to] = other;
        result
    }

    fn choose(&mut self, cpu: usize) {
        let slice = self.queues[cpu].pick(self.now);
        if let Some(name) = slice.run {
            assert!(name.sched.may_run());
            self.ran[name.who] += 1;
        }
    }

    /// What the machine does with a vCPU that is not where it may be.
    fn settle(&mut self, name: Name<'a>) {
        let home = self.home(name.who);
        if allowed(&name.affinity, &self.open.get()).contains(home as u32) {
            return;
        }
        name.sched.hold(Reasons::MOVING);
        let slot = self.queues[home].slot_of(&name).unwrap();
        if self.queues[home].sleep(slot, self.now) {
            self.choose(home);
        }
        let to = (0..CPUS).find(|cpu| name.may_go_to(*cpu as u32)).unwrap();
        let now = self.now;
        let moved = self.with_both(home, to, |from, to| from.give(slot, to, now).is_some());
        assert!(moved && self.home(name.who) == to);
        if name.sched.release(Reasons::MOVING) {
            let slot = self.queues[to].slot_of(&name).unwrap();
            self.queues[to].wake(slot, now);
        }
    }

    fn close(&mut self, cpu: usize) {
        let mut open = self.open.get();
        open.remove(cpu as u32);
        self.open.set(open);
        self.queues[cpu].set_open(false);
        while let Some(name) = self.queues[cpu].anybody() {
            self.settle(name);
        }
    }

    fn open(&mut self, cpu: usize) {
        let mut open = self.open.get();
        open.insert(cpu as u32);
        self.queues[cpu].set_open(true);
        self.open.set(open);
        for who in 0..VCPUS {
            self.settle(self.names[who]);
        }
    }

    fn steal(&mut self, from: usize, to: usize) {
        let (now, closed) = (self.now, !self.open.get().contains(to as u32));
        let taken = self.with_both(from, to, |from, to| from.give_one(to, now));
        assert!(!closed || taken.is_none());
    }

    fn check(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.queues.iter().map(CpuQueue::members).sum::<usize>(), VCPUS);
        for name in &self.names {
            let home = self.home(name.who);
            prop_assert!(self.queues[home].slot_of(name).is_some(), "v{} is lost", name.who);
            let allowed = allowed(&name.affinity, &self.open.get());
            prop_assert!(allowed.contains(home as u32), "v{} stayed at {home}", name.who);
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn cpus_come_and_go(
        affinities in prop::collection::vec(1u8..16, VCPUS),
        ops in prop::collection::vec((0u8..5, 0..CPUS, 0..VCPUS, 1u64..20), 1..120),
    ) {
        let scheds: Vec<_> = (0..VCPUS).map(|_| VcpuSched::new(Reasons::empty(), 0)).collect();
        let open = Cell::new(set(15));
        let names: Vec<_> = (0..VCPUS)
            .map(|who| Name { who, sched: &scheds[who], affinity: set(affinities[who]), open: &open })
            .collect();
        let mut cpus = Cpus {
            queues: (0..CPUS as u32).map(CpuQueue::new).collect(),
            open: &open,
            names,
            ran: [0; VCPUS],
            now: 0,
        };
        for (who, affinity) in affinities.iter().enumerate() {
            let home = affinity.trailing_zeros() as usize;
            cpus.queues[home].add(cpus.names[who], 256, 0).unwrap();
        }
        for (op, cpu, who, step) in ops {
            cpus.now += step * MILLISECOND;
            let now = cpus.now;
            // Slices end on all of them.
            (0..CPUS).for_each(|cpu| cpus.choose(cpu));
            match op {
                // The first CPU stays, as the machine's does.
                0 if cpu != 0 => cpus.close(cpu),
                0 | 1 => cpus.open(cpu),
                2 => cpus.steal(cpu, who % CPUS),
                3 => {
                    let slot = cpus.queues[cpus.home(who)].slot_of(&cpus.names[who]).unwrap();
                    let home = cpus.home(who);
                    if scheds[who].hold(Reasons::BLOCKED) && cpus.queues[home].sleep(slot, now) {
                        cpus.choose(home);
                    }
                }
                _ => {
                    let home = cpus.home(who);
                    let slot = cpus.queues[home].slot_of(&cpus.names[who]).unwrap();
                    if scheds[who].release(Reasons::BLOCKED) {
                        cpus.queues[home].wake(slot, now);
                    }
                }
            }
            cpus.check()?;
        }
        // From here on everybody that wants to runs within a while, on the CPUs that are there.
        cpus.ran = [0; VCPUS];
        for _ in 0..200 {
            cpus.now += 10 * MILLISECOND;
            (0..CPUS).for_each(|cpu| cpus.choose(cpu));
        }
        for (who, sched) in scheds.iter().enumerate() {
            prop_assert_eq!(cpus.ran[who] > 0, sched.may_run(), "v{} of {:?}", who, cpus.ran);
        }
    }
}

#[test]
fn a_queue_that_is_not_open_takes_nobody_and_runs_who_is_there() {
    let scheds: Vec<_> = (0..3).map(|_| VcpuSched::new(Reasons::empty(), 0)).collect();
    let open = Cell::new(set(3));
    let name = |who| Name { who, sched: &scheds[who], affinity: CpuSet::ALL, open: &open };
    let (mut here, mut there) = (CpuQueue::new(0), CpuQueue::new(1));
    let first = here.add(name(0), 256, 0).unwrap();
    here.add(name(1), 256, 0).unwrap();
    there.set_open(false);
    assert_eq!(there.add(name(2), 256, 0).err(), Some(guest_abi::Errno::EAGAIN));
    assert!(scheds[2].cpu().is_none() && there.anybody().is_none());
    assert!(here.give(first, &mut there, 0).is_none() && here.give_one(&mut there, 0).is_none());
    assert_eq!((here.members(), there.members()), (2, 0));
    here.set_open(false);
    let running = here.pick(0).run.unwrap();
    assert_ne!(here.anybody().unwrap().who, running.who, "the one that runs is the last to be named");
    there.set_open(true);
    assert!(here.give_one(&mut there, 0).is_some());
    assert_eq!(here.anybody().unwrap().who, running.who);
}

#[test]
fn an_affinity_without_an_open_cpu_is_suspended() {
    assert_eq!(allowed(&set(0b0110), &set(0b1011)).words()[0], 0b0010);
    assert_eq!(allowed(&set(0b0100), &set(0b1011)).words()[0], 0b1011);
    assert_eq!(allowed(&CpuSet::ALL, &set(0b1011)).words()[0], 0b1011);
}

//! vCPUs that move between CPUs against everything else that happens to them, and CPUs that go offline meanwhile.

use super::explore_with;
use crate::mmu::CpuSet;
use crate::sched::moves::{self, Cpus};
use crate::sched::{CpuQueue, Reasons, Unit, VcpuSched};
use crate::sync;
use core::sync::atomic::Ordering::{Acquire, Release, SeqCst};
use loom::thread;

const NOBODY: u32 = u32::MAX;
const CPUS: usize = 2;

struct Machine {
    queues: [sync::Mutex<CpuQueue<Name>>; CPUS],
    /// CPUs that vCPUs may be on.
    open: sync::Mutex<CpuSet>,
    /// A CPU was told to choose again.
    told: [sync::AtomicBool; CPUS],
    sched: VcpuSched,
    /// The CPU that has the vCPU's registers.
    on_cpu: sync::AtomicU32,
    /// An event is pending for it.
    event: sync::AtomicBool,
}

/// The one vCPU. Machines live as long as the run that explores them.
#[derive(Clone, Copy)]
struct Name(&'static Machine);

impl Unit for Name {
    fn sched(&self) -> &VcpuSched {
        &self.0.sched
    }

    fn may_go_to(&self, cpu: u32) -> bool {
        self.0.is_saved(*self) && self.0.allowed(*self).contains(cpu)
    }

    fn prefers(&self, _: u32) -> bool {
        true
    }
}

impl Cpus for Machine {
    type Unit = Name;
    type Cpu = usize;

    fn cpu(&self, number: u32) -> Option<usize> {
        Some(number as usize)
    }

    fn number(&self, cpu: usize) -> u32 {
        cpu as u32
    }

    fn with_queue<R>(&self, cpu: usize, f: impl FnOnce(&mut CpuQueue<Name>) -> R) -> R {
        f(&mut self.queues[cpu].lock())
    }

    fn with_both<R>(
        &self,
        one: usize,
        other: usize,
        f: impl FnOnce(&mut CpuQueue<Name>, &mut CpuQueue<Name>) -> R,
    ) -> R {
        let (mut low, mut high) = (self.queues[0].lock(), self.queues[1].lock());
        assert_ne!(one, other);
        if one == 0 { f(&mut low, &mut high) } else { f(&mut high, &mut low) }
    }

    fn is_saved(&self, _: Name) -> bool {
        self.on_cpu.load(Acquire) == NOBODY
    }

    fn relax(&self) {
        thread::yield_now();
    }

    fn allowed(&self, _: Name) -> CpuSet {
        *self.open.lock()
    }

    fn open_one_of(&self, allowed: &CpuSet) -> Option<usize> {
        allowed.first().map(|cpu| cpu as usize)
    }

    fn choose_again(&self, cpu: usize) {
        self.told[cpu].swap(true, SeqCst);
    }

    fn wake(&self, unit: Name) {
        let woken = moves::at_home(self, unit, |home, queue, slot| (home, queue.wake(slot, 1)));
        if let Some((home, true)) = woken {
            self.choose_again(home);
        }
    }

    fn has_moved(&self, _: Name, _: &CpuSet) {}

    fn now(&self) -> u64 {
        1
    }
}

impl Machine {
    /// The vCPU is at CPU 1 with these reasons not to run.
    fn new(reasons: Reasons) -> &'static Machine {
        let mut open = CpuSet::EMPTY;
        (0..CPUS as u32).for_each(|cpu| open.insert(cpu));
        let machine: &'static Machine = Box::leak(Box::new(Machine {
            queues: core::array::from_fn(|cpu| sync::Mutex::new(CpuQueue::new(cpu as u32))),
            open: sync::Mutex::new(open),
            told: core::array::from_fn(|_| sync::AtomicBool::new(false)),
            sched: VcpuSched::new(reasons, 0),
            on_cpu: sync::AtomicU32::new(NOBODY),
            event: sync::AtomicBool::new(false),
        }));
        machine.queues[1].lock().add(Name(machine), 256, 0).unwrap();
        machine.choose(1);
        machine
    }

    fn unit(&'static self) -> Name {
        Name(self)
    }

    /// A CPU chooses who runs, as the machine does: who ran is saved, and then who comes is loaded.
    fn choose(&'static self, cpu: usize) {
        let before = self.on_cpu.load(Acquire) == cpu as u32;
        let next = self.queues[cpu].lock().pick(1).run.is_some();
        if before && !next {
            self.on_cpu.store(NOBODY, Release);
            moves::was_saved(self, self.unit());
        }
        if next && !before {
            while !self.is_saved(self.unit()) {
                self.relax();
            }
            self.on_cpu.store(cpu as u32, SeqCst);
        }
    }

    /// A CPU does what it was told.
    fn look(&'static self, cpu: usize) {
        if self.told[cpu].swap(false, SeqCst) {
            self.choose(cpu);
        }
    }

    /// CPU 1 is closed, and sends its vCPU away as far as that goes.
    fn close(&'static self) {
        {
            let mut queue = self.queues[1].lock();
            self.open.lock().remove(1);
            queue.set_open(false);
        }
        self.send_away();
    }

    fn send_away(&'static self) {
        let there = self.queues[1].lock().anybody();
        if let Some(unit) = there {
            moves::settle(self, unit);
        }
    }

    fn open_again(&'static self) {
        let mut queue = self.queues[1].lock();
        self.open.lock().insert(1);
        queue.set_open(true);
    }

    /// CPU 0, with nothing to do, takes who waits at CPU 1.
    fn steal(&'static self) {
        let taken = self.with_both(1, 0, |theirs, mine| theirs.give_one(mine, 1));
        if taken.is_some() {
            self.choose_again(0);
        }
    }

    fn hold(&'static self, reason: Reasons) {
        if self.sched.hold(reason) {
            moves::stop(self, self.unit());
        }
    }

    fn release(&'static self, reason: Reasons) {
        if self.sched.release(reason) {
            self.wake(self.unit());
        }
    }

    /// When all threads have ended and each CPU has done what it was told: the vCPU runs, on a CPU where it may be.
    fn check(&'static self) {
        for _ in 0..3 {
            self.send_away_if_closed();
            (0..CPUS).for_each(|cpu| self.look(cpu));
        }
        let cpu = self.on_cpu.load(Acquire);
        assert!(self.sched.reasons().is_empty(), "{:?}", self.sched.reasons());
        assert!(self.open.lock().contains(cpu), "it runs on {cpu}");
        assert_eq!(self.sched.cpu(), Some(cpu));
        let members: usize = self.queues.iter().map(|queue| queue.lock().members()).sum();
        assert_eq!(members, 1);
    }

    /// Whoever closes a CPU comes again until nobody is there.
    fn send_away_if_closed(&'static self) {
        if !self.open.lock().contains(1) {
            self.send_away();
        }
    }
}

/// One thread closes CPU 1; what else happens.
fn closing(reasons: Reasons, others: [fn(&'static Machine); 2]) {
    explore_with(Some(2), move || {
        let machine = Machine::new(reasons);
        let others = others.map(|other| thread::spawn(move || other(machine)));
        machine.close();
        others.into_iter().for_each(|other| other.join().unwrap());
        machine.check();
    });
}

#[test]
fn a_cpu_closes_under_the_vcpu_that_it_runs() {
    closing(Reasons::empty(), [|machine| machine.look(1), |machine| machine.look(0)]);
}

#[test]
fn a_cpu_closes_as_its_vcpu_wakes() {
    closing(Reasons::BLOCKED, [|machine| machine.release(Reasons::BLOCKED), |machine| machine.look(1)]);
}

#[test]
fn a_cpu_closes_as_its_vcpu_blocks_and_wakes() {
    closing(
        Reasons::empty(),
        [
            |machine| {
                // A call of the vCPU's own; then its CPU chooses.
                machine.sched.hold(Reasons::BLOCKED);
                if machine.event.load(SeqCst) {
                    machine.sched.release(Reasons::BLOCKED);
                }
                machine.choose(1);
            },
            |machine| {
                machine.event.swap(true, SeqCst);
                machine.release(Reasons::BLOCKED);
            },
        ],
    );
}

#[test]
fn a_cpu_closes_as_its_vcpu_is_paused_and_goes_on() {
    closing(
        Reasons::empty(),
        [
            |machine| {
                machine.hold(Reasons::PAUSED);
                machine.release(Reasons::PAUSED);
            },
            |machine| machine.look(1),
        ],
    );
}

#[test]
fn a_cpu_closes_as_its_vcpu_is_taken() {
    closing(
        Reasons::BLOCKED,
        [
            |machine| machine.release(Reasons::BLOCKED),
            |machine| {
                machine.steal();
                machine.look(0);
            },
        ],
    );
}

#[test]
fn a_cpu_that_closes_opens_again() {
    closing(
        Reasons::empty(),
        [
            |machine| {
                machine.open_again();
                moves::settle(machine, machine.unit());
            },
            |machine| machine.look(1),
        ],
    );
}

/// Two change the affinity of a vCPU at once while its CPU chooses.
#[test]
fn two_move_a_vcpu() {
    explore_with(Some(2), || {
        let machine = Machine::new(Reasons::empty());
        let other = thread::spawn(move || moves::settle(machine, machine.unit()));
        let cpu = thread::spawn(move || machine.look(1));
        machine.close();
        other.join().unwrap();
        cpu.join().unwrap();
        machine.check();
    });
}

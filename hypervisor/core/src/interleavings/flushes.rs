//! Flushes against use: when a frame becomes a table, no processor has a way to write to it from before.

use super::explore;
use crate::frame::{Frame, FrameTable, GeneralRef, Kind, TakeType, TypeRef};
use crate::mmu::clock::{CpuFlushes, FlushClock};
use crate::sync;
use core::sync::atomic::Ordering::{Acquire, SeqCst};
use hv_types::{DomId, Mfn};
use loom::sync::atomic::fence;
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const FRAME: Mfn = Mfn(0);
const OWNER: DomId = DomId(1);

struct Machine {
    frames: [Frame; 1],
    clock: FlushClock,
    /// The guest's entry for the frame: present and writable.
    entry: sync::AtomicBool,
    /// What the other CPU remembers of it, and that CPU's part in flushes.
    remembered: sync::Mutex<bool>,
    flushes: CpuFlushes,
    /// The frame is a table.
    is_table: AtomicBool,
}

impl Machine {
    /// A frame that is mapped once, and the reference of that mapping.
    fn new() -> (Arc<Machine>, TypeRef) {
        let machine = Arc::new(Machine {
            frames: [Frame::default()],
            clock: FlushClock::new(),
            entry: sync::AtomicBool::new(true),
            remembered: sync::Mutex::new(false),
            flushes: CpuFlushes::new(),
            is_table: AtomicBool::new(false),
        });
        assert!(machine.table().publish(FRAME, OWNER));
        let mapped = machine.table().get_writable_fast(FRAME, OWNER).unwrap();
        (machine, mapped)
    }

    fn table(&self) -> FrameTable<'_> {
        FrameTable::new(&self.frames)
    }

    /// The other CPU's guest writes through its entry, or through what the CPU remembers of it. A request to flush comes between two
    /// such accesses, never into one.
    fn write(&self) {
        let mut remembered = self.remembered.lock();
        *remembered |= self.entry.load(Acquire);
        assert!(!*remembered || !self.is_table.load(SeqCst), "a table is written to");
    }

    /// The other CPU flushes all, by instructions that serialize (SDM 3A 9.3: MOV to CR3 and CR4).
    fn flush(&self) -> u32 {
        let (began, _) = self.clock.tick();
        fence(SeqCst);
        *self.remembered.lock() = false;
        began
    }

    /// The other CPU idles for a while.
    fn rest(&self) {
        self.flushes.rests();
        if self.flushes.resumes() {
            let began = self.flush();
            self.flushes.done(began);
        }
    }

    fn unmap(&self, mapped: TypeRef) {
        self.entry.swap(false, SeqCst);
        assert!(self.table().put_writable(mapped, || self.clock.now()).is_none());
    }

    /// Makes the frame a table, if nobody may write to it.
    fn make_table(&self) {
        let table = self.table();
        let held: GeneralRef = table.get_general(FRAME, OWNER).unwrap();
        let TakeType::Claimed(claim) = table.take_type(held, Kind::L1) else { return };
        // As the machine does for each CPU that may hold something.
        fence(SeqCst);
        if self.flushes.must_be_asked(table.stamp(FRAME)) {
            let began = self.flush();
            self.flushes.done_for_others(began);
        }
        self.is_table.store(true, SeqCst);
        let _ = table.validated(claim);
    }
}

/// Another CPU does something while this one takes the frame's mapping away and makes it a table.
fn against(other: impl Fn(&Machine) + Copy + Send + Sync + 'static) {
    explore(move || {
        let (machine, mapped) = Machine::new();
        let user = machine.clone();
        let user = thread::spawn(move || other(&user));
        machine.unmap(mapped);
        machine.make_table();
        user.join().unwrap();
        assert!(machine.is_table.load(SeqCst));
    });
}

#[test]
fn a_cpu_that_runs_is_asked() {
    against(|cpu| {
        cpu.write();
        cpu.write();
    });
}

#[test]
fn a_cpu_that_flushes_by_itself_remembers_nothing() {
    against(|cpu| {
        cpu.write();
        let began = cpu.flush();
        cpu.flushes.done(began);
        cpu.write();
        cpu.write();
    });
}

#[test]
fn a_cpu_that_rests_finds_the_note() {
    against(|cpu| {
        cpu.write();
        cpu.rest();
        cpu.write();
    });
}

#[test]
fn another_cpu_than_the_one_that_unmaps_makes_the_table() {
    explore(|| {
        let (machine, mapped) = Machine::new();
        let (user, taker) = (machine.clone(), machine.clone());
        let user = thread::spawn(move || {
            user.write();
            user.rest();
            user.write();
        });
        let taker = thread::spawn(move || taker.make_table());
        machine.unmap(mapped);
        user.join().unwrap();
        taker.join().unwrap();
    });
}

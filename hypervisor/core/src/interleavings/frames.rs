//! References of frames against each other.

use super::explore_with;
use crate::frame::{Frame, FrameTable, Kind, PutType, TakeType};
use hv_types::{DomId, Mfn};
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

const FRAME: Mfn = Mfn(0);
const FIRST: DomId = DomId(1);
const SECOND: DomId = DomId(2);

struct Machine {
    frames: [Frame; 1],
    /// How often the frame died.
    deaths: AtomicU32,
    is_table: AtomicBool,
    writers: AtomicU32,
}

impl Machine {
    /// A frame of the first domain's.
    fn new() -> Arc<Machine> {
        let machine = Machine {
            frames: [Frame::default()],
            deaths: AtomicU32::new(0),
            is_table: AtomicBool::new(false),
            writers: AtomicU32::new(0),
        };
        assert!(machine.table().publish(FRAME, FIRST));
        Arc::new(machine)
    }

    fn table(&self) -> FrameTable<'_> {
        FrameTable::new(&self.frames)
    }

    /// The owner gives the frame up. True if that was its end.
    fn give_up(&self, owner: DomId) -> bool {
        let table = self.table();
        let Ok(held) = table.get_general(FRAME, owner) else { return false };
        let own = table.take_allocated(&held).and_then(|own| table.put_general(own));
        own.or(table.put_general(held)).is_some()
    }
}

/// A stranger looks at a frame that dies, is another domain's, and dies again: each death is seen once.
#[test]
fn a_reference_meets_a_frame_that_is_born_again() {
    explore_with(Some(3), || {
        let machine = Machine::new();
        let other = machine.clone();
        let other = thread::spawn(move || {
            if let Ok(held) = other.table().get_general(FRAME, FIRST)
                && other.table().put_general(held).is_some()
            {
                other.deaths.fetch_add(1, SeqCst);
            }
        });
        let died_here = machine.give_up(FIRST);
        let mut died_again = false;
        if died_here {
            machine.deaths.fetch_add(1, SeqCst);
            assert!(machine.table().publish(FRAME, SECOND));
            died_again = machine.give_up(SECOND);
        }
        other.join().unwrap();
        assert_eq!(machine.deaths.load(SeqCst), 1);
        let orphan = machine.table().take_orphan(FRAME, SECOND).is_some();
        assert_eq!(died_again || orphan, died_here);
        assert!(!(died_again && orphan));
        assert!(machine.table().publish(FRAME, FIRST), "it is in use");
    });
}

/// One CPU makes a frame a table, others map it writable: never both.
#[test]
fn a_frame_is_a_table_or_written_to() {
    explore_with(Some(3), || {
        let machine = Machine::new();
        let writers = [(); 2].map(|()| {
            let machine = machine.clone();
            thread::spawn(move || {
                let Ok(mapped) = machine.table().get_writable_fast(FRAME, FIRST) else { return };
                machine.writers.fetch_add(1, SeqCst);
                assert!(!machine.is_table.load(SeqCst));
                machine.writers.fetch_sub(1, SeqCst);
                assert!(machine.table().put_writable(mapped, || 0).is_none());
            })
        });
        let table = machine.table();
        let held = table.get_general(FRAME, FIRST).unwrap();
        match table.take_type(held, Kind::L1) {
            TakeType::Claimed(claim) => {
                assert_eq!(machine.writers.load(SeqCst), 0);
                machine.is_table.store(true, SeqCst);
                let reference = table.validated(claim);
                machine.is_table.store(false, SeqCst);
                let PutType::Claimed(claim) = table.put_type(reference, || 0) else { panic!("shared") };
                assert!(table.emptied(claim, 0).is_none());
            }
            TakeType::Refused(held) => assert!(table.put_general(held).is_none()),
            other => panic!("{other:?}"),
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert!(machine.give_up(FIRST), "a reference was lost");
    });
}

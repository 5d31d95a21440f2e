use core::cell::RefCell;

use super::*;
use crate::testing::Frames;

/// What was asked of the controllers, in order.
#[derive(Default)]
pub(crate) struct Log(pub RefCell<Vec<String>>);

impl Controller for Log {
    fn mask(&self, irq: Irq) {
        self.0.borrow_mut().push(format!("mask {}", irq.0));
    }
    fn unmask(&self, irq: Irq) {
        self.0.borrow_mut().push(format!("unmask {}", irq.0));
    }
    fn acknowledge(&self) {
        self.0.borrow_mut().push("ack".into());
    }
}

impl Log {
    fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

#[test]
fn an_edge_is_acknowledged_before_its_event_and_owes_nothing() {
    let (lines, log) = (Lines::new(), Log::default());
    lines.bind(Irq(4), DomId(0), Pirq(4), Trigger::Edge).unwrap();
    assert_eq!(lines.arrive(Irq(4), &log), Some((DomId(0), Pirq(4))));
    lines.end(Irq(4), DomId(0), &log);
    assert_eq!(log.take(), ["ack"]);
}

#[test]
fn a_level_stays_masked_until_the_guest_ends_it_once() {
    let (lines, log) = (Lines::new(), Log::default());
    lines.bind(Irq(9), DomId(0), Pirq(9), Trigger::Level).unwrap();
    assert_eq!(lines.arrive(Irq(9), &log), Some((DomId(0), Pirq(9))));
    assert_eq!(log.take(), ["mask 9", "ack"]);
    assert!(lines.in_flight(Irq(9)));
    lines.end(Irq(9), DomId(0), &log);
    lines.end(Irq(9), DomId(0), &log);
    assert_eq!(log.take(), ["unmask 9"]);
    assert!(!lines.in_flight(Irq(9)));
}

#[test]
fn another_domain_cannot_end_a_line() {
    let (lines, log) = (Lines::new(), Log::default());
    lines.bind(Irq(9), DomId(0), Pirq(9), Trigger::Level).unwrap();
    lines.arrive(Irq(9), &log);
    log.take();
    lines.end(Irq(9), DomId(1), &log);
    assert_eq!(log.take(), [""; 0]);
    assert!(lines.in_flight(Irq(9)));
}

#[test]
fn a_line_has_one_owner_and_an_orphan_is_silenced() {
    let (lines, log) = (Lines::new(), Log::default());
    lines.bind(Irq(3), DomId(0), Pirq(3), Trigger::Edge).unwrap();
    assert_eq!(lines.bind(Irq(3), DomId(1), Pirq(3), Trigger::Edge), Err(Errno::EBUSY));
    assert!(lines.unbind(Irq(3), &log));
    assert!(!lines.unbind(Irq(3), &log));
    log.take();
    assert_eq!(lines.arrive(Irq(3), &log), None);
    assert_eq!(log.take(), ["mask 3", "ack"]);
    assert_eq!(lines.bind(Irq(MAX_IRQS as u16), DomId(0), Pirq(0), Trigger::Edge), Err(Errno::EINVAL));
}

#[test]
fn unbinding_in_flight_leaves_the_line_masked_and_the_end_harmless() {
    let (lines, log) = (Lines::new(), Log::default());
    lines.bind(Irq(9), DomId(0), Pirq(9), Trigger::Level).unwrap();
    lines.arrive(Irq(9), &log);
    lines.unbind(Irq(9), &log);
    log.take();
    lines.end(Irq(9), DomId(0), &log);
    assert_eq!(log.take(), [""; 0]);
}

#[test]
fn gsis_name_themselves_and_messages_come_from_the_top() {
    let mut pirqs = Pirqs::for_hardware_domain(24, 40);
    assert_eq!(pirqs.irq(Pirq(9)), Ok(Irq(9)));
    assert_eq!(pirqs.map(Irq(9), Some(Pirq(9))), Ok(Pirq(9)));
    assert_eq!(pirqs.map(Irq(9), Some(Pirq(30))), Err(Errno::EEXIST));
    assert_eq!(pirqs.map(Irq(100), None), Ok(Pirq(63)));
    assert_eq!(pirqs.map(Irq(101), Some(Pirq(63))), Err(Errno::EBUSY));
    assert_eq!(pirqs.map(Irq(101), Some(Pirq(64))), Err(Errno::EINVAL));
    assert_eq!(pirqs.free_run(4), Ok(Pirq(59)));
    assert_eq!(pirqs.free_run(40), Err(Errno::ENOSPC));
    assert_eq!(pirqs.unmap(Pirq(63)), Ok(Irq(100)));
    assert_eq!(pirqs.unmap(Pirq(63)), Err(Errno::EINVAL));
}

#[test]
fn an_ordinary_domain_has_no_pirq() {
    let mut pirqs = Pirqs::new();
    assert_eq!(pirqs.irq(Pirq(0)), Err(Errno::EINVAL));
    assert_eq!(pirqs.map(Irq(1), Some(Pirq(0))), Err(Errno::EINVAL));
    assert_eq!(pirqs.map(Irq(1), None), Err(Errno::ENOSPC));
}

#[test]
fn the_page_shows_which_pirqs_owe_an_end() {
    let (mut pirqs, memory) = (Pirqs::for_hardware_domain(24, 80), Frames::new(8));
    pirqs.set_bound(Pirq(9), Trigger::Level, &memory).unwrap();
    pirqs.set_bound(Pirq(4), Trigger::Edge, &memory).unwrap();
    let map = EoiMap { frame: Mfn(7), unmasks: false };
    pirqs.set_eoi_map(map, |irq| irq == Irq(9), &memory).unwrap();
    assert_eq!(memory.load64(Mfn(7), 0), 1 << 9);
    pirqs.set_bound(Pirq(11), Trigger::Level, &memory).unwrap();
    assert_eq!(memory.load64(Mfn(7), 0), 1 << 9 | 1 << 11);
    assert_eq!(pirqs.unmap(Pirq(9)), Err(Errno::EBUSY));
    pirqs.clear_bound(Pirq(9), &memory);
    assert_eq!(memory.load64(Mfn(7), 0), 1 << 11);
    assert_eq!(pirqs.set_eoi_map(map, |_| false, &memory), Err(Errno::EBUSY));
    assert_eq!(pirqs.take_eoi_map(), Some(map));
}

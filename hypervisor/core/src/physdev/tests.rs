use core::cell::{Cell, RefCell};

use hv_types::Mfn;
use zerocopy::IntoBytes;

use super::*;
use crate::port::Fault;
use crate::testing::Frames;

/// A guest whose memory is one argument at address 0x1000.
#[derive(Default)]
struct Guest(RefCell<Vec<u8>>);

const ARGUMENT: GuestVa = GuestVa(0x1000);

impl Guest {
    fn with<T: IntoBytes + zerocopy::Immutable>(argument: &T) -> Self {
        Guest(RefCell::new(argument.as_bytes().to_vec()))
    }
    fn word(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.0.borrow()[offset..offset + 4].try_into().unwrap())
    }
}

impl GuestSpace for Guest {
    fn read(&self, from: GuestVa, into: &mut [u8]) -> Result<(), Fault> {
        let at = from.0.checked_sub(ARGUMENT.0).ok_or(Fault)? as usize;
        let bytes = self.0.borrow();
        into.copy_from_slice(bytes.get(at..at + into.len()).ok_or(Fault)?);
        Ok(())
    }
    fn write(&self, to: GuestVa, from: &[u8]) -> Result<(), Fault> {
        let at = to.0.checked_sub(ARGUMENT.0).ok_or(Fault)? as usize;
        let mut bytes = self.0.borrow_mut();
        bytes.get_mut(at..at + from.len()).ok_or(Fault)?.copy_from_slice(from);
        Ok(())
    }
}

/// 24 pins; pin 9 is a level, pin 2 the hypervisor's. Messages get lines from 24 on.
#[derive(Default)]
struct Board {
    log: RefCell<Vec<String>>,
    next: Cell<u16>,
    full: Cell<bool>,
}

impl Board {
    fn note(&self, what: String) {
        self.log.borrow_mut().push(what);
    }
    fn take(&self) -> Vec<String> {
        self.log.take()
    }
}

impl Controller for Board {
    fn mask(&self, irq: Irq) {
        self.note(format!("mask {}", irq.0));
    }
    fn unmask(&self, irq: Irq) {
        self.note(format!("unmask {}", irq.0));
    }
    fn acknowledge(&self) {
        self.note("ack".into());
    }
}

impl Routing for Board {
    fn gsi_count(&self) -> u32 {
        24
    }
    fn trigger(&self, irq: Irq) -> Option<Trigger> {
        match irq.0 {
            2 => None,
            9 => Some(Trigger::Level),
            _ => Some(Trigger::Edge),
        }
    }
    fn setup_gsi(&self, gsi: u32, _: Trigger, _: Polarity) -> Result<(), Errno> {
        self.note(format!("setup {gsi}"));
        if gsi < 24 { Ok(()) } else { Err(Errno::EINVAL) }
    }
    fn start(&self, irq: Irq) -> Result<(), Errno> {
        self.note(format!("start {}", irq.0));
        if self.full.get() { Err(Errno::ENOSPC) } else { Ok(()) }
    }
    fn stop(&self, irq: Irq) {
        self.note(format!("stop {}", irq.0));
    }
    fn apic_read(&self, address: u64, register: u32) -> Result<u32, Errno> {
        if address == 0xfec0_0000 { Ok(register << 8) } else { Err(Errno::EINVAL) }
    }
    fn apic_write(&self, _: u64, _: u32, _: u32) -> Result<(), Errno> {
        Ok(())
    }
}

impl Messages for Board {
    fn allocate(&self, _: Sbdf, kind: MessageKind) -> Result<Irq, Errno> {
        let count = if let MessageKind::Msi { count } = kind { count } else { 1 };
        let first = 24 + self.next.get();
        self.next.set(self.next.get() + count);
        self.note(format!("allocate {first}+{count}"));
        Ok(Irq(first))
    }
    fn release(&self, irq: Irq) {
        self.note(format!("release {}", irq.0));
    }
    fn restore(&self, _: Sbdf) -> Result<(), Errno> {
        Err(Errno::ENODEV)
    }
    fn mmcfg_reserved(&self, _: u64, _: u16, _: (u8, u8)) -> Result<(), Errno> {
        Ok(())
    }
}

struct Dom {
    id: u16,
    privileged: bool,
    iopl: Cell<u8>,
    claimed: Cell<i32>,
}

impl Dom {
    fn new(id: u16) -> Self {
        Dom { id, privileged: id == 0, iopl: Cell::new(0), claimed: Cell::new(0) }
    }
}

impl Caller for Dom {
    fn domain(&self) -> DomId {
        DomId(self.id)
    }
    fn is_privileged(&self) -> bool {
        self.privileged
    }
    fn set_iopl(&self, level: u8) {
        self.iopl.set(level);
    }
    fn set_iobitmap(&self, _: GuestVa, _: u32) {}
    fn claim_eoi_frame(&self, gfn: Gfn) -> Result<Mfn, Errno> {
        self.claimed.set(self.claimed.get() + 1);
        Ok(Mfn(gfn.0))
    }
    fn release_eoi_frame(&self, _: Mfn) {
        self.claimed.set(self.claimed.get() - 1);
    }
}

struct World {
    dom: Dom,
    pirqs: Pirqs,
    lines: Lines,
    board: Board,
    frames: Frames,
}

impl World {
    fn new(id: u16) -> Self {
        let pirqs = if id == 0 { Pirqs::for_hardware_domain(24, 40) } else { Pirqs::new() };
        World {
            dom: Dom::new(id),
            pirqs,
            lines: Lines::new(),
            board: Board::default(),
            frames: Frames::new(8),
        }
    }
    fn perform(&mut self, request: Request) -> Result<Answer, Errno> {
        perform(request, &self.dom, &mut self.pirqs, &self.lines, &self.board, &self.frames)
    }
    /// Decodes, performs and writes back, as the hypercall does.
    fn call(&mut self, command: u32, guest: &Guest) -> Result<(), Errno> {
        self.perform(decode(command, ARGUMENT, guest)?)?.write(ARGUMENT, guest)
    }
    fn bind(&mut self, pirq: u32) -> Result<(), Errno> {
        bind(Pirq(pirq), DomId(0), &mut self.pirqs, &self.lines, &self.board, &self.frames)
    }
}

fn map(kind: u32, index: i32, entry_nr: i32, table_base: u64) -> PhysdevMapPirq {
    PhysdevMapPirq {
        domid: DomId::SELF.0,
        kind,
        index,
        pirq: -1,
        bus: 0,
        devfn: 0x18,
        entry_nr,
        table_base,
        ..Default::default()
    }
}

#[test]
fn a_gsi_keeps_its_number() {
    let mut world = World::new(0);
    let guest = Guest::with(&PhysdevMapPirq { pirq: 9, ..map(MAP_PIRQ_TYPE_GSI, 9, 0, 0) });
    assert_eq!(world.call(PHYSDEVOP_MAP_PIRQ, &guest), Ok(()));
    assert_eq!(guest.word(12), 9);
    let beyond = Guest::with(&map(MAP_PIRQ_TYPE_GSI, 24, 0, 0));
    assert_eq!(world.call(PHYSDEVOP_MAP_PIRQ, &beyond), Err(Errno::EINVAL));
    let setup = Guest::with(&PhysdevSetupGsi { gsi: 9, triggering: 1, polarity: 1, _pad: 0 });
    assert_eq!(world.call(PHYSDEVOP_SETUP_GSI, &setup), Ok(()));
    assert_eq!(world.board.take(), ["setup 9"]);
}

#[test]
fn messages_are_made_named_and_taken_apart() {
    let mut world = World::new(0);
    let guest = Guest::with(&map(MAP_PIRQ_TYPE_MSI_SEG, -1, 3, 0xfeb0_0000));
    assert_eq!(world.call(PHYSDEVOP_MAP_PIRQ, &guest), Ok(()));
    assert_eq!(guest.word(12), 63);
    assert_eq!(world.board.take(), ["allocate 24+1"]);
    let unmap = Guest::with(&PhysdevUnmapPirq { domid: DomId::SELF.0, _pad: 0, pirq: 63 });
    world.bind(63).unwrap();
    assert_eq!(world.call(PHYSDEVOP_UNMAP_PIRQ, &unmap), Err(Errno::EBUSY));
    unbind(Pirq(63), &mut world.pirqs, &world.lines, &world.board, &world.frames);
    assert_eq!(world.call(PHYSDEVOP_UNMAP_PIRQ, &unmap), Ok(()));
    assert_eq!(world.board.take(), ["start 24", "mask 24", "stop 24", "release 24"]);
    assert_eq!(world.call(PHYSDEVOP_UNMAP_PIRQ, &unmap), Err(Errno::EINVAL));
}

#[test]
fn several_messages_get_numbers_in_a_row() {
    let mut world = World::new(0);
    let guest = Guest::with(&map(MAP_PIRQ_TYPE_MULTI_MSI, -1, 3, 0));
    assert_eq!(world.call(PHYSDEVOP_MAP_PIRQ, &guest), Ok(()));
    assert_eq!((guest.word(12), guest.word(24)), (60, 4));
    assert_eq!(world.pirqs.irq(Pirq(63)), Ok(Irq(27)));
    for count in [0, -1, 33, i32::MAX] {
        let guest = Guest::with(&map(MAP_PIRQ_TYPE_MULTI_MSI, -1, count, 0));
        assert_eq!(world.call(PHYSDEVOP_MAP_PIRQ, &guest), Err(Errno::EDOM));
    }
}

#[test]
fn a_number_in_use_undoes_the_messages() {
    let mut world = World::new(0);
    let first = Guest::with(&map(MAP_PIRQ_TYPE_MSI, -1, 0, 0));
    world.call(PHYSDEVOP_MAP_PIRQ, &first).unwrap();
    world.board.take();
    let clash = Guest::with(&PhysdevMapPirq { pirq: 62, ..map(MAP_PIRQ_TYPE_MULTI_MSI, -1, 2, 0) });
    assert_eq!(world.call(PHYSDEVOP_MAP_PIRQ, &clash), Err(Errno::EBUSY));
    assert_eq!(world.board.take(), ["allocate 25+2", "release 25", "release 26"]);
    assert_eq!(world.pirqs.irq(Pirq(62)), Err(Errno::EINVAL));
}

#[test]
fn a_level_interrupt_goes_round() {
    let mut world = World::new(0);
    let map = PhysdevPirqEoiGmfn { gmfn: 5 };
    assert_eq!(world.call(PHYSDEVOP_PIRQ_EOI_GMFN_V2, &Guest::with(&map)), Ok(()));
    assert_eq!(world.call(PHYSDEVOP_PIRQ_EOI_GMFN_V2, &Guest::with(&map)), Err(Errno::EBUSY));
    assert_eq!(world.dom.claimed.get(), 1);
    world.bind(9).unwrap();
    assert_eq!(world.frames.load64(Mfn(5), 0), 1 << 9);
    assert_eq!(world.lines.arrive(Irq(9), &world.board), Some((DomId(0), Pirq(9))));
    assert_eq!(world.call(PHYSDEVOP_EOI, &Guest::with(&PhysdevEoi { irq: 9 })), Ok(()));
    assert_eq!(world.board.take(), ["start 9", "mask 9", "ack", "unmask 9"]);
    assert_eq!(world.call(PHYSDEVOP_EOI, &Guest::with(&PhysdevEoi { irq: 64 })), Err(Errno::EINVAL));
}

#[test]
fn the_first_version_of_the_page_also_unmasks() {
    let mut world = World::new(0);
    world.call(PHYSDEVOP_PIRQ_EOI_GMFN_V1, &Guest::with(&PhysdevPirqEoiGmfn { gmfn: 5 })).unwrap();
    assert_eq!(world.perform(Request::Eoi(Pirq(4))), Ok(Answer::Unmask(Pirq(4))));
}

#[test]
fn a_line_of_the_hypervisor_or_without_vector_cannot_be_bound() {
    let mut world = World::new(0);
    assert_eq!(world.bind(2), Err(Errno::EBUSY));
    world.board.full.set(true);
    assert_eq!(world.bind(4), Err(Errno::ENOSPC));
    assert!(!world.pirqs.is_bound(Pirq(4)));
    world.board.full.set(false);
    assert_eq!(world.bind(4), Ok(()));
    assert_eq!(world.bind(4), Err(Errno::EBUSY));
}

#[test]
fn registers_iopl_and_vectors() {
    let mut world = World::new(0);
    let read = Guest::with(&PhysdevApic { apic_physbase: 0xfec0_0000, reg: 1, value: 0 });
    assert_eq!(world.call(PHYSDEVOP_APIC_READ, &read), Ok(()));
    assert_eq!(read.word(12), 0x100);
    let other = Guest::with(&PhysdevApic { apic_physbase: 0xfec1_0000, reg: 1, value: 0 });
    assert_eq!(world.call(PHYSDEVOP_APIC_READ, &other), Err(Errno::EINVAL));
    assert_eq!(world.call(PHYSDEVOP_SET_IOPL, &Guest::with(&PhysdevSetIopl { iopl: 1 })), Ok(()));
    assert_eq!(world.call(PHYSDEVOP_SET_IOPL, &Guest::with(&PhysdevSetIopl { iopl: 4 })), Err(Errno::EINVAL));
    assert_eq!(world.dom.iopl.get(), 1);
    let vector = Guest::with(&PhysdevIrq { irq: 9, vector: 0 });
    assert_eq!(world.call(PHYSDEVOP_ALLOC_IRQ_VECTOR, &vector), Ok(()));
    assert_eq!(vector.word(4), 9);
    let status = Guest::with(&PhysdevIrqStatusQuery { irq: 9, flags: 0 });
    assert_eq!(world.call(PHYSDEVOP_IRQ_STATUS_QUERY, &status), Ok(()));
    assert_eq!(status.word(4), XENIRQSTAT_NEEDS_EOI);
    assert_eq!(world.perform(Request::Status(Pirq(64))), Err(Errno::EINVAL));
    let bitmap = GuestVa(0xffff_8000_0000_0000);
    assert_eq!(world.perform(Request::SetIobitmap { bitmap, ports: 8 }), Err(Errno::EINVAL));
}

#[test]
fn an_ordinary_domain_may_not_touch_the_machine() {
    let mut world = World::new(3);
    for (command, guest) in [
        (PHYSDEVOP_MAP_PIRQ, Guest::with(&map(MAP_PIRQ_TYPE_GSI, 9, 0, 0))),
        (PHYSDEVOP_APIC_READ, Guest::with(&PhysdevApic::default())),
        (PHYSDEVOP_SETUP_GSI, Guest::with(&PhysdevSetupGsi::default())),
        (PHYSDEVOP_PCI_DEVICE_ADD, Guest::with(&PhysdevPciDeviceAdd::default())),
        (PHYSDEVOP_PCI_MMCFG_RESERVED, Guest::with(&PhysdevPciMmcfgReserved::default())),
    ] {
        assert_eq!(world.call(command, &guest), Err(Errno::EPERM));
    }
    assert_eq!(world.call(PHYSDEVOP_EOI, &Guest::with(&PhysdevEoi { irq: 9 })), Err(Errno::EINVAL));
    assert_eq!(world.board.take(), [""; 0]);
}

#[test]
fn what_cannot_be_read_or_is_unknown_is_refused() {
    let mut world = World::new(0);
    assert_eq!(world.call(PHYSDEVOP_EOI, &Guest::default()), Err(Errno::EFAULT));
    for command in [0, 1, 2, 3, 4, 18, 22, 32, u32::MAX] {
        assert_eq!(world.call(command, &Guest::default()), Err(Errno::ENOSYS));
    }
    let foreign = Guest::with(&PhysdevUnmapPirq { domid: 7, _pad: 0, pirq: 9 });
    assert_eq!(world.call(PHYSDEVOP_UNMAP_PIRQ, &foreign), Err(Errno::ESRCH));
}

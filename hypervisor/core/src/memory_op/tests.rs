//! Memory calls on a small machine: what comes and goes adds up, and a refused call changes nothing.

use super::*;
use crate::port::Memory;
use crate::testing::{Guest, Paged};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;

const ARG: GuestVa = GuestVa(Guest::BASE);
const LIST: GuestVa = GuestVa(Guest::BASE + 256);
const OUT: GuestVa = GuestVa(Guest::BASE + 256 + 8192);

struct Rig {
    machine: Paged,
    guest: Guest,
}

impl Rig {
    fn new() -> Self {
        Rig { machine: Paged::new(), guest: Guest::new(256 + 2 * 8192) }
    }

    fn raw(&self, dom: usize, cmd: u64, arg: GuestVa) -> Result<i64, CallError> {
        let caller = Caller { domain: &self.machine.doms[dom], vcpu: &self.machine.vcpu };
        memory_op(&self.machine.mmu(), &self.guest, &caller, cmd, arg)
    }

    fn call<T: zerocopy::IntoBytes + zerocopy::Immutable>(
        &self,
        dom: usize,
        cmd: u32,
        arg: T,
    ) -> Result<i64, CallError> {
        wire::write(&self.guest, ARG, &arg).unwrap();
        self.raw(dom, cmd.into(), ARG)
    }

    fn list(&self, at: GuestVa, values: &[u64]) {
        values
            .iter()
            .enumerate()
            .for_each(|(i, v)| wire::write_element(&self.guest, at, i as u64, v).unwrap());
    }

    fn read_list(&self, at: GuestVa, len: u64) -> Vec<u64> {
        (0..len).map(|i| wire::read_element(&self.guest, at, i).unwrap()).collect()
    }

    /// Populates guest frames from 100 on; their machine frames.
    fn populate(&self, dom: usize, count: u64) -> Vec<u64> {
        self.list(LIST, &(100..100 + count).collect::<Vec<_>>());
        assert_eq!(self.call(dom, XENMEM_POPULATE_PHYSMAP, extents(count, 0)), Ok(count as i64));
        self.read_list(LIST, count)
    }

    /// Free frames and both domains' pages: always the same sum.
    fn sum(&self) -> u64 {
        self.machine.heap.free_frames() + self.machine.doms.iter().map(DomainMemory::pages).sum::<u64>()
    }

    fn m2p(&self, mfn: u64) -> u64 {
        self.machine.m2p[mfn as usize].load(SeqCst)
    }
}

fn extents(count: u64, order: u32) -> XenMemoryReservation {
    XenMemoryReservation {
        extent_start: LIST.0,
        nr_extents: count,
        extent_order: order,
        domid: DomId::SELF.0,
        ..Default::default()
    }
}

fn exchange(inputs: u64, in_order: u32, outputs: u64, out_order: u32) -> XenMemoryExchange {
    XenMemoryExchange {
        input: extents(inputs, in_order),
        output: XenMemoryReservation { extent_start: OUT.0, ..extents(outputs, out_order) },
        nr_exchanged: 0,
    }
}

fn refused(errno: Errno) -> Result<i64, CallError> {
    Err(CallError::Errno(errno))
}

#[test]
fn populated_frames_are_zeroed_mapped_back_and_counted() {
    let rig = Rig::new();
    rig.machine.store64(Mfn(1000), 3, 7);
    rig.list(LIST, &[100, 200]);
    assert_eq!(rig.call(0, XENMEM_POPULATE_PHYSMAP, extents(2, 4)), Ok(2));
    let mfns = rig.read_list(LIST, 2);
    for (first, gfn) in mfns.iter().zip([100, 200]) {
        assert_eq!(first % 16, 0, "aligned to its size");
        for n in 0..16 {
            assert_eq!(rig.m2p(first + n), gfn + n);
            assert!((0..512).all(|i| rig.machine.load64(Mfn(first + n), i) == 0));
        }
    }
    assert_eq!(rig.machine.doms[0].pages(), 32);
    assert_eq!(rig.call(0, XENMEM_CURRENT_RESERVATION, XenMemoryDomain { domid: DomId::SELF.0 }), Ok(32));
    rig.list(LIST, &mfns);
    assert_eq!(rig.call(0, XENMEM_DECREASE_RESERVATION, extents(2, 4)), Ok(2));
    assert_eq!((rig.machine.doms[0].pages(), rig.m2p(mfns[0])), (0, u64::MAX));
}

#[test]
fn a_list_stops_at_the_first_extent_that_cannot_be_done() {
    let rig = Rig::new();
    let sum = rig.sum();
    let mine = rig.populate(1, 3);
    let theirs = rig.populate(0, 1);
    rig.list(LIST, &[mine[0], theirs[0], mine[1]]);
    assert_eq!(rig.call(1, XENMEM_DECREASE_RESERVATION, extents(3, 0)), Ok(1));
    rig.list(LIST, &[mine[1], mine[1], mine[2]]);
    assert_eq!(rig.call(1, XENMEM_DECREASE_RESERVATION, extents(3, 0)), Ok(1), "given twice");
    rig.list(LIST, &[u64::MAX]);
    assert_eq!(rig.call(1, XENMEM_DECREASE_RESERVATION, extents(1, 1)), Ok(0));
    assert_eq!((rig.machine.doms[1].pages(), rig.machine.doms[0].pages(), rig.sum()), (1, 1, sum));
    rig.machine.doms[1].max_pages.store(3, SeqCst);
    rig.list(LIST, &[1, 2, 3]);
    assert_eq!(rig.call(1, XENMEM_POPULATE_PHYSMAP, extents(3, 0)), Ok(2), "its maximum");
    assert_eq!(rig.call(1, XENMEM_MAXIMUM_RESERVATION, XenMemoryDomain { domid: 1 }), Ok(3));
    assert_eq!(rig.sum(), sum);
}

#[test]
fn what_a_list_may_not_ask_for_is_not_done() {
    let rig = Rig::new();
    let good = extents(1, 0);
    let other = XenMemoryReservation { domid: 0, ..good };
    for (what, bad) in [
        ("another domain", other),
        ("nobody", XenMemoryReservation { domid: 77, ..good }),
        ("too large", XenMemoryReservation { extent_order: MAX_EXTENT_ORDER + 1, ..good }),
        ("too many", XenMemoryReservation { nr_extents: 1 << 26, ..good }),
        ("none", XenMemoryReservation { nr_extents: 0, ..good }),
        ("below every page", XenMemoryReservation { mem_flags: 12, ..good }),
        ("an exact node", XenMemoryReservation { mem_flags: 1 << 8 | XENMEMF_EXACT_NODE_REQUEST, ..good }),
        ("on demand", XenMemoryReservation { mem_flags: XENMEMF_POPULATE_ON_DEMAND, ..good }),
        ("the hypervisor's range", XenMemoryReservation { extent_start: 0xffff_8000_0000_0000, ..good }),
        ("an unmapped list", XenMemoryReservation { extent_start: 8, ..good }),
    ] {
        assert_eq!(rig.call(1, XENMEM_POPULATE_PHYSMAP, bad), Ok(0), "{what}");
    }
    assert_eq!(rig.raw(1, XENMEM_POPULATE_PHYSMAP.into(), GuestVa(0)), Ok(0), "an unmapped argument");
    assert_eq!(rig.raw(1, u64::from(XENMEM_POPULATE_PHYSMAP) | 5 << EXTENT_SHIFT, GuestVa(0)), Ok(5));
    assert_eq!(rig.machine.doms[1].pages(), 0);
    assert_eq!(
        rig.call(0, XENMEM_INCREASE_RESERVATION, XenMemoryReservation { extent_start: 0, ..good }),
        Ok(1)
    );
    assert_eq!(rig.call(0, XENMEM_POPULATE_PHYSMAP, XenMemoryReservation { domid: 1, ..good }), Ok(1));
    assert_eq!((rig.machine.doms[0].pages(), rig.machine.doms[1].pages()), (1, 1));
}

#[test]
fn memory_below_a_limit_is_below_it() {
    let rig = Rig::new();
    rig.list(LIST, &[1, 2, 3, 4]);
    let low = XenMemoryReservation { mem_flags: 20, ..extents(4, 2) };
    assert_eq!(rig.call(0, XENMEM_POPULATE_PHYSMAP, low), Ok(4));
    assert!(rig.read_list(LIST, 4).iter().all(|mfn| mfn + 4 <= 1 << (20 - 12)));
}

#[test]
fn a_list_is_cut_and_goes_on_where_it_was() {
    let rig = Rig::new();
    rig.machine.patience.store(3, SeqCst);
    let again = |done: u64| {
        CallError::Retry(Continuation {
            args: [u64::from(XENMEM_POPULATE_PHYSMAP) | done << EXTENT_SHIFT, ARG.0, 0, 0],
        })
    };
    rig.list(LIST, &[5, 6, 7, 8, 9, 10]);
    assert_eq!(rig.call(0, XENMEM_POPULATE_PHYSMAP, extents(6, 0)), Err(again(4)));
    assert_eq!(rig.raw(0, u64::from(XENMEM_POPULATE_PHYSMAP) | 4 << EXTENT_SHIFT, ARG), Err(again(5)));
    rig.machine.patience.store(9, SeqCst);
    assert_eq!(rig.raw(0, u64::from(XENMEM_POPULATE_PHYSMAP) | 5 << EXTENT_SHIFT, ARG), Ok(6));
    let mfns = rig.read_list(LIST, 6);
    assert!(mfns.iter().zip(5..).all(|(mfn, gfn)| rig.m2p(*mfn) == gfn));
    assert_eq!(rig.machine.doms[0].pages(), 6);
}

#[test]
fn single_frames_become_one_extent_and_back() {
    let rig = Rig::new();
    let sum = rig.sum();
    let old = rig.populate(1, 8);
    rig.list(LIST, &old);
    rig.list(OUT, &[100]);
    assert_eq!(rig.call(1, XENMEM_EXCHANGE, exchange(8, 0, 1, 3)), Ok(0));
    assert_eq!(wire::read::<XenMemoryExchange>(&rig.guest, ARG).unwrap().nr_exchanged, 8);
    let first = rig.read_list(OUT, 1)[0];
    assert!(first.is_multiple_of(8) && (0..8).all(|n| rig.m2p(first + n) == 100 + n));
    assert_eq!((rig.machine.doms[1].pages(), rig.sum()), (8, sum));
    rig.list(LIST, &[first]);
    rig.list(OUT, &(100..108).collect::<Vec<_>>());
    assert_eq!(rig.call(1, XENMEM_EXCHANGE, exchange(1, 3, 8, 0)), Ok(0));
    let new = rig.read_list(OUT, 8);
    assert_eq!(new.iter().collect::<BTreeSet<_>>().len(), 8);
    assert!(new.iter().zip(100..).all(|(mfn, gfn)| rig.m2p(*mfn) == gfn));
    assert_eq!((rig.machine.doms[1].pages(), rig.sum()), (8, sum));
}

#[test]
fn a_refused_exchange_takes_nothing() {
    let rig = Rig::new();
    let sum = rig.sum();
    let mine = rig.populate(1, 4);
    let theirs = rig.populate(0, 1);
    let mmu = rig.machine.mmu();
    rig.list(OUT, &[100]);
    let attempt = |frames: [u64; 4]| {
        rig.list(LIST, &frames);
        rig.call(1, XENMEM_EXCHANGE, exchange(4, 0, 1, 2))
    };
    let held = mmu.frames.get_general(Mfn(mine[3]), DomId(1)).unwrap();
    assert_eq!(attempt([mine[0], mine[1], mine[2], mine[3]]), refused(Errno::EINVAL), "one is mapped");
    mmu.drop_general(held);
    assert_eq!(attempt([mine[0], mine[1], mine[1], mine[3]]), refused(Errno::EINVAL), "one twice");
    assert_eq!(attempt([mine[0], theirs[0], mine[1], mine[3]]), refused(Errno::EINVAL), "another's");
    assert_eq!(attempt([mine[0], 5, mine[1], mine[3]]), refused(Errno::EINVAL), "the hypervisor's");
    assert_eq!(attempt([mine[0], u64::MAX, mine[1], mine[3]]), refused(Errno::EINVAL), "no frame");
    let good = exchange(4, 0, 1, 2);
    let with = |change: fn(&mut XenMemoryExchange)| {
        let mut op = good;
        change(&mut op);
        rig.list(LIST, &mine);
        rig.call(1, XENMEM_EXCHANGE, op)
    };
    assert_eq!(with(|op| op.nr_exchanged = 5), refused(Errno::EINVAL));
    assert_eq!(with(|op| op.output.domid = 0), refused(Errno::EINVAL));
    assert_eq!(with(|op| op.output.nr_extents = 2), refused(Errno::EINVAL));
    assert_eq!(with(|op| op.input.nr_extents = u64::MAX), refused(Errno::EINVAL));
    assert_eq!(with(|op| op.output.extent_order = MAX_EXTENT_ORDER + 1), refused(Errno::EPERM));
    assert_eq!(with(|op| op.input.extent_start = 0xffff_8000_0000_0000), refused(Errno::EFAULT));
    assert_eq!(with(|op| op.input.extent_start = 8), refused(Errno::EFAULT));
    assert_eq!(with(|op| (op.input.domid, op.output.domid) = (0, 0)), refused(Errno::EPERM));
    assert_eq!(with(|op| (op.input.domid, op.output.domid) = (9, 9)), refused(Errno::ESRCH));
    assert_eq!(with(|op| op.output.mem_flags = 12), refused(Errno::ENOMEM));
    assert_eq!(with(|op| op.nr_exchanged = 4), Ok(0), "nothing left to do");
    assert_eq!((rig.machine.doms[1].pages(), rig.sum()), (4, sum));
    assert!(mine.iter().zip(100..).all(|(mfn, gfn)| rig.m2p(*mfn) == gfn));
    assert_eq!(attempt([mine[0], mine[1], mine[2], mine[3]]), Ok(0), "all were given back");
}

#[test]
fn an_exchange_is_cut_between_chunks() {
    let rig = Rig::new();
    let old = rig.populate(0, 12);
    rig.list(LIST, &old);
    rig.list(OUT, &[100, 104, 108]);
    rig.machine.patience.store(1, SeqCst);
    let again = CallError::Retry(Continuation { args: [XENMEM_EXCHANGE.into(), ARG.0, 0, 0] });
    assert_eq!(rig.call(0, XENMEM_EXCHANGE, exchange(12, 0, 3, 2)), Err(again));
    assert_eq!(wire::read::<XenMemoryExchange>(&rig.guest, ARG).unwrap().nr_exchanged, 8);
    rig.machine.patience.store(9, SeqCst);
    assert_eq!(rig.raw(0, XENMEM_EXCHANGE.into(), ARG), Ok(0));
    let new = rig.read_list(OUT, 3);
    assert!((0..3).all(|i| rig.m2p(new[i]) == 100 + 4 * i as u64));
    assert_eq!(rig.machine.doms[0].pages(), 12);
}

#[test]
fn queries() {
    let rig = Rig::new();
    let nobody = XenMemoryDomain { domid: 9 };
    assert_eq!(rig.raw(1, XENMEM_MAXIMUM_RAM_PAGE.into(), GuestVa(0)), Ok(Paged::FRAMES as i64));
    assert_eq!(rig.raw(1, u64::from(XENMEM_MAXIMUM_RAM_PAGE) | 1 << 6, ARG), refused(Errno::EINVAL));
    assert_eq!(rig.call(1, XENMEM_CURRENT_RESERVATION, nobody), refused(Errno::ESRCH));
    assert_eq!(rig.call(1, XENMEM_MAXIMUM_RESERVATION, XenMemoryDomain { domid: 0 }), refused(Errno::EPERM));
    assert_eq!(rig.call(0, XENMEM_MAXIMUM_GPFN, XenMemoryDomain { domid: 0 }), Ok(0));
    rig.machine.store64(Mfn(10), shared_offset::ARCH / 8, 77);
    assert_eq!(rig.call(0, XENMEM_MAXIMUM_GPFN, XenMemoryDomain { domid: 0 }), Ok(76));
    assert_eq!(rig.raw(0, XENMEM_MACHPHYS_MAPPING.into(), ARG), Ok(0));
    let mapping: XenMachphysMapping = wire::read(&rig.guest, ARG).unwrap();
    assert_eq!((mapping.v_start, mapping.max_mfn), (MACH2PHYS_VIRT_START, Paged::FRAMES as u64 - 1));
    let list = XenMachphysMfnList { max_extents: 3, extent_start: LIST.0, ..Default::default() };
    assert_eq!(rig.call(0, XENMEM_MACHPHYS_MFN_LIST, list), Ok(0));
    assert_eq!(wire::read::<XenMachphysMfnList>(&rig.guest, ARG).unwrap().nr_extents, 1);
    assert_eq!(rig.read_list(LIST, 1), [512]);
    let add = XenAddToPhysmap { domid: DomId::SELF.0, ..Default::default() };
    assert_eq!(rig.call(0, XENMEM_ADD_TO_PHYSMAP, add), refused(Errno::EACCES));
    let foreign = XenAddToPhysmap { space: XENMAPSPACE_GMFN_FOREIGN, ..add };
    assert_eq!(rig.call(0, XENMEM_ADD_TO_PHYSMAP, foreign), refused(Errno::ENOSYS));
    assert_eq!(
        rig.call(0, XENMEM_ADD_TO_PHYSMAP, XenAddToPhysmap { domid: 9, ..add }),
        refused(Errno::ESRCH)
    );
    assert_eq!(
        rig.call(0, XENMEM_REMOVE_FROM_PHYSMAP, XenRemoveFromPhysmap::default()),
        refused(Errno::EACCES)
    );
    assert_eq!(rig.raw(0, XENMEM_GET_SHARING_FREED_PAGES.into(), GuestVa(0)), Ok(0));
    for cmd in [XENMEM_GET_POD_TARGET, XENMEM_PAGING_OP, 63] {
        assert_eq!(rig.raw(0, cmd.into(), ARG), refused(Errno::ENOSYS), "{cmd}");
    }
}

fn entry(first: u64, last: u64, kind: u32) -> E820Entry {
    E820Entry { addr: first << 12, size: (last - first) << 12, kind }
}

#[test]
fn dom0_sees_the_machines_map_with_holes_it_may_not_touch() {
    let mut rig = Rig::new();
    rig.machine.machine_map = vec![entry(0, 0x9f, E820_RAM), entry(0x100, 0x700, E820_RAM)];
    let dom0 = &rig.machine.doms[0];
    dom0.permit_io(Mfn(0x9f), Mfn(0xfec00 - 1)).unwrap();
    dom0.permit_io(Mfn(0xfec01), Mfn(0xfffff)).unwrap();
    let map = |dom, nr_entries, buffer| {
        rig.call(dom, XENMEM_MACHINE_MEMORY_MAP, XenMemoryMap { nr_entries, _pad: 0, buffer })
    };
    assert_eq!(map(1, 9, LIST.0), refused(Errno::EPERM));
    assert_eq!(map(0, 2, LIST.0), refused(Errno::EINVAL), "no room");
    assert_eq!(map(0, 0, 0), Ok(0));
    assert_eq!(wire::read::<XenMemoryMap>(&rig.guest, ARG).unwrap().nr_entries, 3);
    assert_eq!(map(0, 9, LIST.0), Ok(0));
    let got: Vec<E820Entry> = (0..3).map(|i| wire::read_element(&rig.guest, LIST, i).unwrap()).collect();
    let expected =
        [entry(0, 0x9f, E820_RAM), entry(0x100, 0x700, E820_RAM), entry(0xfec00, 0xfec01, E820_RESERVED)];
    assert_eq!(got, expected);
}

#[test]
fn a_domain_sees_the_map_that_its_builder_set() {
    let rig = Rig::new();
    let own = XenMemoryMap { nr_entries: 5, _pad: 0, buffer: OUT.0 };
    assert_eq!(rig.call(1, XENMEM_MEMORY_MAP, own), refused(Errno::ENOSYS));
    wire::write(&rig.guest, LIST, &entry(0, 99, E820_RAM)).unwrap();
    let set = |domid, nr_entries| XenForeignMemoryMap {
        domid,
        _pad: [0; 3],
        map: XenMemoryMap { nr_entries, _pad: 0, buffer: LIST.0 },
    };
    assert_eq!(rig.call(1, XENMEM_SET_MEMORY_MAP, set(0, 1)), refused(Errno::EPERM));
    assert_eq!(rig.call(0, XENMEM_SET_MEMORY_MAP, set(1, 1025)), refused(Errno::EINVAL));
    assert_eq!(rig.call(0, XENMEM_SET_MEMORY_MAP, set(1, 1024)), refused(Errno::EFAULT));
    assert_eq!(rig.call(0, XENMEM_SET_MEMORY_MAP, set(1, 1)), Ok(0));
    assert_eq!(rig.call(1, XENMEM_MEMORY_MAP, own), Ok(0));
    assert_eq!(wire::read::<XenMemoryMap>(&rig.guest, ARG).unwrap().nr_entries, 1);
    assert_eq!(wire::read::<E820Entry>(&rig.guest, OUT), Ok(entry(0, 99, E820_RAM)));
}

fn claim(domid: u16, nr_extents: u64) -> XenMemoryReservation {
    XenMemoryReservation { nr_extents, domid, ..Default::default() }
}

#[test]
fn what_one_domain_claims_no_other_gets() {
    let rig = Rig::new();
    let free = rig.machine.heap.free_frames();
    rig.machine.doms[1].max_pages.store(u64::MAX, SeqCst);
    rig.populate(1, 3);
    for (dom, op, answer) in [
        (1, claim(1, 5), Errno::EPERM),
        (0, claim(9, 5), Errno::EINVAL),
        (0, claim(DomId::SELF.0, 5), Errno::EINVAL),
        (0, claim(1, 3), Errno::EINVAL),
        (0, claim(1, free + 1), Errno::ENOMEM),
        (0, XenMemoryReservation { mem_flags: 1, ..claim(1, 5) }, Errno::EINVAL),
    ] {
        assert_eq!(rig.call(dom, XENMEM_CLAIM_PAGES, op), refused(answer), "{op:?}");
    }
    assert_eq!(rig.call(0, XENMEM_CLAIM_PAGES, claim(1, free)), Ok(0));
    assert_eq!(rig.call(0, XENMEM_CLAIM_PAGES, claim(1, free)), refused(Errno::EINVAL), "it has one");
    rig.list(LIST, &[0]);
    assert_eq!(rig.call(0, XENMEM_POPULATE_PHYSMAP, extents(1, 0)), Ok(0), "nothing is left");
    rig.populate(1, 4);
    assert_eq!(rig.machine.doms[1].claim.outstanding(), free - 7);
    // What cannot be given goes back to what was promised.
    rig.machine.doms[1].max_pages.store(8, SeqCst);
    rig.list(LIST, &[0]);
    assert_eq!(rig.call(1, XENMEM_POPULATE_PHYSMAP, extents(1, 1)), Ok(0));
    assert_eq!(rig.machine.doms[1].claim.outstanding(), free - 7);
    assert_eq!(rig.call(0, XENMEM_CLAIM_PAGES, claim(1, 0)), Ok(0));
    assert_eq!(rig.machine.doms[1].claim.outstanding(), 0);
    rig.populate(0, 1);
    rig.machine.heap.close(&rig.machine.doms[1].claim);
    rig.machine.doms[1].max_pages.store(100, SeqCst);
    assert_eq!(rig.call(0, XENMEM_CLAIM_PAGES, claim(1, 20)), refused(Errno::ENOMEM), "it goes");
    assert_eq!(rig.call(0, XENMEM_CLAIM_PAGES, claim(1, 0)), Ok(0));
}

#[test]
fn a_grant_table_is_a_resource_of_its_domain() {
    let rig = Rig::new();
    let table = XenMemAcquireResource { domid: 1, kind: XENMEM_RESOURCE_GRANT_TABLE, ..Default::default() };
    assert_eq!(rig.call(0, XENMEM_ACQUIRE_RESOURCE, table), Ok(0));
    assert_eq!(
        wire::read::<XenMemAcquireResource>(&rig.guest, ARG).unwrap().nr_frames,
        4,
        "the most it may have"
    );
    let list = XenMemAcquireResource { frame: 1, nr_frames: 2, frame_list: LIST.0, ..table };
    for (dom, op, answer) in [
        (1, XenMemAcquireResource { domid: 0, ..list }, Errno::EPERM),
        (0, XenMemAcquireResource { domid: 0, ..list }, Errno::EPERM),
        (0, XenMemAcquireResource { domid: 9, ..list }, Errno::ESRCH),
        (0, XenMemAcquireResource { kind: 2, ..list }, Errno::EINVAL),
        (0, XenMemAcquireResource { id: XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS, ..list }, Errno::EINVAL),
        (0, XenMemAcquireResource { pad: 1, ..list }, Errno::EINVAL),
        (0, XenMemAcquireResource { frame: 3, ..list }, Errno::EINVAL),
        (0, XenMemAcquireResource { frame: u64::MAX, ..list }, Errno::EINVAL),
        (0, XenMemAcquireResource { frame_list: 0, ..list }, Errno::EINVAL),
        (0, XenMemAcquireResource { nr_frames: 0, ..list }, Errno::EINVAL),
        (0, XenMemAcquireResource { frame_list: 8, ..list }, Errno::EFAULT),
    ] {
        assert_eq!(rig.call(dom, XENMEM_ACQUIRE_RESOURCE, op), refused(answer), "{op:?}");
    }
    assert_eq!(rig.call(0, XENMEM_ACQUIRE_RESOURCE, list), Ok(0));
    let frames = [1, 2].map(|n| rig.machine.grants[1].frame(n).unwrap().0);
    assert_eq!(rig.read_list(LIST, 2), frames);
    // One at a time when the CPU is wanted; what is done is not done again.
    rig.machine.patience.store(1, SeqCst);
    let all = XenMemAcquireResource { frame: 0, nr_frames: 3, ..list };
    let Err(CallError::Retry(rest)) = rig.call(0, XENMEM_ACQUIRE_RESOURCE, all) else {
        panic!("not interrupted")
    };
    assert_eq!(rest.args[..2], [u64::from(XENMEM_ACQUIRE_RESOURCE) | 2 << EXTENT_SHIFT, ARG.0]);
    rig.list(LIST, &[7, 7, 7]);
    assert_eq!(rig.raw(0, rest.args[0], ARG), Ok(0));
    assert_eq!(rig.read_list(LIST, 3), [7, 7, frames[1]]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Frames never appear or vanish: free ones and both domains' pages add up, and each domain has what the answers
    /// said it got.
    #[test]
    fn the_sum_of_frames_is_constant(
        ops in prop::collection::vec((0usize..2, 0u8..4, 0u32..4, 0u64..5, any::<u16>()), 1..40),
    ) {
        let rig = Rig::new();
        let sum = rig.sum();
        let mut owned: [Vec<u64>; 2] = Default::default();
        for (dom, op, order, count, seed) in ops {
            let pick = |frames: &Vec<u64>, n: u64| frames.get((usize::from(seed) + n as usize) % frames.len().max(1)).copied().unwrap_or(n);
            match op {
                0 | 1 => {
                    rig.list(LIST, &[1, 2, 3, 4, 5]);
                    let cmd = if op == 0 { XENMEM_POPULATE_PHYSMAP } else { XENMEM_INCREASE_RESERVATION };
                    let done = rig.call(dom, cmd, extents(count, order)).unwrap() as u64;
                    for first in rig.read_list(LIST, done) {
                        owned[dom].extend(first..first + (1 << order));
                    }
                }
                2 => {
                    let frames: Vec<u64> = (0..count).map(|n| pick(&owned[usize::from(seed % 5 == 0) ^ dom], n)).collect();
                    rig.list(LIST, &frames);
                    let done = rig.call(dom, XENMEM_DECREASE_RESERVATION, extents(count, 0)).unwrap() as usize;
                    let gone: BTreeSet<u64> = frames[..done].iter().copied().collect();
                    prop_assert_eq!(gone.len(), done);
                    owned[dom].retain(|mfn| !gone.contains(mfn));
                }
                _ => {
                    let frames: Vec<u64> = (0..1 << order).map(|n| pick(&owned[dom], n)).collect();
                    rig.list(LIST, &frames);
                    rig.list(OUT, &[9]);
                    if rig.call(dom, XENMEM_EXCHANGE, exchange(1 << order, 0, 1, order)) == Ok(0) {
                        let gone: BTreeSet<u64> = frames.iter().copied().collect();
                        prop_assert_eq!(gone.len(), frames.len());
                        owned[dom].retain(|mfn| !gone.contains(mfn));
                        let first = rig.read_list(OUT, 1)[0];
                        owned[dom].extend(first..first + (1 << order));
                    }
                }
            }
            prop_assert_eq!(rig.sum(), sum);
            for (dom, frames) in owned.iter().enumerate() {
                prop_assert_eq!(rig.machine.doms[dom].pages() as usize, frames.len());
                let table = rig.machine.mmu().frames;
                prop_assert!(frames.iter().all(|mfn| table.owner(Mfn(*mfn)) == DomId(dom as u16)));
            }
        }
    }
}

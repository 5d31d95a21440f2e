//! Mapping and copying by grants: what is given comes back, whatever the two domains write meanwhile.

use super::*;
use crate::mmu::VcpuMmu;
use hv_types::Gfn;
use proptest::prelude::*;
use zerocopy::IntoBytes;

/// Address that the mapping domain's level-1 table covers.
const VA: u64 = 0x10_0000_0000;
const FLAGS: u64 = 7;

/// Domain 0 grants; domain 1 has page tables and maps.
struct Pair {
    machine: Paged,
    guest: Guest,
    vcpus: [VcpuMmu; 2],
    /// Domain 0's table frame, and frames of its own.
    table: Mfn,
    given: Vec<Mfn>,
    /// Domain 1's level-1 table, and frames of its own.
    level1: Mfn,
    own: Vec<Mfn>,
}

impl Pair {
    fn new() -> Self {
        let machine = Paged::new();
        let mmu = machine.mmu();
        let frame = |dom: usize| {
            let block = mmu.heap.alloc(mmu.frames, 0, 64).unwrap().make_safe(&machine, true);
            mmu.assign(&machine.doms[dom], block, |_| Some(Gfn(1))).unwrap()
        };
        machine.grants[0].grow(&mmu, DomId(0), 1).unwrap();
        machine.grants[1].grow(&mmu, DomId(1), 1).unwrap();
        let given = (0..3).map(|_| frame(0)).collect();
        let own = (0..2).map(|_| frame(1)).collect();
        let tables: Vec<Mfn> = (0..4).map(|_| frame(1)).collect();
        let va = GuestVa(VA);
        for level in [4, 3, 2] {
            let (here, next) = (tables[4 - level], tables[5 - level]);
            machine.store64(here, va.index(level as u32), next.0 << 12 | FLAGS);
        }
        let vcpus = [VcpuMmu::new(), VcpuMmu::new()];
        mmu.set_roots(&Caller { domain: &machine.doms[1], vcpu: &vcpus[1] }, tables[0], None).unwrap();
        let (table, level1) = (machine.grants[0].frame(0).unwrap(), tables[3]);
        Pair { guest: Guest::new(8192), vcpus, table, given, level1, own, machine }
    }

    fn grant(&self, reference: u32, flags: u16, to: u16, mfn: Mfn) {
        self.machine.store64(
            self.table,
            reference as usize,
            mfn.0 << 32 | u64::from(to) << 16 | u64::from(flags),
        );
    }

    fn entry(&self, reference: u32) -> u64 {
        self.machine.load64(self.table, reference as usize)
    }

    fn in_use(&self, reference: u32) -> u16 {
        self.entry(reference) as u16 & (GTF_READING | GTF_WRITING)
    }

    fn list<T: IntoBytes + Immutable + FromBytes + Copy>(
        &self,
        dom: usize,
        cmd: u32,
        ops: &mut [T],
    ) -> Result<i64, CallError> {
        for (i, op) in ops.iter().enumerate() {
            wire::write_element(&self.guest, ARG, i as u64, op).unwrap();
        }
        let caller = Caller { domain: &self.machine.doms[dom], vcpu: &self.vcpus[dom] };
        let answer = grant_table_op(&self.machine.mmu(), &self.guest, &caller, cmd, ARG, ops.len() as u32);
        for (i, op) in ops.iter_mut().enumerate() {
            *op = wire::read_element(&self.guest, ARG, i as u64).unwrap();
        }
        answer
    }

    fn op<T: IntoBytes + Immutable + FromBytes + Copy>(&self, dom: usize, cmd: u32, op: T) -> T {
        let mut ops = [op];
        assert_eq!(self.list(dom, cmd, &mut ops), Ok(0));
        ops[0]
    }

    fn map(&self, page: u64, grant: u32, flags: u32) -> GnttabMapGrantRef {
        let op = GnttabMapGrantRef {
            host_addr: VA + page * 4096,
            flags,
            grant,
            dom: 0,
            status: 99,
            ..Default::default()
        };
        self.op(1, GNTTABOP_MAP_GRANT_REF, op)
    }

    fn unmap(&self, page: u64, handle: u32) -> i16 {
        let op =
            GnttabUnmapGrantRef { host_addr: VA + page * 4096, handle, status: 99, ..Default::default() };
        self.op(1, GNTTABOP_UNMAP_GRANT_REF, op).status
    }

    fn pte(&self, page: u64) -> u64 {
        self.machine.load64(self.level1, GuestVa(VA + page * 4096).index(1))
    }

    /// References on domain 0's frames; two for nothing but ownership is one.
    fn references(&self) -> Vec<(u64, u64)> {
        let frames = self.machine.mmu().frames;
        let frames = self.given.iter().chain(&self.own).map(|mfn| frames.peek(*mfn).unwrap());
        frames.map(|word| (word.general(), word.types())).collect()
    }
}

#[test]
fn a_mapping_holds_the_frame_until_it_is_given_back() {
    let p = Pair::new();
    let before = p.references();
    p.grant(8, GTF_PERMIT_ACCESS, 1, p.given[0]);
    let map = p.map(3, 8, GNTMAP_HOST_MAP | 1 << 16);
    assert_eq!((map.status, map.dev_bus_addr), (GNTST_OKAY, p.given[0].0 << 12));
    assert_eq!(
        p.pte(3),
        p.given[0].0 << 12 | 0x8010_0000_0000_0267,
        "writable, not executable, marked, chosen bit"
    );
    assert_eq!(p.in_use(8), GTF_READING | GTF_WRITING);
    assert_eq!(p.references()[0], (3, 2), "its owner's, the entry's and the handle's");
    // The owner rewrites the entry and gives the frame away; both come to nothing until the handle goes.
    p.grant(8, GTF_PERMIT_ACCESS, 9, p.given[1]);
    p.machine.mmu().release(&p.machine.doms[0], p.given[0]).unwrap();
    let free = p.machine.heap.free_frames();
    assert_eq!(p.unmap(3, map.handle), GNTST_OKAY);
    assert_eq!((p.pte(3), p.machine.heap.free_frames()), (0, free + 1));
    assert_eq!(p.references()[1..], before[1..]);
    assert_eq!(p.unmap(3, map.handle), GNTST_BAD_HANDLE);
}

#[test]
fn what_the_mapping_domain_does_to_its_entry_frees_nothing() {
    let p = Pair::new();
    let before = p.references();
    p.grant(8, GTF_PERMIT_ACCESS, 1, p.given[0]);
    let map = p.map(3, 8, GNTMAP_HOST_MAP);
    let caller = Caller { domain: &p.machine.doms[1], vcpu: &p.vcpus[1] };
    let mmu = p.machine.mmu();
    mmu.do_update_va_mapping(&caller, &p.guest, GuestVa(VA + 3 * 4096), p.own[0].0 << 12 | FLAGS, 0).unwrap();
    assert_eq!(p.unmap(3, map.handle), GNTST_GENERAL_ERROR, "overwritten");
    assert_eq!((p.in_use(8), p.references()[0]), (GTF_READING | GTF_WRITING, (2, 1)));
    let again = p.map(4, 8, GNTMAP_HOST_MAP);
    assert_eq!(p.unmap(5, again.handle), GNTST_GENERAL_ERROR, "elsewhere");
    assert_eq!(p.unmap(4, map.handle), GNTST_OKAY, "one mapping of the frame is as good as another");
    assert_eq!(p.in_use(8), GTF_READING | GTF_WRITING);
    assert_eq!(p.map(6, 8, GNTMAP_HOST_MAP).handle, map.handle, "the handle is used again");
    assert_eq!((p.unmap(6, map.handle), p.map(4, 8, GNTMAP_HOST_MAP).status), (GNTST_OKAY, GNTST_OKAY));
    assert_eq!(p.unmap(4, again.handle), GNTST_OKAY);
    assert_eq!(p.unmap(3, map.handle), GNTST_GENERAL_ERROR);
    mmu.do_update_va_mapping(&caller, &p.guest, GuestVa(VA + 3 * 4096), p.given[0].0 << 12 | 5, 0)
        .unwrap_err();
    assert_eq!(p.references()[0], (2, 1), "one handle is left whose entry is gone");
    assert_eq!(before[0], (1, 0));
}

#[test]
fn a_read_only_mapping_reads_only() {
    let p = Pair::new();
    p.grant(9, GTF_PERMIT_ACCESS | GTF_READONLY, 1, p.given[1]);
    assert_eq!(p.map(0, 9, GNTMAP_HOST_MAP).status, GNTST_GENERAL_ERROR);
    assert_eq!((p.in_use(9), p.pte(0)), (0, 0));
    let map = p.map(0, 9, GNTMAP_HOST_MAP | GNTMAP_READONLY);
    assert_eq!((p.pte(0) & 2, p.in_use(9), p.references()[1]), (0, GTF_READING, (3, 0)));
    assert_eq!(p.unmap(0, map.handle), GNTST_OKAY);
    // A reader and a writer of one grant: the writer's mark goes with the writer.
    p.grant(10, GTF_PERMIT_ACCESS, 1, p.given[1]);
    let reader = p.map(1, 10, GNTMAP_HOST_MAP | GNTMAP_READONLY);
    let writer = p.map(2, 10, GNTMAP_HOST_MAP);
    assert_eq!(p.in_use(10), GTF_READING | GTF_WRITING);
    assert_eq!(p.unmap(2, writer.handle), GNTST_OKAY);
    assert_eq!(p.in_use(10), GTF_READING);
    assert_eq!(p.unmap(1, reader.handle), GNTST_OKAY);
    assert_eq!((p.in_use(10), p.references()[1]), (0, (1, 0)));
}

#[test]
fn each_refused_mapping_leaves_nothing_behind() {
    let p = Pair::new();
    let before = p.references();
    p.grant(8, GTF_PERMIT_ACCESS, 1, p.given[0]);
    p.grant(9, GTF_PERMIT_ACCESS, 0, p.given[0]);
    p.grant(10, GTF_ACCEPT_TRANSFER, 1, p.given[0]);
    p.grant(11, GTF_PERMIT_ACCESS, 1, p.own[0]);
    p.grant(12, GTF_PERMIT_ACCESS, 1, Mfn(5));
    p.grant(13, GTF_PERMIT_ACCESS, 1, Mfn(0xffff_ffff));
    for (what, grant, flags, status) in [
        ("for nothing", 8, 0, GNTST_BAD_GNTREF),
        ("beyond the table", 512, GNTMAP_HOST_MAP, GNTST_BAD_GNTREF),
        ("far beyond the table", u32::MAX, GNTMAP_HOST_MAP, GNTST_BAD_GNTREF),
        ("granted to another", 9, GNTMAP_HOST_MAP, GNTST_GENERAL_ERROR),
        ("granted for a transfer", 10, GNTMAP_HOST_MAP, GNTST_GENERAL_ERROR),
        ("granted by nobody", 50, GNTMAP_HOST_MAP, GNTST_GENERAL_ERROR),
        ("not the granting domain's frame", 11, GNTMAP_HOST_MAP, GNTST_BAD_PAGE),
        ("the hypervisor's frame", 12, GNTMAP_HOST_MAP | GNTMAP_READONLY, GNTST_BAD_PAGE),
        ("no frame", 13, GNTMAP_HOST_MAP, GNTST_BAD_PAGE),
    ] {
        assert_eq!(p.map(0, grant, flags).status, status, "{what}");
    }
    let at = |host_addr, flags, dom| {
        let op = GnttabMapGrantRef { host_addr, flags, grant: 8, dom, ..Default::default() };
        p.op(1, GNTTABOP_MAP_GRANT_REF, op).status
    };
    assert_eq!(at(VA, GNTMAP_HOST_MAP, 77), GNTST_BAD_DOMAIN);
    for nowhere in [0xffff_8000_0000_0000, 0x20_0000_0000, 0x8000_0000_0000_0000] {
        assert_eq!(at(nowhere, GNTMAP_HOST_MAP, 0), GNTST_GENERAL_ERROR);
    }
    for entry in [p.level1.0 << 12 | 4, p.own[0].0 << 12, 5 << 12, p.given[1].0 << 12, !7] {
        assert_eq!(at(entry, GNTMAP_HOST_MAP | GNTMAP_CONTAINS_PTE, 0), GNTST_GENERAL_ERROR);
    }
    assert!((0..64).all(|reference| p.in_use(reference) == 0));
    assert_eq!((p.references(), p.pte(0), p.unmap(0, 0)), (before, 0, GNTST_BAD_HANDLE));
}

#[test]
fn entries_by_address_devices_and_lists() {
    let p = Pair::new();
    let before = p.references();
    p.grant(8, GTF_PERMIT_ACCESS, 1, p.given[0]);
    let address = (p.level1.0 << 12) + 8 * 7;
    let map = GnttabMapGrantRef {
        host_addr: address,
        flags: GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP | GNTMAP_CONTAINS_PTE,
        grant: 8,
        ..Default::default()
    };
    let map = p.op(1, GNTTABOP_MAP_GRANT_REF, map);
    assert_eq!((map.status, p.pte(7) >> 12 & 0xffff), (GNTST_OKAY, p.given[0].0));
    let unmap = |host_addr, dev_bus_addr| {
        let op = GnttabUnmapGrantRef { host_addr, dev_bus_addr, handle: map.handle, status: 99, _pad: 0 };
        p.op(1, GNTTABOP_UNMAP_GRANT_REF, op).status
    };
    assert_eq!(unmap(0, 0), GNTST_OKAY, "nothing asked, nothing done");
    assert_eq!(unmap(0, 4096), GNTST_GENERAL_ERROR);
    assert_eq!(unmap(address, 0), GNTST_OKAY);
    assert_eq!((p.pte(7), p.in_use(8)), (0, GTF_READING | GTF_WRITING), "the device's part is left");
    assert_eq!(unmap(0, map.dev_bus_addr), GNTST_OKAY);
    assert_eq!((p.in_use(8), p.references()), (0, before.clone()));
    let mut maps: Vec<GnttabMapGrantRef> = (0..70)
        .map(|n| GnttabMapGrantRef {
            host_addr: VA + n * 4096,
            flags: GNTMAP_HOST_MAP,
            grant: 8,
            ..Default::default()
        })
        .collect();
    assert_eq!(p.list(1, GNTTABOP_MAP_GRANT_REF, &mut maps), Ok(0));
    assert_eq!(maps.iter().map(|m| m.handle).collect::<std::collections::BTreeSet<_>>().len(), 70);
    let mut unmaps: Vec<GnttabUnmapGrantRef> = (maps.iter())
        .map(|m| GnttabUnmapGrantRef {
            host_addr: m.host_addr,
            handle: m.handle,
            status: 99,
            ..Default::default()
        })
        .collect();
    unmaps[40].handle = 9999;
    assert_eq!(p.list(1, GNTTABOP_UNMAP_GRANT_REF, &mut unmaps), Ok(0));
    let wrong: Vec<_> = unmaps.iter().enumerate().filter(|(_, op)| op.status != GNTST_OKAY).collect();
    assert_eq!((wrong.len(), wrong[0].0, wrong[0].1.status), (1, 40, GNTST_BAD_HANDLE));
    assert_eq!(p.unmap(40, maps[40].handle), GNTST_OKAY);
    assert_eq!((p.in_use(8), p.references()), (0, before));
}

#[test]
fn an_interrupted_list_goes_on_with_the_rest() {
    let p = Pair::new();
    p.grant(8, GTF_PERMIT_ACCESS, 1, p.given[0]);
    let map = GnttabMapGrantRef {
        host_addr: VA,
        flags: GNTMAP_HOST_MAP,
        grant: 8,
        status: 99,
        ..Default::default()
    };
    let mut maps = [map; 4];
    p.machine.patience.store(1, std::sync::atomic::Ordering::SeqCst);
    let size = size_of::<GnttabMapGrantRef>() as u64;
    let args = [GNTTABOP_MAP_GRANT_REF.into(), ARG.0 + 2 * size, 2, 0];
    assert_eq!(p.list(1, GNTTABOP_MAP_GRANT_REF, &mut maps), Err(CallError::Retry(Continuation { args })));
    assert_eq!(maps.map(|map| map.status), [0, 0, 99, 99]);
}

fn side(u: u64, domid: u16, offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr { u, domid, offset, _pad: 0 }
}

#[test]
fn copies_go_where_they_may() {
    let p = Pair::new();
    let before = p.references();
    p.grant(8, GTF_PERMIT_ACCESS, 1, p.given[0]);
    p.grant(9, GTF_PERMIT_ACCESS | GTF_READONLY, 1, p.given[1]);
    for offset in 0..64 {
        p.machine.store8(p.given[0], offset, offset as u8 + 1);
    }
    let own = DomId::SELF.0;
    let copy = GnttabCopy {
        source: side(8, 0, 3),
        dest: side(p.own[0].0, own, 16),
        len: 21,
        flags: GNTCOPY_SOURCE_GREF,
        status: 99,
        _pad: 0,
    };
    assert_eq!(p.op(1, GNTTABOP_COPY, copy).status, GNTST_OKAY);
    let got: Vec<u8> = (15..38).map(|offset| p.machine.load8(p.own[0], offset)).collect();
    assert_eq!(got, [&[0][..], &(4..25).collect::<Vec<u8>>()[..], &[0][..]].concat());
    let back = GnttabCopy {
        source: side(p.own[0].0, own, 16),
        dest: side(8, 0, 1024),
        len: 3072,
        flags: GNTCOPY_DEST_GREF,
        ..copy
    };
    assert_eq!(p.op(1, GNTTABOP_COPY, back).status, GNTST_OKAY);
    assert_eq!((p.machine.load8(p.given[0], 1024), p.machine.load8(p.given[0], 1024 + 20)), (4, 24));
    let refused = [
        ("across the end", GNTST_BAD_COPY_ARG, GnttabCopy { len: 3073, ..back }),
        ("into a read-only grant", GNTST_GENERAL_ERROR, GnttabCopy { dest: side(9, 0, 0), len: 1, ..back }),
        ("beyond the table", GNTST_BAD_GNTREF, GnttabCopy { source: side(512, 0, 0), ..copy }),
        ("of an unknown domain", GNTST_BAD_DOMAIN, GnttabCopy { source: side(8, 77, 0), ..copy }),
        ("another's frame", GNTST_PERMISSION_DENIED, GnttabCopy { dest: side(p.given[0].0, 0, 0), ..copy }),
        (
            "another's frame as one's own",
            GNTST_BAD_PAGE,
            GnttabCopy { dest: side(p.given[0].0, own, 0), ..copy },
        ),
        ("one's page table", GNTST_BAD_PAGE, GnttabCopy { dest: side(p.level1.0, own, 0), ..copy }),
    ];
    for (what, status, op) in refused {
        assert_eq!(p.op(1, GNTTABOP_COPY, op).status, status, "{what}");
    }
    assert_eq!((p.references(), p.in_use(8), p.in_use(9)), (before, 0, 0));
}

#[test]
fn entries_are_exchanged_when_nobody_uses_them() {
    let p = Pair::new();
    p.grant(8, GTF_PERMIT_ACCESS, 1, p.given[0]);
    p.grant(9, GTF_PERMIT_ACCESS, 1, p.given[1]);
    let (a, b) = (p.entry(8), p.entry(9));
    let swap = |ref_a, ref_b| {
        p.op(0, GNTTABOP_SWAP_GRANT_REF, GnttabSwapGrantRef { ref_a, ref_b, status: 99, _pad: 0 }).status
    };
    assert_eq!((swap(8, 9), p.entry(8), p.entry(9)), (GNTST_OKAY, b, a));
    assert_eq!((swap(8, 8), p.entry(8)), (GNTST_OKAY, b));
    assert_eq!(swap(8, 512), GNTST_BAD_GNTREF);
    let map = p.map(0, 9, GNTMAP_HOST_MAP);
    assert_eq!(swap(8, 9), GNTST_EAGAIN);
    assert_eq!(p.unmap(0, map.handle), GNTST_OKAY);
    assert_eq!((swap(8, 9), p.entry(8), p.entry(9)), (GNTST_OKAY, a, b));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Whatever one domain writes into its entries and the other into its mappings: once all handles are given back,
    /// every frame has exactly its owner's reference.
    #[test]
    fn all_references_come_back(
        ops in prop::collection::vec((0u8..6, 0u32..4, 0u64..4, any::<u64>()), 1..60),
    ) {
        let p = Pair::new();
        let before = p.references();
        let caller = Caller { domain: &p.machine.doms[1], vcpu: &p.vcpus[1] };
        let mmu = p.machine.mmu();
        let mut handles = Vec::new();
        for (op, grant, page, value) in ops {
            match op {
                0 => {
                    let flags = GTF_PERMIT_ACCESS | value as u16 & GTF_READONLY;
                    p.grant(grant, flags, 1, p.given[value as usize / 8 % 3]);
                }
                1 | 2 => {
                    let flags = GNTMAP_HOST_MAP | value as u32 & (GNTMAP_READONLY | GNTMAP_DEVICE_MAP);
                    let map = p.map(page, grant, flags);
                    if map.status == GNTST_OKAY {
                        handles.push((map, page));
                    }
                }
                3 if !handles.is_empty() => {
                    let (map, page) = handles[value as usize % handles.len()];
                    p.unmap(page, map.handle);
                }
                4 => {
                    let new = [0, p.own[0].0 << 12 | FLAGS, p.own[1].0 << 12 | 5][value as usize % 3];
                    let va = GuestVa(VA + page * 4096);
                    mmu.do_update_va_mapping(&caller, &p.guest, va, new, 0).unwrap();
                }
                _ => p.machine.store64(p.table, grant as usize, value),
            }
        }
        // Map each again where it was, so that it can be unmapped, as far as the handle is still there.
        for (map, page) in handles {
            let entry = map.dev_bus_addr | FLAGS;
            let owner = &p.machine.doms[0];
            mmu.map_frame(&caller, crate::mmu::Place::Address(GuestVa(VA + page * 4096)), entry & !2, owner).unwrap();
            let op = GnttabUnmapGrantRef { host_addr: map.host_addr, dev_bus_addr: map.dev_bus_addr, handle: map.handle, ..Default::default() };
            p.op(1, GNTTABOP_UNMAP_GRANT_REF, op);
            p.op(1, GNTTABOP_UNMAP_GRANT_REF, GnttabUnmapGrantRef { host_addr: 0, ..op });
        }
        for page in 0..4 {
            mmu.do_update_va_mapping(&caller, &p.guest, GuestVa(VA + page * 4096), 0, 0).unwrap();
        }
        prop_assert_eq!(p.references(), before);
    }
}

/// Takes everything from a domain of the pair, as its destruction does; interrupted as often as can be.
fn destroy(p: &Pair, dom: usize) {
    let mmu = p.machine.mmu();
    let caller = Caller { domain: &p.machine.doms[dom], vcpu: &p.vcpus[dom] };
    caller.domain.dying.store(true, std::sync::atomic::Ordering::SeqCst);
    let again = |step: &mut dyn FnMut() -> Result<(), crate::mmu::Preempted>| {
        for _ in 0..100_000 {
            p.machine.patience.store(0, std::sync::atomic::Ordering::SeqCst);
            if step().is_ok() {
                return;
            }
        }
        panic!("no progress");
    };
    again(&mut || mmu.release_vcpu(&caller));
    again(&mut || p.machine.grants[dom].unmap_all(&mmu));
    p.machine.grants[dom].release(&mmu);
    let mut cursor = 0;
    again(&mut || mmu.relinquish(&caller, &mut cursor));
    p.machine.patience.store(u64::MAX, std::sync::atomic::Ordering::SeqCst);
}

#[test]
fn a_domain_that_dies_gives_back_what_it_had_mapped() {
    let p = Pair::new();
    let (before, free) = (p.references(), p.machine.heap.free_frames());
    let pages = p.machine.doms[1].pages();
    for n in 0..3 {
        p.grant(8 + n, GTF_PERMIT_ACCESS, 1, p.given[n as usize]);
        assert_eq!(p.map(n.into(), 8 + n, GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP).status, GNTST_OKAY);
    }
    assert_eq!((p.machine.grants[1].mapped(), p.machine.grants[0].is_used()), (3, true));
    destroy(&p, 1);
    assert_eq!((p.machine.grants[1].mapped(), p.machine.grants[0].is_used()), (0, false));
    assert_eq!(p.references()[..3], before[..3]);
    assert!((8..11).all(|grant| p.in_use(grant) == 0));
    assert_eq!(p.machine.doms[1].pages(), 0);
    // The pages, and the frame of its grant table.
    assert_eq!(p.machine.heap.free_frames(), free + pages + 1);
}

#[test]
fn a_page_lives_until_the_last_holder_lets_go() {
    let p = Pair::new();
    let free = p.machine.heap.free_frames();
    let pages = p.machine.doms[0].pages();
    p.grant(8, GTF_PERMIT_ACCESS, 1, p.given[0]);
    let map = p.map(3, 8, GNTMAP_HOST_MAP);
    destroy(&p, 0);
    let mut users = Vec::new();
    p.machine.grants[0].each_use(|dom, mfn| users.push((dom, mfn)));
    assert_eq!(users, [(DomId(1), p.given[0])]);
    assert_eq!((p.machine.doms[0].pages(), p.machine.heap.free_frames()), (1, free + pages));
    assert_eq!(p.map(4, 8, GNTMAP_HOST_MAP).status, GNTST_BAD_GNTREF, "nothing new");
    assert_eq!(p.unmap(3, map.handle), GNTST_OKAY);
    assert_eq!((p.machine.doms[0].pages(), p.machine.grants[0].is_used()), (0, false));
    assert_eq!(p.machine.heap.free_frames(), free + pages + 1);
}

#[test]
fn limits_are_not_set_below_what_is_used() {
    let p = Pair::new();
    p.grant(8, GTF_PERMIT_ACCESS, 1, p.given[0]);
    p.grant(9, GTF_PERMIT_ACCESS, 1, p.given[1]);
    let own = &p.machine.grants[1];
    assert_eq!(own.set_limits(None, Some(1)), Ok(()));
    let map = p.map(3, 8, GNTMAP_HOST_MAP);
    assert_eq!((map.status, p.map(4, 9, GNTMAP_HOST_MAP).status), (GNTST_OKAY, GNTST_NO_SPACE));
    assert_eq!(
        (own.set_limits(None, Some(0)), own.set_limits(Some(0), None)),
        (Err(Errno::EBUSY), Err(Errno::EBUSY))
    );
    assert_eq!(p.unmap(3, map.handle), GNTST_OKAY);
    assert_eq!(p.map(4, 9, GNTMAP_HOST_MAP).status, GNTST_OKAY, "the handle is free again");
    assert_eq!(own.set_limits(Some(9), Some(2)), Ok(()));
    assert_eq!((own.grow(&p.machine.mmu(), DomId(1), 9), own.max_frames(), own.max_mapped()), (Ok(()), 9, 2));
}

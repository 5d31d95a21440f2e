//! Granting to oneself: mapping, copying, and what is refused.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::grant_table::*;
use claim::abi::xen::DOMID_SELF;
use claim::mm::{self, FRAME, WRITABLE};
use claim::{ask, attempt, call, outcome, say};

claim::claim!(run);

fn op<T>(command: u32, argument: &mut T) -> i64 {
    call(Hypercall::GrantTableOp, &[u64::from(command), &raw mut *argument as u64, 1])
}

fn run() {
    let table = setup();
    let page = mm::page();
    mm::poke(page, 77);
    grant(table, 8, GTF_PERMIT_ACCESS, page);
    grant(table, 9, GTF_PERMIT_ACCESS | GTF_READONLY, page);
    map(table);
    copy();
    refused();
}

fn grant(table: u64, reference: u64, flags: u16, page: u64) {
    // To domain 0: this guest is dom0.
    mm::poke(table + 8 * reference, mm::mfn_of(page) << 32 | u64::from(flags));
}

fn setup() -> u64 {
    let list = mm::page();
    let mut setup =
        GnttabSetupTable { dom: DOMID_SELF, nr_frames: 1, frame_list: list, ..Default::default() };
    assert!(op(GNTTABOP_SETUP_TABLE, &mut setup) == 0 && setup.status == GNTST_OKAY);
    let table = mm::page();
    assert!(mm::update_va_mapping(table, (mm::peek(list) << 12) | WRITABLE) == 0);
    table
}

fn map_ref(at: u64, grant: u32, flags: u32, dom: u16) -> GnttabMapGrantRef {
    let mut map = GnttabMapGrantRef { host_addr: at, flags, grant, dom, ..Default::default() };
    let answer = op(GNTTABOP_MAP_GRANT_REF, &mut map);
    assert!(answer == 0, "map {answer}");
    map
}

fn unmap(at: u64, handle: u32) -> i16 {
    let mut unmap = GnttabUnmapGrantRef { host_addr: at, handle, ..Default::default() };
    let answer = op(GNTTABOP_UNMAP_GRANT_REF, &mut unmap);
    assert!(answer == 0, "unmap {answer}");
    unmap.status
}

fn in_use(table: u64, reference: u64) -> u64 {
    mm::peek(table + 8 * reference) & u64::from(GTF_READING | GTF_WRITING)
}

fn map(table: u64) {
    let at = mm::page();
    let before = mm::entry(at, 1).value;
    let map = map_ref(at, 8, GNTMAP_HOST_MAP, 0);
    say!("map writable: status {}, in use {:#x}", map.status, in_use(table, 8));
    say!("entry {:#x}, reads {}", mm::entry(at, 1).value & !FRAME, mm::peek(at));
    outcome!("write through it", attempt!(["mov qword ptr [{p}], 78"], p = in(reg) at));
    ask!("overwrite the mapping", mm::update_va_mapping(at, before));
    let status = unmap(at, map.handle);
    say!("unmap what was overwritten: status {status}, in use {:#x}", in_use(table, 8));
    let map = map_ref(at, 8, GNTMAP_HOST_MAP, 0);
    say!("map once more: status {}", map.status);
    say!("unmap: status {}, in use {:#x}", unmap(at, map.handle), in_use(table, 8));
    say!("unmap again: status {}", unmap(at, map.handle));
    ask!("put back", mm::update_va_mapping(at, before));
    let map = map_ref(at, 9, GNTMAP_HOST_MAP | GNTMAP_READONLY, 0);
    say!("map read-only: status {}, in use {:#x}", map.status, in_use(table, 9));
    outcome!("write through it", attempt!(["mov qword ptr [{p}], 78"], p = in(reg) at));
    say!("unmap elsewhere: status {}", unmap(at + 4096, map.handle));
    say!("unmap: status {}", unmap(at, map.handle));
    for (name, grant, flags, dom) in [
        ("a read-only grant writable", 9, GNTMAP_HOST_MAP, 0),
        ("an empty grant", 10, GNTMAP_HOST_MAP, 0),
        ("a grant beyond the table", 1 << 20, GNTMAP_HOST_MAP, 0),
        ("a grant of an unknown domain", 8, GNTMAP_HOST_MAP, 77),
        ("a grant for nothing", 8, 0, 0),
    ] {
        say!("map {name}: status {}", map_ref(at, grant, flags, dom).status);
    }
    say!("map at no address: status {}", map_ref(0xffff_8000_0000_0000, 8, GNTMAP_HOST_MAP, 0).status);
    say!("unmap a handle that is not: status {}", unmap(at, 12345));
    ask!("put back", mm::update_va_mapping(at, before));
}

fn copy() {
    let to = mm::page();
    let side = |u: u64, offset: u16| GnttabCopyPtr { u, domid: DOMID_SELF, offset, ..Default::default() };
    let mut copy = GnttabCopy {
        source: GnttabCopyPtr { u: 8, domid: 0, ..Default::default() },
        dest: side(mm::mfn_of(to), 8),
        len: 8,
        flags: GNTCOPY_SOURCE_GREF,
        ..Default::default()
    };
    ask!("copy from a grant", op(GNTTABOP_COPY, &mut copy));
    say!("status {}, reads {}", copy.status, mm::peek(to + 8));
    let mut over = GnttabCopy { dest: side(mm::mfn_of(to), 4092), ..copy };
    ask!("copy across a page's end", op(GNTTABOP_COPY, &mut over));
    say!("status {}", over.status);
    let mut into = GnttabCopy {
        source: side(mm::mfn_of(to), 0),
        dest: GnttabCopyPtr { u: 9, domid: 0, ..Default::default() },
        flags: GNTCOPY_DEST_GREF,
        ..copy
    };
    ask!("copy into a read-only grant", op(GNTTABOP_COPY, &mut into));
    say!("status {}", into.status);
    let mut foreign = GnttabCopy { source: side(mm::hypervisor_frame(), 0), flags: 0, ..copy };
    ask!("copy from the hypervisor", op(GNTTABOP_COPY, &mut foreign));
    say!("status {}", foreign.status);
}

fn refused() {
    ask!("none", call(Hypercall::GrantTableOp, &[u64::from(GNTTABOP_COPY), 0, 0]));
    for at in [0, 0xffff_8000_0000_0000, u64::MAX] {
        ask!("unmap none", call(Hypercall::GrantTableOp, &[u64::from(GNTTABOP_UNMAP_GRANT_REF), at, 0]));
    }
    ask!("list at a bad address", call(Hypercall::GrantTableOp, &[u64::from(GNTTABOP_COPY), 0x1000, 1]));
    ask!("too many", call(Hypercall::GrantTableOp, &[u64::from(GNTTABOP_COPY), 0x1000, 1 << 31]));
    let mut swap = GnttabSwapGrantRef { ref_a: 8, ref_b: 9, ..Default::default() };
    ask!("exchange two grants", op(GNTTABOP_SWAP_GRANT_REF, &mut swap));
    say!("status {}", swap.status);
    swap.ref_b = 1 << 20;
    ask!("exchange with a grant beyond the table", op(GNTTABOP_SWAP_GRANT_REF, &mut swap));
    say!("status {}", swap.status);
}

//! Grant tables: sizing one's own, its frames, its version.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::grant_table::*;
use claim::abi::xen::DOMID_SELF;
use claim::mm::{self, WRITABLE};
use claim::{Answer, ask, call, say};

claim::claim!(run);

fn run() {
    let table = setup();
    say!("the table is empty: {}", (0..512).all(|n| mm::peek(table + 8 * n) == 0));
    versions();
    ask!("none", call(Hypercall::GrantTableOp, &[u64::from(GNTTABOP_QUERY_SIZE), 0, 0]));
    ask!(
        "list at a bad address",
        call(Hypercall::GrantTableOp, &[u64::from(GNTTABOP_QUERY_SIZE), 0x1000, 1])
    );
}

fn op<T>(command: u32, argument: &mut T) -> i64 {
    call(Hypercall::GrantTableOp, &[u64::from(command), &raw mut *argument as u64, 1])
}

fn setup() -> u64 {
    let mut size = GnttabQuerySize { dom: DOMID_SELF, ..Default::default() };
    let answer = op(GNTTABOP_QUERY_SIZE, &mut size);
    say!("size: {} status {} at most 64 frames {}", Answer(answer), size.status, size.max_nr_frames == 64);
    let list = mm::page();
    let mut setup =
        GnttabSetupTable { dom: DOMID_SELF, nr_frames: 1, frame_list: list, ..Default::default() };
    let answer = op(GNTTABOP_SETUP_TABLE, &mut setup);
    say!("set up: {} status {} frame given {}", Answer(answer), setup.status, mm::peek(list) != 0);
    let mut more = GnttabSetupTable { nr_frames: 1000, ..setup };
    let answer = op(GNTTABOP_SETUP_TABLE, &mut more);
    say!("set up too many: {} status {}", Answer(answer), more.status);
    let mut other = GnttabSetupTable { dom: 77, ..setup };
    let answer = op(GNTTABOP_SETUP_TABLE, &mut other);
    say!("set up for an unknown domain: {} status {}", Answer(answer), other.status);
    let table = mm::page();
    ask!("map the table", mm::update_va_mapping(table, (mm::peek(list) << 12) | WRITABLE));
    table
}

fn versions() {
    let mut version = GnttabGetVersion { dom: DOMID_SELF, ..Default::default() };
    let answer = op(GNTTABOP_GET_VERSION, &mut version);
    say!("version: {} {}", Answer(answer), version.version);
    let mut set = GnttabSetVersion { version: 1 };
    ask!("version 1", op(GNTTABOP_SET_VERSION, &mut set));
    set.version = 3;
    ask!("version 3", op(GNTTABOP_SET_VERSION, &mut set));
    let mut dump = GnttabDumpTable { dom: 77, ..Default::default() };
    let answer = op(GNTTABOP_DUMP_TABLE, &mut dump);
    say!("dump of an unknown domain: {} status {}", Answer(answer), dump.status);
}

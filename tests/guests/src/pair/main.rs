//! Two guests of this kernel measure what is between domains, in nanoseconds: `cargo xtask bench-data` runs them on both hypervisors
//! and compares. `role=1 peer=N` on the command line answers domain N; `role=2 peer=M` asks domain M, which must be
//! answering already, prints a line `BENCH NAME FIGURE` for each thing measured, and goes off.
#![no_std]
#![no_main]

mod console;

use claim::abi::Hypercall;
use claim::abi::grant_table::*;
use claim::abi::sched::{SCHEDOP_BLOCK, SHUTDOWN_POWEROFF};
use claim::abi::xen::DOMID_SELF;
use claim::mm::{self, WRITABLE};
use claim::{call, event, option, stop, time};
use core::fmt::Write;

claim::claim!(run);

/// Grants of the pages that the one who answers lends, as many as a batch has; the port's number is in each.
const GRANTS: core::ops::Range<u32> = 8..8 + BATCH as u32;
/// Of the store and of the console, whose daemons have nothing to say here.
const PORTS: core::ops::RangeInclusive<u32> = 1..=2;
/// Bytes that are copied.
const BYTES: u16 = 4096;
/// Copies, or mappings, a call, as a backend does it.
const BATCH: usize = 16;
/// Repetitions of what is measured.
const ROUNDS: u64 = 2000;

fn run() {
    event::shared();
    event::set_upcall_mask(1);
    PORTS.for_each(|port| event::set_masked(port, true));
    let peer =
        option("peer").and_then(|domid| u16::try_from(domid).ok()).expect("the command line has peer=N");
    match option("role") {
        Some(1) => answer(peer),
        Some(2) => ask(peer),
        _ => panic!("the command line has no role=1 and no role=2"),
    }
}

/// Blocks until the port's event is there, and takes it. Events are masked while this looks, so that none is missed.
fn wait(port: u32) {
    while !event::pending(port) {
        call(Hypercall::SchedOp, &[u64::from(SCHEDOP_BLOCK), 0]);
        event::set_upcall_mask(1);
    }
    event::clear(port);
}

fn answer(peer: u16) {
    let port = event::alloc_unbound(peer).expect("a port");
    let table = grant_table();
    for grant in GRANTS {
        let page = mm::page();
        mm::poke(page, u64::from(port));
        let entry = u64::from(GTF_PERMIT_ACCESS) | u64::from(peer) << 16 | mm::mfn_of(page) << 32;
        mm::poke(table + 8 * u64::from(grant), entry);
    }
    console::line("ready");
    loop {
        wait(port);
        event::send(port);
    }
}

/// The first frame of this domain's grant table, mapped.
fn grant_table() -> u64 {
    let list = mm::page();
    let mut setup =
        GnttabSetupTable { dom: DOMID_SELF, nr_frames: 1, frame_list: list, ..Default::default() };
    grant_op(GNTTABOP_SETUP_TABLE, core::slice::from_mut(&mut setup));
    assert!(setup.status == GNTST_OKAY, "set up the grant table: {}", setup.status);
    let table = mm::page();
    let answer = mm::update_va_mapping(table, (mm::peek(list) << 12) | WRITABLE);
    assert!(answer == 0, "map the grant table: {answer}");
    table
}

fn grant_op<T>(command: u32, list: &mut [T]) {
    let answer =
        call(Hypercall::GrantTableOp, &[u64::from(command), list.as_mut_ptr() as u64, list.len() as u64]);
    assert!(answer == 0, "grant table operation {command}: {answer}");
}

fn ask(peer: u16) {
    let pages: [u64; BATCH] = core::array::from_fn(|_| mm::page());
    copies(peer, &pages[..1], "grant-copy-4k-alone");
    copies(peer, &pages, "grant-copy-4k");
    let port = u32::try_from(mm::peek(pages[0])).expect("the copied page begins with a port's number");
    mappings(peer);
    let port = event::bind_interdomain(peer, port).expect("the other's port");
    // A port is pending from its connection on.
    event::clear(port);
    measure("event-round-trip", 1, || {
        event::send(port);
        wait(port);
    });
    stop(SHUTDOWN_POWEROFF);
}

/// Prints the nanoseconds of one of `per` operations that `round` does; a tenth of the rounds warms up.
fn measure(name: &str, per: usize, mut round: impl FnMut()) {
    let rounds = ROUNDS / per as u64;
    (0..rounds / 10).for_each(|_| round());
    let start = time::now();
    (0..rounds).for_each(|_| round());
    let taken = (time::now() - start) / (rounds * per as u64);
    let mut text = Text { bytes: [0; 80], used: 0 };
    // A line is short enough.
    let _ = write!(text, "BENCH {name} {taken}");
    console::line(core::str::from_utf8(&text.bytes[..text.used]).unwrap_or_default());
}

/// Copies granted pages to as many of our own, in one call.
fn copies(peer: u16, pages: &[u64], name: &str) {
    let mut list = [GnttabCopy::default(); BATCH];
    let list = &mut list[..pages.len()];
    for ((copy, grant), page) in list.iter_mut().zip(GRANTS).zip(pages) {
        *copy = GnttabCopy {
            source: GnttabCopyPtr { u: u64::from(grant), domid: peer, ..Default::default() },
            dest: GnttabCopyPtr { u: mm::mfn_of(*page), domid: DOMID_SELF, ..Default::default() },
            len: BYTES,
            flags: GNTCOPY_SOURCE_GREF,
            ..Default::default()
        };
    }
    measure(name, list.len(), || grant_op(GNTTABOP_COPY, list));
    let bad = list.iter().find(|copy| copy.status != GNTST_OKAY);
    assert!(bad.is_none(), "a copy's status is not good");
}

/// Maps the granted pages, and unmaps them.
fn mappings(peer: u16) {
    let at: [u64; BATCH] = core::array::from_fn(|_| mm::page());
    let grants: [u32; BATCH] = core::array::from_fn(|n| GRANTS.start + n as u32);
    let entry = |n: usize| GnttabMapGrantRef {
        host_addr: at[n],
        flags: GNTMAP_HOST_MAP,
        grant: grants[n],
        dom: peer,
        ..Default::default()
    };
    measure("grant-map-unmap", BATCH, || {
        let mut map: [_; BATCH] = core::array::from_fn(entry);
        grant_op(GNTTABOP_MAP_GRANT_REF, &mut map);
        let mut unmap = map.each_ref().map(|map| {
            assert!(map.status == GNTST_OKAY, "map a grant: {}", map.status);
            GnttabUnmapGrantRef { host_addr: map.host_addr, handle: map.handle, ..Default::default() }
        });
        grant_op(GNTTABOP_UNMAP_GRANT_REF, &mut unmap);
    });
}

/// A line on its way.
struct Text {
    bytes: [u8; 80],
    used: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let place = self.bytes.get_mut(self.used..self.used + text.len()).ok_or(core::fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.used += text.len();
        Ok(())
    }
}

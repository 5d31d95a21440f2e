//! Memory that is promised to a domain, and frames that belong to a domain's resources.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::memory::*;
use claim::abi::xen::DOMID_SELF;
use claim::hypercall::command;
use claim::mm;
use claim::{Answer, ask, call, say};

claim::claim!(run);

/// Nobody has it.
const NOBODY: u16 = 77;

fn run() {
    claims();
    refused_claims();
    resources();
}

fn current() -> u64 {
    let ourselves = DOMID_SELF;
    call(Hypercall::MemoryOp, &[u64::from(XENMEM_CURRENT_RESERVATION), &raw const ourselves as u64]) as u64
}

/// A claim of so many pages in all for dom0, which this guest is.
fn pages(nr_extents: u64) -> XenMemoryReservation {
    XenMemoryReservation { nr_extents, ..Default::default() }
}

fn claim(nr_extents: u64) -> Answer {
    Answer(command(Hypercall::MemoryOp, XENMEM_CLAIM_PAGES, &mut pages(nr_extents)))
}

fn claims() {
    say!("claim nothing: {}", claim(0));
    say!("claim what it has: {}", claim(current()));
    say!("claim less than it has: {}", claim(current() - 1));
    say!("claim all that can be named: {}", claim(u64::MAX));
    // Room for two more.
    let given = [mm::page(), mm::page()].map(|page| {
        let mfn = mm::mfn_of(page);
        assert!(mm::update_va_mapping(page, 0) == 0, "unmap");
        mfn
    });
    let mut list = XenMemoryReservation {
        extent_start: given.as_ptr() as u64,
        nr_extents: 2,
        domid: DOMID_SELF,
        ..Default::default()
    };
    ask!("give two back", command(Hypercall::MemoryOp, XENMEM_DECREASE_RESERVATION, &mut list));
    let before = current();
    say!("claim two more than it has: {}", claim(before + 2));
    say!("claim three more while it has a claim: {}", claim(before + 3));
    let mut one = XenMemoryReservation { nr_extents: 1, domid: DOMID_SELF, ..Default::default() };
    ask!("take one", command(Hypercall::MemoryOp, XENMEM_INCREASE_RESERVATION, &mut one));
    say!("claim again: {}", claim(before + 3));
    ask!("take another", command(Hypercall::MemoryOp, XENMEM_INCREASE_RESERVATION, &mut one));
    say!("frames more: {}", current() - before);
    say!("claim when the claim is used up: {}", claim(before + 3));
    say!("take the claim back: {}", claim(0));
    say!("claim then: {}", claim(before + 3));
    say!("take it back: {}", claim(0));
}

fn refused_claims() {
    let more = current() + 1;
    let mut wrong = XenMemoryReservation { extent_start: mm::page(), ..pages(more) };
    ask!("claim with a list", command(Hypercall::MemoryOp, XENMEM_CLAIM_PAGES, &mut wrong));
    wrong = XenMemoryReservation { extent_order: 1, ..pages(more) };
    ask!("claim with an order", command(Hypercall::MemoryOp, XENMEM_CLAIM_PAGES, &mut wrong));
    wrong = XenMemoryReservation { mem_flags: 1, ..pages(more) };
    ask!("claim with flags", command(Hypercall::MemoryOp, XENMEM_CLAIM_PAGES, &mut wrong));
    wrong = XenMemoryReservation { domid: NOBODY, ..pages(more) };
    ask!("claim for nobody", command(Hypercall::MemoryOp, XENMEM_CLAIM_PAGES, &mut wrong));
    wrong = XenMemoryReservation { domid: DOMID_SELF, ..pages(more) };
    ask!("claim for itself", command(Hypercall::MemoryOp, XENMEM_CLAIM_PAGES, &mut wrong));
    wrong = pages(more);
    ask!(
        "claim from the first extent on",
        command(Hypercall::MemoryOp, XENMEM_CLAIM_PAGES | 1 << 6, &mut wrong)
    );
    ask!("claim at a bad address", call(Hypercall::MemoryOp, &[u64::from(XENMEM_CLAIM_PAGES), 0x1000]));
}

fn resources() {
    let acquire = |resource: XenMemAcquireResource| {
        let mut resource = resource;
        Answer(command(Hypercall::MemoryOp, XENMEM_ACQUIRE_RESOURCE, &mut resource))
    };
    let table =
        XenMemAcquireResource { kind: XENMEM_RESOURCE_GRANT_TABLE, domid: NOBODY, ..Default::default() };
    say!("resource of nobody: {}", acquire(table));
    say!("of itself: {}", acquire(XenMemAcquireResource { domid: DOMID_SELF, ..table }));
    say!("of itself by number: {}", acquire(XenMemAcquireResource { domid: 0, ..table }));
    say!("of another kind: {}", acquire(XenMemAcquireResource { kind: 99, ..table }));
    say!("with padding: {}", acquire(XenMemAcquireResource { pad: 1, ..table }));
    let far = XenMemAcquireResource { frame: 1 << 32, nr_frames: 1, frame_list: mm::page(), ..table };
    say!("far away: {}", acquire(far));
    let wide = XenMemAcquireResource { frame: u64::from(u32::MAX), nr_frames: 1, ..far };
    say!("to far away: {}", acquire(wide));
    ask!("at a bad address", call(Hypercall::MemoryOp, &[u64::from(XENMEM_ACQUIRE_RESOURCE), 0x1000]));
}

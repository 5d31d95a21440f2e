//! Pinning page tables, loading roots, and the other extended operations.
#![no_std]
#![no_main]

use claim::abi::xen::*;
use claim::mm::{self, READABLE, WRITABLE};
use claim::{Answer, ask, say};

claim::claim!(run);

fn run() {
    l1();
    higher();
    roots();
    flushes();
    pages();
    batches();
}

fn frame_of(page: u64) -> u64 {
    mm::mfn_of(page)
}

fn protect(page: u64) {
    assert!(mm::update_va_mapping(page, (frame_of(page) << 12) | READABLE) == 0, "protect");
}

fn unprotect(page: u64) -> i64 {
    mm::update_va_mapping(page, (frame_of(page) << 12) | WRITABLE)
}

fn l1() {
    let page = mm::page();
    let mfn = frame_of(page);
    ask!("pin while writable", mm::mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0));
    protect(page);
    ask!("unpin what is not pinned", mm::mmuext(MMUEXT_UNPIN_TABLE, mfn, 0));
    ask!("pin while read-only", mm::mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0));
    ask!("pin again", mm::mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0));
    ask!("pin as another level", mm::mmuext(MMUEXT_PIN_L2_TABLE, mfn, 0));
    ask!("make it writable", unprotect(page));
    ask!("good entry into it", mm::mmu_update(mfn << 12, (frame_of(mm::page()) << 12) | WRITABLE));
    ask!("bad entry into it", mm::mmu_update(mfn << 12, (mm::hypervisor_frame() << 12) | READABLE));
    ask!("map itself read-only", mm::mmu_update((mfn << 12) + 8, (mfn << 12) | READABLE));
    ask!("map itself writable", mm::mmu_update((mfn << 12) + 16, (mfn << 12) | WRITABLE));
    ask!("unpin", mm::mmuext(MMUEXT_UNPIN_TABLE, mfn, 0));
    ask!("unpin again", mm::mmuext(MMUEXT_UNPIN_TABLE, mfn, 0));
    ask!("make it writable", unprotect(page));
    mm::poke(page, (mm::hypervisor_frame() << 12) | READABLE);
    protect(page);
    ask!("pin with a bad entry", mm::mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0));
    ask!("writable after that", unprotect(page));
    ask!("pin the hypervisor's frame", mm::mmuext(MMUEXT_PIN_L1_TABLE, mm::hypervisor_frame(), 0));
    ask!("pin beyond the machine", mm::mmuext(MMUEXT_PIN_L1_TABLE, 1 << 39, 0));
    ask!("unpin beyond the machine", mm::mmuext(MMUEXT_UNPIN_TABLE, 1 << 39, 0));
}

fn higher() {
    let pages = [mm::page(), mm::page(), mm::page(), mm::page()];
    for pair in pages.windows(2) {
        mm::poke(pair[1], (frame_of(pair[0]) << 12) | WRITABLE);
    }
    for page in pages {
        protect(page);
    }
    let mfns = pages.map(frame_of);
    ask!("pin an L4 with all below it", mm::mmuext(MMUEXT_PIN_L4_TABLE, mfns[3], 0));
    ask!("pin the L3 below", mm::mmuext(MMUEXT_PIN_L3_TABLE, mfns[2], 0));
    ask!("unpin the L4", mm::mmuext(MMUEXT_UNPIN_TABLE, mfns[3], 0));
    ask!("L4 writable again", unprotect(pages[3]));
    ask!("L2 writable again", unprotect(pages[1]));
    ask!("unpin the L3", mm::mmuext(MMUEXT_UNPIN_TABLE, mfns[2], 0));
    ask!("L2 writable again", unprotect(pages[1]));
    mm::poke(pages[1] + 8, (frame_of(pages[0]) << 12) | WRITABLE | mm::PSE);
    protect(pages[1]);
    ask!("pin an L2 with a super page", mm::mmuext(MMUEXT_PIN_L2_TABLE, mfns[1], 0));
    ask!("L2 writable again", unprotect(pages[1]));
}

fn roots() {
    let root = frame_of(mm::start_info().pt_base);
    ask!("load the root again", mm::mmuext(MMUEXT_NEW_BASEPTR, root, 0));
    ask!("load an ordinary page as root", mm::mmuext(MMUEXT_NEW_BASEPTR, frame_of(mm::page()), 0));
    ask!("load the hypervisor's frame as root", mm::mmuext(MMUEXT_NEW_BASEPTR, mm::hypervisor_frame(), 0));
    ask!("no user root", mm::mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0));
    ask!("ordinary page as user root", mm::mmuext(MMUEXT_NEW_USER_BASEPTR, frame_of(mm::page()), 0));
    let copy = mm::page();
    for n in (0..512).filter(|n| !(256..272).contains(n)) {
        mm::poke(copy + 8 * n, mm::peek(mm::start_info().pt_base + 8 * n));
    }
    protect(copy);
    ask!("load a copy of the root", mm::mmuext(MMUEXT_NEW_BASEPTR, frame_of(copy), 0));
    ask!("make the root in use writable", unprotect(copy));
    ask!("load the first root", mm::mmuext(MMUEXT_NEW_BASEPTR, root, 0));
    ask!("make the copy writable", unprotect(copy));
    ask!("the first root as user root too", mm::mmuext(MMUEXT_NEW_USER_BASEPTR, root, 0));
    ask!("no user root", mm::mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0));
}

fn flushes() {
    let page = mm::page();
    ask!("flush local", mm::mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0));
    ask!("flush page local", mm::mmuext(MMUEXT_INVLPG_LOCAL, page, 0));
    ask!("flush page of no address", mm::mmuext(MMUEXT_INVLPG_LOCAL, 0x8000_0000_0000, 0));
    ask!("flush all", mm::mmuext(MMUEXT_TLB_FLUSH_ALL, 0, 0));
    ask!("flush page all", mm::mmuext(MMUEXT_INVLPG_ALL, page, 0));
    let mask = 1_u64;
    ask!("flush by mask", mm::mmuext(MMUEXT_TLB_FLUSH_MULTI, 0, &raw const mask as u64));
    ask!("flush page by mask", mm::mmuext(MMUEXT_INVLPG_MULTI, page, &raw const mask as u64));
    ask!("flush by a bad mask", mm::mmuext(MMUEXT_TLB_FLUSH_MULTI, 0, 0x1000));
    ask!("flush cache", mm::mmuext(MMUEXT_FLUSH_CACHE, 0, 0));
    ask!("flush caches", mm::mmuext(MMUEXT_FLUSH_CACHE_GLOBAL, 0, 0));
}

fn pages() {
    let (from, to) = (mm::page(), mm::page());
    mm::poke(from + 8, 5);
    ask!("copy a page", mm::mmuext(MMUEXT_COPY_PAGE, frame_of(to), frame_of(from)));
    say!("reads {}", mm::peek(to + 8));
    ask!("clear a page", mm::mmuext(MMUEXT_CLEAR_PAGE, frame_of(to), 0));
    say!("reads {}", mm::peek(to + 8));
    let table = frame_of(mm::start_info().pt_base);
    ask!("clear a page table", mm::mmuext(MMUEXT_CLEAR_PAGE, table, 0));
    ask!("copy over a page table", mm::mmuext(MMUEXT_COPY_PAGE, table, frame_of(from)));
    ask!("copy of a page table", mm::mmuext(MMUEXT_COPY_PAGE, frame_of(to), table));
    ask!("clear the hypervisor's frame", mm::mmuext(MMUEXT_CLEAR_PAGE, mm::hypervisor_frame(), 0));
    ask!(
        "copy from the hypervisor's frame",
        mm::mmuext(MMUEXT_COPY_PAGE, frame_of(to), mm::hypervisor_frame())
    );
    ask!("mark a super page", mm::mmuext(MMUEXT_MARK_SUPER, frame_of(to), 0));
    ask!("unknown operation", mm::mmuext(99, 0, 0));
    ask!("operation 14", mm::mmuext(14, 0, 0));
}

fn batches() {
    let good = MmuextOp { cmd: MMUEXT_TLB_FLUSH_LOCAL, ..Default::default() };
    let bad = MmuextOp { cmd: MMUEXT_UNPIN_TABLE, arg1: 1 << 39, ..Default::default() };
    let (answer, done) = mm::mmuext_of(&[good, bad, good], DOMID_SELF);
    say!("second of three is bad: {}, done {done}", Answer(answer));
    let (answer, done) = mm::mmuext_of(&[good; 50], DOMID_SELF);
    say!("fifty: {}, done {done}", Answer(answer));
    say!("on behalf of an unknown domain: {}", Answer(mm::mmuext_of(&[good], 77).0));
    say!("pin on behalf of DOMID_XEN: {}", Answer(mm::mmuext_of(&[bad], DOMID_XEN).0));
}

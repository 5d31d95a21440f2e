//! Giving memory back, taking it again, and exchanging it.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::memory::*;
use claim::abi::xen::{DOMID_SELF, MMU_MACHPHYS_UPDATE};
use claim::hypercall::command;
use claim::mm::{self, WRITABLE};
use claim::{Answer, ask, call, say};

claim::claim!(run);

fn run() {
    sizes();
    maps();
    decrease();
    populate();
    exchange();
    refused();
}

fn current() -> i64 {
    call(Hypercall::MemoryOp, &[u64::from(XENMEM_CURRENT_RESERVATION), &raw const OURSELVES as u64])
}

static OURSELVES: u16 = DOMID_SELF;

fn sizes() {
    say!("has what the start page says: {}", current() as u64 >= mm::start_info().nr_pages);
    let most =
        call(Hypercall::MemoryOp, &[u64::from(XENMEM_MAXIMUM_RESERVATION), &raw const OURSELVES as u64]);
    say!("may have as much: {}", most as u64 as u32 as u64 >= mm::start_info().nr_pages || most < 0);
    let gpfn = call(Hypercall::MemoryOp, &[u64::from(XENMEM_MAXIMUM_GPFN), &raw const OURSELVES as u64]);
    say!("highest guest frame: {}", if gpfn >= 0 { "a number" } else { "an error" });
    let ram = call(Hypercall::MemoryOp, &[u64::from(XENMEM_MAXIMUM_RAM_PAGE), 0]);
    say!("highest frame of RAM is above the guest's: {}", ram as u64 >= mm::start_info().nr_pages);
    let mut unknown = XenMemoryDomain { domid: 77 };
    ask!("size of an unknown domain", command(Hypercall::MemoryOp, XENMEM_CURRENT_RESERVATION, &mut unknown));
}

fn maps() {
    let mut m2p = XenMachphysMapping::default();
    ask!("machine-to-physical table", command(Hypercall::MemoryOp, XENMEM_MACHPHYS_MAPPING, &mut m2p));
    say!("from {:#x}", m2p.v_start);
    let mut list = XenMachphysMfnList { max_extents: 512, extent_start: mm::page(), ..Default::default() };
    ask!("its frames", command(Hypercall::MemoryOp, XENMEM_MACHPHYS_MFN_LIST, &mut list));
    say!("there are some: {}", list.nr_extents > 0);
    let mut map = XenMemoryMap { nr_entries: 204, buffer: mm::page(), ..Default::default() };
    ask!("machine's map", command(Hypercall::MemoryOp, XENMEM_MACHINE_MEMORY_MAP, &mut map));
    say!("has entries: {}", map.nr_entries > 2);
    let entry = |n: u32| {
        // SAFETY: the hypervisor wrote the entries to a page of the arena.
        unsafe { ((map.buffer + 20 * u64::from(n)) as *const E820Entry).read_unaligned() }
    };
    let addresses = (0..map.nr_entries).map(|n| entry(n).addr);
    say!("sorted: {}, begins at {}", addresses.is_sorted(), { entry(0).addr });
    let mut short = XenMemoryMap { nr_entries: 1, ..map };
    ask!(
        "machine's map with room for one",
        command(Hypercall::MemoryOp, XENMEM_MACHINE_MEMORY_MAP, &mut short)
    );
    let mut own = XenMemoryMap { nr_entries: 100, ..map };
    ask!("own map", command(Hypercall::MemoryOp, XENMEM_MEMORY_MAP, &mut own));
}

fn reservation(list: &[u64], order: u32) -> XenMemoryReservation {
    XenMemoryReservation {
        extent_start: list.as_ptr() as u64,
        nr_extents: list.len() as u64,
        extent_order: order,
        domid: DOMID_SELF,
        ..Default::default()
    }
}

/// Unmaps a page and returns its machine frame.
fn release(page: u64) -> u64 {
    let mfn = mm::mfn_of(page);
    assert!(mm::update_va_mapping(page, 0) == 0, "unmap");
    mfn
}

fn take(page: u64, mfn: u64) {
    mm::poke(mm::start_info().mfn_list + 8 * mm::pfn_of(page), mfn);
    ask!("set the m2p of the new frame", mm::mmu_update((mfn << 12) | MMU_MACHPHYS_UPDATE, mm::pfn_of(page)));
    ask!("map the new frame", mm::update_va_mapping(page, (mfn << 12) | WRITABLE));
}

fn decrease() {
    let page = mm::page();
    let before = current();
    let mapped = [mm::mfn_of(page)];
    ask!(
        "give a mapped frame back",
        command(Hypercall::MemoryOp, XENMEM_DECREASE_RESERVATION, &mut reservation(&mapped, 0))
    );
    say!("frames less: {}", before - current());
    let list = [release(page)];
    say!("frames less after unmapping: {}", before - current());
    ask!(
        "give it back",
        command(Hypercall::MemoryOp, XENMEM_DECREASE_RESERVATION, &mut reservation(&list, 0))
    );
    say!("frames less: {}", before - current());
    ask!("map it then", mm::update_va_mapping(page, (list[0] << 12) | WRITABLE));
    let mut into = [0_u64];
    let mut again = reservation(&into, 0);
    again.extent_start = into.as_mut_ptr() as u64;
    ask!("take one", command(Hypercall::MemoryOp, XENMEM_INCREASE_RESERVATION, &mut again));
    say!("frames less: {}", before - current());
    // SAFETY: the hypervisor wrote it.
    take(page, unsafe { into.as_ptr().read_volatile() });
    mm::poke(page, 3);
    say!("it holds what is written: {}", mm::peek(page));
}

fn populate() {
    let page = mm::page();
    let list = [release(page)];
    ask!(
        "give one back",
        command(Hypercall::MemoryOp, XENMEM_DECREASE_RESERVATION, &mut reservation(&list, 0))
    );
    let mut frames = [mm::pfn_of(page)];
    let mut request = reservation(&frames, 0);
    request.extent_start = frames.as_mut_ptr() as u64;
    ask!("fill its guest frame", command(Hypercall::MemoryOp, XENMEM_POPULATE_PHYSMAP, &mut request));
    // SAFETY: the hypervisor wrote it.
    let mfn = unsafe { frames.as_ptr().read_volatile() };
    say!("the m2p knows it: {}", mm::m2p(mfn) == mm::pfn_of(page));
    take(page, mfn);
    say!("it is zero: {}", (0..512).all(|n| mm::peek(page + 8 * n) == 0));
}

fn exchange() {
    let page = mm::page();
    let before = current();
    let input = [release(page)];
    let mut output = [mm::pfn_of(page)];
    let mut both = XenMemoryExchange {
        input: reservation(&input, 0),
        output: reservation(&output, 0),
        ..Default::default()
    };
    both.output.extent_start = output.as_mut_ptr() as u64;
    ask!("exchange a frame", command(Hypercall::MemoryOp, XENMEM_EXCHANGE, &mut both));
    // SAFETY: the hypervisor wrote it.
    let mfn = unsafe { output.as_ptr().read_volatile() };
    say!("exchanged {}, frames less {}", both.nr_exchanged, before - current());
    say!("the m2p knows it: {}", mm::m2p(mfn) == mm::pfn_of(page));
    take(page, mfn);
    let mut odd = both;
    odd.nr_exchanged = 0;
    odd.input.extent_order = 1;
    ask!("exchange of unequal sizes", command(Hypercall::MemoryOp, XENMEM_EXCHANGE, &mut odd));
}

fn refused() {
    let decrease = |list: &[u64], order| {
        Answer(command(Hypercall::MemoryOp, XENMEM_DECREASE_RESERVATION, &mut reservation(list, order)))
    };
    say!("give the hypervisor's frame: {}", decrease(&[mm::hypervisor_frame()], 0));
    say!("give a frame beyond the machine: {}", decrease(&[1 << 39], 0));
    say!("give with order 40: {}", decrease(&[0], 40));
    say!("give nothing: {}", decrease(&[], 0));
    let mut bad =
        XenMemoryReservation { extent_start: 0x1000, nr_extents: 1, domid: DOMID_SELF, ..Default::default() };
    ask!("give a list at a bad address", command(Hypercall::MemoryOp, XENMEM_DECREASE_RESERVATION, &mut bad));
    bad.domid = 77;
    ask!("give another domain's", command(Hypercall::MemoryOp, XENMEM_DECREASE_RESERVATION, &mut bad));
    let mut huge =
        XenMemoryReservation { extent_order: 30, nr_extents: 1, domid: DOMID_SELF, ..Default::default() };
    ask!("take with order 30", command(Hypercall::MemoryOp, XENMEM_INCREASE_RESERVATION, &mut huge));
    ask!(
        "argument at a bad address",
        call(Hypercall::MemoryOp, &[u64::from(XENMEM_DECREASE_RESERVATION), 0x1000])
    );
    let root = [mm::mfn_of(mm::start_info().pt_base)];
    let before = current();
    say!("give the root table: {}, frames less {}", decrease(&root, 0), before - current());
}

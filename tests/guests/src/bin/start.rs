//! What a PV dom0 kernel finds at its start: the start-of-day page, its frames, its page tables.
#![no_std]
#![no_main]

use claim::abi::x86_64::MACH2PHYS_VIRT_START;
use claim::abi::xen::{SIF_PM_MASK, START_INFO_MAGIC};
use claim::mm::{self, FRAME, NX, P, PSE, RW, US, VIRT_BASE};
use claim::{event, say};

claim::claim!(run);

fn run() {
    page();
    lists();
    tables();
    shared();
}

fn page() {
    let info = mm::start_info();
    say!(
        "magic is right: {}",
        info.magic.starts_with(START_INFO_MAGIC) && info.magic[14..].iter().all(|b| *b == 0)
    );
    // Whether the hypervisor wants power-management data is its own affair.
    say!("flags: {:#x}", info.flags & !SIF_PM_MASK);
    say!("has pages: {}", info.nr_pages > 1024);
    say!("shared page has an address: {}", info.shared_info != 0 && info.shared_info & 0xfff == 0);
    say!("store: frame {:#x} port {}", info.store_mfn, info.store_evtchn);
    say!("command line ends: {}", info.cmd_line.contains(&0));
    say!("module: {} bytes at {:#x}", info.mod_len, info.mod_start);
    say!("p2m list outside the mapping: {} frames", info.nr_p2m_frames);
    say!("layout: {}", order(&[VIRT_BASE, info.mfn_list, info.pt_base]));
    say!("tables follow each other: {}", info.nr_pt_frames >= 4);
}

fn order(places: &[u64]) -> &'static str {
    if places.is_sorted() { "kernel, p2m list, page tables" } else { "another order" }
}

/// Every frame the domain has is in both lists, under the same number.
fn lists() {
    let info = mm::start_info();
    let wrong = (0..info.nr_pages).filter(|pfn| {
        let mfn = mm::peek(info.mfn_list + 8 * pfn);
        mfn >= 1 << 32 || mm::peek(MACH2PHYS_VIRT_START + 8 * mfn) != *pfn
    });
    say!("frames whose two lists disagree: {}", wrong.count());
}

fn tables() {
    let info = mm::start_info();
    let kernel = mm::page();
    say!("kernel page: {:#x}", mm::entry(kernel, 1).value & !FRAME);
    say!("page-table page: {:#x}", mm::entry(info.pt_base, 1).value & !FRAME);
    let upper = [2, 3, 4].map(|level| mm::entry(kernel, level).value & (P | RW | US | NX | PSE));
    say!("entries above: {:#x} {:#x} {:#x}", upper[0], upper[1], upper[2]);
    let slots = (0..512).filter(|n| mm::peek(info.pt_base + 8 * n) & P != 0);
    let own = slots.filter(|n| !(256..272).contains(n)).count();
    say!("root slots of the guest's own: {own}");
    say!("mapping ends on 4 MiB: {}", mapped_end() & 0x3f_ffff == 0);
}

fn mapped_end() -> u64 {
    let mut at = VIRT_BASE;
    while mm::entry(at, 3).value & P != 0
        && mm::entry(at, 2).value & P != 0
        && mm::entry(at, 1).value & P != 0
    {
        at += 4096;
    }
    at
}

fn shared() {
    say!("upcall mask at the start: {}", event::upcall_mask());
    say!("upcall pending at the start: {}", event::upcall_pending());
    say!("all ports masked at the start: {}", (0..4096).all(event::masked));
    say!("any port pending at the start: {}", (0..4096).any(event::pending));
}

//! When the guest began, and how much of the machine's memory no guest can have: what the hypervisor keeps.

use claim::abi::Hypercall;
use claim::abi::memory::*;
use claim::abi::xen::DOMID_SELF;
use claim::hypercall::command;
use claim::{call, mm, say, time};

/// Largest block asked for: 2 MiB.
const LARGEST_ORDER: u32 = 9;
const ENTRIES: u32 = 128;

pub fn run() {
    say!("BENCH-START {}", time::started());
    let ram = ram_bytes() / 1024;
    take_what_is_free();
    let ourselves = DOMID_SELF;
    let pages =
        call(Hypercall::MemoryOp, &[u64::from(XENMEM_CURRENT_RESERVATION), &raw const ourselves as u64]);
    say!("BENCH-KEPT {}", ram - pages as u64 * 4);
}

/// RAM by the machine's map, in whole pages.
fn ram_bytes() -> u64 {
    let mut map = XenMemoryMap { nr_entries: ENTRIES, buffer: mm::page(), ..Default::default() };
    assert!(command(Hypercall::MemoryOp, XENMEM_MACHINE_MEMORY_MAP, &mut map) == 0);
    let regions = (0..map.nr_entries).map(|n| {
        // SAFETY: the hypervisor wrote the entries to a page of the arena.
        unsafe {
            ((map.buffer + size_of::<E820Entry>() as u64 * u64::from(n)) as *const E820Entry).read_unaligned()
        }
    });
    let pages =
        |region: E820Entry| ((region.addr + region.size) / 4096).saturating_sub(region.addr.div_ceil(4096));
    regions.filter(|region| region.kind == E820_RAM).map(pages).sum::<u64>() * 4096
}

fn take_what_is_free() {
    let numbers = mm::page();
    for order in (0..=LARGEST_ORDER).rev() {
        let more = || XenMemoryReservation {
            extent_start: numbers,
            nr_extents: 1,
            extent_order: order,
            domid: DOMID_SELF,
            ..Default::default()
        };
        while command(Hypercall::MemoryOp, XENMEM_INCREASE_RESERVATION, &mut more()) == 1 {}
    }
}

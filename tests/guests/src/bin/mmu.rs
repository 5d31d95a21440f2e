//! Page-table updates: what is allowed, and what is refused with which error.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::xen::*;
use claim::mm::{self, FRAME, READABLE, WRITABLE};
use claim::{Answer, ask, attempt, call, outcome, say};

claim::claim!(run);

fn run() {
    own_page();
    tables();
    others();
    flags();
    upper();
    plain_memory();
    batches();
    machine_to_physical();
}

/// Maps `entry` over a spare page, says the answer, and puts the page back.
fn try_map(spare: u64, entry: u64) -> i64 {
    let before = mm::entry(spare, 1).value;
    let answer = mm::update_va_mapping(spare, entry);
    assert!(mm::update_va_mapping(spare, before) == 0, "put back");
    answer
}

/// Machine address of a frame of the hypervisor.
fn hypervisor_frame() -> u64 {
    mm::hypervisor_frame() << 12
}

fn own_page() {
    let page = mm::page();
    mm::poke(page, 7);
    let entry = mm::entry(page, 1);
    ask!("same mapping again", mm::update_va_mapping(page, entry.value));
    ask!("read-only", mm::update_va_mapping(page, (entry.value & FRAME) | READABLE));
    outcome!("write to it", attempt!(["mov [{p}], rax"], p = in(reg) page));
    say!("still reads {}", mm::peek(page));
    ask!("not present", mm::update_va_mapping(page, 0));
    outcome!("read of it", attempt!(["mov {v}, [{p}]"], p = in(reg) page, v = out(reg) _));
    ask!("writable again", mm::update_va_mapping(page, (entry.value & FRAME) | WRITABLE));
    outcome!("write to it", attempt!(["mov [{p}], rax"], p = in(reg) page));
    ask!("no flush", call(Hypercall::UpdateVaMapping, &[page, entry.value, UVMF_NONE]));
    ask!("whole flush", call(Hypercall::UpdateVaMapping, &[page, entry.value, UVMF_TLB_FLUSH]));
    ask!("flush everywhere", call(Hypercall::UpdateVaMapping, &[page, entry.value, UVMF_INVLPG | UVMF_ALL]));
    ask!("unknown flush", call(Hypercall::UpdateVaMapping, &[page, entry.value, UVMF_FLUSHTYPE_MASK]));
    ask!("flush by a bad mask", call(Hypercall::UpdateVaMapping, &[page, entry.value, 0x1000 | UVMF_INVLPG]));
    ask!("non-canonical address", mm::update_va_mapping(0x8000_0000_0000, entry.value));
    ask!("hypervisor's address", mm::update_va_mapping(0xffff_8000_0000_0000, entry.value));
    ask!("address without a table", mm::update_va_mapping(0x40_0000_0000, entry.value));
    ask!("by mmu_update", mm::mmu_update(entry.machine, entry.value));
    ask!(
        "preserving A and D",
        mm::mmu_update(entry.machine | MMU_PT_UPDATE_PRESERVE_AD, entry.value & !mm::D)
    );
    say!("D is still set: {}", mm::entry(page, 1).value & mm::D != 0);
    ask!("untranslated", mm::mmu_update(entry.machine | MMU_PT_UPDATE_NO_TRANSLATE, entry.value));
    ask!("not aligned to an entry", mm::mmu_update(entry.machine | 4, entry.value));
}

fn tables() {
    let spare = mm::page();
    for level in 1..=4 {
        let table = (mm::entry(spare, level).machine >> 12) << 12;
        let (read, write) = (try_map(spare, table | READABLE), try_map(spare, table | WRITABLE));
        say!("own L{level} table: read-only {}, writable {}", Answer(read), Answer(write));
    }
    let start = mm::mfn_of(mm::start_info().mfn_list) << 12;
    ask!("second writable mapping of own page", try_map(spare, start | WRITABLE));
}

fn others() {
    let spare = mm::page();
    let shared = mm::start_info().shared_info & FRAME;
    ask!("shared page", try_map(spare, shared | WRITABLE));
    let frame = hypervisor_frame();
    ask!("hypervisor's frame read-only", try_map(spare, frame | READABLE));
    ask!("hypervisor's frame writable", try_map(spare, frame | WRITABLE));
    ask!("frame beyond the machine", try_map(spare, (1 << 51) | READABLE));
    ask!("video memory", try_map(spare, 0xb_8000 | WRITABLE));
    ask!("local APIC", try_map(spare, 0xfee0_0000 | READABLE));
}

fn flags() {
    let spare = mm::page();
    let frame = mm::entry(spare, 1).value & FRAME;
    for (name, bits) in [
        ("global", mm::G),
        ("PAT", 0x80),
        ("write-through", 0x8),
        ("uncached", 0x10),
        ("software bits", 0xe00),
        ("no execution", mm::NX),
        ("bit 52", 1 << 52),
        ("bits 53 to 58", 0x7e0_0000_0000_0000),
        ("protection key", 0x7800_0000_0000_0000),
    ] {
        say!("entry with {name}: {}", Answer(try_map(spare, frame | WRITABLE | bits)));
    }
    ask!("supervisor page", try_map(spare, frame | mm::P | mm::RW));
    say!("gains the user bit: {}", mm::entry(spare, 1).value & mm::US != 0);
}

fn upper() {
    let spare = mm::page();
    let l2 = mm::entry(spare, 2);
    ask!("same L2 entry again", mm::mmu_update(l2.machine, l2.value));
    ask!("super page", mm::mmu_update(l2.machine, l2.value | mm::PSE));
    ask!("L2 entry to a writable page", mm::mmu_update(l2.machine + 8 * 64, mm::entry(spare, 1).value));
    let root = mm::start_info().pt_base;
    let root_machine = mm::mfn_of(root) << 12;
    ask!("L4 slot of the hypervisor", mm::mmu_update(root_machine + 8 * 256, 0));
    ask!("L4 slot of the hypervisor, last", mm::mmu_update(root_machine + 8 * 271, l2.value));
    ask!("L4 slot of the guest, cleared", mm::mmu_update(root_machine + 8 * 3, 0));
    ask!("L4 entry to an L1 table", mm::mmu_update(root_machine + 8 * 3, l2.value));
    ask!(
        "L4 entry to a frame of the hypervisor",
        mm::mmu_update(root_machine + 8 * 3, hypervisor_frame() | WRITABLE)
    );
    fresh_table(spare);
}

/// A page of ours becomes an L1 table only when nobody can write it.
fn fresh_table(spare: u64) {
    let table = mm::page();
    let frame = mm::entry(table, 1).value & FRAME;
    let place = mm::entry(spare, 2).machine;
    let free = (100..500)
        .map(|n| (place & !0xfff) + 8 * n)
        .find(|at| mm::peek(mm::virt_of(at >> 12) + (at & 0xfff)) == 0);
    let Some(free) = free else { return say!("no free slot") };
    ask!("new table while writable", mm::mmu_update(free, frame | WRITABLE));
    ask!("made read-only", mm::update_va_mapping(table, frame | READABLE));
    ask!("new table while read-only", mm::mmu_update(free, frame | WRITABLE));
    ask!("writable mapping of it now", mm::update_va_mapping(table, frame | WRITABLE));
    ask!("table removed", mm::mmu_update(free, 0));
    ask!("writable mapping of it then", mm::update_va_mapping(table, frame | WRITABLE));
}

fn plain_memory() {
    let page = mm::page();
    let frame = mm::mfn_of(page) << 12;
    ask!("update of a word that is no table's", mm::mmu_update(frame + 16, 0x1234));
    say!("reads {:#x}", mm::peek(page + 16));
    ask!("update of the hypervisor's memory", mm::mmu_update(hypervisor_frame(), 0));
    ask!("update beyond the machine", mm::mmu_update(1 << 51, 0));
}

fn batches() {
    let page = mm::page();
    let entry = mm::entry(page, 1);
    let good = MmuUpdate { ptr: entry.machine, val: entry.value };
    let bad = MmuUpdate { ptr: entry.machine, val: hypervisor_frame() | WRITABLE };
    let (answer, done) = mm::mmu_update_of(&[good, good, bad, good], DOMID_SELF);
    say!("third of four is bad: {}, done {done}", Answer(answer));
    let (answer, done) = mm::mmu_update_of(&[good; 100], DOMID_SELF);
    say!("a hundred: {}, done {done}", Answer(answer));
    let (answer, done) = mm::mmu_update_of(&[], DOMID_SELF);
    say!("none: {}, done {done}", Answer(answer));
    ask!(
        "no place for the count",
        call(Hypercall::MmuUpdate, &[&raw const good as u64, 1, 0, u64::from(DOMID_SELF)])
    );
    ask!("list at a bad address", call(Hypercall::MmuUpdate, &[0x1000, 1, 0, u64::from(DOMID_SELF)]));
    for (name, domain) in [
        ("unknown domain", 77),
        ("DOMID_XEN", DOMID_XEN),
        ("DOMID_IO", DOMID_IO),
        ("DOMID_INVALID", DOMID_INVALID),
    ] {
        say!("on behalf of {name}: {}", Answer(mm::mmu_update_of(&[good], domain).0));
    }
}

fn machine_to_physical() {
    let page = mm::page();
    let mfn = mm::mfn_of(page);
    let update = |mfn: u64, pfn| mm::mmu_update((mfn << 12) | MMU_MACHPHYS_UPDATE, pfn);
    ask!("m2p of own frame", update(mfn, 12345));
    say!("reads {}", mm::m2p(mfn));
    ask!("m2p of own frame again", update(mfn, mm::pfn_of(page)));
    ask!("m2p of a frame of the hypervisor", update(hypervisor_frame() >> 12, 1));
    ask!("m2p beyond the machine", update(1 << 39, 1));
    outcome!("write to the m2p", attempt!(["mov [{p}], rax"], p = in(reg) 0xffff_8000_0000_0000_u64));
}

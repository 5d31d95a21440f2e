//! Writes to page tables through a read-only mapping: trapped, checked, and done for the guest.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::xen::*;
use claim::mm::{self, FRAME, READABLE, WRITABLE};
use claim::{ask, attempt, call, outcome, say};

claim::claim!(run);

fn run() {
    let table = mm::page();
    let mfn = mm::mfn_of(table);
    assert!(mm::update_va_mapping(table, (mfn << 12) | READABLE) == 0, "protect");
    not_a_table(table);
    assert!(mm::mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0) == 0, "pin");
    let target = mm::mfn_of(mm::page()) << 12;
    without_assist(table, target | WRITABLE);
    whole(table, target | WRITABLE);
    locked(table, target | WRITABLE);
    partial(table, target | WRITABLE);
    refused(table);
    upper_tables();
}

fn not_a_table(page: u64) {
    outcome!(
        "write to a read-only page that is no table",
        attempt!(["mov [{p}], {v}"], p = in(reg) page, v = in(reg) 1_u64)
    );
}

/// The emulation is an assist that the guest switches.
fn without_assist(table: u64, entry: u64) {
    let assist =
        |command: u32| call(Hypercall::VmAssist, &[command.into(), VMASST_TYPE_WRITABLE_PAGETABLES.into()]);
    let write = || attempt!(["mov [{p}], {v}"], p = in(reg) table, v = in(reg) entry);
    outcome!("before any assist", write());
    ask!("assist off", assist(VMASST_CMD_DISABLE));
    outcome!("mov", write());
    ask!("assist on", assist(VMASST_CMD_ENABLE));
}

fn whole(table: u64, entry: u64) {
    outcome!("mov", attempt!(["mov [{p}], {v}"], p = in(reg) table, v = in(reg) entry));
    say!("took effect: {}", mm::peek(table) & FRAME == entry & FRAME);
    outcome!("mov of zero", attempt!(["mov qword ptr [{p}], 0"], p = in(reg) table));
    say!("took effect: {}", mm::peek(table) == 0);
    let mut value = entry;
    outcome!("xchg", attempt!(["xchg [{p}], {v}"], p = in(reg) table, v = inout(reg) value));
    say!("gave the old value: {}, took effect: {}", value == 0, mm::peek(table) & FRAME == entry & FRAME);
    outcome!("stosq", attempt!(["stosq"], inout("rdi") table + 8 => _, in("rax") entry));
    say!("took effect: {}", mm::peek(table + 8) & FRAME == entry & FRAME);
    outcome!("movsq", attempt!(["movsq"], inout("rdi") table + 16 => _, inout("rsi") table + 8 => _));
    say!("took effect: {}", mm::peek(table + 16) & FRAME == entry & FRAME);
    outcome!(
        "rep stosq of three",
        attempt!(["rep stosq"], inout("rdi") table + 24 => _, inout("rcx") 3_u64 => _, in("rax") entry)
    );
    say!("took effect: {}", (3..6).all(|n| mm::peek(table + 8 * n) & FRAME == entry & FRAME));
}

fn locked(table: u64, entry: u64) {
    let mut old = mm::peek(table);
    outcome!(
        "lock cmpxchg that matches",
        attempt!(["lock cmpxchg [{p}], {v}"], p = in(reg) table, v = in(reg) 0_u64, inout("rax") old)
    );
    say!("took effect: {}", mm::peek(table) == 0);
    old = 1;
    outcome!(
        "lock cmpxchg that does not",
        attempt!(["lock cmpxchg [{p}], {v}"], p = in(reg) table, v = in(reg) entry, inout("rax") old)
    );
    say!("gave what is there: {}, changed nothing: {}", old == 0, mm::peek(table) == 0);
    mm_write(table, entry);
    outcome!("lock and", attempt!(["lock and qword ptr [{p}], -3"], p = in(reg) table));
    say!("is read-only now: {}", mm::peek(table) & mm::RW == 0);
    outcome!("lock or", attempt!(["lock or qword ptr [{p}], 2"], p = in(reg) table));
    say!("is writable now: {}", mm::peek(table) & mm::RW != 0);
    outcome!("lock btr", attempt!(["lock btr qword ptr [{p}], 1"], p = in(reg) table));
    say!("is read-only now: {}", mm::peek(table) & mm::RW == 0);
    outcome!("add", attempt!(["add qword ptr [{p}], 2"], p = in(reg) table));
    say!("is writable now: {}", mm::peek(table) & mm::RW != 0);
}

fn mm_write(at: u64, value: u64) {
    outcome!("mov", attempt!(["mov [{p}], {v}"], p = in(reg) at, v = in(reg) value));
}

fn partial(table: u64, entry: u64) {
    outcome!("low half", attempt!(["mov dword ptr [{p}], {v:e}"], p = in(reg) table, v = in(reg) entry & !2));
    say!("is read-only now: {}", mm::peek(table) & mm::RW == 0);
    outcome!("one byte", attempt!(["and byte ptr [{p}], 0xfe"], p = in(reg) table));
    say!("is absent now: {}", mm::peek(table) & mm::P == 0);
    mm_write(table, 0);
    outcome!("across two entries", attempt!(["mov [{p} + 4], {v}"], p = in(reg) table, v = in(reg) 0_u64));
}

fn refused(table: u64) {
    let hypervisor = mm::hypervisor_frame() << 12;
    outcome!(
        "frame of the hypervisor",
        attempt!(["mov [{p}], {v}"], p = in(reg) table, v = in(reg) hypervisor | WRITABLE)
    );
    say!("changed nothing: {}", mm::peek(table) == 0);
    let own = mm::mfn_of(table) << 12;
    outcome!(
        "the table itself, writable",
        attempt!(["mov [{p}], {v}"], p = in(reg) table, v = in(reg) own | WRITABLE)
    );
    say!("is what was left there: {:#x}", mm::peek(table) & !FRAME);
    outcome!(
        "the table itself, read-only",
        attempt!(["mov [{p}], {v}"], p = in(reg) table, v = in(reg) own | READABLE)
    );
    say!("changed: {}", mm::peek(table) != 0);
}

fn upper_tables() {
    let l2 = mm::entry(mm::page(), 2);
    outcome!("write to an L2 table", attempt!(["mov [{p}], {v}"], p = in(reg) l2.at, v = in(reg) l2.value));
    let root = mm::start_info().pt_base;
    outcome!("write to an L4 table", attempt!(["mov [{p}], {v}"], p = in(reg) root + 24, v = in(reg) 0_u64));
}

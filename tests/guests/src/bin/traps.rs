//! Exceptions reach the guest's handlers with the vector, error code, address and flags of the hardware.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::x86_64::TrapInfo;
use claim::mm::{self, FRAME, READABLE, WRITABLE};
use claim::{ask, attempt, call, event, outcome, say, trap};

claim::claim!(run);

fn run() {
    simple();
    general_protection();
    page_faults();
    floating_point();
    debug();
    frame();
    table();
}

fn simple() {
    outcome!(
        "divide by zero",
        attempt!(["div {v}"], v = in(reg) 0_u64, inout("rax") 1_u64 => _, inout("rdx") 0_u64 => _)
    );
    outcome!("breakpoint", attempt!(["int3"]));
    outcome!("int 3", attempt!([".byte 0xcd, 3"]));
    outcome!("int 4", attempt!(["int 4"]));
    outcome!("undefined instruction", attempt!(["ud2"]));
    outcome!("undefined instruction with the prefix only", attempt!([".byte 0x0f, 0x0b, 0x78, 0x65, 0x6f"]));
}

fn general_protection() {
    outcome!(
        "non-canonical read",
        attempt!(["mov {v}, [{p}]"], p = in(reg) 0x8000_0000_0000_0000_u64, v = out(reg) _)
    );
    outcome!("selector beyond the tables", attempt!(["mov ds, {v:e}"], v = in(reg) 0xfffb_u32));
    outcome!("null stack selector", attempt!(["mov ss, {v:e}"], v = in(reg) 0_u32));
    outcome!("misaligned movaps", attempt!(["movaps [{p} + 8], xmm0"], p = in(reg) mm::page()));
    outcome!("load of a task register", attempt!(["ltr {v:x}"], v = in(reg) 0_u16));
    outcome!("load of a GDT", attempt!(["lgdt [{p}]"], p = in(reg) mm::page()));
    outcome!("swapgs", attempt!(["swapgs"]));
    outcome!("invlpg", attempt!(["invlpg [{p}]"], p = in(reg) mm::page()));
    outcome!("sysretq", attempt!(["sysretq"]));
    outcome!("rsm", attempt!(["rsm"]));
}

fn page_faults() {
    let page = mm::page();
    let frame = mm::entry(page, 1).value & FRAME;
    let read = |at: u64| attempt!(["mov {v}, [{p}]"], p = in(reg) at, v = out(reg) _);
    let write = |at: u64| attempt!(["mov [{p}], {p}"], p = in(reg) at);
    let jump = |at: u64| attempt!(["call {p}"], p = in(reg) at, clobber_abi("C"));
    assert!(mm::update_va_mapping(page, 0) == 0);
    outcome!("read of an absent page", read(page));
    say!("at the right address: {}", cr2() == page);
    outcome!("write to an absent page", write(page + 8));
    say!("at the right address: {}", cr2() == page + 8);
    fault_elsewhere("call of an absent page", jump(page));
    assert!(mm::update_va_mapping(page, frame | READABLE) == 0);
    outcome!("write to a read-only page", write(page));
    assert!(mm::update_va_mapping(page, frame | WRITABLE | mm::NX) == 0);
    fault_elsewhere("call of a page without execution", jump(page));
    outcome!("read of an empty slot", read(0x40_0000_0000));
    outcome!("read of the null page", read(0));
    outcome!("read of the machine-to-physical table", read(0xffff_8000_0000_0000));
    outcome!("write to the machine-to-physical table", write(0xffff_8000_0000_0000));
    // What is mapped there is the hypervisor's own affair, so the error code is too.
    say!("read of the hypervisor: vector {}", read(0xffff_82d0_4020_0000).map_or(0, |t| t.vector));
    say!("write to the hypervisor: vector {}", write(0xffff_82d0_4020_0000).map_or(0, |t| t.vector));
    outcome!("read behind the hypervisor", read(0xffff_8800_0000_0000));
}

/// A fault whose address is not in the attempt's own code.
fn fault_elsewhere(what: &str, trap: Option<trap::Trap>) {
    match trap {
        Some(trap) => {
            say!("{what}: trap {} error {:#x}, at the target {}", trap.vector, trap.error, trap.offset != 0)
        }
        None => say!("{what}: no trap"),
    }
}

fn cr2() -> u64 {
    mm::peek(event::shared() + claim::abi::xen::vcpu_offset::CR2 as u64)
}

fn floating_point() {
    ask!("set TS", call(Hypercall::FpuTaskswitch, &[1]));
    outcome!("x87 instruction with TS", attempt!(["fnop"]));
    outcome!("and again", attempt!(["fnop"]));
    ask!("clear TS", call(Hypercall::FpuTaskswitch, &[0]));
    outcome!("x87 instruction without TS", attempt!(["fnop"]));
    let control = 0x033b_u16;
    outcome!(
        "x87 division by zero",
        attempt!(
        ["fninit", "fldcw [{m}]", "fld1", "fldz", "fdivp st(1), st", "fwait"], m = in(reg) &raw const control)
    );
    outcome!("initialised again", attempt!(["fninit"]));
}

fn debug() {
    let single = attempt!(["pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop"]);
    outcome!("single step", single);
    ask!("debug status", call(Hypercall::GetDebugreg, &[6]) & 0x400f);
}

fn frame() {
    let Some(trap) = attempt!(["stc", "ud2"]) else { return say!("no trap") };
    say!("selectors: {:#x} {:#x}", trap.cs, trap.ss);
    say!(
        "carry kept: {}, event flag {}, privilege {}",
        trap.rflags & 1 == 1,
        trap.rflags >> 9 & 1,
        trap.rflags >> 12 & 3
    );
    event::set_upcall_mask(0);
    let Some(trap) = attempt!(["ud2"]) else { return say!("no trap") };
    say!("with events: event flag {}", trap.rflags >> 9 & 1);
    say!("events after the return: {}", event::upcall_mask() == 0);
    event::set_upcall_mask(1);
}

fn table() {
    let mut rows = [TrapInfo::default(); 2];
    rows[0] = TrapInfo { vector: 6, flags: trap::MASKED, cs: 0xe033, address: trap::entry_of(5), ..rows[0] };
    ask!("another handler for vector 6", call(Hypercall::SetTrapTable, &[rows.as_ptr() as u64]));
    outcome!("arrives there", attempt!(["ud2"]));
    rows[0].cs = 0xe008;
    ask!("handler with the hypervisor's selector", call(Hypercall::SetTrapTable, &[rows.as_ptr() as u64]));
    outcome!("arrives there", attempt!(["ud2"]));
    rows[0].cs = 0xe033;
    rows[0].address = 0xffff_8300_0000_0000;
    ask!("handler in the hypervisor", call(Hypercall::SetTrapTable, &[rows.as_ptr() as u64]));
    rows[0].address = 0x8000_0000_0000;
    ask!("handler at no address", call(Hypercall::SetTrapTable, &[rows.as_ptr() as u64]));
    ask!("table at a bad address", call(Hypercall::SetTrapTable, &[0x1000]));
    rows[0].address = trap::entry_of(6);
    ask!("first handler again", call(Hypercall::SetTrapTable, &[rows.as_ptr() as u64]));
    outcome!("arrives there", attempt!(["ud2"]));
    rows[0] = TrapInfo { vector: 0x80, flags: 3, cs: 0xe033, address: trap::entry_of(9), ..rows[0] };
    ask!("handler for int 0x80", call(Hypercall::SetTrapTable, &[rows.as_ptr() as u64]));
    outcome!("int 0x80", attempt!(["int 0x80"]));
}

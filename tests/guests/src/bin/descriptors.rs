//! Descriptor tables: which GDTs, LDTs and descriptors are taken, and that they work.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::xen::MMUEXT_SET_LDT;
use claim::mm::{self, READABLE, WRITABLE};
use claim::{Answer, ask, attempt, call, outcome, say};

claim::claim!(run);

/// Data, 64-bit flat, DPL 3, accessed.
const DATA3: u64 = 0x00cf_f300_0000_ffff;
/// 64-bit code, DPL 3.
const CODE3: u64 = 0x00af_fb00_0000_ffff;

fn run() {
    gdt();
    descriptors();
    ldt();
}

fn protect(page: u64) {
    assert!(mm::update_va_mapping(page, (mm::mfn_of(page) << 12) | READABLE) == 0, "protect");
}

fn set_gdt(page: u64, entries: u64) -> i64 {
    let frames = [mm::mfn_of(page); 16];
    call(Hypercall::SetGdt, &[frames.as_ptr() as u64, entries])
}

fn load(selector: u16) -> Option<claim::trap::Trap> {
    attempt!(["mov fs, {v:x}"], v = in(reg) selector)
}

fn unload() {
    attempt!(["mov fs, {v:x}"], v = in(reg) 0_u16);
}

fn gdt() {
    let page = mm::page();
    mm::poke(page + 8, DATA3);
    ask!("GDT while writable", set_gdt(page, 512));
    protect(page);
    ask!("GDT while read-only", set_gdt(page, 512));
    ask!("writable mapping of it", mm::update_va_mapping(page, (mm::mfn_of(page) << 12) | WRITABLE));
    outcome!("load its data segment", load(8 | 3));
    outcome!("load its empty entry", load(16 | 3));
    unload();
    ask!("no entries", set_gdt(page, 0));
    ask!("writable mapping of it", mm::update_va_mapping(page, (mm::mfn_of(page) << 12) | WRITABLE));
    ask!("too many entries", set_gdt(page, 14 * 512 + 1));
    ask!("list at a bad address", call(Hypercall::SetGdt, &[0x1000, 512]));
    let beyond = [1_u64 << 39; 16];
    ask!("frame beyond the machine", call(Hypercall::SetGdt, &[beyond.as_ptr() as u64, 512]));
    let hypervisor = [mm::hypervisor_frame(); 16];
    ask!("frame of the hypervisor", call(Hypercall::SetGdt, &[hypervisor.as_ptr() as u64, 512]));
    for (name, descriptor) in BAD {
        mm::poke(page + 24, *descriptor);
        protect(page);
        say!("GDT with {name}: {}", Answer(set_gdt(page, 512)));
        set_gdt(page, 0);
        mm::update_va_mapping(page, (mm::mfn_of(page) << 12) | WRITABLE);
        say!("  is now {:#x}", mm::peek(page + 24));
    }
}

const BAD: &[(&str, u64)] = &[
    ("data of ring 0", 0x00cf_9300_0000_ffff),
    ("64-bit code of ring 0", 0x00af_9b00_0000_ffff),
    ("64-bit code of ring 3", CODE3),
    ("code that is 64-bit and 32-bit", 0x00ef_fb00_0000_ffff),
    ("conforming code", 0x00cf_ff00_0000_ffff),
    ("data of ring 1", 0x00cf_b300_0000_ffff),
    ("an LDT", 0x0000_e200_1000_0fff),
    ("a task state segment", 0x0000_e900_1000_0067),
    ("a call gate", 0x0000_ec00_e033_1000),
    ("an interrupt gate", 0x0000_ee00_e033_1000),
    ("a segment that is absent", 0x00cf_7300_0000_ffff),
    ("a limit that ends below the hypervisor", 0x0040_f300_0000_ffff),
];

fn descriptors() {
    let page = mm::page();
    protect(page);
    ask!("GDT", set_gdt(page, 512));
    let at = |n: u64| (mm::mfn_of(page) << 12) + 8 * n;
    let update = |n: u64, d: u64| call(Hypercall::UpdateDescriptor, &[at(n), d]);
    ask!("data", update(2, DATA3));
    outcome!("load it", load(2 << 3 | 3));
    unload();
    ask!("zero", update(2, 0));
    for (name, descriptor) in BAD {
        say!("{name}: {}", Answer(update(3, *descriptor)));
        say!("  is now {:#x}", mm::peek(page + 24));
        update(3, 0);
    }
    ask!("not aligned", call(Hypercall::UpdateDescriptor, &[at(4) + 4, DATA3]));
    ask!("in a page table", call(Hypercall::UpdateDescriptor, &[mm::entry(page, 1).machine & !7, 0]));
    ask!("in an ordinary page", call(Hypercall::UpdateDescriptor, &[mm::mfn_of(mm::page()) << 12, DATA3]));
    ask!("in the hypervisor", call(Hypercall::UpdateDescriptor, &[mm::hypervisor_frame() << 12, DATA3]));
    ask!("beyond the machine", call(Hypercall::UpdateDescriptor, &[1 << 51, DATA3]));
    outcome!("write to the table", attempt!(["mov [{p}], {v}"], p = in(reg) page + 16, v = in(reg) DATA3));
}

fn ldt() {
    let page = mm::page();
    mm::poke(page + 8, DATA3);
    protect(page);
    ask!("LDT", mm::mmuext(MMUEXT_SET_LDT, page, 512));
    outcome!("load its data segment", load((1 << 3) | 4 | 3));
    outcome!("load its empty entry", load((2 << 3) | 4 | 3));
    outcome!("load behind its end", load((512 << 3) | 4 | 3));
    ask!("writable mapping of it", mm::update_va_mapping(page, (mm::mfn_of(page) << 12) | WRITABLE));
    unload();
    ask!("no LDT", mm::mmuext(MMUEXT_SET_LDT, 0, 0));
    outcome!("load its data segment", load((1 << 3) | 4 | 3));
    ask!("writable mapping of it", mm::update_va_mapping(page, (mm::mfn_of(page) << 12) | WRITABLE));
    ask!("LDT not aligned", mm::mmuext(MMUEXT_SET_LDT, page + 8, 16));
    ask!("LDT too long", mm::mmuext(MMUEXT_SET_LDT, page, 8193));
    ask!("LDT in the hypervisor", mm::mmuext(MMUEXT_SET_LDT, 0xffff_8300_0000_0000, 16));
    ask!("LDT at no address", mm::mmuext(MMUEXT_SET_LDT, 0x8000_0000_0000, 16));
}

//! Page tables: single updates, batches, pins, roots, flushes, and writes that trap.

use crate::{hypercall, measure};
use claim::abi::Hypercall;
use claim::abi::xen::*;
use claim::mm::{self, READABLE, WRITABLE};

const BATCH: usize = 128;

fn frame(page: u64) -> u64 {
    mm::mfn_of(page) << 12
}

fn protect(page: u64) {
    assert!(mm::update_va_mapping(page, frame(page) | READABLE) == 0);
}

pub fn run() {
    single();
    batch();
    pins();
    roots();
    flushes();
    traps();
}

fn single() {
    let (at, other) = (mm::page(), mm::page());
    let number = u64::from(Hypercall::UpdateVaMapping.number());
    let (one, two) = (frame(at) | WRITABLE, frame(other) | WRITABLE);
    // Without a flush.
    hypercall!("update_va_mapping_same", Hypercall::UpdateVaMapping, [at, one, 0, 0]);
    measure!(
        "update_va_mapping",
        2,
        ["mov eax, r8d", "syscall", "xchg rsi, r10", "mov eax, r8d", "syscall", "xchg rsi, r10"],
        ["rdi" = at, "rsi" = two, "rdx" = 0_u64, "r10" = one, "r8" = number]
    );
    measure!(
        "update_va_mapping_invlpg",
        2,
        ["mov eax, r8d", "syscall", "xchg rsi, r10", "mov eax, r8d", "syscall", "xchg rsi, r10"],
        ["rdi" = at, "rsi" = two, "rdx" = UVMF_INVLPG, "r10" = one, "r8" = number]
    );
    let machine = mm::entry(at, 1).machine;
    let mut list = [MmuUpdate { ptr: machine, val: one }, MmuUpdate { ptr: machine, val: two }];
    let at = &raw mut list as u64;
    hypercall!("mmu_update_same", Hypercall::MmuUpdate, [at, 1, 0, u64::from(DOMID_SELF)]);
    measure!(
        "mmu_update",
        2,
        ["mov eax, r8d", "syscall", "xor rdi, 16", "mov eax, r8d", "syscall", "xor rdi, 16"],
        [
            "rdi" = align(&mut list),
            "rsi" = 1_u64,
            "rdx" = 0_u64,
            "r10" = u64::from(DOMID_SELF),
            "r8" = u64::from(Hypercall::MmuUpdate.number())
        ]
    );
}

/// A copy of the two requests in a page, so that their addresses differ in one bit.
fn align(list: &mut [MmuUpdate; 2]) -> u64 {
    let page = mm::page();
    for (n, request) in list.iter().enumerate() {
        mm::poke(page + 16 * n as u64, request.ptr);
        mm::poke(page + 16 * n as u64 + 8, request.val);
    }
    page
}

/// A call that was interrupted has other arguments at its end, so they are loaded before each.
///
/// A page table that is pinned, with 128 entries in two batches: of one frame and of another.
fn batch() {
    let (table, list, one, two) = (mm::page(), mm::page(), mm::page(), mm::page());
    protect(table);
    assert!(mm::mmuext(MMUEXT_PIN_L1_TABLE, mm::mfn_of(table), 0) == 0);
    let other = mm::page();
    for n in 0..BATCH as u64 {
        for (list, target) in [(list, one), (other, two)] {
            mm::poke(list + 16 * n, frame(table) + 8 * n);
            mm::poke(list + 16 * n + 8, frame(target) | WRITABLE);
        }
    }
    let number = u64::from(Hypercall::MmuUpdate.number());
    for list in [other, list] {
        let answer = claim::call(Hypercall::MmuUpdate, &[list, BATCH as u64, 0, u64::from(DOMID_SELF)]);
        assert!(answer == 0, "batch: {answer}");
    }
    measure!(
        "mmu_update_batch_same",
        BATCH as u64,
        ["mov eax, r8d", "syscall"],
        ["rdi" = list, "rsi" = BATCH as u64, "rdx" = 0_u64, "r10" = u64::from(DOMID_SELF), "r8" = number]
    );
    measure!(
        "mmu_update_batch",
        2 * BATCH as u64,
        [
            "mov rdi, r14",
            "mov esi, 128",
            "mov eax, r8d",
            "syscall",
            "mov rdi, r15",
            "mov esi, 128",
            "mov eax, r8d",
            "syscall"
        ],
        [
            "rdi" = 0_u64,
            "rsi" = 0_u64,
            "rdx" = 0_u64,
            "r10" = u64::from(DOMID_SELF),
            "r8" = number,
            "r14" = list,
            "r15" = other
        ]
    );
}

fn pins() {
    let page = mm::page();
    protect(page);
    let op = |cmd| MmuextOp { cmd, arg1: mm::mfn_of(page), ..Default::default() };
    let (mut pin, mut unpin) = (op(MMUEXT_PIN_L1_TABLE), op(MMUEXT_UNPIN_TABLE));
    let number = u64::from(Hypercall::MmuextOp.number());
    measure!(
        "pin_unpin_l1",
        1,
        ["mov eax, r8d", "syscall", "mov rdi, r15", "mov eax, r8d", "syscall", "mov rdi, r14"],
        [
            "rdi" = &raw mut pin as u64,
            "rsi" = 1_u64,
            "rdx" = 0_u64,
            "r10" = u64::from(DOMID_SELF),
            "r8" = number,
            "r14" = &raw mut pin as u64,
            "r15" = &raw mut unpin as u64
        ]
    );
    // A table that is full.
    let full = mm::page();
    let target = mm::page();
    for n in 0..512 {
        mm::poke(full + 8 * n, frame(target) | WRITABLE);
    }
    protect(full);
    pin.arg1 = mm::mfn_of(full);
    unpin.arg1 = pin.arg1;
    measure!(
        "pin_unpin_l1_full",
        1,
        ["mov eax, r8d", "syscall", "mov rdi, r15", "mov eax, r8d", "syscall", "mov rdi, r14"],
        [
            "rdi" = &raw mut pin as u64,
            "rsi" = 1_u64,
            "rdx" = 0_u64,
            "r10" = u64::from(DOMID_SELF),
            "r8" = number,
            "r14" = &raw mut pin as u64,
            "r15" = &raw mut unpin as u64
        ]
    );
}

/// Two kernel roots in turn, as a change of processes has it.
fn roots() {
    let (first, second) = (mm::start_info().pt_base, mm::page());
    for slot in (0..256).chain(272..512) {
        mm::poke(second + 8 * slot, mm::peek(first + 8 * slot));
    }
    protect(second);
    assert!(mm::mmuext(MMUEXT_PIN_L4_TABLE, mm::mfn_of(second), 0) == 0);
    let ops = |root: u64| {
        let op = |cmd| MmuextOp { cmd, arg1: mm::mfn_of(root), ..Default::default() };
        [op(MMUEXT_NEW_BASEPTR), op(MMUEXT_NEW_USER_BASEPTR)]
    };
    let (mut one, mut two) = (ops(first), ops(second));
    measure!(
        "new_baseptrs",
        2,
        ["mov eax, r8d", "syscall", "mov rdi, r15", "mov eax, r8d", "syscall", "mov rdi, r14"],
        [
            "rdi" = &raw mut two as u64,
            "rsi" = 2_u64,
            "rdx" = 0_u64,
            "r10" = u64::from(DOMID_SELF),
            "r8" = u64::from(Hypercall::MmuextOp.number()),
            "r14" = &raw mut two as u64,
            "r15" = &raw mut one as u64
        ]
    );
    assert!(mm::mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0) == 0);
}

fn flushes() {
    let at = mm::page();
    let mut op = MmuextOp { cmd: MMUEXT_TLB_FLUSH_LOCAL, ..Default::default() };
    hypercall!("tlb_flush_local", Hypercall::MmuextOp, [&raw mut op as u64, 1, 0, u64::from(DOMID_SELF)]);
    let mut op = MmuextOp { cmd: MMUEXT_INVLPG_ALL, arg1: at, ..Default::default() };
    hypercall!("invlpg_all", Hypercall::MmuextOp, [&raw mut op as u64, 1, 0, u64::from(DOMID_SELF)]);
    let page = mm::page();
    protect(page);
    let gdt = [mm::mfn_of(page)];
    assert!(claim::call(Hypercall::SetGdt, &[gdt.as_ptr() as u64, 512]) == 0);
    hypercall!(
        "update_descriptor",
        Hypercall::UpdateDescriptor,
        [frame(page) + 8, 0x00cf_f300_0000_ffff_u64, 0, 0]
    );
    assert!(claim::call(Hypercall::SetGdt, &[0, 0]) == 0);
}

fn traps() {
    let assist = [u64::from(VMASST_CMD_ENABLE), u64::from(VMASST_TYPE_WRITABLE_PAGETABLES)];
    assert!(claim::call(Hypercall::VmAssist, &assist) == 0);
    let (table, one, two) = (mm::page(), mm::page(), mm::page());
    protect(table);
    assert!(mm::mmuext(MMUEXT_PIN_L1_TABLE, mm::mfn_of(table), 0) == 0);
    let (one, two) = (frame(one) | WRITABLE, frame(two) | WRITABLE);
    measure!("ptwr_same", 1, ["mov [rdi], rsi"], ["rdi" = table, "rsi" = one]);
    measure!("ptwr", 2, ["mov [rdi], rsi", "mov [rdi], rdx"], ["rdi" = table, "rsi" = two, "rdx" = one]);
    measure!(
        "ptwr_set_clear",
        2,
        ["mov [rdi], rsi", "mov [rdi], rdx"],
        ["rdi" = table, "rsi" = 0_u64, "rdx" = one]
    );
    measure!("ptwr_xchg", 1, ["xchg [rdi], rsi"], ["rdi" = table, "rsi" = two]);
}

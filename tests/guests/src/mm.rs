//! The guest's own memory: its start-of-day page, its frames, its page tables.

use crate::call;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use guest_abi::x86_64::MACH2PHYS_VIRT_START;
use guest_abi::xen::{self, MmuUpdate, MmuextOp, SharedInfo, StartInfo};
use guest_abi::{Hypercall, xen::DOMID_SELF};

/// Where guest memory begins.
pub const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
/// Present.
pub const P: u64 = 1;
/// Writable.
pub const RW: u64 = 2;
/// User.
pub const US: u64 = 4;
/// Accessed.
pub const A: u64 = 0x20;
/// Dirty.
pub const D: u64 = 0x40;
/// Super page, in an L2 or L3 entry.
pub const PSE: u64 = 0x80;
/// Global.
pub const G: u64 = 0x100;
/// No execution.
pub const NX: u64 = 1 << 63;
/// A frame's address in an entry.
pub const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// What an ordinary writable mapping looks like.
pub const WRITABLE: u64 = P | RW | US | A | D;
/// What an ordinary read-only mapping looks like.
pub const READABLE: u64 = P | US | A | D;

static START_INFO: AtomicU64 = AtomicU64::new(0);

pub(crate) fn set_start_info(at: *const StartInfo) {
    START_INFO.store(at as u64, Ordering::SeqCst);
}

/// The start-of-day page, as the builder left it.
pub fn start_info() -> StartInfo {
    // SAFETY: the builder maps the page and nobody changes it.
    unsafe { (START_INFO.load(Ordering::SeqCst) as *const StartInfo).read_volatile() }
}

/// A page that claims may do anything with.
#[repr(C, align(4096))]
pub struct Page(UnsafeCell<[u64; 512]>);

// SAFETY: one vCPU; all access is volatile.
unsafe impl Sync for Page {}

const PAGES: usize = 64;
static ARENA: [Page; PAGES] = [const { Page(UnsafeCell::new([0; 512])) }; PAGES];
static USED: AtomicUsize = AtomicUsize::new(0);

/// A fresh page of zeroes, mapped writable.
pub fn page() -> u64 {
    let n = USED.fetch_add(1, Ordering::SeqCst);
    &raw const ARENA[n] as u64
}

/// Reads a mapped word.
pub fn peek(at: u64) -> u64 {
    // SAFETY: the claim names a mapped address of its own.
    unsafe { (at as *const u64).read_volatile() }
}

/// Writes a mapped word.
pub fn poke(at: u64, value: u64) {
    // SAFETY: the claim names a mapped address of its own.
    unsafe { (at as *mut u64).write_volatile(value) }
}

/// The guest frame number behind an address of the initial mapping.
pub fn pfn_of(at: u64) -> u64 {
    (at - VIRT_BASE) >> 12
}

/// The machine frame that the p2m list gives for an address of the initial mapping.
pub fn mfn_of(at: u64) -> u64 {
    peek(start_info().mfn_list + 8 * pfn_of(at))
}

/// The guest frame number that the machine-to-physical table gives for a machine frame.
pub fn m2p(mfn: u64) -> u64 {
    peek(MACH2PHYS_VIRT_START + 8 * mfn)
}

/// Where the initial mapping has a machine frame of ours.
pub fn virt_of(mfn: u64) -> u64 {
    VIRT_BASE + (m2p(mfn) << 12)
}

/// A machine frame that is the hypervisor's and no guest's: a table behind one of its root slots.
pub fn hypervisor_frame() -> u64 {
    let root = start_info().pt_base;
    let slots = (256..272).map(|n| peek(root + 8 * n));
    let Some(entry) = slots.into_iter().find(|entry| entry & P != 0) else {
        panic!("no hypervisor slot in the root table");
    };
    (entry & FRAME) >> 12
}

/// The table entry that maps an address: which level it is of, the entry's machine address, and its value.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Machine address of the entry.
    pub machine: u64,
    /// Where the guest reads it.
    pub at: u64,
    /// Its contents.
    pub value: u64,
}

/// The entry of table level `level` (1 to 4) for an address, by walking the tables from the root.
pub fn entry(at: u64, level: u32) -> Entry {
    let mut table = start_info().pt_base;
    let mut n = 4;
    loop {
        let index = (at >> (12 + 9 * (n - 1))) & 511;
        let place = table + 8 * index;
        let value = peek(place);
        if n == level {
            // The tables are in the initial mapping, so the p2m list knows their frames.
            return Entry { machine: (mfn_of(table) << 12) + 8 * index, at: place, value };
        }
        assert!(value & P != 0 && value & PSE == 0, "walk ended early");
        table = virt_of((value & FRAME) >> 12);
        n -= 1;
    }
}

/// `update_va_mapping`.
pub fn update_va_mapping(at: u64, entry: u64) -> i64 {
    call(Hypercall::UpdateVaMapping, &[at, entry, xen::UVMF_INVLPG])
}

/// `mmu_update` with one normal update of the entry at machine address `ptr`.
pub fn mmu_update(ptr: u64, val: u64) -> i64 {
    mmu_update_of(&[MmuUpdate { ptr, val }], DOMID_SELF).0
}

/// `mmu_update`: the answer, and how many updates were done.
pub fn mmu_update_of(updates: &[MmuUpdate], domain: u16) -> (i64, u32) {
    let mut done = 0_u32;
    let arguments = [updates.as_ptr() as u64, updates.len() as u64, &raw mut done as u64, u64::from(domain)];
    let answer = call(Hypercall::MmuUpdate, &arguments);
    (answer, done)
}

/// `mmuext_op` with one operation.
pub fn mmuext(cmd: u32, arg1: u64, arg2: u64) -> i64 {
    mmuext_of(&[MmuextOp { cmd, arg1, arg2, ..Default::default() }], DOMID_SELF).0
}

/// `mmuext_op`: the answer, and how many operations were done.
pub fn mmuext_of(ops: &[MmuextOp], domain: u16) -> (i64, u32) {
    let mut done = 0_u32;
    let arguments = [ops.as_ptr() as u64, ops.len() as u64, &raw mut done as u64, u64::from(domain)];
    let answer = call(Hypercall::MmuextOp, &arguments);
    (answer, done)
}

/// Maps the shared page at an arena page (whose own frame is left unmapped) and returns where.
pub fn map_shared_info() -> *mut SharedInfo {
    let at = page();
    let answer = update_va_mapping(at, (start_info().shared_info & FRAME) | WRITABLE);
    assert!(answer == 0, "shared page: {answer}");
    at as *mut SharedInfo
}

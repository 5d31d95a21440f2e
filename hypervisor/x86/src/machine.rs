//! Machine memory as the core sees it: words of frames, through the direct map.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use hv_core::port::Memory;
use hv_types::Mfn;

use crate::layout;

/// The machine. It has no state of its own here; everything is in the hardware or in per-CPU records.
#[derive(Clone, Copy, Debug)]
pub struct Machine;

#[inline(always)]
fn at(mfn: Mfn, offset: usize) -> u64 {
    layout::DIRECT.wrapping_add(mfn.0 << 12).wrapping_add(offset as u64)
}

/// The 64-bit word `index` of a frame.
#[inline(always)]
fn word64(mfn: Mfn, index: usize) -> &'static AtomicU64 {
    // SAFETY: the core holds a reference on a frame of RAM (I-FR-1), which the direct map shows for good; the
    // hypervisor's image is not in that map (I-HV-1), so whatever else `mfn` may be, the access faults at worst.
    unsafe { &*(at(mfn, (index & 511) * 8) as *const AtomicU64) }
}

/// The 32-bit word `index` of a frame.
#[inline(always)]
fn word32(mfn: Mfn, index: usize) -> &'static AtomicU32 {
    // SAFETY: as for `word64`.
    unsafe { &*(at(mfn, (index & 1023) * 4) as *const AtomicU32) }
}

/// The byte at `offset` of a frame.
#[inline(always)]
fn byte(mfn: Mfn, offset: usize) -> &'static AtomicU8 {
    // SAFETY: as for `word64`.
    unsafe { &*(at(mfn, offset & 4095) as *const AtomicU8) }
}

impl Memory for Machine {
    #[inline(always)]
    fn load64(&self, mfn: Mfn, index: usize) -> u64 {
        word64(mfn, index).load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn store64(&self, mfn: Mfn, index: usize, value: u64) {
        word64(mfn, index).store(value, Ordering::Release);
    }

    #[inline(always)]
    fn swap64(&self, mfn: Mfn, index: usize, value: u64) -> u64 {
        word64(mfn, index).swap(value, Ordering::AcqRel)
    }

    #[inline(always)]
    fn compare_exchange64(&self, mfn: Mfn, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        word64(mfn, index).compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
    }

    #[inline(always)]
    fn fetch_or64(&self, mfn: Mfn, index: usize, bits: u64) -> u64 {
        word64(mfn, index).fetch_or(bits, Ordering::AcqRel)
    }

    #[inline(always)]
    fn fetch_and64(&self, mfn: Mfn, index: usize, bits: u64) -> u64 {
        word64(mfn, index).fetch_and(bits, Ordering::AcqRel)
    }

    #[inline(always)]
    fn load32(&self, mfn: Mfn, index: usize) -> u32 {
        word32(mfn, index).load(Ordering::Acquire)
    }

    #[inline(always)]
    fn store32(&self, mfn: Mfn, index: usize, value: u32) {
        word32(mfn, index).store(value, Ordering::Release);
    }

    #[inline(always)]
    fn compare_exchange32(&self, mfn: Mfn, index: usize, old: u32, new: u32) -> Result<u32, u32> {
        word32(mfn, index).compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
    }

    #[inline(always)]
    fn load8(&self, mfn: Mfn, offset: usize) -> u8 {
        byte(mfn, offset).load(Ordering::Acquire)
    }

    #[inline(always)]
    fn store8(&self, mfn: Mfn, offset: usize, value: u8) {
        byte(mfn, offset).store(value, Ordering::Release);
    }

    #[inline(always)]
    fn swap8(&self, mfn: Mfn, offset: usize, value: u8) -> u8 {
        byte(mfn, offset).swap(value, Ordering::AcqRel)
    }

    fn zero(&self, mfn: Mfn) {
        // SAFETY: the frame is as for `word64`, no reference into it exists, and no Rust code sees it change.
        unsafe {
            core::arch::asm!(
                "rep stosq",
                in("rax") 0,
                inout("rcx") 512 => _,
                inout("rdi") at(mfn, 0) => _,
                options(nostack, preserves_flags),
            );
        }
    }

    fn copy(&self, (to, to_at): (Mfn, usize), (from, from_at): (Mfn, usize), len: usize) {
        let (to_at, from_at) = (to_at & 4095, from_at & 4095);
        let len = len.min(4096 - to_at.max(from_at));
        // SAFETY: both ranges are inside their frames, which are as for `word64`. No reference to either exists, and what guests
        // do to them meanwhile is seen by no Rust code: the instructions read each byte once and only pass it on.
        unsafe {
            core::arch::asm!(
                "rep movsq",
                "mov ecx, {rest:e}",
                "rep movsb",
                rest = in(reg) len % 8,
                inout("rcx") len / 8 => _,
                inout("rdi") at(to, to_at) => _,
                inout("rsi") at(from, from_at) => _,
                options(nostack, preserves_flags),
            );
        }
    }
}

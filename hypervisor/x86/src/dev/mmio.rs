//! Registers in memory.

use crate::mem;

/// A mapped block of device registers. Every access is one volatile access of the named width.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    base: *mut u8,
    len: usize,
}

// SAFETY: the mapping is permanent and the same on every CPU; each access is a single instruction, and who may
// access what at the same time is settled by the drivers' locks.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// Maps `len` bytes of registers at machine address `address`, uncached. `None`: out of memory.
    ///
    /// # Safety
    /// These are registers of a device that the hypervisor drives, not RAM.
    pub unsafe fn map(address: u64, len: usize) -> Option<Block> {
        Some(Block { base: mem::map_io(address, len)?, len })
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset.is_multiple_of(size_of::<T>()) && offset + size_of::<T>() <= self.len);
        self.base.wrapping_add(offset).cast()
    }

    /// Reads 32 bits.
    #[inline]
    pub fn read32(&self, offset: usize) -> u32 {
        // SAFETY: within the mapped block, aligned; the block holds device registers (`map`).
        unsafe { self.at::<u32>(offset).read_volatile() }
    }

    /// Writes 32 bits.
    #[inline]
    pub fn write32(&self, offset: usize, value: u32) {
        // SAFETY: as for `read32`.
        unsafe { self.at::<u32>(offset).write_volatile(value) }
    }

    /// Reads 64 bits.
    #[inline]
    pub fn read64(&self, offset: usize) -> u64 {
        // SAFETY: as for `read32`.
        unsafe { self.at::<u64>(offset).read_volatile() }
    }

    /// Reads 16 bits.
    #[inline]
    pub fn read16(&self, offset: usize) -> u16 {
        // SAFETY: as for `read32`.
        unsafe { self.at::<u16>(offset).read_volatile() }
    }

    /// Writes 16 bits.
    #[inline]
    pub fn write16(&self, offset: usize, value: u16) {
        // SAFETY: as for `read32`.
        unsafe { self.at::<u16>(offset).write_volatile(value) }
    }

    /// Reads a byte.
    #[inline]
    pub fn read8(&self, offset: usize) -> u8 {
        // SAFETY: as for `read32`.
        unsafe { self.at::<u8>(offset).read_volatile() }
    }

    /// Writes a byte.
    #[inline]
    pub fn write8(&self, offset: usize, value: u8) {
        // SAFETY: as for `read32`.
        unsafe { self.at::<u8>(offset).write_volatile(value) }
    }
}

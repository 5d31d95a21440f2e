//! What the core asks of the machine: narrow ports, each by subject, every method required.
//!
//! The real machine implements them in `hv-x86`, the model in `tests/model`.

use hv_types::{GuestVa, Mfn};

/// Words of machine memory that others (guests, other CPUs) may read and write at any time.
///
/// Every access is one atomic access; nothing here hands out a reference. `index` counts words of the named
/// width from the start of the frame and is taken modulo the words in a page, so that no index reaches another
/// frame. The caller holds a reference on the frame (I-FR-1); the frame is RAM.
pub trait Memory: Sync {
    /// Reads the 64-bit word `index`.
    fn load64(&self, mfn: Mfn, index: usize) -> u64;
    /// Writes the 64-bit word `index`.
    fn store64(&self, mfn: Mfn, index: usize, value: u64);
    /// Exchanges the 64-bit word `index`; returns what it was.
    fn swap64(&self, mfn: Mfn, index: usize, value: u64) -> u64;
    /// Stores `new` where the 64-bit word is `old`. The error is what it was instead.
    fn compare_exchange64(&self, mfn: Mfn, index: usize, old: u64, new: u64) -> Result<u64, u64>;
    /// Sets bits of the 64-bit word `index`; returns what it was.
    fn fetch_or64(&self, mfn: Mfn, index: usize, bits: u64) -> u64;
    /// Keeps only `bits` of the 64-bit word `index`; returns what it was.
    fn fetch_and64(&self, mfn: Mfn, index: usize, bits: u64) -> u64;
    /// Reads the 32-bit word `index`.
    fn load32(&self, mfn: Mfn, index: usize) -> u32;
    /// Writes the 32-bit word `index`.
    fn store32(&self, mfn: Mfn, index: usize, value: u32);
    /// Stores `new` where the 32-bit word is `old`. The error is what it was instead.
    fn compare_exchange32(&self, mfn: Mfn, index: usize, old: u32, new: u32) -> Result<u32, u32>;
    /// Reads the byte at `offset`.
    fn load8(&self, mfn: Mfn, offset: usize) -> u8;
    /// Writes the byte at `offset`.
    fn store8(&self, mfn: Mfn, offset: usize, value: u8);
    /// Exchanges the byte at `offset`; returns what it was.
    fn swap8(&self, mfn: Mfn, offset: usize, value: u8) -> u8;
    /// Fills the frame with zeroes.
    fn zero(&self, mfn: Mfn);
    /// Copies `len` bytes between two frames, each named with the offset where the range begins; neither range goes beyond its
    /// frame. Both may be changing: each byte is read once.
    fn copy(&self, (to, to_at): (Mfn, usize), (from, from_at): (Mfn, usize), len: usize) {
        (0..len).for_each(|n| self.store8(to, to_at + n, self.load8(from, from_at + n)));
    }
}

/// The guest's range was not mapped as the access needs, or not the guest's to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// The linear address space of the vCPU that is calling.
///
/// Addresses are allegations: a copy checks that the range is the guest's and reports a fault as [`Fault`].
/// After an error the destination of `read` is unspecified, and `write` may have written a prefix.
pub trait GuestSpace {
    /// Copies from the guest.
    fn read(&self, from: GuestVa, into: &mut [u8]) -> Result<(), Fault>;
    /// Copies to the guest.
    fn write(&self, to: GuestVa, from: &[u8]) -> Result<(), Fault>;
}

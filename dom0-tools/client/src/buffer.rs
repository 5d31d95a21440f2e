//! Buffers that the hypervisor reads and writes.
//!
//! A hypercall's pointers are virtual addresses that must stay mapped, unmoved and writable while it runs; ordinary
//! memory of a process promises none of that. `/dev/xen/hypercall` gives pages of the kernel's own; without it,
//! locked pages have to do.

use crate::sys::{self, Region};
use crate::{Error, PAGE, Result};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Where buffers come from. Those of common size are kept for the next call.
#[derive(Debug)]
pub(crate) struct Pool {
    device: Option<File>,
    spare: Mutex<Vec<Region>>,
}

/// Pages of a buffer that is kept.
const COMMON: usize = 4;
/// Buffers kept.
const SPARE: usize = 8;

impl Pool {
    pub(crate) fn new() -> Pool {
        let device = sys::open_device(&["/dev/xen/hypercall"], libc::O_CLOEXEC).ok();
        Pool { device, spare: Mutex::new(Vec::new()) }
    }

    /// A buffer of `len` bytes or more, zeroed.
    pub(crate) fn take(&self, len: usize) -> Result<Buffer<'_>> {
        let pages = len.div_ceil(PAGE).max(COMMON);
        let kept =
            if pages == COMMON { self.spare.lock().ok().and_then(|mut spare| spare.pop()) } else { None };
        let region = match kept {
            Some(region) => {
                region.write(0, &[0; COMMON * PAGE][..len]);
                region
            }
            None => self.map(pages).map_err(|e| Error::os(format!("{pages} pages for a hypercall"), e))?,
        };
        Ok(Buffer { region: Some(region), len, pool: self })
    }

    fn map(&self, pages: usize) -> std::io::Result<Region> {
        match &self.device {
            Some(device) => Region::of_file(device.as_fd(), 0, pages, true),
            None => Region::locked(pages),
        }
    }
}

/// Memory for a hypercall's structures.
#[derive(Debug)]
pub struct Buffer<'p> {
    region: Option<Region>,
    len: usize,
    pool: &'p Pool,
}

impl Buffer<'_> {
    fn region(&self) -> &Region {
        // Only `drop` takes it.
        self.region.as_ref().expect("a live buffer has its pages")
    }

    /// Its address, for a structure's pointer.
    pub fn address(&self) -> u64 {
        self.region().address()
    }

    /// Bytes of it.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Copies a structure, or a slice of them, in.
    pub fn put<T: IntoBytes + Immutable + ?Sized>(&self, offset: usize, value: &T) {
        self.region().write(offset, value.as_bytes());
    }

    /// Copies a structure out.
    pub fn get<T: FromBytes + IntoBytes>(&self, offset: usize) -> T {
        let mut value = T::new_zeroed();
        self.region().read(offset, value.as_mut_bytes());
        value
    }

    /// Copies into a structure, or a slice of them.
    pub fn get_into<T: FromBytes + IntoBytes + ?Sized>(&self, offset: usize, to: &mut T) {
        self.region().read(offset, to.as_mut_bytes());
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        if let (Some(region), Ok(mut spare)) = (self.region.take(), self.pool.spare.lock())
            && region.len() == COMMON * PAGE
            && spare.len() < SPARE
        {
            spare.push(region);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_used_again_is_zeroed() {
        let pool = Pool { device: None, spare: Mutex::new(Vec::new()) };
        let first = pool.take(100).unwrap();
        first.put(0, &[0xffu8; 100][..]);
        let address = first.address();
        drop(first);
        let again = pool.take(100).unwrap();
        assert_eq!(again.address(), address, "kept");
        assert_eq!(again.get::<[u8; 100]>(0), [0; 100]);
    }

    #[test]
    fn a_large_one_is_not_kept() {
        let pool = Pool { device: None, spare: Mutex::new(Vec::new()) };
        drop(pool.take(COMMON * PAGE + 1).unwrap());
        assert!(pool.spare.lock().unwrap().is_empty());
    }
}

//! Memory that another domain can change.

use crate::PAGE;
use crate::sys::Region;
use std::sync::atomic::Ordering;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A page or more shared with somebody who is not trusted: loads and stores of single words, copies of bytes.
///
/// The rings of store and console work on this, so that their tests can stand in for the guest.
pub trait SharedPage {
    /// Reads a word; what the other side wrote before the word it stored is visible afterwards.
    fn load(&self, offset: usize) -> u32;
    /// Writes a word; what was written before is visible to who reads the word.
    fn store(&self, offset: usize, value: u32);
    /// Copies out.
    fn read(&self, offset: usize, to: &mut [u8]);
    /// Copies in.
    fn write(&self, offset: usize, from: &[u8]);
}

/// Mapped frames of another domain, of a grant or of a device. Unmapped when dropped.
///
/// Offsets are the caller's own, so that one past the end is a panic, as for a slice.
#[derive(Debug)]
pub struct Mapping {
    region: Region,
}

impl Mapping {
    pub(crate) fn new(region: Region) -> Mapping {
        Mapping { region }
    }

    /// Memory of this process alone, in the place of a shared page.
    ///
    /// # Errors
    /// When there is no memory to lock.
    pub fn private(pages: usize) -> std::io::Result<Mapping> {
        Region::locked(pages).map(Mapping::new)
    }

    /// Bytes of it.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.region.len()
    }

    /// Pages of it.
    pub fn pages(&self) -> usize {
        self.len() / PAGE
    }

    /// Copies a structure out.
    pub fn get<T: FromBytes + IntoBytes>(&self, offset: usize) -> T {
        let mut value = T::new_zeroed();
        self.region.read(offset, value.as_mut_bytes());
        value
    }

    /// Copies a structure in.
    pub fn put<T: IntoBytes + Immutable + ?Sized>(&self, offset: usize, value: &T) {
        self.region.write(offset, value.as_bytes());
    }

    /// Copies bytes out.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        self.region.read(offset, to);
    }

    /// Copies bytes in.
    pub fn write(&self, offset: usize, from: &[u8]) {
        self.region.write(offset, from);
    }

    /// Writes zeroes over `len` bytes.
    pub fn clear(&self, offset: usize, len: usize) {
        const ZEROES: [u8; PAGE] = [0; PAGE];
        let mut done = 0;
        while done < len {
            let part = PAGE.min(len - done);
            self.region.write(offset + done, &ZEROES[..part]);
            done += part;
        }
    }
}

impl SharedPage for Mapping {
    fn load(&self, offset: usize) -> u32 {
        self.region.word(offset).load(Ordering::SeqCst)
    }
    fn store(&self, offset: usize, value: u32) {
        self.region.word(offset).store(value, Ordering::SeqCst);
    }
    fn read(&self, offset: usize, to: &mut [u8]) {
        self.region.read(offset, to);
    }
    fn write(&self, offset: usize, from: &[u8]) {
        self.region.write(offset, from);
    }
}

impl<P: SharedPage + ?Sized> SharedPage for std::sync::Arc<P> {
    fn load(&self, offset: usize) -> u32 {
        (**self).load(offset)
    }
    fn store(&self, offset: usize, value: u32) {
        (**self).store(offset, value);
    }
    fn read(&self, offset: usize, to: &mut [u8]) {
        (**self).read(offset, to);
    }
    fn write(&self, offset: usize, from: &[u8]) {
        (**self).write(offset, from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_survive_the_copy() {
        let page = Mapping::private(1).unwrap();
        page.put(24, &[1u64, 2, 3][..]);
        assert_eq!(page.get::<[u64; 3]>(24), [1, 2, 3]);
        page.clear(24, 16);
        assert_eq!(page.get::<[u64; 3]>(24), [0, 0, 3]);
    }

    #[test]
    fn words_and_bytes_are_the_same_memory() {
        let page = Mapping::private(1).unwrap();
        SharedPage::store(&page, 0, 0xdead_beef);
        assert_eq!(page.get::<u32>(0), 0xdead_beef);
    }
}

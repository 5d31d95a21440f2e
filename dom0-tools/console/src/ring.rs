//! A domain's console ring (`io/console.h`).

use guest_abi::io::XenconsInterface as Page;
use lith_client::SharedPage;
use std::mem::offset_of;

const INPUT: u32 = 1024;
const OUTPUT: u32 = 2048;

/// One ring. This side's two indices are kept here; the page's are only written.
#[derive(Debug)]
pub struct Ring<P> {
    page: P,
    out_taken: u32,
    in_given: u32,
}

impl<P: SharedPage> Ring<P> {
    /// A ring where the page says that this side was.
    pub fn new(page: P) -> Ring<P> {
        let out_taken = page.load(offset_of!(Page, out_cons));
        let in_given = page.load(offset_of!(Page, in_prod));
        Ring { page, out_taken, in_given }
    }

    /// Up to `room` bytes that the domain wrote; they stay in the ring until [`Ring::publish`]. A domain whose index makes
    /// no sense loses what it wrote.
    pub fn take(&mut self, room: usize) -> Vec<u8> {
        let written = self.page.load(offset_of!(Page, out_prod));
        let there = written.wrapping_sub(self.out_taken);
        if there > OUTPUT {
            self.out_taken = written;
            return Vec::new();
        }
        let mut bytes = vec![0; room.min(there as usize)];
        let at = (self.out_taken % OUTPUT) as usize;
        let first = bytes.len().min(OUTPUT as usize - at);
        self.page.read(offset_of!(Page, output) + at, &mut bytes[..first]);
        self.page.read(offset_of!(Page, output), &mut bytes[first..]);
        self.out_taken = self.out_taken.wrapping_add(bytes.len() as u32);
        bytes
    }

    /// Whether the domain wrote what was not taken.
    pub fn has_more(&self) -> bool {
        self.page.load(offset_of!(Page, out_prod)) != self.out_taken
    }

    /// Gives the domain as many of the bytes as it has room for; returns how many.
    pub fn give(&mut self, bytes: &[u8]) -> usize {
        let waiting = self.in_given.wrapping_sub(self.page.load(offset_of!(Page, in_cons)));
        let room = INPUT.saturating_sub(waiting) as usize;
        let bytes = &bytes[..bytes.len().min(room)];
        let at = (self.in_given % INPUT) as usize;
        let (first, rest) = bytes.split_at(bytes.len().min(INPUT as usize - at));
        self.page.write(offset_of!(Page, input) + at, first);
        self.page.write(offset_of!(Page, input), rest);
        self.in_given = self.in_given.wrapping_add(bytes.len() as u32);
        bytes.len()
    }

    /// Lets the domain see what was taken and given.
    pub fn publish(&self) {
        self.page.store(offset_of!(Page, out_cons), self.out_taken);
        self.page.store(offset_of!(Page, in_prod), self.in_given);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lith_client::Mapping;
    use std::sync::Arc;

    #[test]
    fn output_goes_round_the_corner() {
        let page = Arc::new(Mapping::private(1).unwrap());
        for index in [offset_of!(Page, out_cons), offset_of!(Page, out_prod)] {
            page.store(index, u32::MAX - 9);
        }
        let mut ring = Ring::new(page.clone());
        page.write(offset_of!(Page, output) + 2038, b"0123456789");
        page.write(offset_of!(Page, output), b"abc");
        page.store(offset_of!(Page, out_prod), 3);
        assert_eq!(ring.take(11), b"0123456789a");
        assert!(ring.has_more());
        assert_eq!(ring.take(100), b"bc");
        assert_eq!(page.load(offset_of!(Page, out_cons)), u32::MAX - 9, "not told yet");
        ring.publish();
        assert_eq!(page.load(offset_of!(Page, out_cons)), 3);
        // Another daemon goes on there.
        assert!(Ring::new(page).take(100).is_empty());
    }

    #[test]
    fn an_index_that_makes_no_sense_loses_only_what_it_is_about() {
        let page = Arc::new(Mapping::private(1).unwrap());
        let mut ring = Ring::new(page.clone());
        page.store(offset_of!(Page, out_prod), 5000);
        assert!(ring.take(100).is_empty());
        page.write(offset_of!(Page, output) + 5000 % 2048, b"x");
        page.store(offset_of!(Page, out_prod), 5001);
        assert_eq!(ring.take(100), b"x");
        page.store(offset_of!(Page, in_cons), 7);
        assert_eq!(ring.give(b"abc"), 0);
    }

    #[test]
    fn input_waits_for_room() {
        let page = Arc::new(Mapping::private(1).unwrap());
        let mut ring = Ring::new(page.clone());
        assert_eq!(ring.give(&[b'x'; 1500]), 1024);
        assert_eq!(ring.give(b"y"), 0);
        page.store(offset_of!(Page, in_cons), 2);
        assert_eq!(ring.give(b"yz!"), 2);
        let mut byte = [0; 2];
        page.read(offset_of!(Page, input), &mut byte);
        assert_eq!(&byte, b"yz");
    }
}

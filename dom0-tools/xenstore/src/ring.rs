//! A domain's ring (`io/xs_wire.h`, `docs/misc/xenstore-ring.txt`).
//!
//! The page is the guest's to scribble on. What this side has read and written is kept here and only ever written to
//! the page; the guest's two indices are each read once and checked.

use guest_abi::io::{
    XENSTORE_CONNECTED, XENSTORE_RECONNECT, XENSTORE_RING_SIZE, XENSTORE_SERVER_FEATURE_ERROR,
    XENSTORE_SERVER_FEATURE_RECONNECTION, XenstoreDomainInterface as Page,
};
use lith_client::SharedPage;
use std::mem::offset_of;

const SIZE: u32 = XENSTORE_RING_SIZE;

/// A ring's state that must survive the daemon: how much was read and written, ever, modulo 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Indices {
    /// Bytes of requests taken.
    pub taken: u32,
    /// Bytes of replies and events given.
    pub given: u32,
}

/// The guest's indices make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

/// One ring, and what this side has done with it.
#[derive(Debug)]
pub struct Ring<P> {
    page: P,
    indices: Indices,
}

impl<P: SharedPage> Ring<P> {
    /// A ring as the page says it is: for a domain that is new.
    pub fn new(page: P) -> Ring<P> {
        let taken = page.load(offset_of!(Page, req_cons));
        let given = page.load(offset_of!(Page, rsp_prod));
        Ring::resume(page, Indices { taken, given })
    }

    /// A ring as this side knows it was.
    pub fn resume(page: P, indices: Indices) -> Ring<P> {
        let features = XENSTORE_SERVER_FEATURE_RECONNECTION | XENSTORE_SERVER_FEATURE_ERROR;
        page.store(offset_of!(Page, server_features), features);
        let ring = Ring { page, indices };
        ring.publish();
        ring
    }

    /// What this side has done.
    pub fn indices(&self) -> Indices {
        self.indices
    }

    /// Whether the guest wants to start over.
    pub fn wants_reset(&self) -> bool {
        self.page.load(offset_of!(Page, connection)) == XENSTORE_RECONNECT
    }

    /// Starts over with an empty ring.
    pub fn reset(&mut self) {
        self.indices = Indices::default();
        for index in [offset_of!(Page, req_prod), offset_of!(Page, rsp_cons)] {
            self.page.store(index, 0);
        }
        self.publish();
        self.page.store(offset_of!(Page, error), 0);
        self.page.store(offset_of!(Page, connection), XENSTORE_CONNECTED);
    }

    /// Tells the guest what is wrong (`XENSTORE_ERROR_*`).
    pub fn complain(&self, error: u32) {
        self.page.store(offset_of!(Page, error), error);
    }

    /// Takes up to `room` bytes of requests. The guest is not told before [`Ring::publish`].
    ///
    /// # Errors
    /// [`Corrupt`], with nothing taken.
    pub fn take(&mut self, room: usize) -> Result<Vec<u8>, Corrupt> {
        let there = self.page.load(offset_of!(Page, req_prod)).wrapping_sub(self.indices.taken);
        if there > SIZE {
            return Err(Corrupt);
        }
        let mut bytes = vec![0; room.min(there as usize)];
        let at = (self.indices.taken % SIZE) as usize;
        let first = bytes.len().min(SIZE as usize - at);
        self.page.read(offset_of!(Page, req) + at, &mut bytes[..first]);
        self.page.read(offset_of!(Page, req), &mut bytes[first..]);
        self.indices.taken = self.indices.taken.wrapping_add(bytes.len() as u32);
        Ok(bytes)
    }

    /// Whether the guest has written what was not taken yet.
    pub fn has_more(&self) -> bool {
        self.page.load(offset_of!(Page, req_prod)) != self.indices.taken
    }

    /// Bytes that the guest has room for.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub fn room(&self) -> Result<usize, Corrupt> {
        let waiting = self.indices.given.wrapping_sub(self.page.load(offset_of!(Page, rsp_cons)));
        if waiting > SIZE { Err(Corrupt) } else { Ok((SIZE - waiting) as usize) }
    }

    /// Puts bytes into the ring, no more than [`Ring::room`] said. The guest is not told before [`Ring::publish`].
    pub fn give(&mut self, bytes: &[u8]) {
        let at = (self.indices.given % SIZE) as usize;
        let (first, rest) = bytes.split_at(bytes.len().min(SIZE as usize - at));
        self.page.write(offset_of!(Page, rsp) + at, first);
        self.page.write(offset_of!(Page, rsp), rest);
        self.indices.given = self.indices.given.wrapping_add(bytes.len() as u32);
    }

    /// Lets the guest see what was taken and given.
    pub fn publish(&self) {
        self.page.store(offset_of!(Page, rsp_prod), self.indices.given);
        self.page.store(offset_of!(Page, req_cons), self.indices.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lith_client::Mapping;

    fn guest_writes(page: &Mapping, bytes: &[u8]) {
        let produced = page.load(offset_of!(Page, req_prod));
        for (index, byte) in bytes.iter().enumerate() {
            page.write((produced as usize + index) % 1024, &[*byte]);
        }
        page.store(offset_of!(Page, req_prod), produced.wrapping_add(bytes.len() as u32));
    }

    #[test]
    fn bytes_go_round_the_corner() {
        let page = Mapping::private(1).unwrap();
        let start = u32::MAX - 1000;
        for index in [offset_of!(Page, req_prod), offset_of!(Page, req_cons)] {
            page.store(index, start);
        }
        guest_writes(&page, &[7; 1020]);
        let mut ring = Ring::new(page);
        assert_eq!(ring.take(1000).unwrap(), [7; 1000]);
        assert_eq!(ring.take(1000).unwrap(), [7; 20]);
        ring.publish();
        assert_eq!(ring.page.load(offset_of!(Page, req_cons)), start.wrapping_add(1020));
        ring.give(&[9; 1024]);
        assert_eq!(ring.room(), Ok(0));
        assert_eq!(ring.page.load(offset_of!(Page, rsp_prod)), 0, "not told yet");
    }

    #[test]
    fn indices_that_make_no_sense_are_refused() {
        let mut ring = Ring::new(Mapping::private(1).unwrap());
        ring.page.store(offset_of!(Page, req_prod), 1025);
        assert_eq!(ring.take(4096), Err(Corrupt));
        ring.page.store(offset_of!(Page, rsp_cons), 1);
        assert_eq!(ring.room(), Err(Corrupt));
    }

    #[test]
    fn what_the_guest_writes_over_this_sides_indices_does_not_count() {
        let page = Mapping::private(1).unwrap();
        guest_writes(&page, b"abcd");
        let mut ring = Ring::new(page);
        ring.page.store(offset_of!(Page, req_cons), 4);
        assert_eq!(ring.take(4096).unwrap(), b"abcd");
    }

    #[test]
    fn a_guest_may_start_over() {
        let mut ring = Ring::new(Mapping::private(1).unwrap());
        ring.give(b"half a mess");
        ring.publish();
        assert!(!ring.wants_reset());
        ring.page.store(offset_of!(Page, connection), XENSTORE_RECONNECT);
        assert!(ring.wants_reset());
        ring.reset();
        assert_eq!((ring.room(), ring.indices(), ring.wants_reset()), (Ok(1024), Indices::default(), false));
    }
}

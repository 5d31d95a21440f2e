//! The hypervisor, through dom0's kernel.

use crate::daemon::Hypervisor;
use guest_abi::grant_table::GNTTAB_RESERVED_CONSOLE;
use lith_client::{RingPage, Rings};
use std::os::fd::{AsFd, BorrowedFd};

impl Hypervisor for Rings {
    type Page = RingPage;

    fn map(&mut self, domid: u16, frame: u64) -> Result<RingPage, String> {
        Rings::map(self, domid, GNTTAB_RESERVED_CONSOLE, frame).map_err(|error| error.to_string())
    }

    fn bind(&mut self, domid: u16, port: u32) -> Result<u32, String> {
        self.evtchn.bind_interdomain(domid, port).map_err(|error| error.to_string())
    }

    fn unbind(&mut self, port: u32) {
        Rings::unbind(self, port);
    }

    fn notify(&mut self, port: u32) {
        Rings::notify(self, port);
    }

    fn unmask(&mut self, port: u32) {
        Rings::unmask(self, port);
    }

    fn fired(&mut self) -> Vec<u32> {
        Rings::fired(self)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

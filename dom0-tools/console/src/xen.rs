//! The hypervisor, through dom0's kernel.

use crate::daemon::Hypervisor;
use guest_abi::grant_table::GNTTAB_RESERVED_CONSOLE;
use lith_client::{Evtchn, Gntdev, Granted, Mapping, Privcmd, Result, SharedPage};
use std::os::fd::{AsFd, BorrowedFd};

/// A ring's page, however it is mapped.
#[derive(Debug)]
pub enum Page {
    /// By its frame.
    Mapped(Mapping),
    /// By its grant.
    Granted(Granted),
}

impl Page {
    fn shared(&self) -> &Mapping {
        match self {
            Page::Mapped(page) => page,
            Page::Granted(page) => page.mapping(),
        }
    }
}

impl SharedPage for Page {
    fn load(&self, offset: usize) -> u32 {
        self.shared().load(offset)
    }
    fn store(&self, offset: usize, value: u32) {
        self.shared().store(offset, value);
    }
    fn read(&self, offset: usize, to: &mut [u8]) {
        self.shared().read(offset, to);
    }
    fn write(&self, offset: usize, from: &[u8]) {
        self.shared().write(offset, from);
    }
}

/// dom0's devices.
#[derive(Debug)]
pub struct Xen {
    privcmd: Privcmd,
    evtchn: Evtchn,
    gntdev: Option<Gntdev>,
}

impl Xen {
    /// Opens them.
    ///
    /// # Errors
    /// When this is no dom0.
    pub fn open() -> Result<Xen> {
        Ok(Xen { privcmd: Privcmd::open()?, evtchn: Evtchn::open()?, gntdev: Gntdev::open().ok() })
    }
}

impl Hypervisor for Xen {
    type Page = Page;

    fn map(&mut self, domid: u16, frame: u64) -> std::result::Result<Page, String> {
        let granted = self.gntdev.as_ref().map(|gntdev| gntdev.map(domid, &[GNTTAB_RESERVED_CONSOLE], true));
        match granted {
            Some(Ok(granted)) => Ok(Page::Granted(granted)),
            _ => self.privcmd.map_foreign(domid, &[frame], true).map(Page::Mapped).map_err(|e| e.to_string()),
        }
    }

    fn bind(&mut self, domid: u16, port: u32) -> std::result::Result<u32, String> {
        self.evtchn.bind_interdomain(domid, port).map_err(|e| e.to_string())
    }

    fn unbind(&mut self, port: u32) {
        // Of a domain that is gone the port may be, too.
        let _ = self.evtchn.unbind(port);
    }

    fn notify(&mut self, port: u32) {
        let _ = self.evtchn.notify(port);
    }

    fn unmask(&mut self, port: u32) {
        let _ = self.evtchn.unmask(port);
    }

    fn fired(&mut self) -> Vec<u32> {
        self.evtchn.pending().unwrap_or_default()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.evtchn.as_fd())
    }
}

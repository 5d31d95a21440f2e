//! Rings of guests, a page and a port each, as dom0's daemons have them.

use crate::{Evtchn, Gntdev, Privcmd, Result, SharedPage};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// A ring's page, however it is mapped.
pub type RingPage = Arc<dyn SharedPage + Send + Sync>;

/// What a daemon needs to serve guests' rings.
#[derive(Debug)]
pub struct Rings {
    /// The hypervisor's calls.
    pub privcmd: Privcmd,
    /// Ports.
    pub evtchn: Evtchn,
    gntdev: Option<Gntdev>,
}

impl Rings {
    /// Opens the devices.
    ///
    /// # Errors
    /// When this is no dom0.
    pub fn open() -> Result<Rings> {
        Ok(Rings { privcmd: Privcmd::open()?, evtchn: Evtchn::open()?, gntdev: Gntdev::open().ok() })
    }

    /// Maps the page that a domain granted as `reference` when it was built, or else its `frame`.
    ///
    /// # Errors
    /// When neither can be mapped.
    pub fn map(&self, domid: u16, reference: u32, frame: u64) -> Result<RingPage> {
        match self.gntdev.as_ref().map(|gntdev| gntdev.map(domid, &[reference], true)) {
            Some(Ok(granted)) => Ok(Arc::new(granted)),
            _ => Ok(Arc::new(self.privcmd.map_foreign(domid, &[frame], true)?)),
        }
    }

    /// Gives a port up; of a domain that is gone it may be gone, too.
    pub fn unbind(&self, port: u32) {
        let _ = self.evtchn.unbind(port);
    }

    /// Tells the other side of a port, if there still is one.
    pub fn notify(&self, port: u32) {
        let _ = self.evtchn.notify(port);
    }

    /// Lets a port that has fired fire again.
    pub fn unmask(&self, port: u32) {
        let _ = self.evtchn.unmask(port);
    }

    /// The ports that have fired.
    pub fn fired(&self) -> Vec<u32> {
        self.evtchn.pending().unwrap_or_default()
    }
}

impl AsFd for Rings {
    /// Readable when a port has fired.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.evtchn.as_fd()
    }
}

//! The hypervisor, through dom0's kernel.

use super::{Hypervisor, Life};
use guest_abi::Errno;
use guest_abi::control::{DOMAIN_DYING, DOMAIN_SHUTDOWN};
use guest_abi::grant_table::GNTTAB_RESERVED_XENSTORE;
use guest_abi::xen::VIRQ_DOM_EXC;
use lith_client::{Evtchn, Gntdev, Granted, Mapping, Privcmd, SharedPage, backend};
use std::os::fd::{AsFd, BorrowedFd};

/// A ring's page, however it is mapped.
#[derive(Debug)]
pub enum Page {
    /// By its frame, or this domain's own.
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
    exceptions: Option<u32>,
}

impl Xen {
    /// Opens them.
    ///
    /// # Errors
    /// When this is no dom0.
    pub fn open() -> lith_client::Result<Xen> {
        let evtchn = Evtchn::open()?;
        let exceptions = evtchn.bind_virq(VIRQ_DOM_EXC);
        if let Err(error) = &exceptions {
            eprintln!("lith-xenstored: will not hear of domains that end: {error}");
        }
        let gntdev = Gntdev::open().ok();
        Ok(Xen { privcmd: Privcmd::open()?, evtchn, gntdev, exceptions: exceptions.ok() })
    }
}

fn errno(error: &lith_client::Error) -> Errno {
    error.errno().unwrap_or(Errno::EINVAL)
}

impl Hypervisor for Xen {
    type Page = Page;

    fn kernel(&mut self) -> Result<Option<(Page, u32)>, String> {
        let (page, port) = backend::kernel_ring().map_err(|error| error.to_string())?;
        let port = self.evtchn.bind_interdomain(0, port).map_err(|error| error.to_string())?;
        Ok(Some((Page::Mapped(page), port)))
    }

    fn map(&mut self, domid: u16, frame: u64) -> Result<Page, Errno> {
        let granted = self.gntdev.as_ref().map(|gntdev| gntdev.map(domid, &[GNTTAB_RESERVED_XENSTORE], true));
        match granted {
            Some(Ok(granted)) => Ok(Page::Granted(granted)),
            _ => self.privcmd.map_foreign(domid, &[frame], true).map(Page::Mapped).map_err(|e| errno(&e)),
        }
    }

    fn bind(&mut self, domid: u16, port: u32) -> Result<u32, Errno> {
        self.evtchn.bind_interdomain(domid, port).map_err(|e| errno(&e))
    }

    fn unbind(&mut self, port: u32) {
        // Of a domain that is gone the port may be, too.
        let _ = self.evtchn.unbind(port);
    }

    fn notify(&mut self, port: u32) {
        let _ = self.evtchn.notify(port);
    }

    fn fired(&mut self) -> (Vec<u32>, bool) {
        let mut ports = self.evtchn.pending().unwrap_or_default();
        for port in &ports {
            // What is notified from here on is seen in the next turn.
            let _ = self.evtchn.unmask(*port);
        }
        let before = ports.len();
        ports.retain(|port| Some(*port) != self.exceptions);
        let deaths = ports.len() < before;
        (ports, deaths)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.evtchn.as_fd())
    }

    fn life(&mut self, domid: u16) -> Life {
        match self.privcmd.domain_info(domid) {
            Ok(info) if info.domid != u32::from(domid) || info.state & DOMAIN_DYING != 0 => Life::Gone,
            Ok(info) if info.state & DOMAIN_SHUTDOWN != 0 => Life::ShutDown,
            Ok(_) => Life::Running,
            Err(error) if error.errno() == Some(Errno::ESRCH) => Life::Gone,
            // A hypervisor without this interface at least says whether there is such a domain.
            Err(_) => match self.privcmd.evtchn_status(domid, 0) {
                Err(error) if error.errno() == Some(Errno::ESRCH) => Life::Gone,
                _ => Life::Running,
            },
        }
    }
}

//! The hypervisor, through dom0's kernel.

use super::{Hypervisor, Life};
use guest_abi::Errno;
use guest_abi::control::{DOMAIN_DYING, DOMAIN_SHUTDOWN};
use guest_abi::grant_table::GNTTAB_RESERVED_XENSTORE;
use guest_abi::xen::VIRQ_DOM_EXC;
use lith_client::{RingPage, Rings, backend};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// dom0's devices.
#[derive(Debug)]
pub struct Xen {
    rings: Rings,
    exceptions: Option<u32>,
}

impl Xen {
    /// Opens them.
    ///
    /// # Errors
    /// When this is no dom0.
    pub fn open() -> lith_client::Result<Xen> {
        let rings = Rings::open()?;
        let exceptions = rings.evtchn.bind_virq(VIRQ_DOM_EXC);
        if let Err(error) = &exceptions {
            eprintln!("lith-xenstored: will not hear of domains that end: {error}");
        }
        Ok(Xen { rings, exceptions: exceptions.ok() })
    }
}

fn errno(error: &lith_client::Error) -> Errno {
    error.errno().unwrap_or(Errno::EINVAL)
}

impl Hypervisor for Xen {
    type Page = RingPage;

    fn kernel(&mut self) -> Result<Option<(RingPage, u32)>, String> {
        let (page, port) = backend::kernel_ring().map_err(|error| error.to_string())?;
        let port = self.rings.evtchn.bind_interdomain(0, port).map_err(|error| error.to_string())?;
        Ok(Some((Arc::new(page), port)))
    }

    fn map(&mut self, domid: u16, frame: u64) -> Result<RingPage, Errno> {
        self.rings.map(domid, GNTTAB_RESERVED_XENSTORE, frame).map_err(|error| errno(&error))
    }

    fn bind(&mut self, domid: u16, port: u32) -> Result<u32, Errno> {
        self.rings.evtchn.bind_interdomain(domid, port).map_err(|e| errno(&e))
    }

    fn unbind(&mut self, port: u32) {
        self.rings.unbind(port);
    }

    fn notify(&mut self, port: u32) {
        self.rings.notify(port);
    }

    fn fired(&mut self) -> (Vec<u32>, bool) {
        let mut ports = self.rings.fired();
        for port in &ports {
            // What is notified from here on is seen in the next turn.
            self.rings.unmask(*port);
        }
        let before = ports.len();
        ports.retain(|port| Some(*port) != self.exceptions);
        let deaths = ports.len() < before;
        (ports, deaths)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.rings.as_fd())
    }

    fn life(&mut self, domid: u16) -> Life {
        match self.rings.privcmd.domain_info(domid) {
            Ok(info) if info.domid != u32::from(domid) || info.state & DOMAIN_DYING != 0 => Life::Gone,
            Ok(info) if info.state & DOMAIN_SHUTDOWN != 0 => Life::ShutDown,
            Ok(_) => Life::Running,
            Err(error) if error.errno() == Some(Errno::ESRCH) => Life::Gone,
            // A hypervisor without this interface at least says whether there is such a domain.
            Err(_) => match self.rings.privcmd.evtchn_status(domid, 0) {
                Err(error) if error.errno() == Some(Errno::ESRCH) => Life::Gone,
                _ => Life::Running,
            },
        }
    }
}

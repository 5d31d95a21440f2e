//! `/dev/xen/evtchn` (Linux's `include/uapi/xen/evtchn.h`).

use crate::sys::{self, ioc};
use crate::{Error, Result};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

/// Event channels of this process. A port that fired stays masked until [`Evtchn::unmask`]; all ports are closed
/// when this is dropped.
#[derive(Debug)]
pub struct Evtchn {
    device: File,
}

const BIND_VIRQ: u64 = ioc(b'E', 0, 4);
const BIND_INTERDOMAIN: u64 = ioc(b'E', 1, 8);
const BIND_UNBOUND: u64 = ioc(b'E', 2, 4);
const UNBIND: u64 = ioc(b'E', 3, 4);
const NOTIFY: u64 = ioc(b'E', 4, 4);
/// Ports taken from the device at once.
const BATCH: usize = 128;

impl Evtchn {
    /// Opens the device; reading does not block.
    ///
    /// # Errors
    /// When there is none, or the caller may not.
    pub fn open() -> Result<Evtchn> {
        let device = sys::open_device(&["/dev/xen/evtchn"], libc::O_CLOEXEC | libc::O_NONBLOCK)?;
        Ok(Evtchn { device })
    }

    /// Binds a VIRQ of vCPU 0. A VIRQ of the whole system has one holder in dom0.
    ///
    /// # Errors
    /// The hypervisor's, `EEXIST` when it is held.
    pub fn bind_virq(&self, virq: u32) -> Result<u32> {
        self.request(BIND_VIRQ, [virq, 0], || format!("VIRQ {virq}"))
    }

    /// Connects to a port that another domain left for this one.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn bind_interdomain(&self, domid: u16, port: u32) -> Result<u32> {
        self.request(BIND_INTERDOMAIN, [u32::from(domid), port], || format!("port {port} of domain {domid}"))
    }

    /// Makes a port that another domain may connect to.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn bind_unbound_port(&self, domid: u16) -> Result<u32> {
        self.request(BIND_UNBOUND, [u32::from(domid), 0], || format!("a port for domain {domid}"))
    }

    /// Closes a port.
    ///
    /// # Errors
    /// When it is not one of this process.
    pub fn unbind(&self, port: u32) -> Result<()> {
        self.request(UNBIND, [port, 0], || format!("closing port {port}")).map(drop)
    }

    /// Notifies the other end.
    ///
    /// # Errors
    /// When the port is not one of this process.
    pub fn notify(&self, port: u32) -> Result<()> {
        self.request(NOTIFY, [port, 0], || format!("notifying port {port}")).map(drop)
    }

    fn request(&self, request: u64, argument: [u32; 2], what: impl Fn() -> String) -> Result<u32> {
        // SAFETY: every request of this device takes one or two words, which the array has.
        let answer = unsafe { sys::ioctl(self.device.as_fd(), request, (&raw const argument) as u64) };
        answer.map(|port| port as u32).map_err(|error| Error::os(what(), error))
    }

    /// Ports that fired since the last call; empty when none did.
    ///
    /// # Errors
    /// The device's: `EFBIG` when its buffer overflowed.
    pub fn pending(&self) -> io::Result<Vec<u32>> {
        let mut bytes = [0; 4 * BATCH];
        match (&self.device).read(&mut bytes) {
            Ok(len) => Ok(bytes[..len]
                .chunks_exact(4)
                .map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
                .collect()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Lets a port fire again.
    ///
    /// # Errors
    /// The device's.
    pub fn unmask(&self, port: u32) -> io::Result<()> {
        (&self.device).write_all(&port.to_ne_bytes())
    }
}

impl AsFd for Evtchn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

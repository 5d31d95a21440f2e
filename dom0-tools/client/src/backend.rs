//! The ring through which dom0's own kernel speaks to the store: for the store's daemon only.

use crate::sys::{self, Region, ioc};
use crate::{Error, Mapping, Result};
use std::fs::File;
use std::os::fd::AsFd;

const EVTCHN: u64 = ioc(b'B', 0, 0);

/// The kernel's store page, and the port it listens on.
///
/// # Errors
/// When this is no dom0, or the caller may not.
pub fn kernel_ring() -> Result<(Mapping, u32)> {
    by_device().or_else(|first| by_xenfs().map_err(|_| first))
}

fn by_device() -> Result<(Mapping, u32)> {
    let device = sys::open_device(&["/dev/xen/xenbus_backend"], libc::O_CLOEXEC)?;
    // SAFETY: the request takes no argument.
    let port = unsafe { sys::ioctl(device.as_fd(), EVTCHN, 0) }
        .map_err(|error| Error::os("the kernel's store port", error))?;
    Ok((page_of(&device)?, port as u32))
}

fn by_xenfs() -> Result<(Mapping, u32)> {
    let text = std::fs::read_to_string("/proc/xen/xsd_port")
        .map_err(|error| Error::os("/proc/xen/xsd_port", error))?;
    let port = text.trim().parse().map_err(|_| Error::Argument("/proc/xen/xsd_port holds no number"))?;
    let page = sys::open_device(&["/proc/xen/xsd_kva"], libc::O_CLOEXEC)?;
    Ok((page_of(&page)?, port))
}

fn page_of(file: &File) -> Result<Mapping> {
    let region = Region::of_file(file.as_fd(), 0, 1, true)
        .map_err(|error| Error::os("the kernel's store page", error))?;
    Ok(Mapping::new(region))
}

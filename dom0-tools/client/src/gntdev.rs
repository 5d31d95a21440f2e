//! `/dev/xen/gntdev` (Linux's `include/uapi/xen/gntdev.h`).

use crate::sys::{self, Region, ioc};
use crate::{Error, Mapping, PAGE, Result, SharedPage};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Maps frames that other domains granted to this one.
#[derive(Clone, Debug)]
pub struct Gntdev {
    device: Arc<File>,
}

/// Mapped grants. Unmapped, and the other domain told if it asked to be, when dropped.
#[derive(Debug)]
pub struct Granted {
    // Dropped by hand: the device wants the memory unmapped before the grants.
    mapping: Option<Mapping>,
    index: u64,
    count: u32,
    device: Arc<File>,
}

#[repr(C)]
struct UnmapArgument {
    index: u64,
    count: u32,
    pad: u32,
}

#[repr(C)]
struct NotifyArgument {
    index: u64,
    action: u32,
    port: u32,
}

/// Bytes of `struct ioctl_gntdev_map_grant_ref` with its one reference.
const MAP_SIZE: usize = 24;
const MAP: u64 = ioc(b'G', 0, MAP_SIZE);
const UNMAP: u64 = ioc(b'G', 1, size_of::<UnmapArgument>());
const NOTIFY: u64 = ioc(b'G', 7, size_of::<NotifyArgument>());
const CLEAR_BYTE: u32 = 1;
const SEND_EVENT: u32 = 2;

impl Gntdev {
    /// Opens the device.
    ///
    /// # Errors
    /// When there is none, or the caller may not.
    pub fn open() -> Result<Gntdev> {
        let device = sys::open_device(&["/dev/xen/gntdev"], libc::O_CLOEXEC)?;
        Ok(Gntdev { device: Arc::new(device) })
    }

    /// Maps granted frames one after the other.
    ///
    /// # Errors
    /// When one of them is no grant to this domain.
    pub fn map(&self, domid: u16, references: &[u32], write: bool) -> Result<Granted> {
        let what = || format!("grants {references:?} of domain {domid}");
        let count = u32::try_from(references.len()).map_err(|_| Error::Argument("too many grants"))?;
        // Count and padding in the first word, the index to come in the second, then domain and reference each.
        let mut argument = vec![u64::from(count), 0];
        argument.extend(references.iter().map(|r| u64::from(domid) | u64::from(*r) << 32));
        if count == 0 {
            return Err(Error::Argument("no grants to map"));
        }
        // SAFETY: the array is the request's structure with `count` references and lives through it.
        unsafe { sys::ioctl(self.device.as_fd(), MAP, argument.as_mut_ptr() as u64) }
            .map_err(|error| Error::os(what(), error))?;
        let mut granted = Granted { mapping: None, index: argument[1], count, device: self.device.clone() };
        let region = Region::of_file(self.device.as_fd(), granted.index, count as usize, write)
            .map_err(|error| Error::os(what(), error))?;
        granted.mapping = Some(Mapping::new(region));
        Ok(granted)
    }
}

impl Granted {
    /// The memory.
    pub fn mapping(&self) -> &Mapping {
        // Set before anybody outside sees the value, taken by `drop`.
        self.mapping.as_ref().expect("a live grant is mapped")
    }

    /// When this is unmapped, however that happens: clears the byte at `clear` and notifies `port`.
    ///
    /// # Errors
    /// When the byte is outside, or the port is none.
    pub fn notify_on_unmap(&self, clear: Option<usize>, port: Option<u32>) -> Result<()> {
        let offset = clear.unwrap_or(0);
        if offset >= self.count as usize * PAGE {
            return Err(Error::Argument("the byte to clear is outside the grant"));
        }
        let action = clear.map_or(0, |_| CLEAR_BYTE) | port.map_or(0, |_| SEND_EVENT);
        let argument = NotifyArgument { index: self.index + offset as u64, action, port: port.unwrap_or(0) };
        // SAFETY: the structure is the request's and lives through it.
        unsafe { sys::ioctl(self.device.as_fd(), NOTIFY, (&raw const argument) as u64) }
            .map_err(|error| Error::os("notification on unmap", error))
            .map(drop)
    }
}

impl SharedPage for Granted {
    fn load(&self, offset: usize) -> u32 {
        self.mapping().load(offset)
    }
    fn store(&self, offset: usize, value: u32) {
        self.mapping().store(offset, value);
    }
    fn read(&self, offset: usize, to: &mut [u8]) {
        self.mapping().read(offset, to);
    }
    fn write(&self, offset: usize, from: &[u8]) {
        self.mapping().write(offset, from);
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        drop(self.mapping.take());
        let argument = UnmapArgument { index: self.index, count: self.count, pad: 0 };
        // SAFETY: the structure is the request's and lives through it. Failing leaves the grant to the device's close.
        let _ = unsafe { sys::ioctl(self.device.as_fd(), UNMAP, (&raw const argument) as u64) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_headers() {
        assert_eq!(MAP, 0x0018_4700);
        assert_eq!(UNMAP, 0x0010_4701);
        assert_eq!(NOTIFY, 0x0010_4707);
    }
}

//! `/dev/xen/privcmd` (Linux's `include/uapi/xen/privcmd.h`).

use crate::buffer::{Buffer, Pool};
use crate::sys::{self, Region, ioc};
use crate::{Error, Mapping, Result};
use guest_abi::{Errno, Hypercall};
use std::fs::File;
use std::os::fd::AsFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The door to hypercalls and to the frames of other domains. Cheap to share between threads.
#[derive(Debug)]
pub struct Privcmd {
    device: File,
    pool: Pool,
}

#[repr(C)]
struct CallArgument {
    op: u64,
    arg: [u64; 5],
}

#[repr(C)]
struct BatchArgument {
    num: u32,
    dom: u16,
    addr: u64,
    arr: *const u64,
    err: *mut i32,
}

#[repr(C)]
struct ResourceArgument {
    dom: u16,
    kind: u32,
    id: u32,
    idx: u32,
    num: u64,
    addr: u64,
}

const HYPERCALL: u64 = ioc(b'P', 0, size_of::<CallArgument>());
const MMAPBATCH_V2: u64 = ioc(b'P', 4, size_of::<BatchArgument>());
const MMAP_RESOURCE: u64 = ioc(b'P', 7, size_of::<ResourceArgument>());

/// An argument of a hypercall.
pub(crate) enum Arg<'a> {
    Value(u64),
    Pointer(&'a Buffer<'a>),
}

/// A resource of a domain that is mapped by kind and not by frame number (`XENMEM_acquire_resource`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Whose.
    pub domid: u16,
    /// `XENMEM_RESOURCE_*`.
    pub kind: u16,
    /// Which of that kind.
    pub id: u32,
    /// The first frame.
    pub first: u32,
    /// How many frames.
    pub frames: u32,
}

/// Frames of another domain as they came to be mapped: the mapping, and which frames of it are missing.
#[derive(Debug)]
pub struct ForeignFrames {
    /// All of them, in the order asked for. Touching a missing one ends the process.
    pub mapping: Mapping,
    /// Index and reason of those that are missing.
    pub missing: Vec<(usize, Errno)>,
}

impl Privcmd {
    /// Opens it.
    ///
    /// # Errors
    /// When this is no dom0, or the caller may not.
    pub fn open() -> Result<Privcmd> {
        let device = sys::open_device(&["/dev/xen/privcmd", "/proc/xen/privcmd"], libc::O_CLOEXEC)?;
        Ok(Privcmd { device, pool: Pool::new() })
    }

    /// Memory for structures that a hypercall reads or writes, zeroed.
    ///
    /// # Errors
    /// When there is none.
    pub fn buffer(&self, len: usize) -> Result<Buffer<'_>> {
        self.pool.take(len)
    }

    /// Makes a hypercall. `name` is what an error calls it.
    ///
    /// # Safety
    /// No argument, nor any structure that one points at, lets the hypervisor write to memory of this process
    /// other than a live [`Buffer`], or take away frames that this process uses.
    ///
    /// # Errors
    /// The hypervisor's.
    pub unsafe fn hypercall(&self, call: Hypercall, name: &'static str, args: [u64; 5]) -> Result<u64> {
        let mut argument = CallArgument { op: u64::from(call.number()), arg: args };
        let address = (&raw mut argument) as u64;
        // SAFETY: the structure is this request's and lives through it; the caller vouches for the arguments.
        match unsafe { sys::ioctl(self.device.as_fd(), HYPERCALL, address) } {
            Ok(answer) => Ok(answer as u64),
            Err(error) => Err(Error::Hypercall {
                call: name,
                errno: Errno(error.raw_os_error().unwrap_or(Errno::EIO.0)),
            }),
        }
    }

    /// A call whose pointers are all buffers, directly or in the structures in them.
    pub(crate) fn call<const N: usize>(
        &self,
        call: Hypercall,
        name: &'static str,
        args: [Arg<'_>; N],
    ) -> Result<u64> {
        const { assert!(N <= 5) };
        let mut raw = [0; 5];
        for (raw, arg) in raw.iter_mut().zip(&args) {
            *raw = match arg {
                Arg::Value(value) => *value,
                Arg::Pointer(buffer) => buffer.address(),
            };
        }
        // SAFETY: pointers are live buffers; the modules of this crate put only buffers' addresses into structures,
        // and give away only frames of other domains.
        unsafe { self.hypercall(call, name, raw) }
    }

    /// The common form: a command, and one structure that goes in and comes back.
    pub(crate) fn command<T>(
        &self,
        call: Hypercall,
        name: &'static str,
        command: u32,
        value: &mut T,
    ) -> Result<u64>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        let buffer = self.buffer(size_of::<T>())?;
        buffer.put(0, value);
        let answer = self.call(call, name, [Arg::Value(u64::from(command)), Arg::Pointer(&buffer)])?;
        buffer.get_into(0, value);
        Ok(answer)
    }

    /// Maps frames of another domain, by machine frame number where the domain is PV.
    ///
    /// # Errors
    /// When one frame cannot be mapped, that one.
    pub fn map_foreign(&self, domid: u16, frames: &[u64], write: bool) -> Result<Mapping> {
        let mapped = self.map_foreign_some(domid, frames, write)?;
        match mapped.missing.first() {
            None => Ok(mapped.mapping),
            Some((index, errno)) => Err(Error::Foreign { domid, frame: frames[*index], errno: *errno }),
        }
    }

    /// Maps those frames of another domain that can be.
    ///
    /// # Errors
    /// When nothing can be mapped at all: no memory, no such domain.
    pub fn map_foreign_some(&self, domid: u16, frames: &[u64], write: bool) -> Result<ForeignFrames> {
        let what = || format!("{} frames of domain {domid}", frames.len());
        let region = Region::of_file(self.device.as_fd(), 0, frames.len(), write)
            .map_err(|error| Error::os(what(), error))?;
        let mut errors = vec![0i32; frames.len()];
        let num = u32::try_from(frames.len()).map_err(|_| Error::Argument("too many frames"))?;
        let argument = BatchArgument {
            num,
            dom: domid,
            addr: region.address(),
            arr: frames.as_ptr(),
            err: errors.as_mut_ptr(),
        };
        // SAFETY: both arrays have `num` entries and live through the request; the region is a fresh mapping of this
        // device, of exactly that many pages.
        let done = unsafe { sys::ioctl(self.device.as_fd(), MMAPBATCH_V2, (&raw const argument) as u64) };
        match done {
            Ok(_) => {}
            // Frames that are paged out: the array says which.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(Error::os(what(), error)),
        }
        let missing = errors.iter().enumerate().filter(|(_, errno)| **errno != 0);
        let missing = missing.map(|(index, errno)| (index, Errno(errno.wrapping_neg()))).collect();
        Ok(ForeignFrames { mapping: Mapping::new(region), missing })
    }

    /// Maps a resource of a domain.
    ///
    /// # Errors
    /// The kernel's or the hypervisor's.
    pub fn map_resource(&self, resource: Resource, write: bool) -> Result<Mapping> {
        let what = || format!("resource {} of domain {}", resource.kind, resource.domid);
        let region = Region::of_file(self.device.as_fd(), 0, resource.frames as usize, write)
            .map_err(|error| Error::os(what(), error))?;
        let argument = ResourceArgument {
            dom: resource.domid,
            kind: u32::from(resource.kind),
            id: resource.id,
            idx: resource.first,
            num: u64::from(resource.frames),
            addr: region.address(),
        };
        // SAFETY: the structure lives through the request; the region is a fresh mapping of this device.
        unsafe { sys::ioctl(self.device.as_fd(), MMAP_RESOURCE, (&raw const argument) as u64) }
            .map_err(|error| Error::os(what(), error))?;
        Ok(Mapping::new(region))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(HYPERCALL, 0x0030_5000);
        assert_eq!(MMAPBATCH_V2, 0x0020_5004);
        assert_eq!(MMAP_RESOURCE, 0x0020_5007);
        assert_eq!(std::mem::offset_of!(BatchArgument, addr), 8);
        assert_eq!(std::mem::offset_of!(ResourceArgument, num), 16);
    }
}

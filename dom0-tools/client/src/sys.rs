//! The system calls of this crate, each wrapped once.

use crate::{Error, PAGE, Result};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::ptr::NonNull;

/// `_IOC(_IOC_NONE, group, number, size)` of Linux's `asm-generic/ioctl.h`.
pub(crate) const fn ioc(group: u8, number: u8, size: usize) -> u64 {
    (size as u64) << 16 | (group as u64) << 8 | number as u64
}

/// Opens the first of the device files that exists.
pub(crate) fn open_device(paths: &[&str], flags: i32) -> Result<File> {
    let mut last = None;
    for path in paths {
        match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
            Ok(file) => return Ok(file),
            Err(error) => {
                let missing = error.kind() == io::ErrorKind::NotFound;
                last.get_or_insert(Error::os(*path, error));
                if !missing {
                    break;
                }
            }
        }
    }
    Err(last.unwrap_or(Error::Argument("no device file named")))
}

/// `ioctl` with the kernel's full 64-bit answer, which the C library's function cuts to 32.
///
/// # Safety
/// `argument` is what `request` wants of this descriptor: a pointer to a structure of the request's type, alive
/// and exclusively the caller's, whose own pointers are as valid; or a plain number.
pub(crate) unsafe fn ioctl(fd: BorrowedFd<'_>, request: u64, argument: u64) -> io::Result<i64> {
    // SAFETY: the caller vouches for the argument.
    let answer = unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), request, argument) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// A region that `mmap` gave; unmapped when dropped. Nothing outside this crate sees its address as a reference.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the region belongs to this value alone; what is in it is only copied, never referenced.
unsafe impl Send for Region {}
// SAFETY: as above: every access is a copy or a single atomic word.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `pages` pages of `file` at `offset`, shared.
    pub(crate) fn of_file(
        file: BorrowedFd<'_>,
        offset: u64,
        pages: usize,
        write: bool,
    ) -> io::Result<Region> {
        let protection = if write { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        Region::map(pages, protection, libc::MAP_SHARED, file.as_raw_fd(), offset)
    }

    /// Pages of this process alone, locked in memory and not shared with its children.
    pub(crate) fn locked(pages: usize) -> io::Result<Region> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        let region = Region::map(pages, protection, flags, -1, 0)?;
        let address = region.start.as_ptr().cast();
        // SAFETY: the range was just mapped and is this value's own.
        let ok = unsafe {
            libc::mlock(address, region.len) == 0
                && libc::madvise(address, region.len, libc::MADV_DONTFORK) == 0
        };
        if ok { Ok(region) } else { Err(io::Error::last_os_error()) }
    }

    fn map(pages: usize, protection: i32, flags: i32, fd: i32, offset: u64) -> io::Result<Region> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let len = pages.checked_mul(PAGE).filter(|len| *len != 0).ok_or_else(invalid)?;
        let offset = i64::try_from(offset).map_err(|_| invalid())?;
        // SAFETY: without MAP_FIXED the kernel chooses a range that nothing uses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(invalid)?;
        Ok(Region { start, len })
    }

    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset <= self.len && len <= self.len - offset, "{len} bytes at {offset} of {}", self.len);
        // SAFETY: the offset lies in the region, by the assertion.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// Copies out. What another domain writes meanwhile arrives or not, byte by byte.
    pub(crate) fn read(&self, offset: usize, to: &mut [u8]) {
        let from = self.at(offset, to.len());
        // SAFETY: both ranges are valid for their length and apart; the compiler learns nothing about the source.
        unsafe { copy(from, to.as_mut_ptr(), to.len()) };
    }

    /// Copies in.
    pub(crate) fn write(&self, offset: usize, from: &[u8]) {
        let to = self.at(offset, from.len());
        // SAFETY: as for `read`, with the directions exchanged; a read-only mapping faults, which ends the process.
        unsafe { copy(from.as_ptr(), to, from.len()) };
    }

    /// A word of the region, for atomic access.
    pub(crate) fn word(&self, offset: usize) -> &std::sync::atomic::AtomicU32 {
        let at = self.at(offset, 4);
        assert!(offset.is_multiple_of(4), "unaligned word at {offset}");
        // SAFETY: valid for this value's lifetime and aligned; all access to the region is atomic or opaque copies.
        unsafe { std::sync::atomic::AtomicU32::from_ptr(at.cast()) }
    }
}

/// A copy that the compiler can neither tear up nor repeat nor reason about.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes; the ranges are apart.
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller vouches for the ranges; the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the range is this value's own and no reference to it can be left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn ioctl_numbers_are_the_headers() {
        // `_IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall))`
        assert_eq!(ioc(b'P', 0, 48), 0x0030_5000);
        // `_IOC(_IOC_NONE, 'E', 5, 0)`
        assert_eq!(ioc(b'E', 5, 0), 0x4505);
    }

    #[test]
    fn a_region_holds_what_was_written() {
        let region = Region::locked(2).unwrap();
        assert_eq!(region.len(), 2 * PAGE);
        region.write(PAGE - 2, b"over the edge");
        let mut back = [0; 13];
        region.read(PAGE - 2, &mut back);
        assert_eq!(&back, b"over the edge");
        region.word(8).store(0x0102_0304, Ordering::Release);
        let mut word = [0; 4];
        region.read(8, &mut word);
        assert_eq!(u32::from_le_bytes(word), 0x0102_0304);
    }

    #[test]
    #[should_panic(expected = "bytes at")]
    fn a_copy_past_the_end_is_refused() {
        Region::locked(1).unwrap().write(PAGE - 1, b"ab");
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let error = open_device(&["/dev/no/such", "/dev/nor/this"], 0).unwrap_err();
        assert!(error.to_string().contains("/dev/no/such"), "{error}");
    }
}

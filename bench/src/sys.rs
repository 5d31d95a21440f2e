//! The system calls that the standard library does not offer, or not as directly as a measurement needs.

use std::ffi::CString;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;
use std::ptr;

/// Bytes in a page.
pub const PAGE: usize = 4096;

fn check(result: libc::c_int) -> Result<libc::c_int> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the call to fill.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The cycle counter.
pub fn cycles() -> u64 {
    // SAFETY: every x86-64 CPU has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The system call itself: the C library may remember the answer.
pub fn getpid() {
    // SAFETY: takes no arguments and cannot fail.
    unsafe { libc::syscall(libc::SYS_getpid) };
}

/// Through the vDSO where the clock source allows it.
pub fn gettimeofday() {
    let mut time = libc::timeval { tv_sec: 0, tv_usec: 0 };
    // SAFETY: `time` is a valid timeval, and no time zone is asked for.
    unsafe { libc::gettimeofday(&mut time, ptr::null_mut()) };
}

/// Sleeps.
pub fn nanosleep(nanoseconds: i64) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: nanoseconds };
    // SAFETY: `time` is a valid timespec, and no remainder is asked for.
    unsafe { libc::nanosleep(&time, ptr::null_mut()) };
}

/// Anonymous private pages, never huge ones: a paravirtual kernel has none, and the rows are to compare.
pub struct Pages {
    start: *mut u8,
    len: usize,
}

impl Pages {
    /// Maps pages.
    pub fn map(count: usize) -> Result<Self> {
        let len = count * PAGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, wherever the kernel wants it.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        Ok(Self { start: start.cast(), len })
    }

    /// Writes one byte to each page.
    pub fn touch(&mut self) {
        for at in (0..self.len).step_by(PAGE) {
            // SAFETY: `at` is inside the mapping, which is writable except while `protect(false)` is in force.
            unsafe { self.start.add(at).write_volatile(1) };
        }
    }

    /// Makes all pages writable or read-only.
    pub fn protect(&mut self, writable: bool) -> Result<()> {
        let access = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: exactly this mapping, to which no reference exists.
        check(unsafe { libc::mprotect(self.start.cast(), self.len, access) }).map(drop)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: exactly this mapping, to which no reference exists.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// Binds the calling thread to one CPU.
pub fn run_on(cpu: usize) -> Result<()> {
    // SAFETY: an all-zero set is empty, and CPU_SET stays within it.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        set
    };
    // SAFETY: `set` is valid for its size; 0 is the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) }).map(drop)
}

/// Lets sleeps end when they are due, and not a little later together with others.
pub fn no_timer_slack() {
    // SAFETY: changes only this thread's timers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) };
}

/// Sleeps until `CLOCK_MONOTONIC` shows so many nanoseconds.
pub fn sleep_until(at: u64) {
    const SECOND: u64 = 1_000_000_000;
    let time = libc::timespec { tv_sec: (at / SECOND) as i64, tv_nsec: (at % SECOND) as i64 };
    // SAFETY: `time` is a valid timespec, and no remainder is asked for.
    unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &time, ptr::null_mut()) };
}

/// Turns huge pages off for the whole process.
pub fn no_huge_pages() {
    // SAFETY: changes only how later mappings are backed.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// Runs `child` in a new process that then exits, and waits for it. The child must not allocate.
pub fn fork(child: impl FnOnce()) -> Result<Child> {
    // SAFETY: this program has one thread whenever it forks, so the child may do what the parent may.
    let pid = check(unsafe { libc::fork() })?;
    if pid == 0 {
        child();
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(0) };
    }
    Ok(Child(pid))
}

/// A process to be waited for.
pub struct Child(libc::pid_t);

impl Child {
    /// Ends it.
    pub fn kill(self) -> Result<()> {
        // SAFETY: a child of this process that was not waited for.
        check(unsafe { libc::kill(self.0, libc::SIGKILL) })?;
        // SAFETY: no status is asked for.
        check(unsafe { libc::waitpid(self.0, ptr::null_mut(), 0) }).map(drop)
    }

    /// Waits for its end, which must be a successful one.
    pub fn wait(self) -> Result<()> {
        let mut status = 0;
        // SAFETY: `status` is a valid integer for the call to fill.
        check(unsafe { libc::waitpid(self.0, &mut status, 0) })?;
        if status == 0 {
            Ok(())
        } else {
            Err(Error::other(format!("the child ended with status {status:#x}")))
        }
    }
}

/// A program and its arguments, ready for [`Program::exec`].
pub struct Program {
    words: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Program {
    /// `words` are the file and the arguments behind it.
    pub fn new(words: &[&str]) -> Result<Self> {
        let words: Vec<CString> = words.iter().map(|word| Ok(CString::new(*word)?)).collect::<Result<_>>()?;
        let pointers = words.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
        Ok(Self { words, pointers })
    }

    /// Becomes the program; returns only if that fails.
    pub fn exec(&self) {
        let environment = [ptr::null()];
        if let Some(file) = self.words.first() {
            // SAFETY: strings and lists end in null and outlive the call.
            unsafe { libc::execve(file.as_ptr(), self.pointers.as_ptr(), environment.as_ptr()) };
        }
        // SAFETY: a child whose program is missing ends with an error.
        unsafe { libc::_exit(127) };
    }
}

/// A pipe.
pub struct Pipe {
    read: libc::c_int,
    write: libc::c_int,
}

impl Pipe {
    /// Opens one.
    pub fn new() -> Result<Self> {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for both descriptors.
        check(unsafe { libc::pipe(ends.as_mut_ptr()) })?;
        Ok(Self { read: ends[0], write: ends[1] })
    }

    /// Sends a byte.
    pub fn send(&self) -> Result<()> {
        // SAFETY: one byte of a static.
        let sent = unsafe { libc::write(self.write, b"x".as_ptr().cast(), 1) };
        if sent == 1 { Ok(()) } else { Err(Error::last_os_error()) }
    }

    /// Waits for a byte.
    pub fn receive(&self) -> Result<()> {
        let mut byte = [0u8; 1];
        // SAFETY: `byte` has room for one byte.
        let received = unsafe { libc::read(self.read, byte.as_mut_ptr().cast(), 1) };
        if received == 1 { Ok(()) } else { Err(Error::last_os_error()) }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        for end in [self.read, self.write] {
            // SAFETY: both descriptors are this pipe's own.
            unsafe { libc::close(end) };
        }
    }
}

extern "C" fn handler(_: libc::c_int) {}

/// Installs a handler that does nothing.
pub fn catch_signal(signal: libc::c_int) -> Result<()> {
    let pointer: extern "C" fn(libc::c_int) = handler;
    // SAFETY: the handler does nothing at all.
    let old = unsafe { libc::signal(signal, pointer as libc::sighandler_t) };
    if old == libc::SIG_ERR { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Sends a signal to this process.
pub fn raise(signal: libc::c_int) -> Result<()> {
    // SAFETY: the signal has a handler.
    check(unsafe { libc::kill(libc::getpid(), signal) }).map(drop)
}

/// Mounts a file system that has no device.
pub fn mount(kind: &str, at: &str) -> Result<()> {
    let (kind, at) = (CString::new(kind)?, CString::new(at)?);
    // SAFETY: all strings end in null and outlive the call; this kind of mount takes no data.
    check(unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, ptr::null()) }).map(drop)
}

/// Loads a module of the kernel from a file.
pub fn load_module(file: &str) -> Result<()> {
    let file = File::open(file)?;
    // SAFETY: an open file and an empty string of options.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// A hypercall through the `privcmd` device (`IOCTL_PRIVCMD_HYPERCALL`). A result below zero is an error.
///
/// # Safety
/// The arguments are what the hypercall expects; memory that they name outlives the call.
pub unsafe fn hypercall(device: &File, number: u64, arguments: [u64; 5]) -> Result<()> {
    const REQUEST: libc::c_ulong = 0x30_5000;
    let [a, b, c, d, e] = arguments;
    let mut call = [number, a, b, c, d, e];
    // SAFETY: the request's structure is these six words; the rest is the caller's duty.
    check(unsafe { libc::ioctl(device.as_raw_fd(), REQUEST as _, call.as_mut_ptr()) }).map(drop)
}

/// Turns the machine off.
pub fn power_off() {
    // SAFETY: there is nothing on any disk to be lost.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}

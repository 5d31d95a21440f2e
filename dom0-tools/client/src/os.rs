//! What the daemons want of the operating system and the standard library does not have: waiting for several
//! descriptors, signals as a descriptor, descriptors that outlive `exec`, a name in the file system for one daemon at a time.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// The signal that asks a daemon to read its state again, or to start itself again.
pub const SIGHUP: i32 = libc::SIGHUP;
/// The signal that asks a daemon to end.
pub const SIGTERM: i32 = libc::SIGTERM;
/// The signal of a terminal's interrupt key.
pub const SIGINT: i32 = libc::SIGINT;
/// The signal that a terminal's size changed.
pub const SIGWINCH: i32 = libc::SIGWINCH;

/// Something to wait for.
#[derive(Debug)]
pub struct Wait<'f> {
    fd: BorrowedFd<'f>,
    events: i16,
    found: i16,
}

impl<'f> Wait<'f> {
    /// Until it can be read, or also written; never, if neither.
    pub fn new(fd: BorrowedFd<'f>, read: bool, write: bool) -> Wait<'f> {
        let events = if read { libc::POLLIN } else { 0 } | if write { libc::POLLOUT } else { 0 };
        Wait { fd, events, found: 0 }
    }

    /// There is something to read, or nothing more will come.
    pub fn readable(&self) -> bool {
        self.found & (libc::POLLIN | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }

    /// There is room to write, or nobody to write to.
    pub fn writable(&self) -> bool {
        self.found & (libc::POLLOUT | libc::POLLERR | libc::POLLNVAL) != 0
    }

    /// The other side has gone.
    pub fn gone(&self) -> bool {
        self.found & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }
}

/// Waits until one of them has something, or for `limit` at most. Returns how many have; 0 also after a signal.
///
/// # Errors
/// The system's, when there are too many descriptors.
pub fn wait(waits: &mut [Wait<'_>], limit: Option<Duration>) -> io::Result<usize> {
    let mut raw: Vec<_> = waits
        .iter()
        .map(|wait| {
            // One that nothing is wanted of is left out: its end would be found again and again.
            let fd = if wait.events == 0 { -1 } else { wait.fd.as_raw_fd() };
            libc::pollfd { fd, events: wait.events, revents: 0 }
        })
        .collect();
    // Rounded up, so that a wait for less than a millisecond is not a spin.
    let limit = limit.map_or(-1, |limit| i32::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    // SAFETY: the array is this function's own and as long as it says.
    let found = unsafe { libc::poll(raw.as_mut_ptr(), raw.len() as libc::nfds_t, limit) };
    for (wait, raw) in waits.iter_mut().zip(&raw) {
        wait.found = if found > 0 { raw.revents } else { 0 };
    }
    match usize::try_from(found) {
        Ok(found) => Ok(found),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            error => Err(error),
        },
    }
}

/// Signals as something to read. They no longer do anything else to the process.
#[derive(Debug)]
pub struct Signals {
    file: File,
}

impl Signals {
    /// Takes over these signals for the whole process; before it has threads.
    ///
    /// # Errors
    /// The system's.
    pub fn take(signals: &[i32]) -> io::Result<Signals> {
        // SAFETY: the set is initialised by `sigemptyset` before it is used; the descriptor is new and owned here.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in signals {
                libc::sigaddset(&mut set, *signal);
            }
            if libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Signals { file: File::from_raw_fd(fd) }) }
        }
    }

    /// The next signal that came.
    pub fn next(&self) -> Option<i32> {
        let mut bytes = [0; size_of::<libc::signalfd_siginfo>()];
        match (&self.file).read(&mut bytes) {
            Ok(len) if len == bytes.len() => {
                Some(i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            _ => None,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Lets all signals through again, for a program that is about to be started in this process's place.
pub fn unblock_signals() {
    // SAFETY: the set is initialised by `sigemptyset`; the mask is this thread's own.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::pthread_sigmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Lets a descriptor outlive the next `exec`, and returns its number for the program that comes then.
///
/// # Errors
/// The system's.
pub fn bequeath(fd: BorrowedFd<'_>) -> io::Result<RawFd> {
    // SAFETY: changes a flag of an open descriptor.
    let done = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(fd.as_raw_fd()) }
}

/// Descriptors that the program before this one left open. One program has one of these, made at its start.
#[derive(Debug)]
pub struct Inheritance {
    taken: Vec<RawFd>,
}

impl Inheritance {
    /// At the start of a program, before it opens anything; `None` the second time.
    pub fn open() -> Option<Inheritance> {
        use std::sync::atomic::{AtomicBool, Ordering};
        static OPENED: AtomicBool = AtomicBool::new(false);
        if OPENED.swap(true, Ordering::SeqCst) { None } else { Some(Inheritance { taken: Vec::new() }) }
    }

    /// Takes a descriptor over: `None` when it is not open, was taken already, or is one of the standard three; or when it
    /// would close on `exec`, so that it cannot have come from the program before.
    pub fn take(&mut self, fd: RawFd) -> Option<OwnedFd> {
        if fd <= 2 || self.taken.contains(&fd) {
            return None;
        }
        // SAFETY: reads a flag of a descriptor that may not be open, which is an error then.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
            return None;
        }
        self.taken.push(fd);
        // SAFETY: open, inherited and not taken before: everything this program opens itself closes on `exec`.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: changes a flag of an open descriptor.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        Some(owned)
    }
}

/// Listens for root's programs at `path`, whose directory is made if need be; accepting does not wait.
///
/// # Errors
/// `AddrInUse`: a daemon lives there; else the system's.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    // A daemon that was killed leaves its name behind; one that lives keeps it.
    if path.exists() && UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{} has a daemon", path.display())));
    }
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The user and process at the other end of a Unix socket.
///
/// # Errors
/// The system's, when it is no such socket.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<(u32, i32)> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the structure and its length are this function's own.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut len,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok((peer.uid, peer.pid)) }
}

/// Tells a service manager that asked for it (`NOTIFY_SOCKET`) that this daemon is ready.
pub fn notify_ready() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let name = name.as_encoded_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(Path::new(OsStr::from_bytes(name))),
    };
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        // Nobody to tell is no reason not to serve.
        let _ = socket.send_to_addr(b"READY=1", &address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_name_is_for_one_daemon_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/lith/socket");
        let first = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(first.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let refused = listen(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(refused.to_string(), format!("{} has a daemon", path.display()));
        // As if it had been killed.
        drop(first);
        assert!(path.exists());
        listen(&path).unwrap();
    }

    #[test]
    fn waiting_sees_what_is_there() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut waits = [Wait::new(b.as_fd(), true, false)];
        assert_eq!(wait(&mut waits, Some(Duration::ZERO)).unwrap(), 0);
        assert!(!waits[0].readable());
        a.write_all(b"x").unwrap();
        assert_eq!(wait(&mut waits, None).unwrap(), 1);
        assert!(waits[0].readable() && !waits[0].gone());
        drop(a);
        assert_eq!(wait(&mut waits, None).unwrap(), 1);
        assert!(waits[0].gone());
        assert_eq!(wait(&mut [Wait::new(b.as_fd(), false, false)], Some(Duration::ZERO)).unwrap(), 0);
    }

    #[test]
    fn a_descriptor_is_inherited_once_and_only_when_left() {
        let mut inheritance = Inheritance::open().unwrap();
        assert!(Inheritance::open().is_none());
        let (a, b) = UnixStream::pair().unwrap();
        assert!(inheritance.take(a.as_raw_fd()).is_none(), "closes on exec");
        let left = bequeath(b.as_fd()).unwrap();
        std::mem::forget(b);
        assert!(inheritance.take(left).is_some());
        assert!(inheritance.take(left).is_none());
        assert!(inheritance.take(1).is_none());
    }

    #[test]
    fn the_peer_is_this_process() {
        let (a, _b) = UnixStream::pair().unwrap();
        assert_eq!(peer(a.as_fd()).unwrap().1, std::process::id() as i32);
    }
}

//! Error numbers (`errno.h`). A hypercall answers with their negative.

use core::fmt;

/// An error number, positive as in the header.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident = $value:literal, $doc:literal;)*) => {
        impl Errno {
            $(#[doc = $doc] pub const $name: Errno = Errno($value);)*

            /// The header's name, without the `XEN_` in front.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Errno::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }

        #[cfg(test)]
        pub(crate) const ERRNOS: &[(&str, i32)] = &[$((stringify!($name), $value)),*];
    };
}

errnos! {
    EPERM = 1, "Operation not permitted.";
    ENOENT = 2, "No such entry.";
    ESRCH = 3, "No such domain or vCPU.";
    EINTR = 4, "Interrupted; never given to a guest.";
    EIO = 5, "Input or output error.";
    ENXIO = 6, "No such device or address.";
    E2BIG = 7, "Argument list too long.";
    ENOEXEC = 8, "Executable format error.";
    EBADF = 9, "Bad file number.";
    ECHILD = 10, "No child.";
    EAGAIN = 11, "Try again; also `EWOULDBLOCK`.";
    ENOMEM = 12, "Out of memory.";
    EACCES = 13, "Permission denied.";
    EFAULT = 14, "Bad guest address.";
    EBUSY = 16, "Device or resource busy.";
    EEXIST = 17, "Exists already.";
    EXDEV = 18, "Cross-device link.";
    ENODEV = 19, "No such device.";
    ENOTDIR = 20, "Not a directory.";
    EISDIR = 21, "Is a directory.";
    EINVAL = 22, "Invalid argument.";
    ENFILE = 23, "Table overflow.";
    EMFILE = 24, "Too many open.";
    ENOSPC = 28, "No space left.";
    EROFS = 30, "Read-only.";
    EMLINK = 31, "Too many links.";
    EDOM = 33, "Argument out of domain.";
    ERANGE = 34, "Result not representable.";
    EDEADLK = 35, "Would deadlock; also `EDEADLOCK`.";
    ENAMETOOLONG = 36, "Name too long.";
    ENOLCK = 37, "No locks available.";
    ENOSYS = 38, "Not implemented.";
    ENOTEMPTY = 39, "Not empty.";
    ENODATA = 61, "No data available.";
    ETIME = 62, "Timer expired.";
    EBADMSG = 74, "Not a data message.";
    EOVERFLOW = 75, "Value too large.";
    EILSEQ = 84, "Illegal byte sequence.";
    ERESTART = 85, "To be restarted; never given to a guest.";
    ENOTSOCK = 88, "Not a socket.";
    EMSGSIZE = 90, "Message too large.";
    EOPNOTSUPP = 95, "Operation not supported.";
    EADDRINUSE = 98, "Address in use.";
    EADDRNOTAVAIL = 99, "Address not available.";
    ENOBUFS = 105, "No buffer space.";
    EISCONN = 106, "Connected already.";
    ENOTCONN = 107, "Not connected.";
    ETIMEDOUT = 110, "Timed out.";
    ECONNREFUSED = 111, "Refused.";
}

impl Errno {
    /// What a hypercall leaves in its result register.
    pub const fn as_result(self) -> i64 {
        -(self.0 as i64)
    }

    /// The error that a result register holds, if it holds one the header knows.
    pub const fn from_result(result: i64) -> Option<Errno> {
        if result >= 0 || result < -4095 {
            return None;
        }
        let errno = Errno(-(result as i32));
        if errno.name().is_some() { Some(errno) } else { None }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::Errno;

    #[test]
    fn results_name_their_error() {
        assert_eq!(Errno::from_result(-38), Some(Errno::ENOSYS));
        assert_eq!(Errno::from_result(Errno::EFAULT.as_result()), Some(Errno::EFAULT));
        assert_eq!(Errno::ENOSYS.to_string(), "ENOSYS");
    }

    #[test]
    fn other_values_are_no_error() {
        for value in [0, 1, -15, -4096, i64::MIN, i64::MAX] {
            assert_eq!(Errno::from_result(value), None, "{value}");
        }
    }
}

//! What can go wrong on the way to the hypervisor.

use guest_abi::Errno;
use std::io;

/// A failure of a device, of a mapping or of a hypercall.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A device file or the operating system refused.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The hypervisor refused.
    #[error("{call}: {errno}")]
    Hypercall {
        /// The hypercall and its operation, by the public headers' names.
        call: &'static str,
        /// Its answer.
        errno: Errno,
    },
    /// A frame of another domain could not be mapped.
    #[error("frame {frame:#x} of domain {domid} cannot be mapped: {errno}")]
    Foreign {
        /// The domain.
        domid: u16,
        /// The frame number.
        frame: u64,
        /// Why.
        errno: Errno,
    },
    /// An argument that no device would take, found here.
    #[error("{0}")]
    Argument(&'static str),
}

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The error number in it, if it has one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Os { source, .. } => source.raw_os_error().map(Errno),
            Error::Hypercall { errno, .. } | Error::Foreign { errno, .. } => Some(*errno),
            Error::Argument(_) => Some(Errno::EINVAL),
        }
    }

    pub(crate) fn os(what: impl Into<String>, source: io::Error) -> Error {
        Error::Os { what: what.into(), source }
    }
}

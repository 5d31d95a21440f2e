//! How a call ends when it does not simply succeed: the error says who pays.

use guest_abi::Errno;

/// Why a call gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The caller asked for something it cannot have; it gets the number.
    Errno(Errno),
    /// The call stopped half-way to let others run. The door makes the caller issue it again with these
    /// arguments (registers in the order of the calling convention).
    Retry(Continuation),
    /// The caller broke a rule for which the ABI has no error number.
    CrashCaller(&'static str),
}

/// The arguments with which a preempted call is to be issued again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// First to fourth argument.
    pub args: [u64; 4],
}

impl From<Errno> for CallError {
    fn from(errno: Errno) -> Self {
        CallError::Errno(errno)
    }
}

impl From<crate::port::Fault> for CallError {
    fn from(_: crate::port::Fault) -> Self {
        CallError::Errno(Errno::EFAULT)
    }
}

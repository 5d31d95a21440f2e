//! Messages of the store (`io/xs_wire.h`, `docs/misc/xenstore.txt`).

use guest_abi::Errno;
use guest_abi::io::{XENSTORE_PAYLOAD_MAX, XsdSockmsg};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of a message's head.
pub const HEAD: usize = size_of::<XsdSockmsg>();
/// The longest payload.
pub const PAYLOAD_MAX: usize = XENSTORE_PAYLOAD_MAX as usize;

macro_rules! kinds {
    ($($name:ident = $number:literal, $doc:literal;)*) => {
        /// What a message asks or answers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Kind {
            $(#[doc = $doc] $name = $number,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Kind] = &[$(Kind::$name),*];

            /// The kind that a message's number names.
            pub const fn from_number(number: u32) -> Option<Kind> {
                match number {
                    $($number => Some(Kind::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    Control = 0, "A command to the daemon.";
    Directory = 1, "A node's children.";
    Read = 2, "A node's value.";
    GetPerms = 3, "A node's permissions.";
    Watch = 4, "Asks for events.";
    Unwatch = 5, "Asks for no more events.";
    TransactionStart = 6, "Begins a transaction.";
    TransactionEnd = 7, "Commits or drops it.";
    Introduce = 8, "Connects a domain.";
    Release = 9, "Disconnects it.";
    GetDomainPath = 10, "A domain's home.";
    Write = 11, "Sets a value.";
    Mkdir = 12, "Makes a node.";
    Rm = 13, "Removes a node and all below.";
    SetPerms = 14, "Sets permissions.";
    WatchEvent = 15, "Something changed.";
    Error = 16, "The answer to a request that failed.";
    IsDomainIntroduced = 17, "Whether a domain is connected.";
    Resume = 18, "A domain that shut down goes on.";
    SetTarget = 19, "One domain acts for another.";
    ResetWatches = 21, "Forgets the caller's watches and transactions.";
    DirectoryPart = 22, "A part of a long list of children.";
}

/// Errors that travel by name; another one is sent as `EINVAL`.
const ERRORS: &[(Errno, &str)] = &[
    (Errno::EINVAL, "EINVAL"),
    (Errno::EACCES, "EACCES"),
    (Errno::EEXIST, "EEXIST"),
    (Errno::EISDIR, "EISDIR"),
    (Errno::ENOENT, "ENOENT"),
    (Errno::ENOMEM, "ENOMEM"),
    (Errno::ENOSPC, "ENOSPC"),
    (Errno::EIO, "EIO"),
    (Errno::ENOTEMPTY, "ENOTEMPTY"),
    (Errno::ENOSYS, "ENOSYS"),
    (Errno::EROFS, "EROFS"),
    (Errno::EBUSY, "EBUSY"),
    (Errno::EAGAIN, "EAGAIN"),
    (Errno::EISCONN, "EISCONN"),
    (Errno::E2BIG, "E2BIG"),
    (Errno::EPERM, "EPERM"),
];

/// The name by which an error travels.
pub fn error_name(errno: Errno) -> &'static str {
    ERRORS.iter().find(|(known, _)| *known == errno).map_or("EINVAL", |(_, name)| name)
}

/// The error that a name means; `EINVAL` for a name nobody knows.
pub fn error_number(name: &[u8]) -> Errno {
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    ERRORS.iter().find(|(_, known)| known.as_bytes() == name).map_or(Errno::EINVAL, |(errno, _)| *errno)
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// [`Kind`], as it came.
    pub kind: u32,
    /// The sender's number for it, echoed in the reply.
    pub request: u32,
    /// Transaction; 0: none.
    pub transaction: u32,
    /// What belongs to it.
    pub payload: Vec<u8>,
}

impl Message {
    /// A message of a known kind.
    pub fn new(kind: Kind, request: u32, transaction: u32, payload: Vec<u8>) -> Message {
        Message { kind: kind as u32, request, transaction, payload }
    }

    /// Appends it as bytes.
    pub fn encode(&self, to: &mut Vec<u8>) {
        encode(to, self.kind, self.request, self.transaction, &[&self.payload]);
    }
}

/// Appends a message whose payload is in parts.
pub fn encode(to: &mut Vec<u8>, kind: u32, request: u32, transaction: u32, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let head = XsdSockmsg { kind, req_id: request, tx_id: transaction, len: len as u32 };
    to.extend_from_slice(head.as_bytes());
    for part in parts {
        to.extend_from_slice(part);
    }
}

/// A stream that breaks the protocol: its payload is longer than any may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} bytes")]
pub struct TooLong(pub u32);

/// The first message in `bytes`, and how many bytes it takes; `None` while it is not complete.
///
/// # Errors
/// [`TooLong`], after which the stream means nothing.
pub fn decode(bytes: &[u8]) -> Result<Option<(Message, usize)>, TooLong> {
    let Ok((head, rest)) = XsdSockmsg::read_from_prefix(bytes) else { return Ok(None) };
    if head.len as usize > PAYLOAD_MAX {
        return Err(TooLong(head.len));
    }
    Ok(rest.get(..head.len as usize).map(|payload| {
        let message = Message {
            kind: head.kind,
            request: head.req_id,
            transaction: head.tx_id,
            payload: payload.to_vec(),
        };
        (message, HEAD + payload.len())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back() {
        let message = Message::new(Kind::Write, 7, 9, b"a\0value".to_vec());
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert_eq!(&bytes[..16], &[11, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 7, 0, 0, 0]);
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), Ok(None), "{cut}");
        }
        bytes.extend_from_slice(b"more");
        assert_eq!(decode(&bytes), Ok(Some((message, 23))));
    }

    #[test]
    fn a_payload_that_is_too_long_is_seen_at_once() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 2, 0, 0, &[&[0; PAYLOAD_MAX]]);
        assert!(decode(&bytes).unwrap().is_some());
        bytes[12..16].copy_from_slice(&4097u32.to_le_bytes());
        assert_eq!(decode(&bytes[..16]), Err(TooLong(4097)));
    }

    #[test]
    fn errors_travel_by_name() {
        assert_eq!(error_name(Errno::EAGAIN), "EAGAIN");
        assert_eq!(error_name(Errno::EXDEV), "EINVAL");
        assert_eq!(error_number(b"ENOENT\0"), Errno::ENOENT);
        assert_eq!(error_number(b"nonsense"), Errno::EINVAL);
    }

    #[test]
    fn kinds_are_their_numbers() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_number(*kind as u32), Some(*kind));
        }
        assert_eq!(Kind::from_number(20), None);
    }
}

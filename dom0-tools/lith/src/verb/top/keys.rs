//! Bytes of a terminal as keys.

/// A key, or an answer of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A printable character of ASCII.
    Char(char),
    /// An arrow.
    Up,
    /// An arrow.
    Down,
    /// A page back.
    PageUp,
    /// A page on.
    PageDown,
    /// To the first.
    Home,
    /// To the last.
    End,
    /// Return.
    Enter,
    /// Takes the last character away.
    Backspace,
    /// Escape by itself.
    Escape,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-L: the screen is to be drawn anew.
    Redraw,
    /// Where the cursor is: columns and lines from 1 on.
    Cursor(u16, u16),
}

const ESC: u8 = 0x1b;
/// Bytes that a key has at most; of what is longer nothing is understood.
const LONGEST: usize = 32;

/// Keys out of bytes that come as they like: on a serial line those of one key come one by one.
#[derive(Debug, Default)]
pub struct Keys {
    pending: Vec<u8>,
}

impl Keys {
    /// Takes bytes and returns the keys that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.pending.extend_from_slice(bytes);
        let mut keys = Vec::new();
        while let Some((key, len)) = first(&self.pending) {
            keys.extend(key);
            self.pending.drain(..len);
        }
        if self.pending.len() > LONGEST {
            self.pending.clear();
        }
        keys
    }

    /// Something has begun that may be a key by itself if nothing more comes soon.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Nothing more came: an escape was the key.
    pub fn flush(&mut self) -> Option<Key> {
        let alone = self.pending == [ESC];
        self.pending.clear();
        alone.then_some(Key::Escape)
    }
}

/// The first key and its length in bytes; no key for bytes that mean none, nothing if it is not all there.
fn first(bytes: &[u8]) -> Option<(Option<Key>, usize)> {
    let simple = |key| Some((Some(key), 1));
    match *bytes {
        [] | [ESC] => None,
        [ESC, b'[', ref rest @ ..] => control(rest).map(|(key, len)| (key, len + 2)),
        // As some terminals write arrows.
        [ESC, b'O', ref rest @ ..] => rest.first().map(|last| (named(b"", *last), 3)),
        [ESC, ..] => simple(Key::Escape),
        [3, ..] => simple(Key::Interrupt),
        [12, ..] => simple(Key::Redraw),
        [b'\r' | b'\n', ..] => simple(Key::Enter),
        [8 | 0x7f, ..] => simple(Key::Backspace),
        [byte @ b' '..=b'~', ..] => simple(Key::Char(char::from(byte))),
        _ => Some((None, 1)),
    }
}

/// What follows `ESC [`.
fn control(bytes: &[u8]) -> Option<(Option<Key>, usize)> {
    // Linux's console writes function keys so, with one more byte.
    if bytes.first() == Some(&b'[') {
        return (bytes.len() > 1).then_some((None, 2));
    }
    let end = bytes.iter().position(|byte| !(b' '..=b'?').contains(byte))?;
    // An escape within begins another key.
    if bytes[end] == ESC {
        return Some((None, end));
    }
    Some((named(&bytes[..end], bytes[end]), end + 1))
}

fn named(parameters: &[u8], last: u8) -> Option<Key> {
    let text = std::str::from_utf8(parameters).unwrap_or_default();
    let mut numbers = text.split(';').map(|number| number.parse::<u16>().ok());
    Some(match (last, numbers.next().flatten(), numbers.next().flatten()) {
        (b'A', ..) => Key::Up,
        (b'B', ..) => Key::Down,
        (b'H', ..) | (b'~', Some(1 | 7), _) => Key::Home,
        (b'F', ..) | (b'~', Some(4 | 8), _) => Key::End,
        (b'~', Some(5), _) => Key::PageUp,
        (b'~', Some(6), _) => Key::PageDown,
        (b'R', Some(line), Some(column)) => Key::Cursor(column, line),
        (b'M', ..) if parameters.is_empty() => Key::Enter,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        Keys::default().push(bytes)
    }

    #[test]
    fn keys_are_read_from_bytes() {
        assert_eq!(keys(b"\x1b[A\x1bOB\x1b[5~\x1b[6~"), [Key::Up, Key::Down, Key::PageUp, Key::PageDown]);
        assert_eq!(
            keys(b"\x1b[H\x1b[4~q\r\x7f\x03"),
            [Key::Home, Key::End, Key::Char('q'), Key::Enter, Key::Backspace, Key::Interrupt]
        );
        assert_eq!(keys(b"\x1b[1;5A\x1b[24;80R"), [Key::Up, Key::Cursor(80, 24)]);
        // Function keys, an umlaut, and an escape in the middle of something.
        assert_eq!(keys(b"\x1b[[A\x1b[15~\xc3\xa4\x1b[1\x1b[Bx"), [Key::Down, Key::Char('x')]);
        assert_eq!(keys(b"\x1bq"), [Key::Escape, Key::Char('q')]);
    }

    #[test]
    fn an_arrow_that_comes_in_pieces_is_no_escape() {
        let mut keys = Keys::default();
        assert_eq!(keys.push(b"\x1b"), []);
        assert!(keys.is_pending());
        assert_eq!(keys.push(b"["), []);
        assert_eq!(keys.push(b"A"), [Key::Up]);
        assert!(!keys.is_pending());
        assert_eq!(keys.push(b"\x1b"), []);
        assert_eq!(keys.flush(), Some(Key::Escape));
        assert_eq!(keys.push(b"\x1b["), []);
        assert_eq!(keys.flush(), None);
        assert_eq!(keys.push(&[b"\x1b[", &[b'1'; 100][..]].concat()), []);
        assert_eq!(keys.push(b"q"), [Key::Char('q')]);
    }

    proptest::proptest! {
        /// No bytes are taken amiss, and pieces mean what the whole does.
        #[test]
        fn pieces_mean_what_the_whole_does(bytes in proptest::collection::vec(0_u8.., 0..24)) {
            let mut pieces = Keys::default();
            let one_by_one: Vec<Key> = bytes.iter().flat_map(|byte| pieces.push(&[*byte])).collect();
            proptest::prop_assert_eq!(one_by_one, keys(&bytes));
        }
    }
}

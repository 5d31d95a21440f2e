//! The line that a guest has begun on the console and not ended yet: a message of the hypervisor comes before it, not into it.

use arrayvec::ArrayVec;

/// Longest line that is written again.
const LONGEST: usize = 256;

/// Begins the line anew: to its first column, and what is there is erased (ECMA-48, EL).
const WIPE: &[u8] = b"\r\x1b[K";

/// What is on the last line of the console of a guest's.
#[derive(Default)]
pub struct GuestLine {
    bytes: ArrayVec<u8, LONGEST>,
    /// There is more on the line than is kept of it.
    is_long: bool,
    /// The guest went back to the first column.
    returned: bool,
}

impl GuestLine {
    /// An empty line.
    pub const fn new() -> GuestLine {
        GuestLine { bytes: ArrayVec::new_const(), is_long: false, returned: false }
    }

    /// The guest has written `bytes`.
    pub fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => *self = GuestLine::new(),
                b'\r' => self.returned = true,
                _ => {
                    if core::mem::take(&mut self.returned) {
                        // What is written from here on covers what was there.
                        self.bytes.clear();
                        self.is_long = false;
                    }
                    self.is_long |= self.bytes.try_push(*byte).is_err();
                }
            }
        }
    }

    /// What to write before a message.
    pub fn before(&self) -> &'static [u8] {
        match (self.is_long, self.bytes.is_empty()) {
            (true, _) => b"\n",
            (false, true) => b"",
            (false, false) => WIPE,
        }
    }

    /// What to write after it. A line that was too long is not written again, and ends there.
    pub fn after(&mut self) -> &[u8] {
        if core::mem::take(&mut self.is_long) {
            self.bytes.clear();
        }
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// The lines of a terminal that knows what is written here.
    fn shown(bytes: &[u8]) -> Vec<String> {
        let text = core::str::from_utf8(bytes).unwrap();
        let erased = |line: &str| line.rsplit("\r\x1b[K").next().unwrap_or_default().to_owned();
        text.split('\n').map(erased).collect()
    }

    proptest! {
        /// Wherever messages come, each is a line, and without them the guest's lines are as it wrote them.
        #[test]
        fn messages_tear_no_line(pieces in prop::collection::vec(prop::option::of("[a-z\n]{0,20}"), 0..40)) {
            let (mut line, mut sent, mut plain) = (GuestLine::new(), Vec::new(), String::new());
            for piece in &pieces {
                if let Some(text) = piece {
                    line.write(text.as_bytes());
                    sent.extend_from_slice(text.as_bytes());
                    plain.push_str(text);
                } else {
                    sent.extend_from_slice(line.before());
                    sent.extend_from_slice(b"MESSAGE\n");
                    sent.extend_from_slice(line.after());
                }
            }
            let lines = shown(&sent);
            let (messages, rest): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line == "MESSAGE");
            prop_assert_eq!(messages.len(), pieces.iter().filter(|piece| piece.is_none()).count());
            prop_assert!(plain.split('\n').any(|line| line.len() > LONGEST) || rest == shown(plain.as_bytes()));
        }
    }

    #[test]
    fn a_long_line_is_cut_once() {
        let mut line = GuestLine::new();
        line.write(&[b'x'; LONGEST]);
        assert_eq!((line.before(), line.after().len()), (WIPE, LONGEST));
        line.write(b"y");
        assert_eq!((line.before(), line.after()), (&b"\n"[..], &b""[..]));
        line.write(b"z");
        assert_eq!((line.before(), line.after()), (WIPE, &b"z"[..]));
    }

    #[test]
    fn a_bar_that_is_drawn_again_is_one_line() {
        let mut line = GuestLine::new();
        (0..100).for_each(|_| line.write(b"\rloading"));
        assert_eq!(line.after(), b"loading");
        line.write(b"\r");
        assert_eq!(line.after(), b"loading", "it is still to be seen");
        line.write(b"\n");
        assert_eq!((line.before(), line.after()), (&b""[..], &b""[..]));
    }
}

//! How to attach: one line each way, then the bytes of the console.
//!
//! `console/1 attach WHO HISTORY` asks for the console of a domain, by number or by name, beginning with at most HISTORY
//! bytes of what it wrote before; `console/1 log WHO HISTORY` for what it wrote alone, and `console/1 follow WHO HISTORY`
//! for that and what follows, without writing to it. The answer is `ok DOMID NAME` or `error ERRNO TEXT`. Afterwards all
//! bytes are the console's, until the domain or the connection ends; detaching is closing it.

use guest_abi::Errno;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Where the daemon listens.
pub const SOCKET: &str = "/run/xenolith/console";
/// The longest line.
pub const LINE: usize = 512;

/// What is wanted of a console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To be on it.
    Attach,
    /// What was written.
    Log,
    /// What was and will be written.
    Follow,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is wanted.
    pub mode: Mode,
    /// Of which domain: a number or a name.
    pub who: String,
    /// Bytes of history at most.
    pub history: u64,
}

impl Request {
    /// The line, with its end.
    pub fn line(&self) -> String {
        let mode = match self.mode {
            Mode::Attach => "attach",
            Mode::Log => "log",
            Mode::Follow => "follow",
        };
        format!("console/1 {mode} {} {}\n", self.who, self.history)
    }

    /// From the line without its end.
    pub fn parse(line: &str) -> Option<Request> {
        let mut words = line.split(' ');
        let ("console/1", mode) = (words.next()?, words.next()?) else { return None };
        let mode = match mode {
            "attach" => Mode::Attach,
            "log" => Mode::Log,
            "follow" => Mode::Follow,
            _ => return None,
        };
        let who = words.next().filter(|who| !who.is_empty())?.to_owned();
        let history = words.next()?.parse().ok()?;
        words.next().is_none().then_some(Request { mode, who, history })
    }
}

/// The answer to a request that was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The domain; `None` when it is gone and only its log is there.
    pub domid: Option<u16>,
    /// Its name.
    pub name: String,
}

impl Granted {
    /// The line, with its end.
    pub fn line(&self) -> String {
        let domid = self.domid.map_or_else(|| "-".to_owned(), |domid| domid.to_string());
        format!("ok {domid} {}\n", self.name)
    }
}

/// The line of a request that was refused.
pub fn refusal(errno: Errno, text: &str) -> String {
    format!("error {errno} {text}\n")
}

/// Why there is no console.
#[derive(Debug)]
pub enum Refused {
    /// No daemon, or it went away.
    Io(io::Error),
    /// The daemon's answer.
    Daemon {
        /// The error's name.
        errno: String,
        /// What it says.
        text: String,
    },
}

impl Refused {
    /// Whether the daemon knows no such domain.
    pub fn is_missing(&self) -> bool {
        matches!(self, Refused::Daemon { errno, .. } if errno == "ENOENT")
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Io(error) => write!(f, "the console daemon: {error}"),
            Refused::Daemon { text, .. } => f.write_str(text),
        }
    }
}

impl std::error::Error for Refused {}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Refused {
        Refused::Io(error)
    }
}

/// A console: what it says is read from `output`, what is said to it is written to `input`.
#[derive(Debug)]
pub struct Attached {
    /// Whose.
    pub granted: Granted,
    /// From the domain.
    pub output: BufReader<UnixStream>,
    /// To the domain.
    pub input: UnixStream,
}

/// Asks the daemon whose socket is at `socket`.
///
/// # Errors
/// When there is no daemon, or it refuses.
pub fn ask(socket: &Path, request: &Request) -> Result<Attached, Refused> {
    if request.who.is_empty() || request.who.contains([' ', '\n']) {
        return Err(Refused::Daemon { errno: "EINVAL".into(), text: "a name with a blank".into() });
    }
    let mut input = UnixStream::connect(socket)?;
    input.write_all(request.line().as_bytes())?;
    let mut output = BufReader::new(input.try_clone()?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    let line = line.trim_end_matches('\n');
    let mut words = line.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some("ok"), Some(domid), Some(name)) => {
            let granted = Granted { domid: domid.parse().ok(), name: name.to_owned() };
            Ok(Attached { granted, output, input })
        }
        (Some("error"), Some(errno), text) => {
            Err(Refused::Daemon { errno: errno.to_owned(), text: text.unwrap_or_default().to_owned() })
        }
        _ => Err(Refused::Io(io::ErrorKind::UnexpectedEof.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_back() {
        for mode in [Mode::Attach, Mode::Log, Mode::Follow] {
            let request = Request { mode, who: "web-1".to_owned(), history: 65536 };
            assert_eq!(Request::parse(request.line().trim_end()), Some(request));
        }
    }

    #[test]
    fn other_lines_are_no_requests() {
        for line in [
            "",
            "attach 1 0",
            "console/2 attach 1 0",
            "console/1 eat 1 0",
            "console/1 log 1",
            "console/1 log 1 x",
            "console/1 log  0",
            "console/1 log 1 0 more",
        ] {
            assert_eq!(Request::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_name_cannot_smuggle_a_line() {
        let request = Request { mode: Mode::Log, who: "a\nb".to_owned(), history: 0 };
        assert!(ask(Path::new("/nowhere"), &request).unwrap_err().to_string().contains("blank"));
    }
}

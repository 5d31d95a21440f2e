//! What went wrong, for people and for programs: a text, an exit code, and what to do.

use crate::config::ConfigError;
use crate::host::HostError;
use serde_json::json;
use std::fmt;

/// Kinds of failure; the numbers are exit codes and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None of the others.
    Other = 1,
    /// The command line or a configuration file.
    Usage = 2,
    /// There is no such domain or device.
    NotFound = 3,
    /// It exists already, or is in the wrong state.
    WrongState = 4,
    /// Not root, or not in dom0.
    NotPermitted = 5,
    /// Memory, CPUs, grants or event channels do not suffice.
    Resources = 6,
    /// It took too long.
    TimedOut = 7,
    /// The guest would not.
    GuestRefused = 8,
    /// The hypervisor is not Xenolith, or too old.
    Hypervisor = 9,
}

impl Kind {
    /// All of them, for the manual.
    pub const ALL: [(Kind, &str, &str); 9] = [
        (Kind::Other, "other", "another failure"),
        (Kind::Usage, "usage", "the command line or a configuration file is wrong"),
        (Kind::NotFound, "not_found", "there is no such domain or device"),
        (Kind::WrongState, "wrong_state", "it exists already, or is in the wrong state"),
        (Kind::NotPermitted, "not_permitted", "not root, or not in dom0"),
        (Kind::Resources, "resources", "not enough memory, CPUs, grants or event channels"),
        (Kind::TimedOut, "timed_out", "it took too long"),
        (Kind::GuestRefused, "guest_refused", "the guest refused"),
        (Kind::Hypervisor, "hypervisor", "the hypervisor is not Xenolith, or too old"),
    ];

    /// Its word in JSON.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or("other", |(_, word, _)| word)
    }
}

/// A failure.
#[derive(Clone, Debug)]
pub struct Error {
    /// Its kind.
    pub kind: Kind,
    /// What went wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Lines of a file that show it.
    pub excerpt: Option<String>,
}

impl Error {
    /// A failure.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, excerpt: None }
    }

    /// With advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With words before the message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The document that goes to standard error.
    pub fn json(&self) -> serde_json::Value {
        json!({
            "schema": "error/1",
            "error": {
                "code": self.kind as u8,
                "kind": self.kind.word(),
                "message": self.message,
                "hint": self.hint,
            }
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(excerpt) = &self.excerpt {
            write!(f, "\n{excerpt}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        let excerpt = Some(error.excerpt());
        Self { kind: Kind::Usage, message: error.to_string(), hint: error.hint, excerpt }
    }
}

impl From<HostError> for Error {
    fn from(error: HostError) -> Self {
        let message = error.to_string();
        let new = |kind| Error::new(kind, message.clone());
        match error {
            HostError::NotXenolith(_) => new(Kind::Hypervisor)
                .hint("boot Xenolith, and run this as root in dom0; `lith doctor` looks closer"),
            HostError::System(_) => new(Kind::Other),
            HostError::Errno { errno, .. } => match errno {
                1 | 13 => new(Kind::NotPermitted).hint("run this as root in dom0"),
                2 | 3 | 19 => new(Kind::NotFound),
                7 | 38 => new(Kind::Hypervisor).hint("`lith info` shows the hypervisor's version"),
                12 | 28 => {
                    new(Kind::Resources).hint("`lith info` shows where the memory is, `lith why` the reason")
                }
                16 | 17 => new(Kind::WrongState),
                110 => new(Kind::TimedOut),
                _ => new(Kind::Other).hint("`lith why` shows the hypervisor's reason"),
            },
        }
    }
}

/// An answer of a verb.
pub type Result<T> = std::result::Result<T, Error>;

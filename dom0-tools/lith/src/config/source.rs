//! Text with places in it, and errors that show them.

use std::fmt;
use std::sync::Arc;

/// A text and where it comes from.
#[derive(Clone, Debug)]
pub struct Source {
    inner: Arc<(String, String)>,
}

impl Source {
    /// A text called `name`.
    pub fn new(name: &str, text: &str) -> Self {
        Self { inner: Arc::new((name.to_owned(), text.to_owned())) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.0
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.inner.1
    }

    /// The place of a byte offset.
    pub fn place(&self, offset: usize) -> Place {
        Place { source: self.clone(), offset: offset.min(self.text().len()) }
    }

    /// An error at a byte offset.
    pub fn error(&self, offset: usize, message: impl Into<String>) -> ConfigError {
        self.place(offset).error(message)
    }
}

/// A place in a text.
#[derive(Clone, Debug)]
pub struct Place {
    source: Source,
    offset: usize,
}

impl Place {
    /// An error here.
    pub fn error(&self, message: impl Into<String>) -> ConfigError {
        ConfigError { place: self.clone(), message: message.into(), hint: None }
    }

    /// Line and column, from 1; a column is a character.
    pub fn line_column(&self) -> (usize, usize) {
        let before = self.source.text().get(..self.offset).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// The line that it is in.
    fn line(&self) -> &str {
        let (line, _) = self.line_column();
        self.source.text().lines().nth(line - 1).unwrap_or_default()
    }
}

/// Something wrong or odd at a place.
#[derive(Clone, Debug)]
pub struct ConfigError {
    /// Where.
    pub place: Place,
    /// What.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl ConfigError {
    /// The same with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// `FILE:LINE:COLUMN`
    pub fn location(&self) -> String {
        let (line, column) = self.place.line_column();
        format!("{}:{line}:{column}", self.place.source.name())
    }

    /// The line with a mark under the column.
    pub fn excerpt(&self) -> String {
        let (_, column) = self.place.line_column();
        let line: String = self.place.line().chars().map(|c| if c == '\t' { ' ' } else { c }).collect();
        format!("    {line}\n    {:>column$}", "^")
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location(), self.message)
    }
}

impl std::error::Error for ConfigError {}

/// A string or number. xl keeps both as text and reads a number when one is asked for.
#[derive(Clone, Debug)]
pub struct Atom {
    /// The text, without quotes and escapes.
    pub text: String,
    /// Where it begins.
    pub place: Place,
}

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// A string or number.
    Atom(Atom),
    /// A list.
    List(Vec<Value>, Place),
    /// A table; TOML only.
    Table(Vec<(Atom, Value)>, Place),
}

impl Value {
    /// Where it begins.
    pub fn place(&self) -> &Place {
        match self {
            Value::Atom(atom) => &atom.place,
            Value::List(_, place) | Value::Table(_, place) => place,
        }
    }
}

/// `key = value`
#[derive(Clone, Debug)]
pub struct Setting {
    /// The key.
    pub key: Atom,
    /// The value, after all `+=`.
    pub value: Value,
}

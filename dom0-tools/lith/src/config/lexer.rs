//! Words of xl's configuration files.
//!
//! Names are `[a-z][._0-9a-z]*`, numbers `[0-9][0-9a-fx]*`, strings stand in either quotes with escapes by a
//! backslash; `#` begins a comment. Nothing else is in the language: files are not Python.

use super::source::{ConfigError, Source};

/// A word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Name(String),
    Number(String),
    Text(String),
    Equals,
    PlusEquals,
    Open,
    Close,
    Comma,
    /// A newline or `;`
    End,
    /// The end of the file.
    Eof,
}

impl Token {
    /// How it is called in an error.
    pub(super) fn describe(&self) -> String {
        match self {
            Token::Name(name) => format!("`{name}`"),
            Token::Number(number) => format!("the number {number}"),
            Token::Text(_) => "a string".to_owned(),
            Token::Equals => "`=`".to_owned(),
            Token::PlusEquals => "`+=`".to_owned(),
            Token::Open => "`[`".to_owned(),
            Token::Close => "`]`".to_owned(),
            Token::Comma => "`,`".to_owned(),
            Token::End => "the end of the line".to_owned(),
            Token::Eof => "the end of the file".to_owned(),
        }
    }
}

/// All words with their offsets; the last one is [`Token::Eof`].
pub(super) fn tokens(source: &Source) -> Result<Vec<(usize, Token)>, ConfigError> {
    let mut lexer = Lexer { source, rest: source.text() };
    let mut all = Vec::new();
    loop {
        let (at, token) = lexer.next()?;
        let last = token == Token::Eof;
        all.push((at, token));
        if last {
            return Ok(all);
        }
    }
}

struct Lexer<'a> {
    source: &'a Source,
    rest: &'a str,
}

impl Lexer<'_> {
    fn at(&self) -> usize {
        self.source.text().len() - self.rest.len()
    }

    fn next(&mut self) -> Result<(usize, Token), ConfigError> {
        self.skip_blank();
        let at = self.at();
        let Some(first) = self.rest.chars().next() else { return Ok((at, Token::Eof)) };
        let simple = [
            ('\n', Token::End),
            (';', Token::End),
            ('=', Token::Equals),
            ('[', Token::Open),
            (']', Token::Close),
            (',', Token::Comma),
        ];
        if let Some((_, token)) = simple.into_iter().find(|(c, _)| *c == first) {
            self.rest = &self.rest[1..];
            return Ok((at, token));
        }
        let token = match first {
            '+' if self.rest.starts_with("+=") => {
                self.rest = &self.rest[2..];
                Token::PlusEquals
            }
            'a'..='z' => Token::Name(self.take(|c| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_'))),
            '0'..='9' => Token::Number(self.number(at)?),
            '\'' | '"' => Token::Text(self.string(first)?),
            _ => return Err(self.foreign(at, first)),
        };
        Ok((at, token))
    }

    fn skip_blank(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\r']);
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.find('\n').map_or("", |end| &self.rest[end..]);
        }
    }

    fn take(&mut self, is_part: impl Fn(char) -> bool) -> String {
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    /// Digits as xl has them; a unit (`512M`) is Xenolith's addition.
    fn number(&mut self, at: usize) -> Result<String, ConfigError> {
        let word = self.take(|c| c.is_ascii_alphanumeric() || c == '.');
        let xl = word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'x'));
        let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &word[digits.len()..];
        if xl || (super::units::unit(unit).is_some() && digits.bytes().all(|b| b.is_ascii_digit())) {
            return Ok(word);
        }
        Err(self
            .source
            .error(at, format!("`{word}` is not a number"))
            .hint("write a string in quotes: \"...\""))
    }

    fn string(&mut self, quote: char) -> Result<String, ConfigError> {
        let start = self.at();
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(text);
                }
                '\n' => break,
                '\\' => {
                    let escape = self.rest.get(at + 1..).unwrap_or_default();
                    let (c, len) = unescape(escape).ok_or_else(|| {
                        self.source
                            .error(start + at, "this escape is not known")
                            .hint("write a backslash as \\\\")
                    })?;
                    text.push(c);
                    // An escape is ASCII, so its length in bytes is that in characters.
                    for _ in 0..len {
                        chars.next();
                    }
                }
                _ => text.push(c),
            }
        }
        Err(self
            .source
            .error(start, format!("the string that begins here has no closing {quote}"))
            .hint("a string ends on the line it begins on"))
    }

    fn foreign(&self, at: usize, c: char) -> ConfigError {
        let error =
            self.source.error(at, format!("`{}` is not part of a configuration file", c.escape_default()));
        if c.is_ascii_uppercase() {
            return error.hint("keys are in lower case, and strings in quotes; files are not Python");
        }
        error.hint(
            "files hold `key = value` lines with numbers, quoted strings and [ lists ]; they are not Python",
        )
    }
}

/// What stands behind a backslash, and its length.
fn unescape(text: &str) -> Option<(char, usize)> {
    let first = text.chars().next()?;
    let simple = match first {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        '\\' | '\'' | '"' => first,
        'x' => return numeric(&text[1..], 2, 16).map(|(c, len)| (c, len + 1)),
        '0'..='7' => return numeric(text, 3, 8),
        _ => return None,
    };
    Some((simple, 1))
}

fn numeric(text: &str, most: usize, radix: u32) -> Option<(char, usize)> {
    let len = text.chars().take(most).take_while(|c| c.is_digit(radix)).count();
    let code = u32::from_str_radix(text.get(..len)?, radix).ok()?;
    // A NUL would end a string for everything that reads it later.
    Some((char::from(u8::try_from(code).ok().filter(|c| (1..0x80).contains(c))?), len))
}

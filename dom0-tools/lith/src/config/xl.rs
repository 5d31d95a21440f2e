//! xl's grammar: settings one a line or behind `;`, lists that may nest and span lines.

use super::lexer::{Token, tokens};
use super::source::{Atom, ConfigError, Setting, Source, Value};

/// Lists deeper than this are refused.
const MAX_DEPTH: usize = 8;

/// Reads a text. A key set twice keeps its last value; `+=` appends a string to a string, a list to a list.
pub fn parse(source: &Source) -> Result<Vec<Setting>, ConfigError> {
    let mut settings = Vec::new();
    parse_into(source, &mut settings)?;
    Ok(settings)
}

/// The same, behind settings that there are already.
pub fn parse_into(source: &Source, settings: &mut Vec<Setting>) -> Result<(), ConfigError> {
    let mut parser = Parser { source, tokens: tokens(source)?, at: 0 };
    while let Some((key, append)) = parser.key()? {
        let value = parser.value(0)?;
        parser.end()?;
        store(settings, key, value, append)?;
    }
    Ok(())
}

fn store(settings: &mut Vec<Setting>, key: Atom, value: Value, append: bool) -> Result<(), ConfigError> {
    let Some(old) = settings.iter_mut().find(|s| s.key.text == key.text) else {
        settings.push(Setting { key, value });
        return Ok(());
    };
    match (append, &mut old.value, value) {
        (false, _, value) => *old = Setting { key, value },
        (true, Value::Atom(old), Value::Atom(new)) => old.text.push_str(&new.text),
        (true, Value::List(old, _), Value::List(new, _)) => old.extend(new),
        (true, _, value) => {
            return Err(value
                .place()
                .error(format!("`{}` was set to another kind of value before", key.text))
                .hint("+= appends a string to a string or a list to a list"));
        }
    }
    Ok(())
}

struct Parser<'a> {
    source: &'a Source,
    tokens: Vec<(usize, Token)>,
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::Eof, |(_, token)| token)
    }

    fn offset(&self) -> usize {
        self.tokens.get(self.at).map_or(self.source.text().len(), |(at, _)| *at)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn unexpected(&self, wanted: &str) -> ConfigError {
        self.source.error(self.offset(), format!("{wanted} expected, not {}", self.peek().describe()))
    }

    /// The next key and whether `+=` follows it.
    fn key(&mut self) -> Result<Option<(Atom, bool)>, ConfigError> {
        while *self.peek() == Token::End {
            self.at += 1;
        }
        if *self.peek() == Token::Eof {
            return Ok(None);
        }
        let place = self.source.place(self.offset());
        let Token::Name(text) = self.peek().clone() else { return Err(self.unexpected("a key")) };
        self.at += 1;
        let append = match self.peek() {
            Token::Equals => false,
            Token::PlusEquals => true,
            _ => return Err(self.unexpected("`=`")),
        };
        self.at += 1;
        Ok(Some((Atom { text, place }, append)))
    }

    fn value(&mut self, depth: usize) -> Result<Value, ConfigError> {
        let place = self.source.place(self.offset());
        match self.peek() {
            Token::Text(_) | Token::Number(_) => {
                let (Token::Text(text) | Token::Number(text)) = self.next() else { unreachable!() };
                Ok(Value::Atom(Atom { text, place }))
            }
            Token::Open if depth < MAX_DEPTH => {
                self.at += 1;
                Ok(Value::List(self.items(depth)?, place))
            }
            Token::Open => Err(self.source.error(self.offset(), "lists are nested too deeply")),
            Token::Name(word) => {
                let hint = format!("write it in quotes: \"{word}\"");
                Err(self.unexpected("a string, number or list").hint(hint))
            }
            _ => Err(self.unexpected("a string, number or list")),
        }
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Value>, ConfigError> {
        let mut items = Vec::new();
        loop {
            self.lines();
            if *self.peek() == Token::Close {
                self.at += 1;
                return Ok(items);
            }
            items.push(self.value(depth + 1)?);
            self.lines();
            match self.peek() {
                Token::Comma => self.at += 1,
                Token::Close => {}
                _ => return Err(self.unexpected("`,` or `]`")),
            }
        }
    }

    /// Newlines are blanks in a list.
    fn lines(&mut self) {
        while *self.peek() == Token::End {
            self.at += 1;
        }
    }

    fn end(&mut self) -> Result<(), ConfigError> {
        match self.peek() {
            Token::End | Token::Eof => Ok(()),
            _ => Err(self
                .unexpected("the end of the line")
                .hint("two settings on one line need a `;` between")),
        }
    }
}

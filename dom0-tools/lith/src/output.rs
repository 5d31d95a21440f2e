//! What verbs print: one description, three forms. Tables are for people, JSON for programs: sizes are bytes there, times
//! nanoseconds, states lists of words, and the schema is named.

use serde_json::{Map, Value, json};
use std::io::{self, Write};

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One document.
    Json,
    /// One document a line: each row, as it comes.
    Jsonl,
}

/// A value in both forms.
#[derive(Clone, Debug)]
pub struct Cell {
    /// For people.
    pub text: String,
    /// For programs.
    pub value: Value,
}

impl Cell {
    /// The same in both forms.
    pub fn plain(value: impl Into<Value>) -> Cell {
        let value = value.into();
        let text = match &value {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        Cell { text, value }
    }

    /// Another text for people.
    pub fn shown(value: impl Into<Value>, text: impl Into<String>) -> Cell {
        Cell { text: text.into(), value: value.into() }
    }
}

/// A column: its title, its key in JSON.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    title: &'static str,
    key: &'static str,
    right: bool,
}

/// A column of texts.
pub const fn left(title: &'static str, key: &'static str) -> Column {
    Column { title, key, right: false }
}

/// A column of numbers.
pub const fn right(title: &'static str, key: &'static str) -> Column {
    Column { title, key, right: true }
}

/// A column that only programs see.
pub const fn hidden(key: &'static str) -> Column {
    Column { title: "", key, right: false }
}

/// Rows of the same kind.
#[derive(Clone, Debug)]
pub struct Table {
    schema: &'static str,
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table whose rows are, in JSON, the list `NAME` of a document of the schema `NAME/1`.
    pub fn new(name: &'static str, columns: &[Column]) -> Table {
        Table { schema: name, columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, a cell a column.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    fn object(&self, row: &[Cell]) -> Map<String, Value> {
        self.columns.iter().zip(row).map(|(c, cell)| (c.key.to_owned(), cell.value.clone())).collect()
    }

    /// Prints it.
    pub fn print(&self, format: Format, out: &mut dyn Write) -> io::Result<()> {
        match format {
            Format::Table => self.print_table(out),
            Format::Json => {
                let rows: Vec<Value> = self.rows.iter().map(|row| self.object(row).into()).collect();
                let mut document = Map::new();
                document.insert("schema".to_owned(), format!("{}/1", self.schema).into());
                document.insert(self.schema.to_owned(), rows.into());
                writeln!(out, "{:#}", Value::from(document))
            }
            Format::Jsonl => {
                for row in &self.rows {
                    let mut object = self.object(row);
                    object.insert("schema".to_owned(), format!("{}/1", self.schema).into());
                    writeln!(out, "{}", Value::from(object))?;
                }
                Ok(())
            }
        }
    }

    fn print_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let width = |index: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(index)).map(|c| c.text.chars().count());
            cells.max().unwrap_or(0).max(self.columns[index].title.chars().count())
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let titles = self.columns.iter().map(|c| c.title.to_owned()).collect();
        let texts = self.rows.iter().map(|row| row.iter().map(|c| c.text.clone()).collect());
        for line in std::iter::once::<Vec<String>>(titles).chain(texts) {
            let mut text = String::new();
            for ((cell, width), column) in line.iter().zip(&widths).zip(&self.columns) {
                if column.title.is_empty() {
                    continue;
                }
                let width = *width;
                text += &if column.right { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
            }
            writeln!(out, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// One thing with named properties; sections are objects in JSON.
#[derive(Clone, Debug)]
pub struct Record {
    schema: &'static str,
    entries: Vec<(&'static str, &'static str, Cell)>,
}

impl Record {
    /// An empty one of the schema `NAME/1`.
    pub fn new(name: &'static str) -> Record {
        Record { schema: name, entries: Vec::new() }
    }

    /// Adds a property: its key in JSON, its title.
    pub fn add(&mut self, key: &'static str, title: &'static str, cell: Cell) -> &mut Self {
        self.entries.push((key, title, cell));
        self
    }

    /// Prints it.
    pub fn print(&self, format: Format, out: &mut dyn Write) -> io::Result<()> {
        if format == Format::Table {
            let width = self.entries.iter().map(|(_, title, _)| title.chars().count()).max().unwrap_or(0);
            for (_, title, cell) in &self.entries {
                writeln!(out, "{title:<width$}  {}", cell.text)?;
            }
            return Ok(());
        }
        let mut object = Map::new();
        object.insert("schema".to_owned(), format!("{}/1", self.schema).into());
        for (key, _, cell) in &self.entries {
            object.insert((*key).to_owned(), cell.value.clone());
        }
        document(Value::from(object), format, out)
    }
}

/// A document by itself.
pub fn document(value: Value, format: Format, out: &mut dyn Write) -> io::Result<()> {
    match format {
        Format::Jsonl => writeln!(out, "{value}"),
        _ => writeln!(out, "{value:#}"),
    }
}

/// That something was done: nothing for people who asked for it, `{"schema":"done/1", ...}` for programs.
pub fn done(verb: &str, domid: Option<u32>, format: Format, out: &mut dyn Write) -> io::Result<()> {
    if format == Format::Table {
        return Ok(());
    }
    document(json!({"schema": "done/1", "verb": verb, "domid": domid}), format, out)
}

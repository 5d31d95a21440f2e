//! The same keys in TOML: lists may be tables of keys (`[[disk]]`, `[[vif]]`), and true and false are numbers.

use super::source::{Atom, ConfigError, Setting, Source, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Reads a text.
pub(super) fn parse(source: &Source) -> Result<Vec<Setting>, ConfigError> {
    let table = DeTable::parse(source.text()).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        source.error(at, error.message().to_owned())
    })?;
    let mut settings = Vec::new();
    for (key, value) in entries(source, table.get_ref())? {
        settings.push(Setting { key, value });
    }
    // Tables come in no order of the text; errors and warnings shall.
    settings.sort_by_key(|s| s.key.place.line_column());
    Ok(settings)
}

fn entries(source: &Source, table: &DeTable<'_>) -> Result<Vec<(Atom, Value)>, ConfigError> {
    table
        .iter()
        .map(|(key, value)| {
            let key = Atom { text: key.get_ref().to_string(), place: source.place(key.span().start) };
            Ok((key, convert(source, value)?))
        })
        .collect()
}

fn convert(source: &Source, value: &Spanned<DeValue<'_>>) -> Result<Value, ConfigError> {
    let place = source.place(value.span().start);
    let text = match value.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_err(|_| place.error("this number is too large"))?
            .to_string(),
        DeValue::Boolean(truth) => u8::from(*truth).to_string(),
        DeValue::Array(items) => {
            let items = items.iter().map(|item| convert(source, item)).collect::<Result<_, _>>()?;
            return Ok(Value::List(items, place));
        }
        DeValue::Table(table) => return Ok(Value::Table(entries(source, table)?, place)),
        DeValue::Float(_) | DeValue::Datetime(_) => {
            return Err(place.error("no key takes a value of this kind").hint("write it as a string"));
        }
    };
    Ok(Value::Atom(Atom { text, place }))
}

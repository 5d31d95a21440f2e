//! What a domain shall be: xl's configuration files and the same in TOML, read into a [`DomainConfig`].
//!
//! Text becomes [`Setting`]s ([`xl`] or [`toml_form`]), each with the place it stands at; [`domain`] gives them
//! their meaning. A key that nobody reads is a warning that names the nearest known one.

mod cpus;
mod disk;
pub mod domain;
mod json;
mod keys;
mod lexer;
mod source;
mod toml_form;
mod units;
mod vif;
pub mod xl;

pub use cpus::CpuSet;
pub use disk::{Disk, DiskFormat, device_number};
pub use domain::{Action, Affinity, DomainConfig, TscMode};
pub use json::to_json;
pub use source::{Atom, ConfigError, Place, Setting, Source, Value};
pub use units::{bytes_text, parse_memory};
pub use vif::{Rate, Vif, parse_mac};

/// A configuration, and what is odd about it but no error.
#[derive(Debug)]
pub struct Parsed {
    /// The domain.
    pub config: DomainConfig,
    /// One text a warning, with its place.
    pub warnings: Vec<ConfigError>,
}

/// A word of a command line, whose quotes a shell may have taken: what is no number, list or string is a string.
fn quoted(word: &str) -> String {
    let Some((key, value)) = word.split_once('=') else { return word.to_owned() };
    let as_it_is =
        value.trim_start().starts_with(['"', '\'', '[']) || value.starts_with(|c: char| c.is_ascii_digit());
    if as_it_is {
        return word.to_owned();
    }
    format!("{key}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Reads a file's text: TOML when its name ends in `.toml`, else xl's grammar. `overrides` are further settings in
/// xl's grammar, as they stand on a command line; they come last and win.
pub fn parse(name: &str, text: &str, overrides: &[String]) -> Result<Parsed, ConfigError> {
    let source = Source::new(name, text);
    let mut settings = if name.ends_with(".toml") { toml_form::parse(&source)? } else { xl::parse(&source)? };
    for word in overrides {
        let source = Source::new("command line", &quoted(word));
        xl::parse_into(&source, &mut settings)?;
    }
    domain::interpret(&source, settings)
}

//! `completions` and `help`.

use crate::cli::Cli;
use crate::error::{Error, Kind, Result};
use crate::output::{Format, document};
use clap::{Command, CommandFactory};
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// A completion script.
pub(super) fn completions(shell: clap_complete::Shell, out: &mut dyn Write) -> Result<()> {
    // The generator panics when its writer fails, so it gets one that cannot.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lith", &mut script);
    Ok(out.write_all(&script)?)
}

/// Help about all or one verb, or the manual into a directory.
pub(super) fn help(
    verb: Option<&str>,
    man: Option<&Path>,
    format: Format,
    out: &mut dyn Write,
) -> Result<()> {
    let mut command = Cli::command();
    command.build();
    if let Some(dir) = man {
        return manual(&command, dir);
    }
    if format != Format::Table {
        return Ok(document(list(&command), format, out)?);
    }
    let text = match verb {
        None => command.render_long_help(),
        Some(name) => {
            let found = command.find_subcommand_mut(name);
            found
                .ok_or_else(|| Error::new(Kind::Usage, format!("no verb is called {name}")))?
                .render_long_help()
        }
    };
    Ok(write!(out, "{text}")?)
}

fn manual(command: &Command, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let page = |command: &Command, name: String| -> Result<()> {
        let mut text = Vec::new();
        clap_mangen::Man::new(command.clone().name(name.clone())).render(&mut text)?;
        Ok(std::fs::write(dir.join(format!("{name}.1")), text)?)
    };
    page(command, "lith".to_owned())?;
    for verb in visible(command) {
        page(verb, format!("lith-{}", verb.get_name()))?;
    }
    Ok(())
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|verb| !verb.is_hide_set())
}

/// Every verb with its arguments, for programs that check that documents do not drift.
fn list(command: &Command) -> serde_json::Value {
    let verbs: Vec<_> = visible(command)
        .map(|verb| {
            let about = verb.get_about().map(ToString::to_string);
            let arguments: Vec<_> = verb.get_arguments().map(|a| a.get_id().to_string()).collect();
            json!({"verb": verb.get_name(), "about": about, "arguments": arguments})
        })
        .collect();
    json!({"schema": "help/1", "verbs": verbs})
}

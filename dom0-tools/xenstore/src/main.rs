//! The store's daemon.
#![forbid(unsafe_code)]

use lith_client::os::{self, Inheritance, Signals};
use lith_xenstore::ConnectionId;
use lith_xenstore::daemon::{Daemon, End, Hypervisor, Legacy, Nobody, Options, Xen};
use std::error::Error;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const HELP: &str = "\
usage: lith-xenstored [OPTION]...

Serves the store to the tools of this domain, its kernel and other domains, in the foreground. Killed or told to end,
it goes on where it was when it is started again; SIGHUP starts it again with its connections.

  --socket PATH     where tools connect (/run/xenstored/socket)
  --state PATH      the journal (/run/xenstored/state)
  --no-hypervisor   only tools: no rings
  --help            this text
";

/// What only the daemon tells itself, when it starts itself again.
const LEGACY: &str = "--legacy";

struct Arguments {
    options: Options,
    hypervisor: bool,
    legacy: Legacy,
    /// All of them but the legacy.
    again: Vec<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lith-xenstored: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut inheritance = Inheritance::open();
    let Some(arguments) = parse(std::env::args().skip(1))? else {
        print!("{HELP}");
        return Ok(());
    };
    let signals = Signals::take(&[os::SIGHUP, os::SIGTERM, os::SIGINT])?;
    if arguments.hypervisor {
        serve(&arguments, Xen::open()?, &mut inheritance, signals)
    } else {
        serve(&arguments, Nobody, &mut inheritance, signals)
    }
}

fn serve<H: Hypervisor>(
    arguments: &Arguments,
    hypervisor: H,
    inheritance: &mut Option<Inheritance>,
    signals: Signals,
) -> Result<(), Box<dyn Error>> {
    let mut daemon = Daemon::start(&arguments.options, hypervisor, inheritance, &arguments.legacy)?;
    os::notify_ready();
    loop {
        match daemon.turn(Some(&signals), None)? {
            None => {}
            Some(End::Stop) => return Ok(()),
            Some(End::Restart) => return Err(restart(arguments, daemon)?.into()),
        }
    }
}

/// Starts the program that is now in this one's place; returns only with an error.
fn restart<H: Hypervisor>(arguments: &Arguments, daemon: Daemon<H>) -> std::io::Result<std::io::Error> {
    let program = program()?;
    let legacy = daemon.leave()?;
    let listener = legacy.listener.map(|fd| fd.to_string()).unwrap_or_default();
    let connections = legacy.connections.iter().map(|(id, fd)| format!(":{}={fd}", id.0));
    let legacy = connections.fold(listener, |text, connection| text + &connection);
    os::unblock_signals();
    Ok(Command::new(program).args(&arguments.again).arg(LEGACY).arg(legacy).exec())
}

/// The file that this program was started from, or what took its place.
fn program() -> std::io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Arguments>, Box<dyn Error>> {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut arguments = Arguments {
        options: Options {
            socket: "/run/xenstored/socket".into(),
            state: "/run/xenstored/state".into(),
            boot: boot.trim_ascii().to_vec(),
        },
        hypervisor: true,
        legacy: Legacy::default(),
        again: Vec::new(),
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        match word.as_str() {
            "--help" | "-h" => return Ok(None),
            "--no-hypervisor" => arguments.hypervisor = false,
            LEGACY => {
                arguments.legacy = legacy(&value()?).ok_or("a legacy that makes no sense")?;
                continue;
            }
            "--socket" | "--state" => {
                let path = value()?;
                arguments.again.extend([word.clone(), path.clone()]);
                let field = if word == "--socket" {
                    &mut arguments.options.socket
                } else {
                    &mut arguments.options.state
                };
                *field = path.into();
                continue;
            }
            _ => return Err(format!("unknown option {word}; try --help").into()),
        }
        arguments.again.push(word);
    }
    Ok(Some(arguments))
}

fn legacy(text: &str) -> Option<Legacy> {
    let mut words = text.split(':');
    let listener = words.next().and_then(|word| word.parse().ok());
    let connections = words.map(|word| {
        let (id, fd) = word.split_once('=')?;
        Some((ConnectionId(id.parse().ok()?), fd.parse().ok()?))
    });
    Some(Legacy { listener, connections: connections.collect::<Option<_>>()? })
}

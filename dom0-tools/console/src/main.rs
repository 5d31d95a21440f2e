//! The console daemon.
#![forbid(unsafe_code)]

use lith_client::os::{self, Signals};
use lith_console::daemon::{Daemon, Options};
use lith_console::directory::ByStore;
use lith_console::{history, protocol};
use std::error::Error;
use std::process::ExitCode;

const HELP: &str = "\
usage: lith-consoled [OPTION]...

Keeps what domains write on their consoles, and serves those who attach, in the foreground. Killed, it goes on where it
was when it is started again. SIGHUP: opens its files anew.

  --socket PATH     where to attach (/run/xenolith/console)
  --directory PATH  the files (/var/log/xenolith/console)
  --size BYTES      of each of a domain's two files (1048576)
  --help            this text
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lith-consoled: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let Some(options) = parse(std::env::args().skip(1))? else {
        print!("{HELP}");
        return Ok(());
    };
    let signals = Signals::take(&[os::SIGHUP, os::SIGTERM, os::SIGINT])?;
    let mut daemon = Daemon::start(options, lith_client::Rings::open()?, ByStore::new())?;
    os::notify_ready();
    while daemon.turn(Some(&signals), None)? {}
    Ok(())
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Options>, Box<dyn Error>> {
    let mut options = Options {
        socket: protocol::SOCKET.into(),
        directory: history::DIRECTORY.into(),
        size: history::SIZE,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        match word.as_str() {
            "--help" | "-h" => return Ok(None),
            "--socket" => options.socket = value()?.into(),
            "--directory" => options.directory = value()?.into(),
            "--size" => options.size = value()?.parse()?,
            _ => return Err(format!("unknown option {word}; try --help").into()),
        }
    }
    Ok(Some(options))
}

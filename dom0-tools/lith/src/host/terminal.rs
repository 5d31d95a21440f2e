//! A terminal on a domain's console: through the pseudo-terminal that the console daemon names in the store.

use super::real::{Dom0, flush, system};
use super::{HostError, Result, Store};
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// `^]`, which leaves.
const ESCAPE: u8 = 0x1d;
/// Where the console daemon keeps what domains wrote.
const LOGS: &str = "/var/log/xenolith/console";

/// Copies between this terminal and a domain's console until `^]`, the end of the input, or of the domain.
pub(super) fn attach(host: &Dom0, domid: u32, name: &str) -> Result<()> {
    let tty = wait_tty(host, domid, name)?;
    let _raw = Raw::enter();
    let open =
        |write: bool| File::options().read(!write).write(write).open(&tty).map_err(|e| system(&tty, &e));
    let (mut from, mut to) = (open(false)?, open(true)?);
    // Ends with the process: nobody waits for a guest that says nothing.
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(len @ 1..) = from.read(&mut bytes) {
            if std::io::stdout().write_all(&bytes[..len]).is_err() {
                return;
            }
            flush();
        }
        std::process::exit(0);
    });
    let interactive = std::io::stdin().is_terminal();
    let mut bytes = [0; 256];
    while let Ok(len @ 1..) = std::io::stdin().read(&mut bytes) {
        let end = bytes[..len].iter().position(|b| *b == ESCAPE && interactive);
        to.write_all(&bytes[..end.unwrap_or(len)]).map_err(|e| system(&tty, &e))?;
        if end.is_some() {
            return Ok(());
        }
    }
    Ok(())
}

/// The daemon names the terminal a moment after the domain was introduced.
fn wait_tty(host: &Dom0, domid: u32, name: &str) -> Result<String> {
    for _ in 0..100 {
        let tty = host.read(&format!("/local/domain/{domid}/console/tty"))?;
        if let Some(tty) = tty.filter(|tty| tty.starts_with("/dev/")) {
            return Ok(tty);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(HostError::System(format!("the console of {name} has no terminal: is lith-consoled running?")))
}

/// What a domain wrote.
pub(super) fn log(_domid: Option<u32>, name: &str) -> Result<Vec<u8>> {
    let path = PathBuf::from(format!("{LOGS}/{name}.log"));
    std::fs::read(&path).map_err(|e| system(&path.display().to_string(), &e))
}

/// The terminal without line editing and echo, until this is dropped.
struct Raw {
    before: Option<String>,
}

impl Raw {
    fn enter() -> Raw {
        if !std::io::stdin().is_terminal() {
            return Raw { before: None };
        }
        let before = stty(&["-g"]);
        if before.is_some() {
            stty(&["raw", "-echo"]);
        }
        Raw { before }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            stty(&[before]);
        }
    }
}

fn stty(args: &[&str]) -> Option<String> {
    let output = Command::new("stty").args(args).stdin(Stdio::inherit()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

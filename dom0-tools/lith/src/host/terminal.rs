//! This terminal, or these pipes, on a domain's console: the daemon has the rings, what was written, and who is attached.

use super::{HostError, Result};
use lith_client::os::{Wait, wait};
use lith_console::history::{DIRECTORY, read};
use lith_console::protocol::{Mode, Refused, Request, SOCKET, ask};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// `^]`, which leaves.
const ESCAPE: u8 = 0x1d;
/// Bytes of what was written before that are shown to who attaches.
const HISTORY: u64 = 16 << 10;
/// Bytes of a log at most.
const LOG: u64 = 8 << 20;
/// How long the daemon may take to hear of a new domain.
const TRIES: u32 = 100;
const ENOENT: i32 = 2;
/// How long a pipe's end is followed by what the domain answers.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// And how long at most, of a domain that is never silent.
const AFTERWARDS_AT_MOST: Duration = Duration::from_secs(30);

/// Copies both ways until `^]`, the end of a pipe's input and what is answered to it, or the end of the domain.
pub(super) fn attach(domid: u32, name: &str) -> Result<()> {
    let request = Request { mode: Mode::Attach, who: domid.to_string(), history: HISTORY };
    let mut tries = 0;
    let mut console = loop {
        match ask(Path::new(SOCKET), &request) {
            Err(refused) if refused.is_missing() && tries < TRIES => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            answer => break answer.map_err(|refused| refusal(&refused, name))?,
        }
    };
    let terminal = io::stdin().is_terminal();
    let raw = Raw::enter();
    if terminal {
        eprint!("the console of {name}; ^] leaves it\r\n");
    }
    let copied = copy(&mut console, terminal);
    drop(raw);
    if terminal {
        eprintln!();
    }
    copied.map_err(|e| super::real::system(&format!("the console of {name}"), &e))
}

fn copy(console: &mut lith_console::protocol::Attached, terminal: bool) -> io::Result<()> {
    // What the reader of the answer has taken in already.
    let waiting = console.output.buffer().to_vec();
    show(&waiting)?;
    let mut from = console.output.get_ref();
    // Without a buffer, so that what was not read is still to be waited for.
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    // When the input has ended: how long what is answered is followed.
    let mut end: Option<Instant> = None;
    let mut bytes = [0; 4096];
    loop {
        let (keys, output) = {
            let mut waits = [Wait::new(from.as_fd(), true, false), Wait::new(stdin.as_fd(), true, false)];
            // The end of a pipe is always to be read, so it is not waited for again.
            let waits = if end.is_none() { &mut waits[..] } else { &mut waits[..1] };
            let found = wait(waits, end.map(|_| AFTERWARDS))?;
            if end.is_some_and(|end| found == 0 || Instant::now() >= end) {
                return Ok(());
            }
            (end.is_none() && waits[1].readable(), waits[0].readable())
        };
        if output {
            match from.read(&mut bytes)? {
                0 => return Ok(()),
                len => show(&bytes[..len])?,
            }
        }
        if keys {
            let len = stdin.read(&mut bytes)?;
            let escape = bytes[..len].iter().position(|b| terminal && *b == ESCAPE);
            console.input.write_all(&bytes[..escape.unwrap_or(len)])?;
            if escape.is_some() {
                return Ok(());
            }
            // The daemon takes a closed end for leaving, so it stays open for the answers.
            end = (len == 0).then(|| Instant::now() + AFTERWARDS_AT_MOST);
        }
    }
}

fn show(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

fn refusal(refused: &Refused, name: &str) -> HostError {
    if refused.is_missing() {
        return HostError::errno(format!("the console of {name}"), ENOENT);
    }
    HostError::System(format!("the console of {name}: {refused} (is lith-consoled running?)"))
}

/// What a domain wrote: from the daemon's files, which are there without it.
pub(super) fn log(name: &str) -> Result<Vec<u8>> {
    let log = read(Path::new(DIRECTORY), name, LOG);
    let log = log.map_err(|e| super::real::system(&format!("the console of {name}"), &e))?;
    if log.is_empty() {
        return Err(HostError::errno(format!("the console of {name}"), ENOENT));
    }
    Ok(log)
}

/// The terminal without line editing and echo, until this is dropped.
struct Raw {
    before: Option<String>,
}

impl Raw {
    fn enter() -> Raw {
        if !io::stdin().is_terminal() {
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

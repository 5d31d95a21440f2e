//! The command.
#![forbid(unsafe_code)]

use lith::host::{Dom0, Host};
use lith::verb::{Streams, run};
use std::io::IsTerminal;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Opened once, for as long as the process is.
    let open = || -> lith::error::Result<&dyn Host> { Ok(Box::leak(Box::new(Dom0::open()?))) };
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let terminal = out.is_terminal();
    let mut streams = Streams { out: &mut out, err: &mut err, terminal };
    ExitCode::from(run(std::env::args_os(), &open, &mut streams))
}

//! The programs of dom0, linked statically so that they run in any dom0.

use crate::{paths, sh};
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Packages and the program that each makes. A package that is a library so far makes none.
const TOOLS: &[(&str, &str)] =
    &[("lith", "lith"), ("lith-xenstore", "lith-xenstored"), ("lith-console", "lith-consoled")];
const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "tools";

/// Builds the programs and returns their files; once a process, however many threads ask.
pub fn build() -> Result<Vec<PathBuf>> {
    static BUILT: Mutex<Option<Vec<PathBuf>>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(files) = &*built {
        return Ok(files.clone());
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(paths::repo())
        // With a target of its own, so that the flag is not one of macros and build scripts.
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .args(["build", "--quiet", "--profile", PROFILE, "--target", TARGET]);
    for (package, _) in TOOLS {
        command.args(["-p", package]);
    }
    sh::visible(&mut command)?;
    let dir = paths::target().join(TARGET).join(PROFILE);
    let files: Vec<_> = TOOLS.iter().map(|(_, program)| dir.join(program)).filter(|f| f.exists()).collect();
    *built = Some(files.clone());
    Ok(files)
}

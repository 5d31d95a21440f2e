//! `setup`: installs what the other verbs need.

use crate::{paths, sh};
use anyhow::{Result, ensure};
use std::process::Command;

/// The verb.
pub fn run(args: &[String]) -> Result<()> {
    ensure!(args.is_empty(), "`setup` takes no arguments");
    // A script, because it must be able to install the linker that xtask itself is built with.
    sh::visible(&mut Command::new(paths::repo().join("scripts/setup.sh")))
}

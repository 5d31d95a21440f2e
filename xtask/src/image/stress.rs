//! Debian's `stress-ng`.

use super::apt::Suite;
use super::debs;
use anyhow::Result;
use std::path::PathBuf;

/// The package, and those of its libraries that are not on every Debian.
const PACKAGES: &[&str] = &[
    "stress-ng",
    "libapparmor1",
    "libbsd0",
    "libdrm2",
    "libegl1",
    "libexpat1",
    "libffi8",
    "libgbm1",
    "libgles2",
    "libglvnd0",
    "libipsec-mb1",
    "libjpeg62-turbo",
    "libjudydebian1",
    "libkmod2",
    "libmd0",
    "libsctp1",
    "libssl3",
    "libwayland-server0",
    "libxxhash0",
];

/// Runs it, where [`programs`] are: its arguments follow.
pub const RUN: &str = "/exec/bin/ld-linux-x86-64.so.2 --library-path /exec/bin /exec/bin/stress-ng";

/// The program and all it needs, for the list of a machine's programs.
pub fn programs() -> Result<Vec<PathBuf>> {
    let root = debs::unpacked(Suite::Bookworm, "stress", PACKAGES)?;
    let program = root.join("usr/bin/stress-ng");
    let mut files: Vec<_> = debs::needed(&program, &root)?.into_values().collect();
    files.push(program);
    Ok(files)
}

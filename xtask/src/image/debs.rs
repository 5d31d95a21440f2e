//! Programs of Debian's packages with the libraries they need, taken out of the packages without installing them.

use super::apt::{self, Apt, Suite};
use super::key::Key;
use crate::{paths, sh};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where packages have their libraries.
pub const LIBRARY_DIR: &str = "usr/lib/x86_64-linux-gnu";

/// A directory of the cache with these packages unpacked over each other; `name` tells it from others'.
pub fn unpacked(suite: Suite, name: &str, packages: &[&str]) -> Result<PathBuf> {
    let _lock = paths::lock_cache()?;
    let apt = Apt::open(suite)?;
    let debs: Vec<_> = packages.iter().map(|package| apt.fetch(package)).collect::<Result<_>>()?;
    let dir = paths::cache()?.join("debs").join(format!("{name}-{}", Key::new().with(&debs)));
    if !dir.exists() {
        let scratch = dir.with_extension(format!("unpacking.{}", std::process::id()));
        for deb in &debs {
            apt::unpack(deb, &scratch)?;
        }
        std::fs::rename(&scratch, &dir)?;
    }
    Ok(dir)
}

/// The libraries that a program needs, by name, as the dynamic linker finds them: the packages' first, then those of this
/// machine, a Debian 12.
pub fn needed(program: &Path, root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let libraries = root.join(LIBRARY_DIR);
    let text = sh::text(Command::new("ldd").arg(program).env("LD_LIBRARY_PATH", libraries))?;
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let path = match words[..] {
            [name, "=>", "not", "found"] => bail!("{} needs {name}, which is not there", program.display()),
            [_, "=>", path, ..] => path,
            [path, ..] if path.starts_with('/') => path,
            _ => continue,
        };
        let name = Path::new(path).file_name().and_then(|name| name.to_str());
        found.insert(name.context("a library has a name")?.to_owned(), PathBuf::from(path));
    }
    found.first_key_value().with_context(|| format!("{} needs no library", program.display()))?;
    Ok(found)
}

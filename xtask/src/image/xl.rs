//! Debian's tools for Debian's Xen in an initramfs: what `lith` is compared with.

use super::apt::{self, Apt, Suite};
use super::cpio::Archive;
use super::key::Key;
use crate::{paths, sh};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const START: &str = include_str!("xl.sh");
/// Packages that hold the programs and the libraries which a Debian without Xen lacks.
const PACKAGES: &[&str] = &[
    "xen-utils-4.17",
    "libxenmisc4.17",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
    "libyajl2",
    "libnl-route-3-200",
    "libnl-3-200",
];
const PROGRAMS: &[&str] = &["xl", "xenstored", "xenconsoled", "xen-init-dom0"];
const PROGRAM_DIR: &str = "usr/lib/xen-4.17/bin";
const LIBRARY_DIR: &str = "usr/lib/x86_64-linux-gnu";

/// What goes into dom0's initramfs beside its base. The C library and its like are those of this machine, a Debian 12.
pub fn dom0() -> Result<Vec<u8>> {
    let root = unpacked()?;
    let mut archive = Archive::new();
    for dir in ["usr", "usr/lib", "usr/lib/xen-4.17", PROGRAM_DIR, LIBRARY_DIR, "usr/sbin", "lib64", "etc"] {
        archive.dir(dir);
    }
    for dir in
        ["etc/xen", "etc/xenolith", "var", "var/lib", "var/lib/xen", "var/lock", "var/log", "var/log/xen"]
    {
        archive.dir(dir);
    }
    archive.link("var/run", "../run");
    let mut libraries = BTreeMap::new();
    for name in PROGRAMS {
        let program = root.join(PROGRAM_DIR).join(name);
        libraries.extend(needed(&program, &root.join(LIBRARY_DIR))?);
        archive.file(&format!("{PROGRAM_DIR}/{name}"), 0o755, &sh::read(&program)?);
        archive.link(&format!("usr/sbin/{name}"), &format!("/{PROGRAM_DIR}/{name}"));
    }
    // Asked for by the C library only when a thread ends early.
    libraries.insert("libgcc_s.so.1".to_owned(), PathBuf::from("/lib/x86_64-linux-gnu/libgcc_s.so.1"));
    for (name, file) in libraries {
        let dir = if name.starts_with("ld-") { "lib64" } else { LIBRARY_DIR };
        archive.file(&format!("{dir}/{name}"), 0o755, &sh::read(&file)?);
    }
    // dom0's memory is set at boot on both sides.
    archive.file("etc/xen/xl.conf", 0o644, b"autoballoon=\"off\"\n");
    archive.file("etc/xenolith/start", 0o755, START.as_bytes());
    Ok(archive.finish())
}

fn unpacked() -> Result<PathBuf> {
    let _lock = paths::lock_cache()?;
    let apt = Apt::open(Suite::Bookworm)?;
    let debs: Vec<_> = PACKAGES.iter().map(|package| apt.fetch(package)).collect::<Result<_>>()?;
    let dir = paths::cache()?.join("xen").join(format!("tools-{}", Key::new().with(&debs)));
    if !dir.exists() {
        let scratch = dir.with_extension(format!("unpacking.{}", std::process::id()));
        for deb in &debs {
            apt::unpack(deb, &scratch)?;
        }
        std::fs::rename(&scratch, &dir)?;
    }
    Ok(dir)
}

/// The libraries that a program needs, by name, as the dynamic linker finds them.
fn needed(program: &Path, libraries: &Path) -> Result<Vec<(String, PathBuf)>> {
    let text = sh::text(Command::new("ldd").arg(program).env("LD_LIBRARY_PATH", libraries))?;
    let file = |line: &str| {
        let mut words = line.split_whitespace();
        let path = match (words.next()?, words.next(), words.next()) {
            (_, Some("=>"), Some(path)) => path,
            (path, ..) if path.starts_with('/') => path,
            _ => return None,
        };
        let name = Path::new(path).file_name()?.to_str()?.to_owned();
        Some((name, PathBuf::from(path)))
    };
    let found: Vec<_> = text.lines().filter_map(file).collect();
    found.first().with_context(|| format!("{} needs no library", program.display()))?;
    Ok(found)
}

//! A Debian 12 root file system on a disk: what a person would install, without the kernel (it comes from the
//! boot disk, its modules from the initramfs).

use super::apt;
use super::key::Key;
use crate::{paths, sh};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The file system's label: the kernel's `root=LABEL=...`.
pub const LABEL: &str = "xenolith-root";
const PACKAGES: &str =
    "systemd-sysv,udev,dbus,kmod,iproute2,iputils-ping,e2fsprogs,procps,login,libpam-systemd";
const SETUP: &str = include_str!("rootdisk.sh");
const SIZE: &str = "2G";

/// The disk image, built by debootstrap when the cache has none. Needs root, through `sudo`.
pub fn debian() -> Result<PathBuf> {
    let key = Key::new().with(PACKAGES).with(SETUP).with(SIZE);
    let file = paths::cache()?.join("root").join(format!("bookworm-{key}.img"));
    let _lock = paths::lock_cache()?;
    if file.exists() {
        return Ok(file);
    }
    eprintln!("building a Debian 12 root disk (once; a few minutes)");
    let dir = file.parent().context("a cache directory")?;
    std::fs::create_dir_all(dir)?;
    let script = dir.join(format!("setup.{}", std::process::id()));
    let partial = dir.join(format!("partial.{}.img", std::process::id()));
    std::fs::write(&script, SETUP)?;
    let built = bootstrap(&script, &partial);
    std::fs::remove_file(&script)?;
    built?;
    std::fs::rename(&partial, &file)?;
    Ok(file)
}

fn bootstrap(script: &Path, image: &Path) -> Result<()> {
    let (script, image) = (script.to_string_lossy(), image.to_string_lossy());
    let words = ["sh", "-eu", &*script, &*image, LABEL, SIZE, PACKAGES, &apt::mirror()];
    sh::quiet(&mut sh::as_root(&words)?).context("cannot build the root disk")?;
    let owner = sh::text(Command::new("id").arg("-u"))?;
    sh::quiet(&mut sh::as_root(&["chown", &owner, &*image])?)
}

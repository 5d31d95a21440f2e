//! What dom0 has for its first domains: the programs, a kernel and an initramfs for guests, configurations.

use super::cpio::Archive;
use super::initramfs::{self, BUSYBOX};
use super::key::Key;
use super::{kernel::Kernel, rootdisk};
use crate::{paths, sh, tools};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

const START: &str = concat!(include_str!("backends.sh"), "\n", include_str!("domains.sh"));
const GUEST_INIT: &str = include_str!("guest.sh");
const DEMO: &str = include_str!("demo.cfg");
const TINY: &str = include_str!("tiny.cfg");
/// Modules of a guest, dependencies apart.
const MODULES: &[&str] =
    &["xen-blkfront", "xen-netfront", "ext4", "crc32c_generic", "crc32c-intel", "af_packet"];

/// A change of this file that changes a guest's initramfs must change this number.
const LAYOUT: u32 = 2;

/// The serial number of the disk that the demo domain gets, by which dom0 finds it.
pub const DISK_SERIAL: &str = "demo";

/// What goes into dom0's initramfs beside its base.
pub fn dom0(kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for dir in
        ["usr", "usr/sbin", "etc", "etc/xenolith", "root", "boot", "var", "var/log", "var/log/xenolith"]
    {
        archive.dir(dir);
    }
    for file in tools::build()? {
        let name = file.file_name().context("a program has a name")?.to_string_lossy();
        archive.file(&format!("usr/sbin/{name}"), 0o755, &sh::read(&file)?);
    }
    archive.file("etc/xenolith/start", 0o755, START.as_bytes());
    archive.dir("etc/xenolith/units");
    let units = std::fs::read_dir(paths::repo().join("dom0-tools/systemd"))?;
    let mut units: Vec<_> = units.map(|unit| Ok(unit?.path())).collect::<Result<_>>()?;
    units.sort();
    for unit in units {
        let name = unit.file_name().context("a unit has a name")?.to_string_lossy();
        archive.file(&format!("etc/xenolith/units/{name}"), 0o644, &sh::read(&unit)?);
    }
    archive.file("root/demo.cfg", 0o644, DEMO.as_bytes());
    archive.file("root/tiny.cfg", 0o644, TINY.as_bytes());
    archive.file("boot/vmlinuz", 0o644, &sh::read(&kernel.vmlinuz)?);
    archive.file("boot/guest.img", 0o644, &sh::read(&initrd(kernel)?)?);
    Ok(archive.finish())
}

/// A guest's initramfs: busybox, the frontends, ext4, and an init that goes on to a root disk if there is one.
pub fn initrd(kernel: &Kernel) -> Result<PathBuf> {
    let busybox = sh::read(Path::new(BUSYBOX))?;
    let key = Key::new().with(&GUEST_INIT).with(&kernel.id).with(&busybox).with(MODULES).with(&LAYOUT);
    let file = paths::cache()?.join("initramfs").join(format!("guest-{}-{key}.cpio.gz", kernel.id));
    let _lock = paths::lock_cache()?;
    if !file.exists() {
        let scratch = file.with_extension(format!("making.{}", std::process::id()));
        sh::write(&scratch, &pack(kernel, &busybox)?)?;
        let packed = sh::output(Command::new("gzip").args(["-9", "-n", "-c"]).arg(&scratch));
        std::fs::remove_file(&scratch)?;
        sh::write(&file, &packed?)?;
    }
    Ok(file)
}

fn pack(kernel: &Kernel, busybox: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    initramfs::userland(&mut archive, busybox)?;
    archive.file("init", 0o755, GUEST_INIT.as_bytes());
    // What the kernel calls when dom0 asks the guest to go: its first process is a shell, which would not hear of it.
    for word in ["poweroff", "reboot"] {
        let script = format!("#!/bin/sh\nsync\nexec /bin/busybox {word} -f\n");
        archive.file(&format!("sbin/{word}"), 0o755, script.as_bytes());
    }
    kernel.modules(&mut archive, MODULES)?;
    Ok(archive.finish())
}

/// A Debian on a disk for a guest: dom0's own with another name and address.
pub fn disk() -> Result<PathBuf> {
    let base = rootdisk::debian()?;
    let key = Key::new().with(&base).with(EDITS);
    let file = paths::cache()?.join("root").join(format!("guest-{key}.img"));
    let _lock = paths::lock_cache()?;
    if !file.exists() {
        let scratch = file.with_extension(format!("making.{}", std::process::id()));
        sh::quiet(Command::new("cp").arg("--sparse=always").arg(&base).arg(&scratch))?;
        for (path, content) in EDITS {
            replace(&scratch, path, content)?;
        }
        std::fs::rename(&scratch, &file)?;
    }
    Ok(file)
}

/// Files that differ: a name, an address beside dom0's on the same bridge.
const EDITS: &[(&str, &str)] = &[
    ("/etc/hostname", "demo\n"),
    ("/etc/hosts", "127.0.0.1\tlocalhost demo\n"),
    (
        "/etc/systemd/network/50-lan.network",
        "[Match]\nType=ether\n[Network]\nAddress=10.0.2.16/24\nGateway=10.0.2.2\nLinkLocalAddressing=no\n",
    ),
];

/// Replaces a file on an ext4 image that is not mounted.
fn replace(image: &Path, path: &str, content: &str) -> Result<()> {
    let file = image.with_extension("part");
    std::fs::write(&file, content)?;
    let source = file.display().to_string();
    ensure!(!source.contains(' '), "debugfs takes no name with a blank: {source}");
    let ask = |request: &str| {
        sh::quiet(Command::new("/sbin/debugfs").args(["-w", "-R", request]).arg(image))
            .with_context(|| format!("debugfs: {request}"))
    };
    ask(&format!("rm {path}"))?;
    ask(&format!("write {source} {path}"))?;
    Ok(std::fs::remove_file(&file)?)
}

//! dom0's initramfs: busybox, a few modules and one script.

use super::cpio::Archive;
use super::kernel::Kernel;
use super::key::Key;
use crate::{paths, sh};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program that is most of an initramfs.
pub const BUSYBOX: &str = "/bin/busybox";
const INIT: &str = include_str!("init.sh");
const EXEC: &str = include_str!("exec.sh");
/// A change of this file that changes the archive must change this number.
const LAYOUT: u32 = 1;

/// The initramfs for a kernel, from the cache when nothing it is made of changed.
pub fn base(kernel: &Kernel) -> Result<PathBuf> {
    let busybox = sh::read(Path::new(BUSYBOX))?;
    let key = Key::new().with(&LAYOUT).with(&INIT).with(&kernel.id).with(&busybox);
    let file = paths::cache()?.join("initramfs").join(format!("{}-{key}.cpio", kernel.id));
    let _lock = paths::lock_cache()?;
    if !file.exists() {
        sh::write(&file, &pack(kernel, &busybox)?)?;
    }
    Ok(file)
}

fn pack(kernel: &Kernel, busybox: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    userland(&mut archive, busybox)?;
    archive.file("init", 0o755, INIT.as_bytes());
    tree(&mut archive, &kernel.root, "lib")?;
    Ok(archive.finish())
}

/// Directories, busybox and what it needs in `etc`.
pub fn userland(archive: &mut Archive, busybox: &[u8]) -> Result<()> {
    for dir in
        ["bin", "sbin", "dev", "proc", "sys", "run", "tmp", "etc", "root", "newroot", "mnt", "usr", "usr/bin"]
    {
        archive.dir(dir);
    }
    archive.device("dev/console", 5, 1);
    archive.device("dev/null", 1, 3);
    archive.file("bin/busybox", 0o755, busybox);
    for applet in sh::text(Command::new(BUSYBOX).arg("--list"))?.lines().filter(|name| *name != "busybox") {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    archive.link("sbin/modprobe", "../bin/busybox");
    archive.file("etc/passwd", 0o644, b"root::0:0:root:/root:/bin/sh\n");
    archive.file("etc/group", 0o644, b"root:x:0:\n");
    archive.file("etc/resolv.conf", 0o644, b"nameserver 10.0.2.3\n");
    Ok(())
}

/// Adds a directory with all below it, in the order of the names.
pub fn tree(archive: &mut Archive, root: &Path, name: &str) -> Result<()> {
    archive.dir(name);
    let dir = root.join(name);
    let mut entries: Vec<_> = std::fs::read_dir(&dir)
        .with_context(|| format!("cannot list {}", dir.display()))?
        .collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            tree(archive, root, &name)?;
        } else {
            archive.file(&name, 0o644, &sh::read(&entry.path())?);
        }
    }
    Ok(())
}

/// What one run adds behind the base: a command to execute, programs it may use, padding.
pub fn extra(command: Option<&str>, programs: &[PathBuf], padding: usize) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.dir("exec");
    archive.dir("exec/bin");
    if let Some(command) = command {
        archive.file("exec/command", 0o755, format!("{command}\n").as_bytes());
        archive.file("exec/run", 0o755, EXEC.as_bytes());
    }
    for program in programs {
        let name = program.file_name().context("a program has a name")?.to_string_lossy();
        archive.file(&format!("exec/bin/{name}"), 0o755, &sh::read(program)?);
    }
    if padding > 0 {
        archive.file("padding", 0o644, &noise(padding));
    }
    Ok(archive.finish())
}

/// Bytes that differ from page to page, so that a page that went astray shows.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The padding's check sum as `md5sum` prints it.
pub fn padding_md5(len: usize) -> Result<String> {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("a pipe")?.write_all(&noise(len))?;
    let out = child.wait_with_output()?;
    let text = String::from_utf8(out.stdout)?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

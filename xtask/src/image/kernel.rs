//! Debian's kernels, unmodified, and those of their modules that a machine in QEMU needs.

use super::apt::{self, Apt, Suite};
use super::cpio::Archive;
use crate::{paths, sh};
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What goes into the initramfs, dependencies apart.
const MODULES: &[&str] = &[
    // buses, disks, file systems
    "virtio_pci",
    "virtio_blk",
    "ahci",
    "ata_piix",
    "sd_mod",
    "nvme",
    "ext4",
    "crc32c_generic",
    "crc32c-intel",
    "vfat",
    "autofs4",
    "configfs",
    "efivarfs",
    "nls_ascii",
    "nls_cp437",
    "loop",
    // network
    "virtio_net",
    "e1000",
    "e1000e",
    "bridge",
    "tun",
    "af_packet",
    // Xen's devices
    "xenfs",
    "xen-privcmd",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-blkback",
    "xen-netback",
    "xen-blkfront",
    "xen-netfront",
    "xen-acpi-processor",
];
/// A change of what is kept from a package must change this number.
const LAYOUT: u32 = 4;

/// A kernel that can be dom0, or run bare.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// A name for the cache: package and version.
    pub id: String,
    /// The bzImage as packaged.
    pub vmlinuz: PathBuf,
    /// A directory with `lib/modules/RELEASE` in it.
    pub root: PathBuf,
}

impl Kernel {
    /// Adds some of the kernel's modules to an archive, with all that they need.
    pub fn modules(&self, archive: &mut Archive, wanted: &[&str]) -> Result<()> {
        let all = self.root.join("lib/modules");
        let dir = only_entry(&all)?;
        let release = dir.file_name().context("a release")?.to_string_lossy().into_owned();
        let mut files = closure(&sh::read(&dir.join("modules.dep"))?, wanted)?;
        for list in
            sh::text(Command::new("ls").arg(&dir))?.lines().filter(|name| name.starts_with("modules."))
        {
            files.insert(list.to_owned());
        }
        let mut dirs = BTreeSet::from(["lib".to_owned(), "lib/modules".to_owned()]);
        for file in &files {
            let name = format!("lib/modules/{release}/{file}");
            dirs.extend(name.match_indices('/').map(|(at, _)| name[..at].to_owned()));
        }
        for dir in &dirs {
            archive.dir(dir);
        }
        for file in &files {
            archive.file(&format!("lib/modules/{release}/{file}"), 0o644, &sh::read(&dir.join(file))?);
        }
        Ok(())
    }

    /// One of its modules, as a file that the kernel loads.
    pub fn module(&self, name: &str) -> Result<Vec<u8>> {
        let modules = only_entry(&self.root.join("lib/modules"))?;
        let files = closure(&sh::read(&modules.join("modules.dep"))?, &[name])?;
        let file = files.iter().find(|file| file.contains(name)).context("the kernel has no such module")?;
        sh::read(&modules.join(file))
    }
}

/// Debian 12's 6.1 or Debian 13's 6.12.
pub fn debian(suite: Suite) -> Result<Kernel> {
    let _lock = paths::lock_cache()?;
    let apt = Apt::open(suite)?;
    let package = apt.dependency("linux-image-amd64", "linux-image-")?;
    let deb = apt.fetch(&package)?;
    let stem = deb.file_stem().context("a package file has a name")?.to_string_lossy().into_owned();
    let id = format!("{stem}-{LAYOUT}");
    let root = paths::cache()?.join("kernels").join(&id);
    let kernel = Kernel { id, vmlinuz: root.join("vmlinuz"), root };
    if !kernel.vmlinuz.exists() {
        unpack(&deb, &kernel).with_context(|| format!("cannot unpack {package}"))?;
    }
    Ok(kernel)
}

fn unpack(deb: &Path, kernel: &Kernel) -> Result<()> {
    eprintln!("unpacking {}", kernel.id);
    let scratch = kernel.root.with_extension(format!("unpacking.{}", std::process::id()));
    apt::unpack(deb, &scratch.join("all"))?;
    let all = usr_merged(&scratch.join("all"));
    let modules = only_entry(&all.join("lib/modules"))?;
    let release = modules.file_name().context("a release")?.to_string_lossy().into_owned();
    sh::quiet(Command::new("depmod").arg("-b").arg(&all).arg(&release))?;
    let kept = scratch.join("kept");
    let kept_modules = kept.join("lib/modules").join(&release);
    for file in closure(&sh::read(&modules.join("modules.dep"))?, MODULES)? {
        let to = kept_modules.join(&file);
        std::fs::create_dir_all(to.parent().context("a module is in a directory")?)?;
        std::fs::copy(modules.join(&file), &to)?;
        if file.ends_with(".xz") {
            sh::quiet(Command::new("xz").arg("-d").arg(&to))?;
        }
    }
    for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        std::fs::copy(modules.join(list), kept_modules.join(list))?;
    }
    sh::quiet(Command::new("depmod").arg("-b").arg(&kept).arg(&release))?;
    let vmlinuz = scratch.join("all/boot").join(format!("vmlinuz-{release}"));
    std::fs::copy(&vmlinuz, kept.join("vmlinuz"))?;
    let _ = std::fs::remove_dir_all(&kernel.root);
    std::fs::rename(&kept, &kernel.root)?;
    Ok(std::fs::remove_dir_all(&scratch)?)
}

/// Debian 13 packages files under `usr/lib`, Debian 12 under `lib`.
fn usr_merged(root: &Path) -> PathBuf {
    let usr = root.join("usr");
    if usr.join("lib/modules").is_dir() { usr } else { root.to_owned() }
}

fn only_entry(dir: &Path) -> Result<PathBuf> {
    let entries: Vec<_> = std::fs::read_dir(dir)
        .with_context(|| format!("cannot list {}", dir.display()))?
        .collect::<Result<_, _>>()?;
    ensure!(entries.len() == 1, "{} has {} entries instead of one", dir.display(), entries.len());
    Ok(entries[0].path())
}

/// The files of the wanted modules and of all they depend on, from `modules.dep`. A name that is not there is
/// built in.
fn closure(dep: &[u8], wanted: &[&str]) -> Result<BTreeSet<String>> {
    let dep = std::str::from_utf8(dep)?;
    let mut lines = BTreeMap::new();
    for (file, needs) in dep.lines().filter_map(|line| line.split_once(':')) {
        let name = file.rsplit('/').next().unwrap_or(file).split('.').next().unwrap_or(file);
        lines.insert(name.replace('-', "_"), (file, needs));
    }
    let mut files = BTreeSet::new();
    for (file, needs) in wanted.iter().filter_map(|name| lines.get(&name.replace('-', "_"))) {
        files.insert((*file).to_owned());
        files.extend(needs.split_whitespace().map(str::to_owned));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_brings_what_it_needs() {
        let dep =
            b"kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/jbd2/jbd2.ko\nkernel/lib/crc16.ko:\n\
                    kernel/drivers/xen/xen-evtchn.ko.xz:\nkernel/fs/btrfs.ko:\n";
        let files = closure(dep, &["ext4", "xen_evtchn", "builtin"]).unwrap();
        let files: Vec<_> = files.iter().map(String::as_str).collect();
        assert_eq!(
            files,
            [
                "kernel/drivers/xen/xen-evtchn.ko.xz",
                "kernel/fs/ext4/ext4.ko",
                "kernel/fs/jbd2/jbd2.ko",
                "kernel/lib/crc16.ko"
            ]
        );
    }
}

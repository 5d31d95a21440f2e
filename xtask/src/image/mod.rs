//! What a machine is made of: Debian's kernels, initramfs, root disk, boot disk. All but the boot disk, which
//! is made anew for each run, is kept in the user's cache under a key of what it was made from.

pub mod apt;
pub mod bootdisk;
pub mod cpio;
pub mod debs;
pub mod guest;
pub mod initramfs;
pub mod kernel;
mod key;
pub mod rootdisk;
pub mod stress;
pub mod xl;

use crate::{paths, sh};
use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;

/// Debian 12's Xen, as packaged.
pub fn xen() -> Result<PathBuf> {
    let _lock = paths::lock_cache()?;
    let deb = apt::Apt::open(apt::Suite::Bookworm)?.fetch("xen-hypervisor-4.17-amd64")?;
    let stem = deb.file_stem().context("a package file has a name")?;
    let dir = paths::cache()?.join("xen").join(stem);
    let image = dir.join("xen-4.17-amd64.gz");
    if !image.exists() {
        let scratch = dir.with_extension(format!("unpacking.{}", std::process::id()));
        apt::unpack(&deb, &scratch)?;
        sh::write(&image, &sh::read(&scratch.join("boot/xen-4.17-amd64.gz"))?)?;
        std::fs::remove_dir_all(&scratch)?;
    }
    Ok(image)
}

/// The verb: builds everything that can be cached.
pub fn run(args: &[String]) -> Result<()> {
    ensure!(args.len() <= 1, "`image` takes at most the name of one thing: kernels, xen, root");
    let wanted = args.first().map(String::as_str);
    let is = |name: &str| wanted.is_none_or(|w| w == name);
    if !["kernels", "xen", "root"].iter().any(|name| is(name)) {
        bail!("no image is called {}; there are kernels, xen, root", args[0]);
    }
    if is("kernels") {
        for suite in [apt::Suite::Bookworm, apt::Suite::Trixie] {
            let kernel = kernel::debian(suite)?;
            println!("{}\n{}", kernel.vmlinuz.display(), initramfs::base(&kernel)?.display());
        }
    }
    if is("xen") {
        println!("{}", xen()?.display());
    }
    if is("root") {
        println!("{}", rootdisk::debian()?.display());
    }
    Ok(())
}

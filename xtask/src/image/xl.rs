//! Debian's tools for Debian's Xen in an initramfs: what `lith` is compared with.

use super::apt::Suite;
use super::cpio::Archive;
use super::debs::{self, LIBRARY_DIR};
use crate::sh;
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::PathBuf;

const START: &str = concat!(include_str!("backends.sh"), "\n", include_str!("xl.sh"));
/// Does what its name says, among those that the tools call.
const HOTPLUG: &str = include_str!("xl-hotplug.sh");
const HOTPLUG_NAMES: &[&str] = &["block", "vif-bridge"];
/// Packages that hold the programs and the libraries which a Debian without Xen lacks.
const PACKAGES: &[&str] = &[
    "xen-utils-4.17",
    "xenstore-utils",
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
/// Of the store's package, in the usual place.
const STORE_PROGRAMS: &[&str] = &["xenstore-read", "xenstore-write"];
const PROGRAM_DIR: &str = "usr/lib/xen-4.17/bin";

/// What goes into dom0's initramfs beside its base.
pub fn dom0() -> Result<Vec<u8>> {
    let root = debs::unpacked(Suite::Bookworm, "tools", PACKAGES)?;
    let mut archive = Archive::new();
    for dir in ["usr", "usr/lib", "usr/lib/xen-4.17", PROGRAM_DIR, LIBRARY_DIR, "usr/sbin", "lib64", "etc"] {
        archive.dir(dir);
    }
    for dir in ["etc/xen", "etc/xen/scripts", "etc/xenolith", "var", "var/lib", "var/lib/xen", "var/lock"] {
        archive.dir(dir);
    }
    for dir in ["var/log", "var/log/xen", "var/log/xen/console"] {
        archive.dir(dir);
    }
    archive.link("var/run", "../run");
    let mut libraries = BTreeMap::new();
    for name in PROGRAMS {
        let program = root.join(PROGRAM_DIR).join(name);
        libraries.extend(debs::needed(&program, &root)?);
        archive.file(&format!("{PROGRAM_DIR}/{name}"), 0o755, &sh::read(&program)?);
        archive.link(&format!("usr/sbin/{name}"), &format!("/{PROGRAM_DIR}/{name}"));
    }
    for name in STORE_PROGRAMS {
        let program = root.join("usr/bin").join(name);
        libraries.extend(debs::needed(&program, &root)?);
        archive.file(&format!("usr/bin/{name}"), 0o755, &sh::read(&program)?);
    }
    // Asked for by the C library only when a thread ends early.
    libraries.insert("libgcc_s.so.1".to_owned(), PathBuf::from("/lib/x86_64-linux-gnu/libgcc_s.so.1"));
    for (name, file) in libraries {
        let dir = if name.starts_with("ld-") { "lib64" } else { LIBRARY_DIR };
        archive.file(&format!("{dir}/{name}"), 0o755, &sh::read(&file)?);
    }
    // dom0's memory is set at boot on both sides.
    archive.file("etc/xen/xl.conf", 0o644, b"autoballoon=\"off\"\n");
    for name in HOTPLUG_NAMES {
        archive.file(&format!("etc/xen/scripts/{name}"), 0o755, HOTPLUG.as_bytes());
    }
    archive.file("etc/xenolith/start", 0o755, START.as_bytes());
    Ok(archive.finish())
}

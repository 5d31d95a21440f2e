//! Where things are: the repository, its build output and the user's cache.

use anyhow::{Context, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The repository's root.
pub fn repo() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Cargo's output directory.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo().join("target"), |dir| repo().join(dir))
}

/// The directory that holds the bootable hypervisor and the files of running machines.
pub fn out() -> PathBuf {
    target().join("xenolith")
}

/// The user's cache of downloaded packages and of images built from them.
pub fn cache() -> Result<PathBuf> {
    let dir = match std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        Some(base) => PathBuf::from(base).join("xenolith"),
        None => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache/xenolith"),
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// Waits until nobody else fills the cache, in this process or another; the cache is free again when the file is
/// dropped.
pub fn lock_cache() -> Result<File> {
    let path = cache()?.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

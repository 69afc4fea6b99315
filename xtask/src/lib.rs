//! What the developer verbs share with `netplane/build.rs`, `bench/build.rs` and the tests: finding a toolchain
//! for BPF and building the packet programs with it, and the container image.

pub mod bpf;
pub mod image;
pub mod process;
pub mod toolchain;

use anyhow::{Result, bail};
use std::env;
use std::path::{Path, PathBuf};

/// The top folder of this workspace.
#[must_use]
pub fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Where Cargo puts what it builds for this workspace.
#[must_use]
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => root().join(dir),
        _ => root().join("target"),
    }
}

/// `$XDG_CACHE_HOME/netplane`: what the set-up fetches and makes, one for all checkouts of a user.
///
/// # Errors
/// Neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache_dir() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // The specification of XDG_CACHE_HOME: relative paths are invalid.
    let cache = set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    match cache.or_else(|| set("HOME").map(|home| home.join(".cache"))) {
        Some(cache) => Ok(cache.join("netplane")),
        None => bail!("HOME is not set, so there is no place for what the set-up makes"),
    }
}

//! What the developer verbs share with `netplane/build.rs`, `bench/build.rs` and the tests: finding a toolchain
//! for BPF and building the packet programs with it, and the container image.

pub mod bpf;
pub mod image;
pub mod process;
pub mod toolchain;

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
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => root().join(dir),
        _ => root().join("target"),
    }
}

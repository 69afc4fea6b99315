//! Who runs us. Building needs no privilege; packages, namespaces and BPF programs do.

use anyhow::{Result, bail};
use std::os::unix::fs::MetadataExt;

/// Whether we may do everything on this machine.
pub(crate) fn is_root() -> bool {
    // The owner of this folder is the effective user of this process.
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// # Errors
/// Somebody else than root runs us.
pub(crate) fn require_root(verb: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!(
        "`cargo xtask {verb}` needs root: it makes network namespaces, mounts a BPF file system in them and \
         loads XDP programs; all of that is removed afterwards\n\
         remedy: sudo --preserve-env=HOME,CARGO_HOME,RUSTUP_HOME env \"PATH=$PATH\" cargo xtask {verb}"
    );
}

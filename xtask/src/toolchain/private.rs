//! The toolchain in a folder of netplane's own: where its parts are, and whether they work. `cargo xtask
//! setup` makes it.

use super::{TARGET, Toolchain};
use crate::process::read;
use anyhow::{Result, bail};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's packages unpacked (`root/`) and the linker built against their LLVM (`bpf-linker/`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateFolder(PathBuf);

impl PrivateFolder {
    /// `bpf-toolchain` in [`crate::cache_dir`].
    ///
    /// # Errors
    /// There is no cache folder.
    pub fn default_place() -> Result<Self> {
        Ok(Self(crate::cache_dir()?.join("bpf-toolchain")))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the Debian packages are unpacked.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    /// Where `cargo install` puts bpf-linker.
    #[must_use]
    pub fn linker_root(&self) -> PathBuf {
        self.0.join("bpf-linker")
    }

    #[must_use]
    pub fn rustc(&self) -> PathBuf {
        self.root().join("usr/bin/rustc")
    }

    #[must_use]
    pub fn linker(&self) -> PathBuf {
        self.linker_root().join("bin/bpf-linker")
    }

    /// The libraries of rustc and LLVM (Debian's multi-arch folder).
    #[must_use]
    pub fn libraries(&self) -> PathBuf {
        self.root().join(format!("usr/lib/{}-linux-gnu", env::consts::ARCH))
    }

    /// rustc's version, if it runs and has a `core` for BPF.
    ///
    /// # Errors
    /// What is missing.
    pub fn check_rustc(&self) -> Result<String> {
        if !self.rustc().exists() {
            bail!("not set up: no {}", self.rustc().display());
        }
        let core = self.root().join("usr/lib/rustlib").join(TARGET).join("lib");
        if !core.exists() {
            bail!("incomplete: no {}", core.display());
        }
        let libraries = self.libraries();
        let version = read(Command::new(self.rustc()).arg("--version").env("LD_LIBRARY_PATH", libraries))?;
        Ok(version.trim().to_owned())
    }

    /// # Errors
    /// What is missing.
    pub fn check_linker(&self) -> Result<()> {
        if !self.linker().exists() {
            bail!("incomplete: no {}", self.linker().display());
        }
        read(Command::new(self.linker()).arg("--version").env("LD_LIBRARY_PATH", self.libraries()))?;
        Ok(())
    }

    pub(super) fn check(self) -> Result<Toolchain> {
        let version = self.check_rustc()?;
        self.check_linker()?;
        Ok(Toolchain::Private { version, folder: self })
    }
}

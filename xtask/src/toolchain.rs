//! Which Rust toolchain builds the packet programs. BPF needs a `core` for `bpfel-unknown-none` and
//! bpf-linker, and both must agree about the version of LLVM. `docs/development.md` tells the two ways.

use crate::process::{capture, read, without_outer_cargo};
use anyhow::{Result, bail};
use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target of the packet programs: BPF, little-endian.
pub const TARGET: &str = "bpfel-unknown-none";

/// A toolchain that is there and answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Toolchain {
    /// rustup's nightly, which builds `core` from `rust-src`, and the bpf-linker on `PATH`.
    Nightly { version: String, sysroot: PathBuf, linker: PathBuf },
    /// Debian's rustc for BPF and a bpf-linker built beside it, in a folder of our own.
    Private { version: String, folder: PrivateFolder },
}

impl Toolchain {
    /// The first usable one: nightly, then the private one.
    ///
    /// # Errors
    /// Neither is usable: why, and what to do.
    pub fn find() -> Result<Self> {
        let no_nightly = match nightly() {
            Ok(found) => return Ok(found),
            Err(reason) => reason,
        };
        let no_private = match PrivateFolder::default_place().and_then(|folder| folder.check()) {
            Ok(found) => return Ok(found),
            Err(reason) => reason,
        };
        bail!(
            "no toolchain can build the packet programs for {TARGET}\n  \
             rustup's nightly: {no_nightly:#}\n  \
             netplane's own (Debian): {no_private:#}\n\
             remedy: on Debian 12 or later, run `cargo xtask setup`\n        \
             elsewhere: rustup toolchain install nightly --component rust-src && cargo install bpf-linker\n        \
             or give an object built before: NETPLANE_BPF=path/of/netplane-ebpf cargo build"
        );
    }

    /// A Cargo of this toolchain, with an environment of its own.
    #[must_use]
    pub fn cargo(&self) -> Command {
        match self {
            Self::Nightly { .. } => {
                let mut command = Command::new("rustup");
                without_outer_cargo(&mut command).env_remove("RUSTUP_TOOLCHAIN");
                command.args(["run", "nightly", "cargo"]);
                command
            }
            Self::Private { folder, .. } => {
                let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
                let mut command = Command::new(cargo);
                without_outer_cargo(&mut command)
                    .env("RUSTC", folder.rustc())
                    // aya-ebpf uses `feature(asm_experimental_arch)`, which a release compiler refuses.
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("LD_LIBRARY_PATH", folder.libraries());
                command
            }
        }
    }

    /// Arguments of Cargo that this toolchain needs to have a `core` for BPF.
    #[must_use]
    pub fn cargo_arguments(&self) -> &'static [&'static str] {
        match self {
            Self::Nightly { .. } => &["-Z", "build-std=core"],
            Self::Private { .. } => &[],
        }
    }

    /// bpf-linker, which reads the bitcode of this toolchain.
    #[must_use]
    pub fn linker(&self) -> PathBuf {
        match self {
            Self::Nightly { linker, .. } => linker.clone(),
            Self::Private { folder, .. } => folder.linker(),
        }
    }

    /// The folder whose path must not show in the object.
    #[must_use]
    pub fn sysroot(&self) -> PathBuf {
        match self {
            Self::Nightly { sysroot, .. } => sysroot.clone(),
            Self::Private { folder, .. } => folder.root(),
        }
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nightly { version, linker, .. } => {
                write!(f, "rustup's nightly with rust-src ({version}) and {}", linker.display())
            }
            Self::Private { version, folder } => {
                write!(f, "netplane's own in {} ({version})", folder.0.display())
            }
        }
    }
}

/// Debian's packages unpacked (`root/`) and the linker built against their LLVM (`bpf-linker/`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateFolder(PathBuf);

impl PrivateFolder {
    /// `$XDG_CACHE_HOME/netplane/bpf-toolchain`, one for all checkouts of a user.
    ///
    /// # Errors
    /// Neither `XDG_CACHE_HOME` nor `HOME` is set.
    pub fn default_place() -> Result<Self> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // The specification of XDG_CACHE_HOME: relative paths are invalid.
        let cache = set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
        match cache.or_else(|| set("HOME").map(|home| home.join(".cache"))) {
            Some(cache) => Ok(Self(cache.join("netplane/bpf-toolchain"))),
            None => bail!("HOME is not set, so there is no place for it"),
        }
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

    fn check(self) -> Result<Toolchain> {
        let version = self.check_rustc()?;
        self.check_linker()?;
        Ok(Toolchain::Private { version, folder: self })
    }
}

fn nightly() -> Result<Toolchain> {
    let rustc = |arguments: &[&str]| {
        let mut command = Command::new("rustup");
        without_outer_cargo(&mut command).env_remove("RUSTUP_TOOLCHAIN");
        command.args(["run", "nightly", "rustc"]).args(arguments);
        match capture(&mut command) {
            Ok(output) if output.status.success() => {
                Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
            }
            _ => bail!("not installed"),
        }
    };
    let version = rustc(&["--version"])?;
    let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?);
    if !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists() {
        bail!("{version} is there, but without the component rust-src");
    }
    let Some(linker) = on_path("bpf-linker") else {
        bail!("{version} is there with rust-src, but no bpf-linker on PATH");
    };
    Ok(Toolchain::Nightly { version, sysroot, linker })
}

/// The first file of this name in the folders of `PATH`.
#[must_use]
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

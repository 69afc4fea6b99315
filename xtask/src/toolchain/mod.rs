//! Which Rust toolchain builds the packet programs. BPF needs a `core` for `bpfel-unknown-none` and
//! bpf-linker, and both must agree about the version of LLVM. `docs/development.md` tells the two ways.

mod private;

pub use private::PrivateFolder;

use crate::process::{capture, without_outer_cargo};
use anyhow::{Result, bail};
use std::env;
use std::fmt;
use std::path::PathBuf;
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
                write!(f, "netplane's own in {} ({version})", folder.path().display())
            }
        }
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

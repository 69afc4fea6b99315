//! Which compiler builds the BPF programs. Two ways work: a rustup nightly with `rust-src`, as most eBPF
//! developers have it, and a private toolchain out of Debian packages, which `cargo xtask setup` makes
//! where nothing but a stable toolchain is at hand.

use crate::run::{is_on_path, output};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A compiler, a `core` for BPF and a linker that belong together.
#[derive(Debug)]
pub enum Toolchain {
    /// `cargo +nightly -Z build-std=core` and the bpf-linker on `PATH`.
    Nightly,
    /// Debian's rustc and LLVM, unpacked into a folder of ours.
    Private(Private),
}

/// Where the private toolchain is.
#[derive(Clone, Debug)]
pub struct Private {
    folder: PathBuf,
}

impl Private {
    /// In the user's cache, so that all clones share it.
    pub fn default_location() -> Self {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
        Self { folder: cache.unwrap_or_else(std::env::temp_dir).join("netplane").join("bpf-toolchain") }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the packages are unpacked into.
    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    pub fn rustc(&self) -> PathBuf {
        self.root().join("usr/bin/rustc")
    }

    /// Where rustc finds its driver and LLVM.
    pub fn libraries(&self) -> PathBuf {
        self.root().join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH))
    }

    pub fn linker_root(&self) -> PathBuf {
        self.folder.join("bpf-linker")
    }

    pub fn linker(&self) -> PathBuf {
        self.linker_root().join("bin/bpf-linker")
    }

    /// Written last by the set-up: what it was made from.
    pub fn stamp(&self) -> PathBuf {
        self.folder.join("stamp")
    }

    fn is_complete(&self) -> bool {
        self.rustc().is_file() && self.linker().is_file() && self.stamp().is_file()
    }
}

impl Toolchain {
    /// Finds a usable one; the private one first, as its versions are known to fit each other.
    ///
    /// # Errors
    /// There is none; the error says how to get one.
    pub fn find() -> Result<Self> {
        let private = Private::default_location();
        if private.is_complete() {
            return Ok(Self::Private(private));
        }
        if has_nightly() && is_on_path("bpf-linker") {
            return Ok(Self::Nightly);
        }
        bail!(
            "no toolchain for BPF programs. Either run `cargo xtask setup` (Debian: makes a private one under {}), or \
             run `rustup toolchain install nightly --component rust-src` and `cargo install bpf-linker`",
            private.folder().display()
        )
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Nightly => "rustup's nightly with rust-src, bpf-linker on PATH".to_owned(),
            Self::Private(private) => format!("private Debian toolchain in {}", private.folder().display()),
        }
    }
}

fn has_nightly() -> bool {
    let sysroot = output(Command::new("rustc").args(["+nightly", "--print", "sysroot"]));
    sysroot.is_ok_and(|it| Path::new(it.trim()).join("lib/rustlib/src/rust/library/core").is_dir())
}

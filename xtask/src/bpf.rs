//! Building `netplane-ebpf` for the BPF target.

use crate::run::run;
use crate::toolchain::Toolchain;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "bpfel-unknown-none";

/// The objects, after the crate's binaries.
pub const PRODUCT: &str = "netplane-ebpf";
pub const BENCH: &str = "netplane-ebpf-bench";

/// For a `build.rs`: builds the objects, unless `variable` names one already, and tells rustc where
/// `object` is, in the same variable.
///
/// # Errors
/// No toolchain, or the programs do not compile.
pub fn build_for_crate(object: &str, variable: &str) -> Result<()> {
    println!("cargo:rerun-if-env-changed={variable}");
    println!("cargo:rerun-if-env-changed=XDG_CACHE_HOME");
    for source in ["netplane-ebpf/src", "netplane-ebpf/Cargo.toml", "netplane-common/src", "netplane-common/Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", crate::run::workspace().join(source).display());
    }
    let built = match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => build(false)?.join(object),
    };
    // A copy: the next build of another profile or clone must not change what this crate embeds.
    let out = PathBuf::from(std::env::var_os("OUT_DIR").context("OUT_DIR is not set: not a build script")?);
    let copy = out.join(object);
    std::fs::copy(&built, &copy).with_context(|| format!("cannot copy {} to {}", built.display(), copy.display()))?;
    println!("cargo:rustc-env={variable}={}", copy.display());
    Ok(())
}

/// Builds all BPF programs and returns the folder with the objects. `strict` makes warnings errors.
///
/// # Errors
/// No toolchain, or the programs do not compile.
pub fn build(strict: bool) -> Result<PathBuf> {
    let toolchain = Toolchain::find()?;
    let workspace = crate::run::workspace();
    let target_dir = target_dir(&workspace);
    let mut command = command(&toolchain);
    command.current_dir(&workspace).env("CARGO_TARGET_DIR", &target_dir);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags(&toolchain, &workspace, strict).join("\u{1f}"));
    command.args(["build", "--quiet", "--release", "--package", "netplane-ebpf", "--target", TARGET]);
    if matches!(toolchain, Toolchain::Nightly) {
        command.args(["-Z", "build-std=core"]);
    }
    run(&mut command).with_context(|| format!("BPF build with {}", toolchain.describe()))?;
    Ok(target_dir.join(TARGET).join("release"))
}

/// Of its own: the outer cargo holds the lock of the usual one while a `build.rs` runs.
fn target_dir(workspace: &Path) -> PathBuf {
    let outer = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    outer.unwrap_or_else(|| workspace.join("target")).join("bpf")
}

fn command(toolchain: &Toolchain) -> Command {
    let cargo = if matches!(toolchain, Toolchain::Nightly) {
        // Only rustup's proxy understands +nightly; CARGO is the outer toolchain's own.
        let mut cargo = Command::new("cargo");
        cargo.arg("+nightly");
        cargo
    } else {
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    };
    let mut command = cargo;
    // What the outer cargo and a build script's environment say is about another target.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let foreign = name.starts_with("CARGO_") && name != "CARGO_HOME" && !name.starts_with("CARGO_REGISTR");
        if foreign || name.starts_with("RUSTC") || matches!(&*name, "RUSTFLAGS" | "TARGET" | "HOST" | "PROFILE") {
            command.env_remove(&*name);
        }
    }
    if let Toolchain::Private(private) = toolchain {
        command.env("RUSTC", private.rustc());
        command.env("LD_LIBRARY_PATH", private.libraries());
        // aya-ebpf and the programs use features that stable refuses without it.
        command.env("RUSTC_BOOTSTRAP", "1");
    } else {
        command.env_remove("RUSTUP_TOOLCHAIN");
    }
    command
}

fn flags(toolchain: &Toolchain, workspace: &Path, strict: bool) -> Vec<String> {
    let linker = match toolchain {
        Toolchain::Private(private) => private.linker().display().to_string(),
        Toolchain::Nightly => "bpf-linker".to_owned(),
    };
    let cargo_home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|it| format!("{it}/.cargo")));
    let mut flags = vec![
        format!("-Clinker={linker}"),
        // Line information in the verifier's log, and types in the kernel's view of the maps.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // 32-bit registers and jumps: since Linux 5.1, below our floor of 5.15.
        "-Ctarget-cpu=v3".to_owned(),
        // The same bytes wherever the clone lies.
        format!("--remap-path-prefix={}=netplane", workspace.display()),
    ];
    flags.extend(cargo_home.ok().map(|home| format!("--remap-path-prefix={home}=cargo")));
    if strict {
        flags.push("-Dwarnings".to_owned());
    }
    flags
}

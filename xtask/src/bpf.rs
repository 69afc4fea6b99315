//! Builds the packet programs (`netplane-ebpf`) for BPF. The same sources and toolchain give the same
//! bytes, in whatever folder they lie.

use crate::process::{capture, shown};
use crate::toolchain::{TARGET, Toolchain};
use crate::{root, target_dir};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package and the object of the packet programs.
pub const PROGRAMS: &str = "netplane-ebpf";
/// The programs of the benchmark: floor and wrapper.
pub const BENCH_PROGRAMS: &str = "netplane-ebpf-bench";

/// What the objects are made of, relative to the top folder.
pub const SOURCES: [&str; 6] = [
    "Cargo.lock",
    "Cargo.toml",
    "netplane-common/Cargo.toml",
    "netplane-common/src",
    "netplane-ebpf/Cargo.toml",
    "netplane-ebpf/src",
];

/// What a build made.
#[derive(Debug)]
pub struct Built {
    folder: PathBuf,
    /// The compiler's warnings, empty for none.
    pub warnings: String,
}

impl Built {
    /// The object of this name: [`PROGRAMS`] or [`BENCH_PROGRAMS`].
    #[must_use]
    pub fn object(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Builds all objects into `target/bpf`, a folder of its own: an inner Cargo that waits for the lock of
/// the outer one's folder would wait forever.
///
/// # Errors
/// The compiler's or the linker's messages.
pub fn build(toolchain: &Toolchain) -> Result<Built> {
    let target_dir = target_dir().join("bpf");
    let mut cargo = cargo(toolchain, "build", &target_dir);
    // Quiet leaves nothing but the compiler's diagnostics on stderr. Cargo repeats the warnings of
    // earlier runs, so a second build shows them too.
    let output = capture(cargo.arg("--quiet"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("the packet programs do not build with {toolchain}:\n{said}(`{}`)", shown(&cargo));
    }
    let built = Built { folder: target_dir.join(TARGET).join("release"), warnings: said };
    for name in [PROGRAMS, BENCH_PROGRAMS] {
        let object = built.object(name);
        object.metadata().with_context(|| format!("Cargo made no {}", object.display()))?;
    }
    Ok(built)
}

fn cargo(toolchain: &Toolchain, verb: &str, target_dir: &Path) -> Command {
    let mut cargo = toolchain.cargo();
    cargo
        .current_dir(root())
        .arg(verb)
        .args(toolchain.cargo_arguments())
        .args(["--locked", "--release", "--package", PROGRAMS, "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(toolchain));
    cargo
}

/// The flags of rustc, in the form in which Cargo takes flags that may contain spaces.
fn flags(toolchain: &Toolchain) -> OsString {
    let mut linker = OsString::from("-Clinker=");
    linker.push(toolchain.linker());
    let mut flags = vec![
        linker,
        // Debug information is what BTF is made from; the kernel shows source lines in verifier logs.
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        // 32-bit instructions and jumps, and atomics that return: the oldest kernel served (5.15) has
        // them. v4 would ask for 6.6.
        "-Ctarget-cpu=v3".into(),
    ];
    let home = cargo_home().map(|home| (home, "/cargo"));
    let places = [(root().to_owned(), "/netplane"), (toolchain.sysroot(), "/toolchain")];
    for (place, name) in places.into_iter().chain(home) {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(place);
        flag.push("=");
        flag.push(name);
        flags.push(flag);
    }
    flags.join(std::ffi::OsStr::new("\u{1f}"))
}

fn cargo_home() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("CARGO_HOME").or_else(|| set("HOME").map(|home| home.join(".cargo")))
}

/// The whole of a build script that embeds the object `name`: builds it (or takes the one that the
/// environment variable `NETPLANE_BPF`, or `NETPLANE_BENCH_BPF`, gives) and puts its path into `variable`.
/// A failure becomes errors that Cargo shows, and that stop the build.
#[expect(clippy::print_stdout, reason = "how a build script talks to Cargo")]
pub fn embed(name: &str, variable: &str) {
    // Cargo shows a build script's stdout and stderr only on request, but these lines always.
    let say = |kind: &str, text: &str| {
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            println!("cargo::{kind}={line}");
        }
    };
    match object_to_embed(name) {
        Ok((object, warnings)) => {
            say("warning", &warnings);
            println!("cargo::rustc-env={variable}={}", object.display());
        }
        Err(error) => say("error", &format!("{error:#}")),
    }
}

/// The object in the build script's own folder, where no later build changes it, and the warnings.
#[expect(clippy::print_stdout, reason = "how a build script talks to Cargo")]
fn object_to_embed(name: &str) -> Result<(PathBuf, String)> {
    let given_by = if name == PROGRAMS { "NETPLANE_BPF" } else { "NETPLANE_BENCH_BPF" };
    println!("cargo::rerun-if-env-changed={given_by}");
    let (object, warnings) = match std::env::var_os(given_by).filter(|value| !value.is_empty()) {
        Some(given) => {
            let given = root().join(given);
            println!("cargo::rerun-if-changed={}", given.display());
            (given, String::new())
        }
        None => {
            for source in SOURCES {
                println!("cargo::rerun-if-changed={}", root().join(source).display());
            }
            let toolchain = Toolchain::find()?;
            println!("cargo::rerun-if-changed={}", toolchain.linker().display());
            let built = build(&toolchain)?;
            (built.object(name), built.warnings)
        }
    };
    let out_dir = std::env::var_os("OUT_DIR").context("OUT_DIR is not set: this is no build script")?;
    let embedded = Path::new(&out_dir).join(name);
    std::fs::copy(&object, &embedded).with_context(|| {
        format!("copy the BPF object {} ({given_by}, if set, names it)", object.display())
    })?;
    Ok((embedded, warnings))
}

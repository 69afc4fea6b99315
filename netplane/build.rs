//! Builds the packet programs, which `dataplane` embeds, with a toolchain for BPF; and how the binary is linked.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What rustc links to programs for glibc, and the archive with the same.
const LIBRARIES: [(&str, &str); 7] = [
    ("c", "c"),
    ("m", "m"),
    ("rt", "rt"),
    ("dl", "dl"),
    ("util", "util"),
    ("pthread", "pthread"),
    ("gcc_s", "gcc_eh"),
];

fn main() {
    // At a fixed address, as Go's plugins are: a process for each call need not relocate the binary first,
    // which took three milliseconds and two MiB of its own in each process of the tests' binary.
    println!("cargo:rustc-link-arg-bins=-no-pie");
    link_statically();
    xtask::bpf::embed(xtask::bpf::PROGRAMS, "NETPLANE_BPF_OBJECT");
}

/// No dynamic linker, no libraries to be mapped: half of what the start of a call had cost. rustc's own way
/// (`-C target-feature=+crt-static`) is not to be had for a single binary, and for all crates it excludes
/// procedural macros; so the libraries that rustc asks for are found as archives.
fn link_statically() {
    let is = |key: &str, value: &str| std::env::var(key).is_ok_and(|it| it == value);
    if !is("CARGO_CFG_TARGET_ENV", "gnu") {
        return;
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let archives = LIBRARIES.iter().filter_map(|(_, archive)| find(&format!("lib{archive}.a"))).count();
    if archives < LIBRARIES.len() {
        println!("cargo:warning=no static C library (libc.a) on this system: netplane starts more slowly");
        return;
    }
    for (library, archive) in LIBRARIES {
        let script = out.join(format!("lib{library}.so"));
        let archive = find(&format!("lib{archive}.a")).unwrap_or_default();
        if let Err(error) = std::fs::write(&script, format!("INPUT({})\n", archive.display())) {
            println!("cargo:warning=cannot write {}: {error}", script.display());
            return;
        }
    }
    println!("cargo:rustc-link-arg-bins=-static");
    println!("cargo:rustc-link-arg-bins=-L{}", out.display());
}

/// Where the C compiler finds a library.
fn find(file: &str) -> Option<PathBuf> {
    let printed = Command::new("cc").arg(format!("-print-file-name={file}")).output().ok()?;
    let path = String::from_utf8(printed.stdout).ok()?;
    let path = Path::new(path.trim());
    // As it was asked for: not found.
    path.is_absolute().then(|| path.to_owned())
}

//! cargo-fuzz in a folder of netplane's own, and the compiler that its engine needs.

use super::debian::{self, Need};
use super::say;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;
use xtask::process::{run, without_outer_cargo};
use xtask::toolchain::{PrivateFolder, on_path};

const CARGO_FUZZ: &str = "0.13.2";

const ENGINE: [Need; 1] = [Need { package: "g++", why: "libFuzzer, the fuzzing engine, is C++" }];

/// The program `cargo-fuzz`: that on `PATH`, or one that is built here once, in about a minute.
///
/// # Errors
/// It does not build.
pub(crate) fn provide() -> Result<PathBuf> {
    if on_path("c++").is_none() {
        debian::install("fuzzing", &ENGINE)?;
    }
    if let Some(found) = on_path("cargo-fuzz") {
        return Ok(found);
    }
    let toolchain = PrivateFolder::default_place()?;
    let folder = toolchain.path().with_file_name("cargo-fuzz");
    let program = folder.join("bin/cargo-fuzz");
    if !program.is_file() {
        say(&format!("builds cargo-fuzz {CARGO_FUZZ} in {}, about a minute", folder.display()));
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        without_outer_cargo(&mut cargo)
            .current_dir(toolchain.path())
            .args(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked", "--root"])
            .arg(&folder);
        run(&mut cargo).context("cargo-fuzz does not build")?;
    }
    Ok(program)
}

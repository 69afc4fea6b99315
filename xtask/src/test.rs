//! `test`: everything that must hold before a change is merged, quickest first.

use crate::{build, privilege, setup, tidy, vm};
use anyhow::{Context, Result, bail};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;
use xtask::process::{read, run as execute, shown};
use xtask::{bpf, target_dir};

/// How far up the ladder of tests to go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rung {
    /// What the crates hold beside their code.
    Unit,
    /// What runs in guests with other kernels, and nothing else.
    Guests,
    /// The integration tests and the guests too: namespaces, BPF programs, the demo.
    All,
}

pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let rung = match arguments.iter().map(|argument| argument.to_str()).collect::<Vec<_>>()[..] {
        [] | [Some("all")] => Rung::All,
        [Some("unit")] => Rung::Unit,
        [Some("vm")] => Rung::Guests,
        _ => bail!("`cargo xtask test` takes `unit`, `vm` or `all` (the default)"),
    };
    privilege::require_root("test")?;
    let start = Instant::now();
    if rung == Rung::Unit {
        setup::lab()?
    } else {
        setup::run()?
    }
    let mut counts = Counts::default();
    if rung != Rung::Guests {
        checks()?;
        tests(rung, &mut counts)?;
    }
    if rung != Rung::Unit {
        step("tests in guests", || {
            vm::run_tests(&mut |line| {
                println!("{line}");
                counts.add(line);
            })
        })?;
    }
    println!("test: all passed: {counts}, in {} s altogether", start.elapsed().as_secs());
    Ok(())
}

/// What needs no test to run.
fn checks() -> Result<()> {
    check_components()?;
    step("format", || execute(crate::cargo().args(["fmt", "--all", "--check"])))?;
    step("tidy", tidy::run)?;
    step("lints of the packet programs", lint_packet_programs)?;
    // The tests for guests are of no target that `--all-targets` means.
    for targets in [&["--all-targets"][..], &["--package", "netplane", "--test", "vm"]] {
        step("lints", || {
            execute(crate::cargo().args(["clippy", "--locked"]).args(targets).args(["--", "-Dwarnings"]))
        })?;
    }
    Ok(())
}

fn step(name: &str, check: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("test: {name}");
    check().with_context(|| format!("{name}: not as it must be"))
}

/// The parts of rustup's toolchain that a minimal installation lacks.
fn check_components() -> Result<()> {
    for component in ["fmt", "clippy"] {
        read(crate::cargo().args([component, "--version"]))
            .context("remedy: rustup component add rustfmt clippy")?;
    }
    Ok(())
}

/// rustc's lints as the compiler for BPF has them, then Clippy's.
fn lint_packet_programs() -> Result<()> {
    let warnings = build::packet_programs()?;
    if !warnings.trim().is_empty() {
        bail!("the compiler warns about the packet programs (above)");
    }
    // Debian's rustc for BPF comes without Clippy, and no other can read its `core`. Checking needs no
    // code generation, so rustup's Clippy reads the programs as if they were for this machine: without
    // unwinding, as there is no std, and with the features that aya-ebpf and the programs enable.
    let mut clippy = crate::cargo();
    clippy.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Cpanic=abort");
    clippy.args(["clippy", "--locked", "--package", bpf::PROGRAMS, "--target-dir"]);
    clippy.arg(target_dir().join("bpf-lint")).args(["--", "-Dwarnings"]);
    execute(&mut clippy)
}

/// What the test binaries counted.
#[derive(Default)]
struct Counts {
    binaries: u32,
    passed: u32,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tests of {} test binaries", self.passed, self.binaries)
    }
}

impl Counts {
    /// Takes in a closing line of libtest: `test result: ok. 3 passed; 0 failed; …`.
    fn add(&mut self, line: &str) {
        let Some((_, result)) = line.split_once("test result: ") else { return };
        self.binaries += 1;
        let passed = result.split_once(" passed").and_then(|(before, _)| before.rsplit(' ').next());
        self.passed += passed.and_then(|number| number.parse().ok()).unwrap_or(0);
    }
}

fn tests(rung: Rung, counts: &mut Counts) -> Result<()> {
    println!("test: tests");
    let mut command = crate::cargo();
    // The default members: all but the packet programs, which build for BPF only.
    command.args(["test", "--locked", "--no-fail-fast"]);
    if rung == Rung::Unit {
        command.args(["--lib", "--bins"]);
    }
    counted(&mut command, counts)
}

/// Runs, shows what is printed, and adds up the closing lines.
fn counted(command: &mut Command, counts: &mut Counts) -> Result<()> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("start `{}`", shown(command)))?;
    let output = child.stdout.take().context("stdout is piped")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("read the tests' output")?;
        println!("{line}");
        counts.add(&line);
    }
    let status = child.wait().context("wait for the tests")?;
    if !status.success() {
        let program = command.get_program().display();
        let arguments = command.get_args().collect::<Vec<_>>().join(OsStr::new(" "));
        bail!("tests failed: `{program} {}`; to repeat one: cargo test NAME", arguments.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_added_up() {
        let mut counts = Counts::default();
        counts.add("running 12 tests");
        counts.add("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        counts.add("test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!((counts.binaries, counts.passed), (2, 15));
    }
}

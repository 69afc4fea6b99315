//! The developer verbs of netplane: `cargo xtask VERB`. One verb, one file.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a verb talks to the person who runs it")]

mod bench;
mod build;
mod codegen;
mod container;
mod demo;
mod differential;
mod fuzz;
mod privilege;
mod setup;
mod soak;
mod test;
mod tidy;
mod vm;

use anyhow::{Context, Result, bail};
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use xtask::process::{shown, without_outer_cargo};
use xtask::{root, target_dir};

const USAGE: &str = "\
cargo xtask VERB

  setup            installs what building, the demo and the tests need, and nothing that is there
  build            builds the packet programs and the workspace, as a release
  demo [ARGS]      setup, build, and the main job in a lab of namespaces; `demo --help` tells its arguments
  test [unit|vm|all]  setup, format, lints, tidy and the tests; `unit`: those beside the code; `vm`: those in
                   guests with other kernels
  bench [PART]     setup, build, and all benchmarks, or packets, rates, attach; `bench --help` tells more
  image [FILE]     the container image as an OCI archive, target/image/netplane-VERSION.tar if not told otherwise
  vm [ARGS] CMD    a command in a guest with another kernel; `--kernel 6.12|6.1`
  soak [ARGS]      setup, build, and mixed traffic for minutes (`--minutes N`, 10) with an account of every packet
  fuzz [ARGS]      looks for inputs that break a rule; see docs/testing.md
  differential [ARGS]
                   setup, build, and random packets for the decision and for the programs in the kernel
  codegen          makes the session API's code anew from its protobuf file
  tidy             checks the rules of the tree that the compiler does not check
";

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let verb = arguments.next();
    let rest: Vec<OsString> = arguments.collect();
    match verb.as_deref().and_then(OsStr::to_str) {
        Some("setup") => none(&rest).and_then(|()| setup::run()),
        Some("build") => none(&rest).and_then(|()| build::run()),
        Some("demo") => demo::run(&rest),
        Some("test") => test::run(&rest),
        Some("bench") => bench::run(&rest),
        Some("image") => container::run(&rest),
        Some("vm") => vm::run(&rest),
        Some("soak") => soak::run(&rest),
        Some("fuzz") => fuzz::run(&rest),
        Some("differential") => differential::run(&rest),
        Some("codegen") => none(&rest).and_then(|()| codegen::run()),
        Some("tidy") => none(&rest).and_then(|()| tidy::run()),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            Ok(())
        }
        _ => bail!("unknown or missing verb\n\n{USAGE}"),
    }
}

fn none(arguments: &[OsString]) -> Result<()> {
    match arguments.first() {
        Some(argument) => bail!("unexpected argument {}\n\n{USAGE}", argument.display()),
        None => Ok(()),
    }
}

/// The Cargo that runs us, in the workspace, as if we had been called from a shell.
fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    without_outer_cargo(&mut cargo).current_dir(root());
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR") {
        cargo.env("CARGO_TARGET_DIR", dir);
    }
    cargo
}

/// Becomes the release binary of this name: signals and the exit code are then its own.
fn become_release(binary: &str, arguments: &[OsString]) -> Result<()> {
    let mut command = Command::new(target_dir().join("release").join(binary));
    without_outer_cargo(&mut command).args(arguments);
    let error = command.exec();
    Err(error).with_context(|| format!("start `{}`", shown(&command)))
}

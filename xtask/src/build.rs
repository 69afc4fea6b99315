//! `build`: the packet programs and everything else, as a release.

use anyhow::Result;
use xtask::bpf::{self, BENCH_PROGRAMS, PROGRAMS};
use xtask::process::run as execute;
use xtask::target_dir;
use xtask::toolchain::Toolchain;

pub(crate) fn run() -> Result<()> {
    packet_programs()?;
    release()?;
    eprintln!("build: {} is ready", target_dir().join("release/netplane").display());
    Ok(())
}

/// Builds the packet programs and returns the compiler's warnings about them.
pub(crate) fn packet_programs() -> Result<String> {
    let toolchain = Toolchain::find()?;
    eprintln!("build: toolchain for BPF: {toolchain}");
    let built = bpf::build(&toolchain)?;
    eprint!("{}", built.warnings);
    for name in [PROGRAMS, BENCH_PROGRAMS] {
        eprintln!("build: {}", built.object(name).display());
    }
    Ok(built.warnings)
}

/// Everything that runs on the host, as a release, with the programs of the demo and the benchmark.
pub(crate) fn release() -> Result<()> {
    eprintln!("build: the workspace, as a release (minutes the first time)");
    execute(crate::cargo().args(["build", "--locked", "--release"]))
}

//! netplane's own toolchain for BPF: Debian's rustc that has a `core` for BPF, unpacked into a folder
//! of ours, and a bpf-linker built against the LLVM beside it. Nothing of it is installed.

use super::{debian, lock, remove, say};
use anyhow::{Context, Result};
use std::fs;
use std::process::Command;
use xtask::process::{run, without_outer_cargo};
use xtask::toolchain::{PrivateFolder, Toolchain, on_path};

/// The bpf-linker whose LLVM bindings include that of Debian's rustc.
const BPF_LINKER: &str = "0.13.0";

/// # Errors
/// No toolchain is there and none can be made.
pub(super) fn provide() -> Result<()> {
    if let Ok(found) = Toolchain::find() {
        say(&format!("toolchain for BPF: {found}"));
        return Ok(());
    }
    if on_path("apt-get").is_none() {
        // It says what to install.
        return Toolchain::find().map(drop);
    }
    let folder = PrivateFolder::default_place()?;
    say(&format!(
        "no toolchain for BPF yet (rustup's stable has no core for BPF): makes one in {}, about two minutes",
        folder.path().display()
    ));
    let packages = Packages::from_index()?;
    packages.provide_libraries()?;
    let _lock = lock(folder.path())?;
    if folder.check_rustc().is_err() {
        packages.unpack(&folder)?;
        folder.check_rustc().context("the rustc just unpacked does not run")?;
        // A linker made for another LLVM cannot read the new compiler's bitcode.
        remove(&folder.linker_root())?;
    }
    if folder.check_linker().is_err() {
        build_linker(&folder, &packages.llvm)?;
    }
    let found = Toolchain::find()?;
    say(&format!("toolchain for BPF: {found}"));
    Ok(())
}

/// The packages of the toolchain, with the version numbers that move with each release.
struct Packages {
    /// rustc, its standard libraries, LLVM and what it takes to link with LLVM.
    unpacked: Vec<String>,
    /// What LLVM needs of the system at run time.
    libraries: Vec<String>,
    /// LLVM's major version.
    llvm: String,
}

impl Packages {
    fn from_index() -> Result<Self> {
        let fixed = ["rustc-web", "libstd-rust-web-dev", "libstd-rust-web-dev-bpf"];
        debian::know(&fixed)?;
        let find = |of: &str, prefix: &str| -> Result<String> {
            let found = debian::dependencies(of)?.into_iter().find(|name| name.starts_with(prefix));
            found.with_context(|| format!("package {of} depends on no {prefix}…: packaged in a new way?"))
        };
        let runtime = find("libstd-rust-web-dev", "libstd-rust-web-")?;
        let libllvm = find(&runtime, "libllvm")?;
        let llvm = libllvm.trim_start_matches("libllvm").to_owned();
        let libraries = debian::dependencies(&libllvm)?;
        let mut unpacked = fixed.map(str::to_owned).to_vec();
        unpacked.extend([runtime, libllvm, format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")]);
        Ok(Self { unpacked, libraries, llvm })
    }

    fn provide_libraries(&self) -> Result<()> {
        // gcc links bpf-linker.
        let mut names = vec!["gcc", "libc6-dev"];
        names.extend(self.libraries.iter().map(String::as_str));
        debian::install_names("LLVM and bpf-linker", &names)
    }

    /// Downloads and unpacks into a folder that gets its name only when it is complete.
    fn unpack(&self, folder: &PrivateFolder) -> Result<()> {
        let partial = folder.path().join("root.partial");
        let archives = folder.path().join("debs");
        for dir in [&partial, &archives] {
            remove(dir)?;
            fs::create_dir_all(dir).with_context(|| format!("make folder {}", dir.display()))?;
        }
        say(&format!("downloads (about 170 MB) {}", self.unpacked.join(" ")));
        debian::download(&self.unpacked, &archives)?;
        let entries = fs::read_dir(&archives).with_context(|| format!("read {}", archives.display()))?;
        for entry in entries {
            let archive = entry.with_context(|| format!("read {}", archives.display()))?.path();
            say(&format!("unpacks {}", archive.file_name().unwrap_or_default().display()));
            run(Command::new("dpkg").arg("-x").args([&archive, &partial]))?;
        }
        let root = folder.root();
        remove(&root)?;
        fs::rename(&partial, &root).with_context(|| format!("move {} into place", root.display()))?;
        remove(&archives)
    }
}

fn build_linker(folder: &PrivateFolder, llvm: &str) -> Result<()> {
    say(&format!("builds bpf-linker {BPF_LINKER} against LLVM {llvm}, about a minute"));
    let prefix = folder.root().join(format!("usr/lib/llvm-{llvm}"));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Found on PATH, Cargo does not advise to add the folder to it.
    let old = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.linker_root().join("bin")).chain(std::env::split_paths(&old));
    let path = std::env::join_paths(folders).context("the toolchain's folder cannot stand in PATH")?;
    without_outer_cargo(&mut cargo)
        .env("PATH", path)
        // Not the workspace: its Cargo configuration is none of bpf-linker's business.
        .current_dir(folder.path())
        .env("LLVM_PREFIX", prefix)
        .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"])
        .arg(folder.linker_root());
    run(&mut cargo).context("bpf-linker does not build")
}

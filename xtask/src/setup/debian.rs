//! Debian packages: which are missing, where from, and installing them.

use super::say;
use crate::privilege::is_root;
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use xtask::process::{capture, read, run};
use xtask::toolchain::on_path;

/// A package and what it is needed for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    pub(super) package: &'static str,
    pub(super) why: &'static str,
}

/// Installs those of `needs` that are missing.
///
/// # Errors
/// No apt, no privilege, or apt fails: with the line to run.
pub(super) fn install(purpose: &str, needs: &[Need]) -> Result<()> {
    if on_path("dpkg-query").is_none() {
        let all: Vec<String> = needs.iter().map(|need| format!("{} ({})", need.package, need.why)).collect();
        say(&format!("no Debian here, so nothing is installed for {purpose}; needed: {}", all.join(", ")));
        return Ok(());
    }
    let missing: Vec<&Need> = needs.iter().filter(|need| !is_installed(need.package)).collect();
    for need in &missing {
        say(&format!("{} is missing: {}", need.package, need.why));
    }
    let names: Vec<&str> = missing.iter().map(|need| need.package).collect();
    install_names(purpose, &names)
}

/// As [`install`], for packages whose names were found in the index.
pub(super) fn install_names(purpose: &str, names: &[&str]) -> Result<()> {
    let missing: Vec<&str> = names.iter().copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        say(&format!("Debian packages for {purpose}: all there"));
        return Ok(());
    }
    let line = format!("apt-get install --no-install-recommends {}", missing.join(" "));
    if !is_root() {
        bail!("Debian packages for {purpose} are missing\nremedy: sudo apt-get update && sudo {line}");
    }
    know(&missing)?;
    say(&format!("Debian packages for {purpose}: {line}"));
    let install = || run(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(&missing));
    // An index of yesterday names files that the archive no longer has.
    if install().is_err() {
        update()?;
        install().with_context(|| format!("install packages for {purpose}; remedy: {line}"))?;
    }
    Ok(())
}

/// Makes sure that the index has these packages, with an update if it has not.
///
/// # Errors
/// A package that this Debian does not have.
pub(super) fn know(names: &[&str]) -> Result<()> {
    let unknown = |names: &[&str]| names.iter().find(|name| !is_known(name)).map(ToString::to_string);
    let Some(first) = unknown(names) else { return Ok(()) };
    say(&format!("apt does not know {first} yet: apt-get update"));
    update()?;
    if let Some(name) = unknown(names) {
        bail!(
            "this system's package archives have no {name}\nremedy: enable the archives `main` of Debian 12 \
             (bookworm) or later, with the security suite, then apt-get update"
        );
    }
    Ok(())
}

pub(super) fn update() -> Result<()> {
    if !is_root() {
        bail!("the package index must be renewed\nremedy: sudo apt-get update");
    }
    // One archive of somebody else that does not answer must not stop us: `know` tells what is missing.
    if let Err(error) = run(apt_get().arg("update")) {
        say(&format!("{error:#}; going on with what the index has"));
    }
    Ok(())
}

/// Fetches the archives of packages into a folder; nothing is installed.
///
/// # Errors
/// apt fails.
pub(super) fn download<S: AsRef<OsStr>>(names: &[S], folder: &Path) -> Result<()> {
    run(apt_get().arg("download").args(names).current_dir(folder))
}

/// Names that begin with `prefix` in the index, also of packages that only others mention.
///
/// # Errors
/// There is no apt.
pub(super) fn names(prefix: &str) -> Result<Vec<String>> {
    let listed = read(Command::new("apt-cache").args(["pkgnames", prefix]))?;
    Ok(listed.lines().map(str::to_owned).collect())
}

/// apt-get that asks nothing and does not draw on the terminal.
fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-o", "Dpkg::Use-Pty=0"]);
    if is_root() {
        // Else it complains, as root, about every folder that its own user cannot read.
        command.args(["-o", "APT::Sandbox::User=root"]);
    }
    command
}

fn is_installed(package: &str) -> bool {
    let format = "${db:Status-Status}";
    let status = read(Command::new("dpkg-query").args(["--show", "--showformat", format, package]));
    status.is_ok_and(|status| status == "installed")
}

pub(super) fn is_known(package: &str) -> bool {
    // A package that only others mention has no version to install.
    read(Command::new("apt-cache").args(["show", "--no-all-versions", package]))
        .is_ok_and(|record| record.contains("Version:"))
}

/// The packages on which `package` depends, as the index has it, without versions and alternatives.
///
/// # Errors
/// The index does not have the package.
pub(super) fn dependencies(package: &str) -> Result<Vec<String>> {
    let output = capture(Command::new("apt-cache").args(["depends", package]))?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    if listed.trim().is_empty() {
        bail!("the package index does not have {package}");
    }
    Ok(parse_dependencies(&listed))
}

fn parse_dependencies(listed: &str) -> Vec<String> {
    let depends = listed.lines().filter_map(|line| line.trim_start().strip_prefix("Depends: "));
    // `<name>` is a virtual package.
    depends.filter(|name| !name.starts_with('<')).map(|name| name.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_the_real_packages_of_the_index() {
        let listed = "libstd-rust-web-1.96\n  Depends: libc6\n  Depends: libllvm22\n  Depends: <libc-dev>\n    \
                      libc6-dev\n  Conflicts: <rustup>\n  Recommends: cargo-web\n";
        assert_eq!(parse_dependencies(listed), ["libc6", "libllvm22"]);
    }
}

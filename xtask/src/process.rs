//! Running other programs: errors that name the whole command, and an environment without the traces
//! of the Cargo that runs us.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

/// The command as one would type it.
#[must_use]
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs with our own stdin and stderr. What it prints to stdout goes to stderr too: our stdout is for
/// results, such as the demo's JSON.
///
/// # Errors
/// The program is missing, or does not end with 0.
pub fn run(command: &mut Command) -> Result<()> {
    let status =
        command.stdout(std::io::stderr()).status().with_context(|| format!("start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs quietly and returns what it printed to stdout; stderr goes into the error.
///
/// # Errors
/// The program is missing, or does not end with 0.
pub fn read(command: &mut Command) -> Result<String> {
    let output = capture(command)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("`{}` failed ({}): {said}", shown(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs quietly; a failure of the program is the caller's to judge.
///
/// # Errors
/// The program cannot be started.
pub fn capture(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("start `{}`", shown(command)))
}

/// Removes what an outer Cargo (`cargo run`, a build script) has put into the environment and what would
/// bend an inner one towards another compiler, target or set of flags. What says where crates come from
/// (`CARGO_HOME`, proxies, registries) stays.
pub fn without_outer_cargo(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_of_outer_cargo) {
            command.env_remove(name);
        }
    }
    command
}

fn is_of_outer_cargo(name: &str) -> bool {
    const KEPT: [&str; 6] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];
    const REMOVED: [&str; 11] = [
        "DEBUG",
        "HOST",
        "LD_LIBRARY_PATH",
        "MAKEFLAGS",
        "MFLAGS",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTFLAGS",
        "TARGET",
    ];
    let has = |prefix: &&str| name.starts_with(*prefix);
    (name.starts_with("CARGO") && !KEPT.iter().any(has))
        || name.starts_with("RUSTC")
        || name.starts_with("RUSTDOC")
        || REMOVED.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_cargo_leaves_and_the_way_to_crates_stays() {
        for name in ["CARGO", "CARGO_ENCODED_RUSTFLAGS", "CARGO_PKG_NAME", "RUSTC_WRAPPER", "OUT_DIR"] {
            assert!(is_of_outer_cargo(name), "{name}");
        }
        for name in
            ["CARGO_HOME", "CARGO_HTTP_PROXY", "CARGO_REGISTRIES_X_INDEX", "HOME", "PATH", "RUSTUP_HOME"]
        {
            assert!(!is_of_outer_cargo(name), "{name}");
        }
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = read(Command::new("sh").args(["-c", "echo because >&2; exit 3"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("sh -c") && text.contains("because"), "{text}");
    }
}

//! Running the system's tools. A tool that is not installed is an error that names its package.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::process::{Command, Output, Stdio};

/// A program of the system and the Debian package that has it.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    pub program: &'static str,
    pub package: &'static str,
}

pub const IP: Tool = Tool { program: "ip", package: "iproute2" };
pub const ETHTOOL: Tool = Tool { program: "ethtool", package: "ethtool" };
pub const NSENTER: Tool = Tool { program: "nsenter", package: "util-linux" };
pub const UNSHARE: Tool = Tool { program: "unshare", package: "util-linux" };
pub const BUSYBOX: Tool = Tool { program: "busybox", package: "busybox-static" };
pub const TSHARK: Tool = Tool { program: "tshark", package: "tshark" };

impl Tool {
    pub fn command(self) -> Command {
        Command::new(self.program)
    }

    /// Runs the tool with these arguments and returns what it printed.
    ///
    /// # Errors
    /// It is not installed, or it failed.
    pub fn run<A: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = A>) -> Result<String> {
        let mut command = self.command();
        command.args(arguments);
        self.output(&mut command, "")
    }

    /// Runs `command`, which starts this tool, with `input` on stdin, and returns what it printed.
    ///
    /// # Errors
    /// It is not installed, or it failed; then with the command line and what it said on stderr.
    pub fn output(self, command: &mut Command, input: &str) -> Result<String> {
        let output = self.finish(command, input.as_bytes())?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("`{}`: {}: {}", line(command), output.status, stderr.trim());
        }
        String::from_utf8(output.stdout).with_context(|| format!("output of `{}`", line(command)))
    }

    /// Runs `command` to its end, successful or not.
    ///
    /// # Errors
    /// It is not installed, or its pipes break.
    pub fn finish(self, command: &mut Command, input: &[u8]) -> Result<Output> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| self.explain(error))?;
        let mut stdin = child.stdin.take().context("stdin is piped")?;
        // A program that fails early closes its stdin; its status says more than the broken pipe.
        match stdin.write_all(input) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                return Err(error).with_context(|| format!("write to `{}`", line(command)));
            }
            _ => drop(stdin),
        }
        child.wait_with_output().with_context(|| format!("wait for `{}`", line(command)))
    }

    /// An error of starting it, with the package to install where it is missing.
    pub fn explain(self, error: std::io::Error) -> anyhow::Error {
        let Self { program, package } = self;
        match error.kind() {
            ErrorKind::NotFound => anyhow::anyhow!(
                "`{program}` is not installed; remedy: apt-get install {package} (Debian), then try again"
            ),
            _ => anyhow::Error::new(error).context(format!("start `{program}`")),
        }
    }

    /// Whether it is installed.
    pub fn is_installed(self) -> bool {
        std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|folder| folder.join(self.program).is_file())
        })
    }
}

/// The command line, for messages.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_names_its_package() {
        let tool = Tool { program: "netplane-no-such-tool", package: "some-package" };
        let error = tool.run(["x"]).unwrap_err().to_string();
        assert!(error.contains("apt-get install some-package"), "{error}");
    }

    #[test]
    fn a_failure_shows_the_command_and_its_stderr() {
        let error = IP.run(["link", "show", "no-such-link"]).unwrap_err().to_string();
        assert!(error.contains("ip link show no-such-link"), "{error}");
        assert!(error.contains("does not exist"), "{error}");
    }
}

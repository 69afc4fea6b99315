//! Running the system's tools. A tool that is not installed is an error that names its package.

use super::undo::lock;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread::ThreadId;

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
        let (mut child, _running) = Running::spawn(command).map_err(|error| self.explain(error))?;
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
        self.path().is_some()
    }

    /// Where it is.
    pub fn path(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join(self.program)).find(|it| it.is_file())
    }
}

/// Process ids of the commands that threads of this process wait for.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// The thread that ends this process; no other thread may start a command any more.
static ENDING: OnceLock<ThreadId> = OnceLock::new();

/// An entry in [`RUNNING`].
struct Running(u32);

impl Running {
    /// Starts the command, or never returns if this process is ending.
    fn spawn(command: &mut Command) -> std::io::Result<(Child, Self)> {
        let mut running = lock(&RUNNING);
        if ENDING.get().is_some_and(|thread| *thread != std::thread::current().id()) {
            drop(running);
            loop {
                std::thread::park();
            }
        }
        let child = command.spawn()?;
        let pid = child.id();
        running.insert(pid);
        Ok((child, Self(pid)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&RUNNING).remove(&self.0);
    }
}

/// Kills all commands that threads of this process wait for, and lets no other thread start one.
pub(super) fn end_all() {
    let running = lock(&RUNNING);
    // Set once: only the thread that ends the process comes here.
    let _set = ENDING.set(std::thread::current().id());
    for pid in running.iter().filter_map(|pid| i32::try_from(*pid).ok()).map(Pid::from_raw) {
        // Fails for one that has ended; its number is not given to another process so soon.
        let _killed = kill(pid, Signal::SIGKILL);
        // Until it is gone or a zombie; the thread that waits for it takes it away.
        let _ended = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
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

//! A process of the lab: started in the background, its output kept, killed with the lab.

use super::undo::{Undo, UndoStack, lock};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A running program. Killed when the lab goes, not before: a process is dropped by nobody by accident.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Arc<Mutex<Child>>,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with stdout and stderr in the file `log`.
    pub(super) fn spawn(name: &str, mut command: Command, log: &Path, undo: &UndoStack) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("log {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // Its own group: Ctrl-C in the terminal reaches the lab only, which then stops it in order.
        command.process_group(0);
        let child = undo.make(|| {
            let child = command.spawn();
            let child = child.with_context(|| format!("start `{}`", super::command::line(&command)))?;
            let child = Arc::new(Mutex::new(child));
            Ok((child.clone(), Undo::Process(child)))
        })?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    pub fn id(&self) -> u32 {
        lock(&self.child).id()
    }

    /// `kill -9`, and waits for its end.
    ///
    /// # Errors
    /// It had ended by itself; then with the end of its log.
    pub fn kill(&self) -> Result<()> {
        if let Some(status) = self.status()? {
            bail!("{} had ended by itself: {status}\n{}", self.name, self.log_tail());
        }
        let mut child = lock(&self.child);
        child.kill().with_context(|| format!("kill {}", self.name))?;
        child.wait().with_context(|| format!("wait for {}", self.name))?;
        Ok(())
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// It does not end within ten seconds, or not with success.
    pub fn terminate(&self) -> Result<()> {
        let pid = i32::try_from(self.id()).context("process id")?;
        if self.status()?.is_none() {
            kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("stop {}", self.name))?;
        }
        let status =
            super::wait_for(&format!("the end of {}", self.name), Duration::from_secs(10), || self.status())?;
        if !status.success() {
            bail!("{} ended with {status}\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn status(&self) -> Result<Option<ExitStatus>> {
        lock(&self.child).try_wait().with_context(|| format!("status of {}", self.name))
    }

    /// The last lines that it wrote, for messages.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines.iter().skip(lines.len().saturating_sub(20)).copied().collect::<Vec<_>>();
        format!("--- {} ---\n{}", self.log.display(), tail.join("\n"))
    }
}

//! A memory cgroup: what processes and the kernel's work for them take together.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long processes may take to leave.
const LONGEST_LEAVE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// A memory cgroup of its own, version 2 where memory is there, else version 1. Goes with the value.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Without a limit in bytes it only counts.
    ///
    /// # Errors
    /// Not root, or there is no memory controller.
    pub fn new(name: &str, limit: Option<u64>) -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let is_v2 = controllers.split_whitespace().any(|it| it == "memory");
        let (parent, file) = if is_v2 {
            (root.to_owned(), "memory.max")
        } else {
            (root.join("memory"), "memory.limit_in_bytes")
        };
        if is_v2 {
            fs::write(parent.join("cgroup.subtree_control"), "+memory").context("the memory controller")?;
        }
        let folder = parent.join(name);
        fs::create_dir(&folder).with_context(|| format!("make the cgroup {}", folder.display()))?;
        let cgroup = Self(folder);
        if let Some(limit) = limit {
            fs::write(cgroup.0.join(file), limit.to_string()).with_context(|| format!("write {file}"))?;
        }
        Ok(cgroup)
    }

    /// Who writes a process's number there (0: its own) puts it into the cgroup.
    pub fn procs(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    /// The same, opened.
    ///
    /// # Errors
    /// It cannot be.
    pub fn open_procs(&self) -> Result<File> {
        let path = self.procs();
        File::options().write(true).open(&path).with_context(|| format!("open {}", path.display()))
    }

    /// The most that there was at any time, in bytes: memory of processes, page cache that they filled, page
    /// tables, stacks and objects of the kernel. Counted in steps of 64 pages for each CPU.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn peak(&self) -> Result<u64> {
        let names = ["memory.peak", "memory.max_usage_in_bytes"];
        let text = names.iter().find_map(|it| fs::read_to_string(self.0.join(it)).ok());
        text.context("no peak of the cgroup")?.trim().parse().context("the cgroup's peak")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It is busy until the last process in it has ended, and calls leave children for a moment.
        for _ in 0..LONGEST_LEAVE.as_millis() / PAUSE.as_millis() {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

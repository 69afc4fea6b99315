//! What a lab has made and must take away again: on drop, on a panic, and on Ctrl-C.

use super::command::IP;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One thing to take away.
#[derive(Debug)]
pub(crate) enum Undo {
    Directory(PathBuf),
    Mount(PathBuf),
    /// A network namespace by its name in /run/netns.
    Namespace(String),
    Process(Arc<Mutex<Child>>),
    /// Control groups of this name, in every hierarchy, with those below.
    Cgroups(String),
}

/// What there is to undo, in the order in which it was made; undone backwards.
#[derive(Clone, Debug)]
pub(crate) struct UndoStack {
    steps: Arc<Mutex<Vec<Undo>>>,
}

/// All stacks of this process, so that a signal finds them.
static STACKS: Mutex<Vec<UndoStack>> = Mutex::new(Vec::new());

impl UndoStack {
    pub(crate) fn new() -> Self {
        let stack = Self { steps: Arc::default() };
        lock(&STACKS).push(stack.clone());
        stack
    }

    /// Runs `make` and notes how to undo it. A signal that comes meanwhile waits, so that nothing is made
    /// that is not undone.
    pub(crate) fn make<T>(&self, make: impl FnOnce() -> anyhow::Result<(T, Undo)>) -> anyhow::Result<T> {
        let mut steps = lock(&self.steps);
        let (made, undo) = make()?;
        steps.push(undo);
        Ok(made)
    }

    /// Undoes everything, goes on after failures, and says what could not be undone.
    pub(crate) fn run(&self) -> Vec<String> {
        let problems = undo_all(&mut lock(&self.steps));
        lock(&STACKS).retain(|it| !Arc::ptr_eq(&it.steps, &self.steps));
        problems
    }
}

/// Undoes what all labs of this process have made, after killing the commands that it waits for. The
/// stacks stay locked until the process ends, so that a thread that is still building cannot make anything
/// more.
pub(super) fn run_all_and_exit(status: i32) -> ! {
    let stacks = lock(&STACKS);
    let mut all_steps: Vec<_> = stacks.iter().map(|stack| lock(&stack.steps)).collect();
    super::command::end_all();
    for steps in &mut all_steps {
        undo_all(steps);
    }
    std::process::exit(status);
}

fn undo_all(steps: &mut Vec<Undo>) -> Vec<String> {
    let mut problems = Vec::new();
    while let Some(step) = steps.pop() {
        if let Err(problem) = step.run() {
            problems.push(format!("{problem:#}"));
        }
    }
    problems
}

impl Undo {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Directory(path) => std::fs::remove_dir_all(&path)
                .map_err(|error| anyhow::anyhow!("remove {}: {error}", path.display())),
            Self::Mount(path) => unmount(&path),
            Self::Namespace(name) => IP.run(["netns", "del", &name]).map(|_| ()),
            Self::Process(child) => {
                let mut child = lock(&child);
                // Fails only for a process that has ended and was waited for.
                let _ended = child.kill();
                child.wait().map(|_| ()).map_err(Into::into)
            }
            Self::Cgroups(name) => remove_cgroups(&name),
        }
    }
}

/// Unmounts, waiting a little for a process that was killed to let go of it.
fn unmount(path: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match nix::mount::umount(path) {
            Ok(()) | Err(nix::errno::Errno::EINVAL) => return Ok(()),
            Err(nix::errno::Errno::EBUSY) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            // Somebody looks around in it: it goes when they leave.
            Err(nix::errno::Errno::EBUSY) => {
                return Ok(nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH)?);
            }
            Err(errno) => return Err(anyhow::anyhow!("unmount {}: {errno}", path.display())),
        }
    }
}

/// Removes control groups, waiting a little for processes that were killed.
fn remove_cgroups(name: &str) -> anyhow::Result<()> {
    const ROOT: &str = "/sys/fs/cgroup";
    let deadline = Instant::now() + Duration::from_secs(10);
    // Version 1 has a folder for each controller, version 2 has none.
    let mut hierarchies = vec![PathBuf::from(ROOT)];
    hierarchies.extend(std::fs::read_dir(ROOT).into_iter().flatten().flatten().map(|it| it.path()));
    for group in hierarchies.into_iter().map(|it| it.join(name)).filter(|it| it.is_dir()) {
        while let Err(error) = remove_cgroup(&group) {
            anyhow::ensure!(Instant::now() < deadline, "remove {}: {error}", group.display());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// The files in it are the kernel's and go with it.
fn remove_cgroup(group: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(group)?.flatten().filter(|it| it.path().is_dir()) {
        remove_cgroup(&entry.path())?;
    }
    std::fs::remove_dir(group)
}

/// A lock that a panic elsewhere does not spoil: cleaning up must go on.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

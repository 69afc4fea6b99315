//! Locks on files (`flock`), waited for with a bound. The kernel gives a lock back when its holder dies, so
//! a dead process is never in the way; who is, is in the error.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// A lock that is held, until it is dropped.
pub type FileLock = Flock<File>;

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("cannot {operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is locked by {holder}, still after {seconds} s", path.display())]
    Held { path: PathBuf, seconds: f64, holder: Holder },
}

/// Who has a lock, as far as this process can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    Process {
        pid: u32,
        command: String,
    },
    /// It took the lock and ended; a process that it started has inherited the file.
    ChildOf {
        pid: u32,
    },
    /// A process of another PID namespace, or it has just let go.
    Unknown,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process { pid, command } => write!(to, "process {pid} ({command})"),
            Self::ChildOf { pid } => write!(to, "a process that process {pid} had started, which has ended"),
            Self::Unknown => to.write_str("a process that cannot be seen from here"),
        }
    }
}

/// Locks the file at `path`, which is made if it is not there, for this process alone. A file that its
/// holder has removed meanwhile is made anew.
///
/// # Errors
/// The file cannot be opened, or somebody else has the lock for the whole of `at_most`.
pub fn exclusive(path: &Path, at_most: Duration) -> Result<FileLock, LockError> {
    let failed =
        |operation: &'static str| move |source| LockError::File { operation, path: path.to_owned(), source };
    let until = Instant::now() + at_most;
    loop {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
        let file = file.map_err(failed("open"))?;
        let about = file.metadata().map_err(failed("read"))?;
        let left = until.saturating_duration_since(Instant::now());
        match wait(file, left).map_err(failed("lock"))? {
            Some(lock) if lock.metadata().is_ok_and(|it| it.nlink() == 0) => {}
            Some(lock) => return Ok(lock),
            None => {
                let (path, seconds) = (path.to_owned(), at_most.as_secs_f64());
                return Err(LockError::Held { path, seconds, holder: holder(about.dev(), about.ino()) });
            }
        }
    }
}

/// None: it took too long.
fn wait(file: File, at_most: Duration) -> io::Result<Option<FileLock>> {
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(Some(lock)),
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => file,
        Err((_, errno)) => return Err(errno.into()),
    };
    // The kernel hands the lock on in turn. A thread that is left behind gives it back at once.
    let (got, answer) = channel();
    std::thread::Builder::new().spawn(move || {
        let lock = loop {
            match Flock::lock(file.try_clone()?, FlockArg::LockExclusive) {
                Err((_, nix::errno::Errno::EINTR)) => {}
                other => break other.map_err(|(_, errno)| io::Error::from(errno)),
            }
        };
        let _ = got.send(lock);
        io::Result::Ok(())
    })?;
    answer.recv_timeout(at_most).ok().transpose()
}

/// From /proc/locks. The kernel hands it out piece by piece and counts its way through a list that others change
/// meanwhile, so that a line can be missed: asked for a few times.
fn holder(device: u64, inode: u64) -> Holder {
    const TRIES: usize = 5;
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    let pid = (0..TRIES).find_map(|_| holding(&fs::read_to_string("/proc/locks").ok()?, &file));
    match pid {
        None | Some(0) => Holder::Unknown,
        Some(pid) => match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(command) => Holder::Process { pid, command: command.trim_end().to_owned() },
            Err(_) => Holder::ChildOf { pid },
        },
    }
}

/// The process that has locked this file, by the lines `…: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE …`.
fn holding(locks: &str, file: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        // A line with an arrow is about somebody who waits.
        let held = words.nth(1) == Some("FLOCK");
        let pid = words.nth(2)?.parse::<u32>().ok()?;
        (held && words.next() == Some(file)).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_held_lock_is_waited_for_and_then_named_with_its_holder() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let held = exclusive(&path, SHORT).expect("free");
        let Err(LockError::Held { holder: Holder::Process { pid, .. }, .. }) = exclusive(&path, SHORT) else {
            panic!("held, and by this process")
        };
        assert_eq!(pid, std::process::id());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| exclusive(&path, LONG).map(drop));
            drop(held);
            waiting.join().expect("no panic").expect("free again");
        });
    }

    #[test]
    fn a_lock_of_a_dead_process_is_free_and_one_that_was_inherited_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        // The first process locks and ends; the second has inherited the file.
        let script = format!("exec 9>{}; flock 9; sleep 1000 >/dev/null 2>&1 & echo $!", path.display());
        let output = Command::new("sh").args(["-c", &script]).output().expect("a shell");
        let second = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let error = exclusive(&path, SHORT).map(drop);
        let killed = Command::new("kill").args(["-9", &second]).status().expect("kill");
        assert!(killed.success());
        match error {
            Err(LockError::Held { holder: Holder::ChildOf { .. }, .. }) => {}
            other => panic!("inherited: {other:?}"),
        }
        exclusive(&path, LONG).expect("free when the last one is dead");
    }

    #[test]
    fn a_file_that_its_holder_removes_is_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let held = exclusive(&path, SHORT).expect("free");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| exclusive(&path, LONG));
            fs::remove_file(&path).expect("removed");
            drop(held);
            let lock = waiting.join().expect("no panic").expect("free");
            let there = fs::metadata(&path).expect("there again");
            assert_eq!(lock.metadata().expect("a file").ino(), there.ino());
        });
    }
}
